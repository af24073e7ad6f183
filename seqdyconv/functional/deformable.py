"""Deformable convolutions over time: an offset moves each tap, which then reads between two steps by interpolation.

All tensors are (batch, time, channels). Symbols: B batch, T time, C channels, O output channels, K kernel size, G
offset groups: group g moves the taps of the channels g·C/G … (g+1)·C/G − 1. In the depthwise form each of the H heads
is a group.

The derivative by an offset is the slope between the two steps that a tap reads. At a whole position, as all are at
zero offsets, the slopes on its two sides differ: the one to the right is taken, or the one to the left where a position
may go no further. Where an offset points beyond the limit, its derivative is zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional.checks import (
    check_bias,
    check_input,
    check_like,
    check_mask,
    check_positive,
)
from seqdyconv.functional.context import in_autocast
from seqdyconv.functional.conv import ConvPadding, Padding, conv_padding, dynamic_conv1d, left_padding

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
Limit = int | Tensor


def deformable_conv1d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    modulation: Tensor | None = None,
    stride: int = 1,
    padding: ConvPadding = 0,
    dilation: int = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    clamp: bool = True,
    padding_mask: Tensor | None = None,
) -> Tensor:
    r"""Convolution whose taps read where offsets move them (Dai et al. 2017, https://arxiv.org/abs/1703.06211).

    The layout is (batch, time, channels), unlike :class:`torch.nn.Conv1d`; with zero offsets the result is
    ``F.conv1d``'s. Modulation is that of Zhu et al. 2018 (https://arxiv.org/abs/1811.11168), and 1-D with clamped
    offsets that of Ravenscroft et al. 2022 (https://arxiv.org/abs/2210.15305).

    .. math:: out[b,t] = bias + \sum_k W_k \cdot x(b,\, t \cdot stride + k \cdot dilation + offset[b,t,g,k])
              \cdot modulation[b,t,g,k]

    x is the padded input; a position between two steps interpolates them linearly.

    Args:
        input: (B, T, C), floating point.
        offset: (B, T', G, K), in steps, of any floating dtype: positions are computed in float32 at least. G divides C.
        weight: (O, C // groups, K), as in ``F.conv1d``. Its dtype is the input's.
        bias: (O,) or None.
        modulation: (B, T', G, K), multiplies what the taps read; None: ones.
        stride, dilation, groups: as in ``F.conv1d``.
        padding: the steps before and after the input, or ``"valid"``, ``"same"`` (where the stride is 1), ``"causal"``:
            (K−1)·dilation before it.
        padding_mode: what stands there: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        clamp: a position stays in the window of its output, from t·stride to t·stride + (K−1)·dilation. False: in the
            padded input.
        padding_mask: (B, T) bool, True at padded steps, which must be zero. Only positions that are not clamped depend
            on it: they stay between the first and the last real step of their row, and its padding. Needs
            ``padding_mode="zeros"``, as the other modes would copy padded steps.

    Returns:
        (B, T', O), T' as in ``F.conv1d``, of the input's dtype, or autocast's where that is on.

    Raises:
        ValueError: shapes, dtypes or options that do not fit; the message says what was got and what is allowed.

    Example:
        >>> import torch
        >>> from seqdyconv import deformable_conv1d
        >>> offset = torch.tensor([0.0, -1.0, -0.5]).view(1, 3, 1, 1)  # one tap, at steps 0, 0 and 1.5
        >>> input, weight = torch.tensor([[[2.0], [4.0], [6.0]]]), torch.ones(1, 1, 1)
        >>> deformable_conv1d(input, offset, weight, clamp=False).flatten().tolist()
        [2.0, 2.0, 5.0]
    """
    input, weight, bias = in_autocast(input, weight, bias)
    _check_weight(input, weight, bias, groups)
    check_positive(stride=stride, dilation=dilation)
    kernel_size = weight.shape[-1]
    pads = conv_padding(padding, (kernel_size - 1) * dilation, stride)
    free = input.shape[1] + sum(pads) - (kernel_size - 1) * dilation - 1
    if free < 0:
        raise ValueError(
            f"a kernel that spans {(kernel_size - 1) * dilation + 1} steps does not fit into an input of "
            f"{input.shape[1]} with padding {pads}"
        )
    _check_offset(input, offset, modulation, (input.shape[0], free // stride + 1, None, kernel_size))
    check_mask(input, padding_mask)
    if padding_mask is not None and padding_mode != "zeros":
        raise ValueError(f'a padding_mask needs padding_mode="zeros", got {padding_mode!r}')
    low, high = limits(input, offset, pads, dilation, stride, clamp, padding_mask)
    read = _sample(pad_time(input, pads, padding_mode), offset, modulation, stride, dilation, low, high)
    if groups == 1:
        return F.linear(read.flatten(2), weight.transpose(1, 2).flatten(1), bias)
    output = torch.einsum(
        "btkgc,gock->btgo", read.unflatten(-1, (groups, -1)), weight.unflatten(0, (groups, -1))
    ).flatten(2)
    return output if bias is None else output + bias


def deformable_depthwise_conv1d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    modulation: Tensor | None = None,
    padding: Padding = "same",
    dilation: int = 1,
    clamp: bool = True,
    padding_mask: Tensor | None = None,
) -> Tensor:
    r"""Depthwise :func:`deformable_conv1d` with one kernel and one set of offsets per head, (batch, time, channels).

    With zero offsets it is :func:`lightweight_conv1d`. Where positions are clamped, it is :func:`dynamic_conv1d` with
    the kernels of :func:`deformable_kernels`, and computed so.

    .. math:: out[b,t,c] = bias[c] + \sum_k weight[h,k] \cdot modulation[b,t,h,k] \cdot
              x(b,\, t + k \cdot dilation - P + offset[b,t,h,k],\, c), \quad h = c // R

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        offset: (B, T, H, K), in steps, of any floating dtype.
        weight: (H, K), H divides C. Its dtype is the input's.
        bias: (C,) or None.
        modulation: (B, T, H, K), multiplies the kernel; None: ones.
        padding: ``"causal"``, ``"same"`` or P itself, as in :func:`lightweight_conv1d`.
        dilation: steps between taps, ≥ 1.
        clamp, padding_mask: as in :func:`deformable_conv1d`.

    Returns:
        (B, T, C), of the input's dtype, or autocast's where that is on.

    Raises:
        ValueError: shapes, dtypes or options that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import deformable_depthwise_conv1d
        >>> offset = torch.zeros(1, 3, 1, 2)
        >>> offset[0, 2, 0, 1] = -0.5  # the current step, moved half a step back
        >>> kernel = torch.tensor([[0.0, 1.0]])
        >>> input = torch.tensor([[[2.0], [4.0], [6.0]]])
        >>> deformable_depthwise_conv1d(input, offset, kernel, padding="causal").flatten().tolist()
        [2.0, 4.0, 5.0]
    """
    input, weight, bias = in_autocast(input, weight, bias)
    check_input(input)
    if weight.dim() != 2 or 0 in weight.shape or input.shape[-1] % weight.shape[0]:
        raise ValueError(
            f"weight must be (H, K) with K >= 1 and an H that divides C = {input.shape[-1]}, got {tuple(weight.shape)}"
        )
    check_bias(bias, input.shape[-1])
    check_like(input, weight=weight, bias=bias)
    check_positive(dilation=dilation)
    _check_offset(input, offset, modulation, (*input.shape[:2], *weight.shape))
    check_mask(input, padding_mask)
    reach = (weight.shape[1] - 1) * dilation
    left = left_padding(padding, weight.shape[1], dilation)
    if clamp:
        kernels = deformable_kernels(offset, weight, modulation=modulation, dilation=dilation).to(input.dtype)
        return dynamic_conv1d(input, kernels, bias, padding=left)
    pads = (left, reach - left)
    low, high = limits(input, offset, pads, dilation, 1, clamp, padding_mask)
    taps = weight if modulation is None else weight * modulation
    read = _sample(pad_time(input, pads), offset, taps.to(input.dtype).expand_as(offset), 1, dilation, low, high)
    output = read.sum(2)
    return output if bias is None else output + bias


def deformable_kernels(
    offset: Tensor, weight: Tensor, *, modulation: Tensor | None = None, dilation: int = 1
) -> Tensor:
    """The kernels that make :func:`dynamic_conv1d` a clamped deformable convolution, (batch, time, heads, taps).

    A tap that reads between two steps gives each of them its share.

    Args:
        offset: (B, T, H, K), in steps.
        weight: (H, K).
        modulation: (B, T, H, K), multiplies the weight; None: ones.
        dilation: steps between the taps of ``weight``.

    Returns:
        (B, T, H, (K−1)·dilation + 1), without dilation, in float32 at least.
    """
    reach = (weight.shape[-1] - 1) * dilation
    lower, upper, fraction = _between(sampled_positions(offset, dilation, 0, reach), 0, reach)
    taps = weight if modulation is None else weight * modulation
    first, second = taps * (1 - fraction), taps * fraction
    kernels = first.new_zeros(*first.shape[:-1], reach + 1)
    return kernels.scatter_add(-1, lower, first).scatter_add(-1, upper, second)


def sampled_positions(offset: Tensor, dilation: int, low: Limit, high: Limit) -> Tensor:
    """Where the taps read, (B, T, G, K), in steps after the first one of their output's window.

    In float32 at least, and not counted from the start of the sequence: as exact at its end as at its beginning.
    """
    taps = torch.arange(offset.shape[-1], device=offset.device) * dilation
    position = offset.to(torch.promote_types(offset.dtype, torch.float32)) + taps
    return position.clamp(min=low).clamp(max=high)


def limits(
    input: Tensor,
    offset: Tensor,
    pads: tuple[int, int],
    dilation: int,
    stride: int,
    clamp: bool,
    padding_mask: Tensor | None,
) -> tuple[Limit, Limit]:
    """The first and last position that a tap may read, in steps after the first one of its output's window."""
    if clamp:
        return 0, (offset.shape[-1] - 1) * dilation
    time = input.shape[1]
    start = torch.arange(offset.shape[1], device=input.device)[:, None, None] * stride
    if padding_mask is None:
        return -start, time - 1 + sum(pads) - start
    real = (~padding_mask).int()
    first, last = real.argmax(1), time - 1 - real.flip(1).argmax(1)
    return first.view(-1, 1, 1, 1) - start, last.view(-1, 1, 1, 1) + sum(pads) - start


def _between(position: Tensor, low: Limit, high: Limit) -> tuple[Tensor, Tensor, Tensor]:
    """The steps before and after a position, and how far it is from the first to the second, 0 to 1.

    Neither is beyond the limits: at the upper one, the position is the second of the two, not the first.
    """
    lower = position.detach().floor().long().clamp(max=high - 1).clamp(min=low)
    return lower, (lower + 1).clamp(max=high), position - lower


def _sample(
    padded: Tensor,
    offset: Tensor,
    factor: Tensor | None,
    stride: int,
    dilation: int,
    low: Limit,
    high: Limit,
) -> Tensor:
    """What the taps read, times ``factor`` (B, T, G, K), as (B, T, K, C)."""
    batch, length, channels = padded.shape
    groups = offset.shape[2]
    lower, upper, fraction = _between(sampled_positions(offset, dilation, low, high), low, high)
    start = torch.arange(offset.shape[1], device=offset.device)[:, None, None] * stride
    row = torch.arange(batch, device=offset.device)[:, None, None, None] * length
    group = torch.arange(groups, device=offset.device)[:, None]
    rows = padded.reshape(batch * length * groups, channels // groups)  # a row: the channels of a group at a step

    def read(step: Tensor, share: Tensor) -> Tensor:
        share = share if factor is None else share * factor
        index = (row + start + step) * groups + group
        index, share = index.transpose(2, 3), share.transpose(2, 3)[..., None]  # (B, T, K, G), so that none is moved
        return rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[1]) * share.to(padded.dtype)

    return (read(lower, 1 - fraction) + read(upper, fraction)).flatten(3)


def pad_time(input: Tensor, pads: tuple[int, int], mode: str = "zeros") -> Tensor:
    """``input`` (B, T, C) with padded steps before and after it."""
    if mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {mode!r}")
    if mode == "zeros" or not any(pads):
        return F.pad(input, (0, 0, *pads))
    time = input.shape[1]
    longest = {"reflect": time - 1, "circular": time}.get(mode, max(pads))
    if max(pads) > longest:
        raise ValueError(f"padding_mode={mode!r} pads {time} steps by at most {longest}, got {pads}")
    return F.pad(input.transpose(1, 2), pads, mode).transpose(1, 2)


def _check_weight(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    check_input(input)
    check_positive(groups=groups)
    channels = input.shape[-1]
    if weight.dim() != 3 or 0 in weight.shape or weight.shape[1] * groups != channels or weight.shape[0] % groups:
        raise ValueError(
            f"weight must be (O, C // groups, K) with K >= 1, C = {channels} and groups = {groups}, which "
            f"divides C and O, got {tuple(weight.shape)}"
        )
    check_bias(bias, weight.shape[0], "O")
    check_like(input, weight=weight, bias=bias)


def _check_offset(
    input: Tensor, offset: Tensor, modulation: Tensor | None, expected: tuple[int, int, int | None, int]
) -> None:
    batch, time, groups, kernel_size = expected
    fits = offset.dim() == 4 and offset.is_floating_point() and offset.device == input.device
    if fits and groups is None:
        fits = offset.shape[2] > 0 and input.shape[-1] % offset.shape[2] == 0
        groups = offset.shape[2]
    if not fits or offset.shape != (batch, time, groups, kernel_size):
        wanted = f"G that divides C = {input.shape[-1]}" if expected[2] is None else f"{groups}"
        raise ValueError(
            f"offset must be floating point, on {input.device}, ({batch}, {time}, {wanted}, "
            f"{kernel_size}), got {offset.dtype} {tuple(offset.shape)} on {offset.device}"
        )
    if modulation is None:
        return
    fits = modulation.is_floating_point() and modulation.device == offset.device
    if not fits or modulation.shape != offset.shape:
        raise ValueError(
            f"modulation must be floating point, on {offset.device}, and have the offset's shape, "
            f"{tuple(offset.shape)}, got {modulation.dtype} {tuple(modulation.shape)} on {modulation.device}"
        )
