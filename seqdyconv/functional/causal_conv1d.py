"""The short convolutions of other models, as they call them: the interface of the package causal-conv1d.

All tensors are (batch, channels, time), as there. Symbols: B batch, C channels, T time, W the width of the kernels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional.checks import check_bias
from seqdyconv.functional.context import autocasts
from seqdyconv.functional.conv import lightweight_conv1d

Activation = Literal["silu", "swish"] | None
ACTIVATIONS = ("silu", "swish", None)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: Activation = None,
    *,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Causal depthwise convolution with a kernel for each channel, (batch, channels, time), on any device.

    With the arguments of ``causal_conv1d.causal_conv1d_fn`` (https://github.com/Dao-AILab/causal-conv1d), it is
    :func:`seqdyconv.lightweight_conv1d` with H = C, which is fastest where ``x`` is a transposed (B, T, C).

    .. math:: out[b,c,t] = activation(bias[c] + \sum_k weight[c, k] \cdot x[b, c, t + k - W + 1])

    Args:
        x: (B, C, T). Floating point.
        weight: (C, W). Where its dtype is another one than that of ``x``, the result is of the latter all the same.
        bias: (C,), of the dtype of ``weight``, or None.
        seq_idx: (B, T) int, the number of the sequence that each step is of, where rows hold several: a kernel reads
            the steps of its own sequence alone.
        initial_states: (B, C, W − 1), the steps before the first; None: zeros.
        return_final_states: return the last W − 1 steps, too.
        final_states_out: (B, C, W − 1), to write these to; None: a new tensor.
        activation: ``"silu"``, which ``"swish"`` is too, or None.
        cu_seqlens: (N + 1,) int, where N sequences in one row (1, C, T) begin and end, instead of ``seq_idx``.

    Returns:
        (B, C, T); with ``return_final_states`` also (B, C, W − 1).

    Raises:
        ValueError: arguments that do not fit, or exclude each other.

    Example:
        >>> import torch
        >>> from seqdyconv.functional import causal_conv1d_fn
        >>> difference = torch.tensor([[-1.0, 1.0]])
        >>> causal_conv1d_fn(torch.tensor([[[1.0, 3.0, 6.0]]]), difference).flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    _check(x, weight, bias, activation)
    packed = [name for name, given in (("seq_idx", seq_idx), ("cu_seqlens", cu_seqlens)) if given is not None]
    stateful = initial_states is not None or return_final_states or final_states_out is not None
    if len(packed) > 1 or (packed and stateful):
        raise ValueError(
            "seq_idx, cu_seqlens and states exclude each other: several sequences in a row have no state before or "
            f"after them, got {' and '.join(packed)}{' and states' * stateful}"
        )
    (batch, channels, time), width = x.shape, weight.shape[-1]
    steps = x.to(weight.dtype).transpose(1, 2)
    if seq_idx is not None:
        if seq_idx.shape != (batch, time):
            raise ValueError(f"seq_idx must be (B, T) = {(batch, time)}, got {tuple(seq_idx.shape)}")
        if batch == 0:
            return x.clone()
        starts = torch.ones_like(seq_idx, dtype=torch.bool)
        starts[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
        cu_seqlens = F.pad(starts.flatten().nonzero()[:, 0], (0, 1), value=batch * time)
        steps = steps.reshape(1, batch * time, channels)
    if initial_states is None:
        output = lightweight_conv1d(steps, weight, bias, padding="causal", cu_seqlens=cu_seqlens)
        window = steps
    else:
        _check_state(x, initial_states, width - 1, "initial_states", exact=True)
        window = torch.cat([initial_states.to(steps.dtype).transpose(1, 2), steps], dim=1)
        output = lightweight_conv1d(window, weight, bias, padding="valid")
    output = _activate(output.view(batch, time, channels), activation).transpose(1, 2).to(x.dtype)
    if not (return_final_states or final_states_out is not None):
        return output
    # The steps before the first are zeros where they are not given.
    last = F.pad(window, (0, 0, max(0, width - 1 - window.shape[1]), 0))
    last = last[:, last.shape[1] - (width - 1) :].transpose(1, 2)
    if final_states_out is None:
        return output, last.to(x.dtype, copy=True)
    _check_state(x, final_states_out, width - 1, "final_states_out", exact=True)
    final_states_out.copy_(last)
    return (output, final_states_out) if return_final_states else output


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """The next step or steps of :func:`causal_conv1d_fn`, (batch, channels, time), whose state changes in place.

    With the arguments of ``causal_conv1d.causal_conv1d_update``.

    Args:
        x: (B, C), a step, or (B, C, T), some.
        conv_state: (B, C, S), the S ≥ W − 1 steps before; the next ones are written to it.
        weight, bias, activation: as in :func:`causal_conv1d_fn`.
        cache_seqlens: (B,) int, how many steps came before: the state is a ring, in which step n is at n mod S. None:
            its steps are in order, the newest last.
        conv_state_indices: (B,) int, the row of ``conv_state`` that belongs to each row of ``x``; None: the same.

    Returns:
        Of the shape of ``x``.

    Raises:
        ValueError: arguments that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv.functional import causal_conv1d_update
        >>> state = torch.tensor([[[6.0]]])
        >>> causal_conv1d_update(torch.tensor([[10.0]]), state, torch.tensor([[-1.0, 1.0]])).item(), state.item()
        (4.0, 10.0)
    """
    steps = x[..., None] if x.dim() == 2 else x
    _check(steps, weight, bias, activation)
    (_, _, time), width, size = steps.shape, weight.shape[-1], conv_state.shape[-1]
    if conv_state_indices is not None and (
        conv_state_indices.shape != steps.shape[:1] or conv_state_indices.dtype not in (torch.int32, torch.int64)
    ):
        raise ValueError(
            f"conv_state_indices must be int32 or int64 (B,) = ({len(steps)},), got {conv_state_indices.dtype} "
            f"{tuple(conv_state_indices.shape)}"
        )
    kept = conv_state if conv_state_indices is None else conv_state[conv_state_indices]
    _check_state(steps, kept, width - 1, "conv_state", exact=False)
    if cache_seqlens is not None:
        if cache_seqlens.shape != steps.shape[:1]:
            raise ValueError(f"cache_seqlens must be (B,) = ({len(steps)},), got {tuple(cache_seqlens.shape)}")
        # In a ring the steps from n − S to n − 1 begin where step n will be.
        order = (cache_seqlens[:, None] + torch.arange(size, device=x.device)) % size
        kept = kept.gather(2, order[:, None].expand(-1, kept.shape[1], -1))
    window = torch.cat([kept.to(weight.dtype), steps.to(weight.dtype)], dim=2)
    following = window[..., time:].to(conv_state.dtype)
    if cache_seqlens is not None:
        back = (torch.arange(size, device=x.device) - cache_seqlens[:, None] - time) % size
        following = following.gather(2, back[:, None].expand(-1, following.shape[1], -1))
    if conv_state_indices is None:
        conv_state.copy_(following)
    else:
        conv_state[conv_state_indices] = following
    window = window[..., size - (width - 1) :]
    if time == 1:
        output = (window * weight).sum(-1, keepdim=True)
        output = output if bias is None else output + bias[:, None]
    else:
        output = lightweight_conv1d(window.transpose(1, 2), weight, bias, padding="valid").transpose(1, 2)
    return _activate(output, activation).to(x.dtype).view(x.shape)


def _activate(output: Tensor, activation: Activation) -> Tensor:
    if activation is None:
        return output
    return F.silu(output, inplace=not torch.is_grad_enabled())


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> None:
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point (B, C, T) tensor, got {x.dtype} {tuple(x.shape)}")
    if weight.dim() != 2 or weight.shape[0] != x.shape[1]:
        raise ValueError(f"weight must be (C, W) with C = {x.shape[1]}, got {tuple(weight.shape)}")
    if weight.shape[1] < 1:
        raise ValueError(f"weight must be (C, W) with W >= 1, got {tuple(weight.shape)}")
    check_bias(bias, x.shape[1])
    if bias is not None and bias.dtype != weight.dtype and not autocasts(x):
        raise ValueError(f"bias must have the weight's dtype, {weight.dtype}, got {bias.dtype}")
    if activation not in ACTIVATIONS:
        raise ValueError(f'activation must be None, "silu" or "swish", got {activation!r}')


def _check_state(x: Tensor, state: Tensor, steps: int, name: str, exact: bool) -> None:
    batch, channels, _ = x.shape
    fits = state.dim() == 3 and state.shape[:2] == (batch, channels)
    if not fits or not (state.shape[2] == steps if exact else state.shape[2] >= steps):
        expected = f"{'W-1 = ' if exact else 'at least W-1 = '}{steps}"
        raise ValueError(
            f"{name} must be (B, C, {expected}) with (B, C) = {(batch, channels)}, got {tuple(state.shape)}"
        )
