"""Build the modules that take the places of self-attention; the model does not change."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdyconv.layers import MIXERS, build_mixer, mixer_options
from seqdyconv.layers.kernel_sizes import KernelSize
from seqdyconv.layers.options import Option
from seqdyconv.layers.window import WindowConv
from seqdyconv.swap.families import Family
from seqdyconv.swap.recognition import (
    belongs_to_decoder,
    check_causal,
    inner_width,
    linear_projection,
    projections_of,
)
from seqdyconv.swap.replacement import SwappedAttention, SwappedCausalAttention

# Options of the mixers that the replaced attention decides.
_DECIDED = ("causal", "conv_dim")


def checked_options(mixer: str, kernel_size: KernelSize, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a mixer but those that the replaced attention decides; ValueError for what it can't have."""
    if not isinstance(mixer, str):
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")
    known = swap_options(mixer)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{mixer} has no option {', '.join(unknown)} in a swap; it has {', '.join(known)}")
    for name, value in given.items():
        known[name].check(name, value)
    size = list(kernel_size) if isinstance(kernel_size, (list, tuple)) else kernel_size  # as config.json has it
    defaults = {"kernel_size": size, "glu": False, "generator_bias": True}
    return {**{name: value for name, value in defaults.items() if name in known}, **given}


def swap_options(mixer: str) -> dict[str, Option]:
    """The options of a mixer that a swap may set, by name."""
    return {name: option for name, option in mixer_options(mixer).items() if name not in _DECIDED}


def build_replacements(
    model: PreTrainedModel,
    family: Family,
    attention: Mapping[int, nn.Module],
    entries: Mapping[int, Mapping[str, Any]],
) -> dict[int, SwappedAttention]:
    """New modules for those of ``attention`` in a model, by number.

    An entry has ``mixer``, ``num_heads`` and the options.
    """
    if family.causal:
        check_causal(model, attention)
    return {number: _build(number, module, family, entries[number]) for number, module in attention.items()}


def _build(number: int, attention: nn.Module, family: Family, entry: Mapping[str, Any]) -> SwappedAttention:
    _check_attention(number, attention, family)
    projections = projections_of(family)
    value = linear_projection(attention, projections.fused or projections.value)
    options = {name: option for name, option in entry.items() if name not in ("mixer", "num_heads")}
    inner = inner_width(attention, projections)
    if inner != value.in_features:
        if "conv_dim" not in mixer_options(entry["mixer"]):
            raise ValueError(
                f"{entry['mixer']} works on {value.in_features} channels, but the attention of layer {number} on "
                f"{inner}"
            )
        options["conv_dim"] = inner
    if family.causal:
        options["causal"] = True
    mixer: Any = build_mixer(
        entry["mixer"],
        value.in_features,
        entry["num_heads"],
        device=value.weight.device,
        dtype=value.weight.dtype,
        **options,
    )
    if family.causal and not (
        hasattr(mixer, "enter") and isinstance(mixer.conv, WindowConv) and isinstance(mixer.initial_state(1), Tensor)
    ):
        raise ValueError(
            f"{entry['mixer']} with these options can't stand in a decoder: there the state of a mixer must be its "
            "convolution's last inputs, as that of dynamic_conv, lightweight_conv, short_conv and gated_short_conv is"
        )
    if projections.output is None:
        del mixer.out_proj
        mixer.out_proj = unchanged  # no module: it would be found by its name, as a linear layer that it is not
    kind = SwappedCausalAttention if family.causal else SwappedAttention
    return kind(number, family, mixer, entry, attention)


def unchanged(hidden: Tensor) -> Tensor:
    """In the place of a projection that is not there."""
    return hidden


def _check_attention(number: int, attention: nn.Module, family: Family) -> None:
    """Raise ValueError for what a mixer can't replace."""
    if belongs_to_decoder(attention) and not family.causal:
        raise ValueError(
            f"layer {number} belongs to a decoder: besides encoders, those of seqdyconv.swap.decoders.DECODERS can be "
            "swapped"
        )
    projections = projections_of(family)
    value = linear_projection(attention, projections.fused or projections.value)
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
