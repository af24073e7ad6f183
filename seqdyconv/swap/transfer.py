"""What a replaced attention leaves to its mixer: its projections, and the average of its attention by offset."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.layers import DynamicConv1d, LightweightConv1d
from seqdyconv.swap.families import Projections


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    weight: Any = layer.weight
    bias: Any = getattr(layer, "bias", None)
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias


@torch.no_grad()
def transfer_projections(
    attention: nn.Module, projections: Projections, mixer: Any, num_heads: int, inner: int
) -> None:
    """Copy the projections of a self-attention module into the mixer that replaces it.

    A mixer's ``in_proj_roles`` names the equal parts of its ``in_proj``: ``"query"``, ``"key"`` and ``"value"`` are
    those of the attention; a ``"gate"`` starts from zeros, whose sigmoid is one half, and the value it gates is
    doubled; a ``"linear_gate"``, without sigmoid, as one. Where the parts are narrower than the attention,
    the first of a role has its first heads, the second the next ones; those of the value must have all. The output
    projection becomes ``out_proj``, where it belongs to what is replaced.

    Args:
        attention: the module that is replaced.
        projections: the names of its projections.
        mixer: of :func:`seqdyconv.build_mixer`.
        num_heads: of the queries of the replaced attention. Keys and values may have fewer heads, each of which serves
            several neighbouring ones of the queries (https://arxiv.org/abs/2305.13245): it is copied for each.
        inner: channels of all heads.

    Raises:
        ValueError: the projections do not have the mixer's shapes.
    """
    if projections.fused is None:
        layers = [attention.get_submodule(name) for name in (projections.query, projections.key, projections.value)]
        parts = [_weight_and_bias(layer) for layer in layers]
    else:
        fused = _weight_and_bias(attention.get_submodule(projections.fused))
        parts = list(zip(*(_of_fused(rows, projections.by_head, num_heads, inner) for rows in fused)))
    attended = dict(zip(("query", "key", "value"), (_for_all_heads(part, num_heads, inner) for part in parts)))
    weight, bias = attended["value"]
    roles = mixer.in_proj_roles
    size = mixer.in_proj.out_features // len(roles)
    scale = 1.0
    if "key" in roles:  # our scores are divided by the root of the head's width; not all are
        head_dim = size // getattr(mixer, "attention_heads", mixer.num_heads)
        scale = _scale_of_scores(attention, head_dim) * math.sqrt(head_dim)
    rows = {
        "query": [part * scale for part in attended["query"]],
        "key": attended["key"],
        "value": [part * (2 if "gate" in roles else 1) for part in attended["value"]],
    }
    for role in rows:
        if role in roles and len(rows[role][0]) != size * roles.count("value"):
            raise ValueError(
                f"the replaced attention has a {role} of {len(rows[role][0])} channels, the mixer one of "
                f'{size * roles.count("value")}: they must agree, or take weights="random"'
            )
    zeros = weight.new_zeros(size, weight.shape[1]), bias.new_zeros(size)
    starts: dict[str, Iterator[tuple[Tensor, Tensor]]] = {
        "gate": repeat(zeros),
        "linear_gate": repeat((zeros[0], bias.new_ones(size))),
        **{role: zip(weight.split(size), bias.split(size)) for role, (weight, bias) in rows.items()},
    }
    weights, biases = zip(*[next(starts[role]) for role in roles])
    _copy(mixer.in_proj, torch.cat(weights), torch.cat(biases), "in_proj")
    if projections.output is not None:
        _copy(mixer.out_proj, *_weight_and_bias(attention.get_submodule(projections.output)), "out_proj")


def _scale_of_scores(attention: Any, head_dim: int) -> float:
    """What an attention multiplies the products of queries and keys by."""
    # DeBERTa adds as many scores of positions (He et al. 2021, https://arxiv.org/abs/2006.03654).
    terms = 1 + len({"c2p", "p2c"}.intersection(getattr(attention, "pos_att_type", None) or ()))
    scale: float = getattr(attention, "scaling", (head_dim * terms) ** -0.5)
    return scale


def _of_fused(rows: Tensor, by_head: bool, num_heads: int, inner: int) -> Sequence[Tensor]:
    """The rows of queries, keys and values in those of one projection for all three."""
    if by_head:
        return [part.flatten(0, 1) for part in rows.unflatten(0, (num_heads, 3, -1)).unbind(1)]
    groups = (len(rows) - inner) // 2
    return rows.split([inner, groups, groups])


def _for_all_heads(parts: tuple[Tensor, Tensor], num_heads: int, inner: int) -> tuple[Tensor, ...]:
    """Rows of a projection of grouped heads, once for each head that a group serves."""
    groups, head_dim = inner // len(parts[0]), inner // num_heads
    if groups < 2:
        return parts
    return tuple(part.unflatten(0, (-1, head_dim)).repeat_interleave(groups, 0).flatten(0, 1) for part in parts)


def _copy(layer: nn.Linear, weight: Tensor, bias: Tensor, name: str) -> None:
    if layer.weight.shape != weight.shape:
        raise ValueError(
            f"the replaced attention has a projection of {tuple(weight.shape)}, the mixer's {name} is "
            f'{tuple(layer.weight.shape)}: they must agree, or take weights="random"'
        )
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


Maps = Callable[[int, tuple[Any, ...], Mapping[str, Any], Any], tuple[Tensor, Tensor]]
"""Of a module's number, what it is called with and what it returns: its attention (B, H, T, T), and from which steps to
which (B, T, T) it may go."""


@torch.no_grad()
def average_attention(
    model: Any, attention: Mapping[int, nn.Module], calibration: Iterable[Mapping[str, Tensor]]
) -> dict[int, Tensor]:
    """The average attention by relative offset of each head of a Hugging Face model, over a few batches.

    Args:
        model: the model, whose attention implementation is set to ``"eager"`` meanwhile.
        attention: the self-attention modules, by number.
        calibration: inputs of the model.

    Returns:
        As :func:`average_by_offset`.

    Raises:
        ValueError: no batches, or a module that does not return its attention.
    """

    def returned(number: int, args: Any, kwargs: Any, output: Any) -> tuple[Tensor, Tensor]:
        maps = (
            [part for part in output if isinstance(part, Tensor) and part.dim() == 4] if type(output) is tuple else []
        )
        if not maps:
            raise ValueError(
                f"layer {number} ({type(attention[number]).__name__}) does not return its attention, so kernels can't "
                "start from it: swap without calibration"
            )
        real = maps[-1].sum((1, 2)) > 0  # nothing attends to padding, but it may itself
        return maps[-1], pairs_of(real) & _unmasked([*args, kwargs.get("attention_mask")], maps[-1])

    implementation = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        # With a cache transformers takes packed texts for one.
        options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        return average_by_offset(model, attention, calibration, returned, output_attentions=True, **options)
    finally:
        model.set_attn_implementation(implementation)


def pairs_of(real: Tensor) -> Tensor:
    """(B, T, T) whether both steps of a pair are among the real ones (B, T)."""
    return real[:, :, None] & real[:, None, :]


def _unmasked(inputs: Iterable[Any], maps: Tensor) -> Tensor:
    """(B, T, T) where the mask among an attention's inputs lets it go: a step of padding may be let go nowhere."""
    batch, _, *steps = maps.shape
    for mask in inputs:
        if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[1] == 1 and mask.shape[3] == steps[1]:
            kept = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > -1e3  # 0 is added to scores, or a lot less
            return kept.expand(batch, *steps)
    return maps.new_ones((), dtype=torch.bool).expand(batch, *steps)


@torch.no_grad()
def average_by_offset(
    model: Any,
    attention: Mapping[int, nn.Module],
    calibration: Iterable[Mapping[str, Tensor]],
    maps: Maps,
    **options: Any,
) -> dict[int, Tensor]:
    """The average attention by relative offset of each head, over a few batches, in evaluation mode.

    Args:
        model: what is called.
        attention: the self-attention modules in it, by number.
        calibration: its inputs.
        maps: what tells the attention of a call of one of these modules.
        options: other arguments of the model.

    Returns:
        By number (H, 2·M − 1) for sequences of up to M steps: at M − 1 + o the average over all steps t, from which it
        may go to step t + o, of the attention from t to t + o.

    Raises:
        ValueError: no batches.
    """
    sums: dict[int, Tensor] = {}
    counts: dict[int, Tensor] = {}

    def record(number: int, attended: Tensor, pairs: Tensor) -> None:
        attended, pairs = attended.double(), pairs.double()
        time = attended.shape[-1]
        step = torch.arange(time, device=attended.device)
        offset = (step - step[:, None] + time - 1).flatten()
        heads = attended.shape[1]
        total = attended.new_zeros(heads, 2 * time - 1)
        total.index_add_(1, offset, (attended * pairs[:, None]).sum(0).flatten(1))
        count = attended.new_zeros(2 * time - 1).index_add_(0, offset, pairs.sum(0).flatten())
        longest = max(time, (sums[number].shape[1] + 1) // 2 if number in sums else 0)
        for store, new in ((sums, total), (counts, count)):
            grown = [
                F.pad(x, [longest - (x.shape[-1] + 1) // 2] * 2) for x in (new, store.get(number)) if x is not None
            ]
            store[number] = torch.stack(grown).sum(0)

    modes = {module: module.training for module in model.modules()}
    handles = [
        module.register_forward_hook(
            lambda _, args, kwargs, output, number=number: record(number, *maps(number, args, kwargs, output)),
            with_kwargs=True,
        )
        for number, module in attention.items()
    ]
    try:
        model.eval()
        for batch in calibration:
            batch = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
            model(**batch, **options)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if not sums:
        raise ValueError("calibration needs at least one batch of the model's inputs, got none")
    return {number: sums[number] / counts[number].clamp(min=1) for number in attention}


@torch.no_grad()
def start_kernels(mixer: Any, attended: Tensor) -> None:
    """Let the kernels of a convolution start from the average attention of the replaced module.

    Its logarithm at the offsets of the taps becomes the static part of the kernels: the generator's bias, or the weight
    of a lightweight convolution. What a dynamic convolution adds to it starts at zero.

    Args:
        mixer: whose ``conv``, or that one's ``conv``, has ``weight_softmax``.
        attended: (H, 2·M − 1), of :func:`average_attention`; H is the convolution's number of heads or a multiple of
            it, of which neighbours are averaged.

    Raises:
        ValueError: a mixer without such kernels, or heads that do not fit.
    """
    conv = mixer
    while hasattr(conv, "conv"):  # of a mixer, and of a layer that puts more around a convolution
        conv = conv.conv
    if not isinstance(conv, (DynamicConv1d, LightweightConv1d)) or not conv.weight_softmax:
        raise ValueError("only kernels of a convolution with weight_softmax=True can start from the average attention")
    if hasattr(mixer, "attention_heads"):  # the first heads go on attending, the others are convolved
        attended = attended[len(attended) * mixer.attention_heads // mixer.num_heads :]
    if isinstance(conv, DynamicConv1d) and conv.generator.bias is None:
        raise ValueError("kernels start from the average attention in the generator's bias: set generator_bias=True")
    heads = attended.shape[0]
    if heads % conv.num_heads:
        raise ValueError(
            f"num_heads must divide the {heads} heads of the replaced attention for kernels to start from it, got "
            f"{conv.num_heads}"
        )
    attended = attended.unflatten(0, (conv.num_heads, -1)).mean(1)
    taps = torch.arange(conv.kernel_size, device=attended.device) * conv.dilation - conv.left
    centre = (attended.shape[1] - 1) // 2
    own = conv.own_taps().to(attended.device)
    seen = own & (taps.abs() <= centre)
    kernel = torch.where(seen, attended[:, (centre + taps).clamp(0, attended.shape[1] - 1)], 0)
    # Offsets that never occurred, or never got attention, start far down but not out of reach of the gradient.
    logits = (kernel / kernel.sum(1, keepdim=True)).clamp(min=1e-4).log()[own]
    if isinstance(conv, DynamicConv1d):
        conv.generator.bias.copy_(logits)
        nn.init.zeros_(conv.generator.weight)
    else:
        conv.weight.copy_(logits.view_as(conv.weight))
