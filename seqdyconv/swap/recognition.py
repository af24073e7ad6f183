"""Recognise a model: whether it can be changed, where its self-attention is, and what that holds and returns."""

import copy
import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdyconv.errors import InputError
from seqdyconv.swap.decoders import DECODERS, FUSED, layer_names
from seqdyconv.swap.families import (
    DECODER,
    FAMILIES,
    OF_A_DECODER,
    OF_PACKED,
    UNKNOWN,
    Family,
    Projections,
    candidate_patterns,
    find_modules,
    is_cross_attention,
    number_modules,
    recognise_projections,
)
from seqdyconv.swap.replacement import swapped_attention
from seqdyconv.swap.short_conv_places import attention_name

# What a self-attention may be given beside hidden states and mask, and a mixer has no use for: positions, biases of the
# scores, and what is wanted of the result.
_WITHOUT_USE = (
    *("position_embeddings", "relative_position_embeddings", "position_ids", "position_mask", "rotary_pos_emb"),
    *("pos_emb", "bbox_pos_emb", "sinusoidal_pos", "relative_pos", "rel_embeddings", "relative_position_bias"),
    *("position_bias", "interpolate_pos_encoding", "resolution", "output_attentions", "use_cache", "head_mask"),
    *("layer_head_mask", "index"),
)


# Parts of it with weights that a mixer has no use for: norms of queries and keys, positions.
_OF_SCORES = re.compile(r"^(q|k|v|query|key|value)_?(layer)?norm|pos|rel|distance|bias")


def check_model(model: Any) -> None:
    """Raise ValueError unless ``model`` is one whose modules can be replaced."""
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model must be a PreTrainedModel of transformers, got {type(model).__name__}: swap before compiling or "
            "wrapping it"
        )
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        raise ValueError("a quantized model can't be swapped: load it without quantization")
    if model.config._attn_implementation == "flex_attention":
        raise ValueError(
            "swapped layers can't read the padding from the masks of flex attention: load the model with "
            'attn_implementation="sdpa"'
        )


def find_family(model: PreTrainedModel, pattern: str | None = None) -> Family:
    """The family of a model; ``pattern`` replaces what is known or found of where its self-attention is.

    Raises:
        ValueError: an unknown family without a pattern, where not exactly one was found, saying what was.
    """
    if pattern is not None and not re.fullmatch(r"[\w.*]+", pattern):
        raise ValueError(f"pattern is the end of a module's name with * for numbers, got {pattern!r}")
    model_type = model.config.model_type
    for family in FAMILIES:
        if model_type in family.model_types:
            return family if pattern is None else replace(family, pattern=pattern)
    if model_type in DECODERS:
        return replace(DECODER, pattern=_decoder_pattern(model) if pattern is None else pattern)
    return replace(UNKNOWN, pattern=_only_pattern(model) if pattern is None else pattern)


def _decoder_pattern(model: PreTrainedModel) -> str:
    """The pattern of the self-attention in the layers of a decoder, swapped or not."""
    for swapped in swapped_attention(model).values():
        return swapped.family.pattern
    names = layer_names(model)
    found = {
        f"{name.rpartition('.')[0]}.*.{attention_name(model.get_submodule(name))}".removeprefix(
            f"{model.base_model_prefix}."
        )
        for name in names.values()
    }
    if len(found) != 1:
        raise InputError(f"the layers of this {model.config.model_type} have several self-attentions: {sorted(found)}")
    return found.pop()


def _only_pattern(model: PreTrainedModel) -> str:
    """The pattern of the only modules of a model that are, by all that can be seen, self-attention of an encoder."""
    candidates = candidate_patterns(model)
    refused = {pattern: why_not(modules[0]) for pattern, modules in candidates.items() if "*" in pattern}
    usable = [pattern for pattern, reason in refused.items() if reason is None]
    if len(usable) == 1:
        return usable[0].removeprefix(f"{model.base_model_prefix}.")
    what = f"the model type {model.config.model_type!r} is in no known family"
    if usable:
        found = ", ".join(f"{pattern!r} ({len(candidates[pattern])})" for pattern in usable)
        raise ValueError(f"{what}, and has several self-attentions: choose one with pattern=, of {found}")
    reasons = [f"{pattern!r} {reason}" for pattern, reason in refused.items()]
    found = "; ".join(reasons) or "no modules of an encoder have query, key and value projections of usual names"
    raise ValueError(f"{what}, and no self-attention that can be swapped was found: {found}")


def why_not(attention: nn.Module) -> str | None:
    """Why modules of an unknown family are not taken for self-attention of an encoder; None: they are."""
    if belongs_to_decoder(attention):
        return "belongs to a decoder"
    parameters = inspect.signature(type(attention).forward).parameters
    named = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD][1:]
    if named[:1] != ["hidden_states"]:
        return f"mixes {', '.join(named)}, not hidden_states"
    optional = [name for name in OF_PACKED if name in named and parameters[name].default is None]
    known = ("hidden_states", *UNKNOWN.masks, *_WITHOUT_USE, *OF_A_DECODER, *optional)
    if unknown := [name for name in named if name not in known]:
        return f"also gets {', '.join(unknown)}"
    return holds_more(attention)


def holds_more(attention: nn.Module, known: Projections | None = None) -> str | None:
    """What a self-attention computes beside attending, so that no mixer can take its place; None: nothing.

    Args:
        attention: the module.
        known: its projections, where their names don't tell them.
    """
    projections = vars(recognise_projections(attention) or known or Projections()).values()
    others = [name for name, child in attention.named_children() if any(True for _ in child.parameters())]
    if unknown := [name for name in others if name not in projections and not _OF_SCORES.search(name)]:
        return f"also holds {', '.join(unknown)}"
    return None


def belongs_to_decoder(attention: nn.Module) -> bool:
    return bool(getattr(attention, "is_causal", False) or getattr(attention, "is_decoder", False))


def module_names(model: PreTrainedModel, family: Family) -> dict[int, str]:
    """The names of a family's self-attention modules in a model, swapped ones too, by number."""
    names = list(find_modules(model, family.pattern))
    if not names:
        hint = f"; modules that look like it: {', '.join(map(repr, candidate_patterns(model))) or 'none'}"
        raise ValueError(
            f"{type(model).__name__} has no self-attention of an encoder, {family.pattern!r}"
            f"{hint if family.name == UNKNOWN.name else ''}"
        )
    if is_cross_attention(names[0], model.get_submodule(names[0])):
        raise InputError(
            f"{family.pattern!r} finds the cross-attention of a decoder, whose keys and values are another sequence's: "
            "a mixer mixes one sequence, and can only replace the self-attention of an encoder"
        )
    return number_modules(names, family.pattern)


def recognise_attention(model: PreTrainedModel, family: Family, attention: Mapping[int, nn.Module]) -> Family:
    """A family of unknown models with what its modules, those in ``attention``, hold and return.

    Raises:
        ValueError: projections that their names don't tell, or a layer that computes something for others.
    """
    _refuse_handed_on_bias([model.get_submodule(name) for name in module_names(model, family).values()])
    _refuse_shared_keys(model, attention)
    family = with_projections(family, attention, model.config.model_type)
    for number, module in attention.items() if family.causal else ():
        if reason := holds_more(module, family.projections):
            raise InputError(f"the self-attention of layer {number}, {type(module).__name__}, {reason}")
        inner, query = inner_width(module, projections_of(family)), projections_of(family).query
        if query and (width := linear_projection(module, query).out_features) != inner:
            raise InputError(f"the self-attention of layer {number} has {inner} channels, and queries of {width}")
    return replace(family, results=_results(family, next(iter(attention.values()))))


def with_projections(family: Family, attention: Mapping[int, nn.Module], model_type: str) -> Family:
    """A family of unknown models with the projections that its modules hold, told by their names."""
    if family.causal and model_type in FUSED:
        return replace(family, projections=FUSED[model_type])
    module = next(iter(attention.values()))
    found = {recognise_projections(other) for other in attention.values()}
    if None in found or len(found) > 1:
        children = ", ".join(f"{name} ({type(child).__name__})" for name, child in module.named_children())
        raise ValueError(
            f"{family.pattern!r} finds {type(module).__name__}, whose query, key, value and output projections are not "
            f"told by their names: {children}"
        )
    return replace(family, projections=found.pop())


def _refuse_handed_on_bias(attention: list[nn.Module]) -> None:
    """Raise ValueError if one layer computes the position bias of others: these would go on without it, unnoticed."""
    takes = [module for module in attention if "position_bias" in inspect.signature(module.forward).parameters]
    if any(isinstance(child, nn.Embedding) for module in takes for child in module.children()):
        raise ValueError(
            f"a layer of {type(takes[0]).__name__} hands its position bias on to others, which is known of the "
            f"families {', '.join(family.name for family in FAMILIES if family.position_bias)} alone"
        )


def _refuse_shared_keys(model: nn.Module, attention: Mapping[int, nn.Module]) -> None:
    """Raise InputError for layers that read the keys and values of others, or whose own are read, as in Gemma 4."""
    reading = [module for module in model.modules() if getattr(module, "is_kv_shared_layer", False)]
    read_types = {module.layer_type for module in reading}
    for number, module in attention.items():
        if module in reading:
            raise InputError(f"layer {number} has no keys and values but those of an earlier layer: leave it out")
        if getattr(module, "store_full_length_kv", False) and module.layer_type in read_types:
            raise InputError(f"later layers read the keys and values of layer {number}, a mixer has none: leave it out")


def check_causal(model: PreTrainedModel, attention: Mapping[int, nn.Module]) -> None:
    """Raise InputError unless these self-attention modules of a decoder, by number, see earlier steps alone."""
    for number, module in attention.items():
        config = getattr(module, "config", model.config)
        if not (getattr(module, "is_causal", True) and getattr(config, "is_causal", True)):
            raise InputError(f"layer {number} attends in both directions: convolutions in a decoder are causal")


def _results(family: Family, attention: nn.Module) -> tuple[str | None, ...] | None:
    """How many results a module of unknown models has beside hidden states: it is tried on two steps."""
    projections = projections_of(family)
    value = linear_projection(attention, projections.fused or projections.value)
    try:
        with torch.no_grad():
            returned = copy.deepcopy(attention).eval()(value.weight.new_zeros(1, 2, value.in_features))
    except Exception:  # a module that needs more than hidden states: most return these and their attention
        return UNKNOWN.results
    return None if isinstance(returned, Tensor) else (None,) * (len(returned) - 1)


def projections_of(family: Family) -> Projections:
    assert family.projections is not None, "those of unknown families are recognised first"
    return family.projections


def inner_width(attention: nn.Module, projections: Projections) -> int:
    """The number of channels that an attention works on: those of all heads.

    Raises:
        ValueError: keys or values of fewer heads that do not divide those of the queries, or that are fused with them.
    """
    if projections.fused is not None:
        fused = linear_projection(attention, projections.fused).out_features
        inner = fused // 3
        if projections.output is not None:
            inner = linear_projection(attention, projections.output).in_features
        groups = (fused - inner) / 2
        if groups < 1 or inner % groups:
            raise ValueError(
                f"{projections.fused} of {type(attention).__name__} does not hold queries, keys and values of {inner}"
            )
        return inner
    value = linear_projection(attention, projections.value).out_features
    if projections.output is not None:
        inner = linear_projection(attention, projections.output).in_features
    else:
        inner = linear_projection(attention, projections.query).out_features
    if inner % value:
        raise ValueError(f"{projections.value} of {type(attention).__name__} has {value} channels for {inner} of heads")
    return inner


def linear_projection(attention: nn.Module, name: str) -> nn.Linear:
    layer = getattr(attention, name, None)
    if layer is None:
        raise ValueError(f"{type(attention).__name__} is no self-attention of this family: it has no {name}")
    if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
        raise ValueError(f"{name} of {type(attention).__name__} is {type(layer).__name__}, not a plain nn.Linear")
    return layer


def num_heads_of(attention: nn.Module, projections: Projections) -> int:
    for name in ("num_attention_heads", "num_heads", "n_heads", "heads"):
        if isinstance(heads := getattr(attention, name, None), int):
            return heads
    for name in ("head_dim", "head_size"):
        if isinstance(head_dim := getattr(attention, name, None), int):
            return inner_width(attention, projections) // head_dim
    raise ValueError(f"{type(attention).__name__} does not tell its number of heads: give num_heads")
