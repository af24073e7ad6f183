"""Put mixers in the place of self-attention: choose, check, build, and only then change the model."""

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from seqdyconv.layers import MIXERS, build_mixer, mixer_options
from seqdyconv.swap.description import write_description
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
from seqdyconv.swap.hooks import remove_hooks
from seqdyconv.swap.replacement import SwappedAttention, attention_recorded, refuse_output_attentions
from seqdyconv.swap.transfer import average_attention, start_kernels, transfer_projections

Layers = int | str | Iterable[int] | Callable[[int], bool] | None

WEIGHTS = ("transfer", "random")
# Options of the mixers that the replaced attention decides.
_DECIDED = ("causal", "conv_dim")


def swap_self_attention(
    model: Any,
    *,
    mixer: str = "dynamic_conv",
    layers: Layers = None,
    kernel_size: int = 31,
    num_heads: int | None = None,
    pattern: str | None = None,
    weights: str = "transfer",
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    **mixer_options: Any,
) -> Any:
    """Replace self-attention by a mixer, in all layers of a Hugging Face encoder or in chosen ones.

    The model, of any head, is changed in place and stays what it was: it trains, saves with ``save_pretrained`` and
    loads with :func:`load_swapped`. In an encoder-decoder the encoder is swapped. Nothing changes where this raises.

    Args:
        model: of a family in ``seqdyconv.swap.FAMILIES``: BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT, MPNet, ALBERT,
            DeBERTa-v2, ModernBERT, BART, Marian, T5, Wav2Vec2, HuBERT, WavLM, Wav2Vec2-BERT, Whisper, ViT.
        mixer: a name in ``seqdyconv.layers.MIXERS``.
        layers: which to swap, by their numbers from 0 on. None: all. A number or several, negative ones from the last
            layer on; a string of numbers and ranges such as ``"0,2,4-6"``; ``"every 2"``: the last of each two, 1, 3,
            5 ...; or a function of the number that says whether.
        kernel_size: K of a convolution; others ignore it.
        num_heads: H of the mixer; None: as many as the replaced attention has.
        pattern: for a model of no known family, the end of its self-attention modules' names, with ``*`` for each
            number, such as ``"encoder.layer.*.attention.self"``. The modules are then taken to work as most do:
            hidden states first, ``attention_mask`` or ``mask``, usual names of the projections.
        weights: ``"transfer"``: value and output projections, and for a mixer that attends query and key, are those of
            the replaced attention; ``"random"``: all are new.
        calibration: batches of the model's inputs. The kernels of a convolution start from the average attention over
            them by relative offset.
        mixer_options: of the mixer, see :func:`seqdyconv.build_mixer`. Unlike there, ``glu`` is False and
            ``generator_bias`` True where they are not given.

    Returns:
        ``model``. Its ``config.seqdyconv`` tells what was swapped. It refuses ``output_attentions=True``.

    Raises:
        ValueError: a model, layers or options that do not work, layers that are swapped already, a decoder.

    Example:
        >>> from seqdyconv.swap import swap_self_attention
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
        >>> model = BertForSequenceClassification(BertConfig(vocab_size=100, **sizes))
        >>> _ = swap_self_attention(model, mixer="dynamic_conv", layers="2-3", kernel_size=15)
        >>> model.config.seqdyconv["layers"]["3"]["kernel_size"]
        15
        >>> model.bert.encoder.layer[3].attention.self.mixer.conv.num_heads
        4
    """
    check_model(model)
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    options = _mixer_options(mixer, kernel_size, mixer_options)
    family = find_family(model, pattern)
    names = module_names(model, family)
    chosen = _choose(model, family, layers, list(names))
    attention = {number: model.get_submodule(names[number]) for number in chosen}
    if family.projections is None:
        _refuse_handed_on_bias([model.get_submodule(name) for name in names.values()])
        family = _with_results(with_projections(family, attention), next(iter(attention.values())))
    projections = _projections(family)
    entries = {
        number: {
            "mixer": mixer,
            "num_heads": _num_heads(module, projections) if num_heads is None else num_heads,
            **options,
        }
        for number, module in attention.items()
    }
    new = build_replacements(family, attention, entries)
    if family.name == UNKNOWN.name:
        _refuse_renamed_weights(model, names, new)
    if weights == "transfer":
        for number, module in attention.items():
            transfer_projections(module, projections, new[number].mixer)
    if calibration is not None:
        with attention_recorded():
            averages = average_attention(model, attention, calibration)
        for number, attended in averages.items():
            start_kernels(new[number].mixer, attended)
    put_in(model, new)
    return model


def swapped_attention(model: nn.Module) -> dict[int, SwappedAttention]:
    """The swapped layers of a model, by number."""
    found = {module.number: module for module in model.modules() if isinstance(module, SwappedAttention)}
    return dict(sorted(found.items()))


def attention_modules(model: Any, pattern: str | None = None) -> dict[int, nn.Module]:
    """The self-attention modules of a model's encoder that are not swapped, by number.

    Raises:
        ValueError: a model of no known family, where ``pattern`` does not name them.
    """
    check_model(model)
    names = module_names(model, find_family(model, pattern))
    modules = {number: model.get_submodule(name) for number, name in names.items()}
    return {number: module for number, module in modules.items() if not isinstance(module, SwappedAttention)}


def select_layers(layers: Layers, numbers: Iterable[int]) -> list[int]:
    """The numbers that ``layers`` means, see :func:`swap_self_attention`, in ascending order.

    Args:
        layers: the choice.
        numbers: of the layers that there are.

    Raises:
        ValueError: a choice that cannot be read, or of no layer, or of one that is not there.

    Example:
        >>> select_layers("0,3-4", range(6))
        [0, 3, 4]
        >>> select_layers("every 2", range(6))
        [1, 3, 5]
    """
    available = sorted(numbers)
    there = f"the layers are {number_ranges(available)}"
    if layers is None:
        chosen = available
    elif isinstance(layers, str):
        chosen = _read_layers(layers, available, there)
    elif callable(layers):
        chosen = [number for number in available if layers(number)]
    else:
        given = list(layers) if isinstance(layers, Iterable) else [layers]
        if wrong := [number for number in given if not isinstance(number, int) or isinstance(number, bool)]:
            raise ValueError(f"layers must be ints, a string or a function, got {wrong[0]!r}; {there}")
        chosen = [available[number] if -len(available) <= number < 0 else number for number in given]
    if missing := sorted(set(chosen) - set(available)):
        raise ValueError(f"there is no layer {', '.join(map(str, missing))}; {there}")
    if not chosen:
        raise ValueError(f"layers={layers!r} chooses none; {there}")
    return sorted(set(chosen))


def _read_layers(text: str, available: list[int], there: str) -> list[int]:
    if match := re.fullmatch(r"\s*every\s+([1-9]\d*)\s*", text):
        step = int(match[1])
        return available[step - 1 :: step]
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(
                f'layers as a string are numbers and ranges such as "0,2,4-6", or "every 2", got {text!r}; {there}'
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last > available[-1]:
            raise ValueError(f"there is no layer {last}; {there}")
        chosen += range(first, last + 1)
    return chosen


def number_ranges(numbers: list[int]) -> str:
    """Ascending numbers in few characters: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


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


def _choose(model: PreTrainedModel, family: Family, layers: Layers, numbers: list[int]) -> list[int]:
    swapped = swapped_attention(model)
    for other in swapped.values():
        if other.family.pattern != family.pattern:
            raise ValueError(f"layers of {other.family.pattern!r} are swapped already: choose among those")
    try:
        chosen = select_layers(layers, numbers)
    except ValueError as error:
        shared = f" ({model.config.model_type} runs one module in several layers)" if family.shared else ""
        raise ValueError(f"{error}{shared}") from None
    if twice := [number for number in chosen if number in swapped]:
        raise ValueError(
            f"layers swapped already: {number_ranges(twice)}; choose among the others, or load the model anew"
        )
    return chosen


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


def _refuse_renamed_weights(
    model: PreTrainedModel, names: Mapping[int, str], new: Mapping[int, SwappedAttention]
) -> None:
    """Raise ValueError if transformers, which renames and merges weights of some models in files, would touch ours."""
    for conversion in get_model_conversion_mapping(model):
        merged = conversion.target_patterns if len(conversion.target_patterns) > 1 else []
        for number, module in new.items():
            for weight in module.state_dict():
                renames = [pattern for pattern in conversion.source_patterns if re.search(pattern, weight)]
                merges = [pattern for pattern in merged if re.search(pattern, f"{names[number]}.{weight}")]
                if renames or merges:
                    raise ValueError(
                        f"a swapped {type(model).__name__} could be saved but not loaded: in the files of "
                        f"{model.config.model_type!r} transformers gives {(renames or merges)[0]} another name"
                    )


def _with_results(family: Family, attention: nn.Module) -> Family:
    """A family of unknown models with the number of results of its modules: it is tried on two steps."""
    value = _linear(attention, _projections(family).value)
    try:
        with torch.no_grad():
            returned = copy.deepcopy(attention).eval()(value.weight.new_zeros(1, 2, value.in_features))
    except Exception:  # a module that needs more than hidden states: most return these and their attention
        return family
    return replace(family, results=None if isinstance(returned, Tensor) else (None,) * (len(returned) - 1))


def _projections(family: Family) -> Projections:
    assert family.projections is not None, "those of unknown families are recognised first"
    return family.projections


def _inner_width(attention: nn.Module, projections: Projections) -> int:
    """The number of channels that an attention works on: those of all heads."""
    if projections.fused is None:
        return int(_linear(attention, projections.value).out_features)
    return int(_linear(attention, projections.fused).out_features) // 3


def _linear(attention: nn.Module, name: str) -> nn.Linear:
    layer = getattr(attention, name, None)
    if layer is None:
        raise ValueError(f"{type(attention).__name__} is no self-attention of this family: it has no {name}")
    if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
        raise ValueError(f"{name} of {type(attention).__name__} is {type(layer).__name__}, not a plain nn.Linear")
    return layer


def _num_heads(attention: nn.Module, projections: Projections) -> int:
    for name in ("num_attention_heads", "num_heads", "n_heads", "heads"):
        if isinstance(heads := getattr(attention, name, None), int):
            return heads
    if isinstance(head_dim := getattr(attention, "head_dim", None), int):
        return _inner_width(attention, projections) // head_dim
    raise ValueError(f"{type(attention).__name__} does not tell its number of heads: give num_heads")


def _mixer_options(mixer: str, kernel_size: int, given: dict[str, Any]) -> dict[str, Any]:
    """All options of a mixer but those that the replaced attention decides, checked to be its own and plain values."""
    if not isinstance(mixer, str) or mixer not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")
    known = mixer_option_names(mixer)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{mixer} has no option {', '.join(unknown)} in a swap; it has {', '.join(known)}")
    for name, value in given.items():
        mixer_options(mixer)[name].check(name, value)
    defaults = {"kernel_size": kernel_size, "glu": False, "generator_bias": True}
    return {**{name: value for name, value in defaults.items() if name in known}, **given}


def mixer_option_names(mixer: str) -> list[str]:
    """The options of a mixer that a swap may set."""
    return [name for name in mixer_options(mixer) if name not in _DECIDED]


def build_replacements(
    family: Family, attention: Mapping[int, nn.Module], entries: Mapping[int, Mapping[str, Any]]
) -> dict[int, SwappedAttention]:
    """New modules for those of ``attention``, by number; an entry has ``mixer``, ``num_heads`` and the options."""
    return {number: _build(number, module, family, entries[number]) for number, module in attention.items()}


def _build(number: int, attention: nn.Module, family: Family, entry: Mapping[str, Any]) -> SwappedAttention:
    if getattr(attention, "is_causal", False) or getattr(attention, "is_decoder", False):
        raise ValueError(f"layer {number} belongs to a decoder: only self-attention of encoders can be swapped")
    projections = _projections(family)
    value = _linear(attention, projections.fused or projections.value)
    for role in (projections.query, projections.key):
        width = getattr(getattr(attention, role, None), "in_features", value.in_features)
        if width != value.in_features:
            raise ValueError(
                f"{role} of layer {number} reads {width} channels and {projections.value} {value.in_features}: a mixer "
                "reads one sequence"
            )
    for name in (projections.output, family.output_dropout, family.residual_norm):
        if name is not None and not hasattr(attention, name):
            raise ValueError(f"layer {number} is no self-attention of the family {family.name}: it has no {name}")
    options = {name: option for name, option in entry.items() if name not in ("mixer", "num_heads")}
    inner = _inner_width(attention, projections)
    if inner != value.in_features:
        if "conv_dim" not in mixer_options(entry["mixer"]):
            raise ValueError(
                f"{entry['mixer']} works on {value.in_features} channels, but the attention of layer {number} on "
                f"{inner}"
            )
        options["conv_dim"] = inner
    mixer: Any = build_mixer(
        entry["mixer"],
        value.in_features,
        entry["num_heads"],
        device=value.weight.device,
        dtype=value.weight.dtype,
        **options,
    )
    if projections.output is None:
        mixer.out_proj = nn.Identity()
    return SwappedAttention(number, family, mixer, entry, attention)


def put_in(model: PreTrainedModel, new: Mapping[int, SwappedAttention]) -> None:
    """Put new modules in the places of the attention that they replace, by number."""
    names = module_names(model, next(iter(new.values())).family)
    for number, module in new.items():
        model.set_submodule(names[number], module)
    swapped = swapped_attention(model)
    if swapped.keys() == names.keys():
        for module in swapped.values():
            module.drop_position_bias()
    refuse_attentions_where_swapped(model)
    describe_swap(model)


def refuse_attentions_where_swapped(model: PreTrainedModel) -> None:
    """Let those parts of a model that hold swapped layers refuse to give attentions, and no others."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            remove_hooks(part, refuse_output_attentions)
            if swapped_attention(part):
                part.register_forward_pre_hook(refuse_output_attentions, with_kwargs=True)


def describe_swap(model: PreTrainedModel) -> None:
    """Let ``config.seqdyconv`` tell which layers are swapped; where none is, it is gone."""
    swapped = swapped_attention(model)
    told: dict[str, Any] = {}
    if swapped:
        family = next(iter(swapped.values())).family
        told["family"] = family.name
        if family not in FAMILIES:
            told["pattern"] = family.pattern
        if family.name == UNKNOWN.name:
            told["results"] = -1 if family.results is None else len(family.results)
        told["layers"] = {str(number): module.options for number, module in swapped.items()}
    write_description(model, told)
