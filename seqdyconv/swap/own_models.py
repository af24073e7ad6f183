"""The models of this package: a layer's self-attention becomes another mixer, as the configuration then says."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdyconv.errors import InputError, first_line
from seqdyconv.functional.packing import unpack
from seqdyconv.layers import SelfAttention, build_mixer, share_options
from seqdyconv.layers.kernel_sizes import KernelSize
from seqdyconv.models import SeqDyConvConfig
from seqdyconv.models.configuration import Side
from seqdyconv.models.modeling import SeqDyConvDecoderLayer
from seqdyconv.swap.building import checked_options
from seqdyconv.swap.choice import Layers, number_ranges, select_layers
from seqdyconv.swap.families import Projections
from seqdyconv.swap.transfer import average_by_offset, pairs_of, start_kernels, transfer_projections

ATTENTION = "self_attention"
_PROJECTIONS = Projections(fused="in_proj", output="out_proj")
# The fields of a configuration, after the side, that a swap changes.
_FIELDS = ("layer_types", "kernel_sizes", "mixer_options")


def is_own(model: Any) -> bool:
    """Whether a model is one of this package."""
    return isinstance(getattr(model, "config", None), SeqDyConvConfig)


def refuse_own(model: Any, instead: str) -> None:
    """Raise InputError for a model of this package, saying what to do instead."""
    if is_own(model):
        raise InputError(f"{type(model).__name__} is a model of seqdyconv itself: {instead}")


def swap_own_attention(
    model: Any,
    mixer: str,
    layers: Layers,
    kernel_size: KernelSize,
    num_heads: int | None,
    pattern: str | None,
    weights: str,
    calibration: Iterable[Mapping[str, Tensor]] | None,
    options: Mapping[str, Any],
) -> Any:
    """:func:`seqdyconv.swap.swap_self_attention` for the models of this package, which stay plain ones.

    The encoder is changed, or the decoder of a language model, whose mixers stay causal. What the configuration says
    to all mixers, such as its dropouts, holds for the new ones; and so do options of the layers that these have too.

    Args:
        model: any model of this package.
        mixer, kernel_size, weights, calibration: as there.
        layers: as there; None: all that have self-attention.
        num_heads: None, or that of the layers.
        pattern: None.
        options: of the mixer.

    Returns:
        ``model``.

    Raises:
        ValueError: options that do not work, or layers without self-attention.
    """
    body: Any = model.base_model
    side: Side = "decoder" if isinstance(body.layers[0], SeqDyConvDecoderLayer) else "encoder"
    if pattern is not None:
        raise InputError(f"pattern is for models of others: of one of seqdyconv the {side} is swapped, got {pattern!r}")
    heads = model.config.stack(side).attention_heads
    if num_heads not in (None, heads):
        raise InputError(f"num_heads is that of all layers, {side}_attention_heads = {heads}, got {num_heads}")
    chosen = _choose(model.config.stack(side).layer_types, layers)
    config = _configured(body.config, side, chosen, mixer, checked_options(mixer, kernel_size, options))
    attention: dict[int, SelfAttention] = {number: body.layers[number].mixer for number in chosen}
    new = {number: _build(config, side, number, old) for number, old in attention.items()}
    if weights == "transfer":
        for number, old in attention.items():
            transfer_projections(old, _PROJECTIONS, new[number], heads, config.hidden_size)
    if calibration is not None:
        for number, attended in _average_attention(body, side, attention, calibration).items():
            start_kernels(new[number], attended)
    for number, module in new.items():
        body.layers[number].mixer = module
    for part in model.modules():
        if isinstance(part, PreTrainedModel):  # an encoder may have a configuration of its own
            for name in _FIELDS:
                setattr(part.config, f"{side}_{name}", copy.deepcopy(getattr(config, f"{side}_{name}")))
    return model


def _choose(types: list[str], layers: Layers) -> list[int]:
    attend = [number for number, name in enumerate(types) if name == ATTENTION]
    if not attend:
        raise InputError(f"no layer has self-attention, but all have {', '.join(dict.fromkeys(types))}")
    chosen = attend if layers is None else select_layers(layers, range(len(types)))
    if others := [f"{number} ({types[number]})" for number in chosen if number not in attend]:
        raise InputError(
            f"layers without self-attention: {', '.join(others)}; those with it are {number_ranges(attend)}"
        )
    return chosen


def _configured(config: SeqDyConvConfig, side: Side, chosen: list[int], mixer: str, options: dict[str, Any]) -> Any:
    """A copy of a configuration whose chosen layers have the mixer with these options."""
    types, sizes, given = (copy.deepcopy(getattr(config, f"{side}_{name}")) for name in _FIELDS)
    of_layers = given if isinstance(given, list) else [share_options(name, given or {}) for name in types]
    width = {} if config.stack(side).conv_dim == config.hidden_size else {"conv_dim": config.hidden_size}
    for number in chosen:
        had = (of_layers[number] if isinstance(given, list) else given) or {}
        types[number], sizes[number] = mixer, options.get("kernel_size", sizes[number])
        own = {name: value for name, value in options.items() if name != "kernel_size"}
        of_layers[number] = share_options(mixer, had) | own | share_options(mixer, width)
    changed = copy.deepcopy(config)
    try:
        for name, value in zip(_FIELDS, (types, sizes, [options or None for options in of_layers])):
            setattr(changed, f"{side}_{name}", value)
        changed.validate_architecture()
    except StrictDataclassError as error:
        raise InputError(first_line(error.__cause__ or error)) from None
    return changed


def _build(config: SeqDyConvConfig, side: Side, number: int, old: SelfAttention) -> nn.Module:
    """The mixer that a configuration has for a layer, in the state of the old one."""
    weight, name = old.in_proj.weight, config.stack(side).layer_types[number]
    options = config.layer_options(side, number)
    new = build_mixer(name, old.dim, old.num_heads, device=weight.device, dtype=weight.dtype, **options)
    trained = any(parameter.requires_grad for parameter in old.parameters())
    return new.requires_grad_(trained).train(old.training)


def _average_attention(
    body: Any, side: Side, attention: Mapping[int, SelfAttention], calibration: Iterable[Mapping[str, Tensor]]
) -> dict[int, Tensor]:
    """The average attention by relative offset of each head, over batches of padded or of packed sequences."""

    def maps(number: int, args: Any, kwargs: Any, output: Any) -> tuple[Tensor, Tensor]:
        rows, padding_mask = args[0], kwargs["padding_mask"]
        if kwargs.get("cu_seqlens") is not None:
            rows, padding_mask = unpack(rows, kwargs["cu_seqlens"])
        real = torch.ones_like(rows[..., 0], dtype=torch.bool) if padding_mask is None else ~padding_mask
        return attention[number].attention_maps(rows, padding_mask), pairs_of(real)

    # A cache would have the layers go step by step. What a batch has for a decoder behind the encoder is left out.
    options = {"use_cache": False} if side == "decoder" else {}
    batches = ({name: x for name, x in batch.items() if not name.startswith("decoder_")} for batch in calibration)
    return average_by_offset(body, attention, batches, maps, **options)
