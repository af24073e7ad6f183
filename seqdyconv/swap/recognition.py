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
from transformers.conversion_mapping import get_model_conversion_mapping

from seqdyconv.swap.families import (
    FAMILIES,
    UNKNOWN,
    Family,
    Projections,
    candidate_patterns,
    find_modules,
    number_modules,
    recognise_projections,
)


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
    """The family of a model; ``pattern`` replaces that of a known family and is needed where there is none.

    Raises:
        ValueError: an unknown family without a pattern, saying what was found.
    """
    if pattern is not None and not re.fullmatch(r"[\w.*]+", pattern):
        raise ValueError(f"pattern is the end of a module's name with * for numbers, got {pattern!r}")
    model_type = model.config.model_type
    for family in FAMILIES:
        if model_type in family.model_types:
            return family if pattern is None else replace(family, pattern=pattern)
    if pattern is not None:
        return replace(UNKNOWN, pattern=pattern)
    candidates = [f"{name!r} ({count})" for name, count in candidate_patterns(model).items()]
    found = ", ".join(candidates) or "none"
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise ValueError(
        f"the model type {model_type!r} is none of the known: {known}. Name its self-attention with pattern=; "
        f"modules that look like it: {found}"
    )


def module_names(model: PreTrainedModel, family: Family) -> dict[int, str]:
    """The names of a family's self-attention modules in a model, swapped ones too, by number."""
    names = list(find_modules(model, family.pattern))
    if not names:
        hint = f"; modules that look like it: {', '.join(map(repr, candidate_patterns(model))) or 'none'}"
        raise ValueError(
            f"{type(model).__name__} has no self-attention of an encoder, {family.pattern!r}"
            f"{hint if family.name == UNKNOWN.name else ''}"
        )
    return number_modules(names, family.pattern)


def recognise_attention(model: PreTrainedModel, family: Family, attention: Mapping[int, nn.Module]) -> Family:
    """A family of unknown models with what its modules, those in ``attention``, hold and return.

    Raises:
        ValueError: projections that their names don't tell, or a layer that computes something for others.
    """
    _refuse_handed_on_bias([model.get_submodule(name) for name in module_names(model, family).values()])
    family = with_projections(family, attention)
    return replace(family, results=_results(family, next(iter(attention.values()))))


def with_projections(family: Family, attention: Mapping[int, nn.Module]) -> Family:
    """A family of unknown models with the projections that its modules hold, told by their names."""
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


def _results(family: Family, attention: nn.Module) -> tuple[str | None, ...] | None:
    """How many results a module of unknown models has beside hidden states: it is tried on two steps."""
    value = linear_projection(attention, projections_of(family).value)
    try:
        with torch.no_grad():
            returned = copy.deepcopy(attention).eval()(value.weight.new_zeros(1, 2, value.in_features))
    except Exception:  # a module that needs more than hidden states: most return these and their attention
        return UNKNOWN.results
    return None if isinstance(returned, Tensor) else (None,) * (len(returned) - 1)


def refuse_renamed_weights(model: PreTrainedModel, names: Mapping[int, str], new: Mapping[int, Any]) -> None:
    """Raise ValueError if transformers, which renames and merges weights of some models in files, would touch ours."""
    for conversion in get_model_conversion_mapping(model):
        merged = conversion.target_patterns if len(conversion.target_patterns) > 1 else []
        for number, module in new.items():
            for weight in (*module.state_dict(), module.guarded_weight):
                renames = [pattern for pattern in conversion.source_patterns if re.search(pattern, weight)]
                merges = [pattern for pattern in merged if re.search(pattern, f"{names[number]}.{weight}")]
                if renames or merges:
                    raise ValueError(
                        f"a swapped {type(model).__name__} could be saved but not loaded: in the files of "
                        f"{model.config.model_type!r} transformers gives {(renames or merges)[0]} another name"
                    )


def projections_of(family: Family) -> Projections:
    assert family.projections is not None, "those of unknown families are recognised first"
    return family.projections


def inner_width(attention: nn.Module, projections: Projections) -> int:
    """The number of channels that an attention works on: those of all heads."""
    if projections.fused is None:
        return int(linear_projection(attention, projections.value).out_features)
    return int(linear_projection(attention, projections.fused).out_features) // 3


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
    if isinstance(head_dim := getattr(attention, "head_dim", None), int):
        return inner_width(attention, projections) // head_dim
    raise ValueError(f"{type(attention).__name__} does not tell its number of heads: give num_heads")
