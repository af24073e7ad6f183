"""TaLK convolution: at every step the average of a window whose ends are given, in a time that does not depend on them.

All tensors are (batch, time, channels). Symbols: B batch, T time, C channels, H heads, R = C // H channels per head,
K = max_left + max_right + 1 the longest window; head h owns the channels h·R … (h+1)·R − 1.

The window of extents a and b reaches from a steps before the current one to b steps after it. Where these are no whole
numbers, its two outermost steps count in part: :func:`windows` is the definition.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional.appending import append_inputs
from seqdyconv.functional.backends import Backend, choose
from seqdyconv.functional.checks import check_heads, check_input, check_state
from seqdyconv.functional.context import exports_any_length, in_autocast
from seqdyconv.functional.conv import backends_with_kernels
from seqdyconv.functional.packing import check_packed, run_packed

Reach = tuple[int, int]
_CHUNK = 16  # steps of the inner of the two levels of prefix sums; measured: from 8 to 32 it makes no difference


def talk_conv1d(
    input: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    max_left: int,
    max_right: int,
    padding: Literal["same", "valid"] = "same",
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Average over a window of its own at every step and head (Lioutas & Guo 2020, https://arxiv.org/abs/2002.03184).

    The layout is (batch, time, channels). With S(u) the sum of the inputs up to step u, in between interpolated:

    .. math:: out[b,t,c] = \frac{S[b, t + right[b,t,c // R], c] - S[b, t - left[b,t,c // R] - 1, c]}
                                {max\_left + max\_right + 1}

    This is a dynamic convolution whose kernels are ones within the window, the parts of a step at its two ends, and
    zeros outside. The divisor is that of the longest window: a short one gives a small output. With extents at their
    most everywhere it is a box filter.

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        left: (B, T, H), how many steps the window reaches back from the current one, which is always inside. H divides
            C. Any floating dtype; below float32 long extents lose the parts of steps. What is not within 0 …
            ``max_left`` is taken as the nearer of the two, and has no gradient. Where an extent is a whole number its
            derivative is that towards a longer window, at ``max_left`` towards a shorter one.
        right: (B, T, H), how many steps it reaches ahead, likewise.
        max_left, max_right: the most steps, ≥ 0.
        padding: ``"valid"``: the output, and the extents, are without the first ``max_left`` steps of the input and
            the last ``max_right``, whose windows would reach outside it. ``"same"``: of all steps.
        cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, each then averaged
            alone: sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.
        backend: one of :func:`seqdyconv.dynamic_conv1d`, whose work is in proportion to K; ``"prefix_sums"``, whose
            work does not depend on K; or None for the fastest that can run.

    Returns:
        (B, T, C), of the input's dtype, or autocast's where that is on.

    Raises:
        ValueError: shapes, dtypes or options that do not fit; the message says what was got and what is allowed.

    Example:
        >>> import torch
        >>> from seqdyconv import talk_conv1d
        >>> input = torch.tensor([[[3.0], [6.0], [9.0]]])
        >>> left = torch.tensor([[[1.0], [1.0], [0.5]]])  # the last step takes half of the one before it
        >>> talk_conv1d(input, left, torch.zeros(1, 3, 1), max_left=2, max_right=0).flatten().tolist()
        [1.0, 3.0, 4.0]
    """
    (input,), reach = in_autocast(input), (max_left, max_right)
    if padding not in ("same", "valid"):
        raise ValueError(f'padding must be "same" or "valid", got {padding!r}')
    pads = reach if padding == "same" else (0, 0)
    _check(input, left, right, reach, pads)
    run = _choose(input, left, reach, backend).run
    left, right = _clamp(left, right, reach)
    if cu_seqlens is None:
        return run(input, pads, left, right, reach)
    check_packed(cu_seqlens, input)
    if padding == "valid":
        raise ValueError('cu_seqlens needs as many outputs as inputs: padding must be "same", got "valid"')
    return run_packed(
        lambda row, _, left, right: run(row, reach, left, right, reach), input, cu_seqlens, max(reach), left, right
    )


def talk_conv1d_step(
    input: Tensor,
    state: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    max_left: int,
    max_right: int,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A chunk of :func:`talk_conv1d`, (batch, time, channels), with the inputs before it as state.

    The output is that of the T steps ``max_right`` before those of the input.

    Args:
        input: (B, T, C), the next chunk, T ≥ 1.
        state: (B, max_left + max_right, C), the inputs before it, zero before the first one.
        left, right: (B, T, H), the extents at the steps of the output.
        max_left, max_right, backend: as in :func:`talk_conv1d`.

    Returns:
        The output (B, T, C), and the state for the next chunk, of the shape of ``state``.

    Raises:
        ValueError: shapes, dtypes or options that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import talk_conv1d_step
        >>> extents = {"left": torch.ones(1, 1, 1), "right": torch.zeros(1, 1, 1)}
        >>> state = torch.tensor([[[4.0], [2.0]]])
        >>> output, state = talk_conv1d_step(torch.ones(1, 1, 1), state, **extents, max_left=2, max_right=0)
        >>> output.item(), state.flatten().tolist()
        (1.0, [2.0, 1.0])
    """
    (input,), reach = in_autocast(input), (max_left, max_right)
    _check(input, left, right, reach, reach)
    check_state(input, state, sum(reach), "max_left + max_right")
    run = _choose(input, left, reach, backend).run
    window, following = append_inputs(state, input)
    output = run(window, (0, 0), *_clamp(left, right, reach), reach)
    return output, following


def windows(left: Tensor, right: Tensor, reach: Reach) -> Tensor:
    """The definition: the kernels (B, T, H, K) of extents (B, T, H) within 0 and ``reach``.

    An extent of 2.3 counts the two nearest steps in full and 0.3 of the third.
    """
    sides = []
    for extent, most in zip((left, right), reach):
        whole, part = (x[..., None] for x in _split(extent, most))
        distance = torch.arange(1, most + 1, device=extent.device)
        sides.append(torch.where(distance == whole + 1, part, (distance <= whole).to(part.dtype)))
    return torch.cat([sides[0].flip(-1), torch.ones_like(left[..., None]), sides[1]], dim=-1) / (sum(reach) + 1)


def _split(extent: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Whole steps, int, and the part of the next one: 0 to 1, the 1 only at ``most``, which has no next one."""
    # Clamped as numbers after the conversion: NaN becomes any integer, and none may lead out of a table.
    whole = extent.detach().floor().long().clamp(0, max(most - 1, 0))
    return whole, extent - whole


def _by_prefix_sums(input: Tensor, padding: Reach, left: Tensor, right: Tensor, reach: Reach) -> Tensor:
    """Differences of prefix sums, which begin anew with every block of at least 4·K steps.

    So no sum is longer than about 5·K steps, and its rounding does not grow with T. The sums of a block go on for K
    steps of the next one: a window that begins in a block ends within its sums.
    """
    kernel_size = sum(reach) + 1
    batch, time, heads = left.shape
    # One row more on the left: the sum up to a row is then that of the rows before the next one.
    before, beyond = padding[0] + 1, _CHUNK * ((kernel_size + _CHUNK - 1) // _CHUNK)
    size = 4 * beyond
    rows = input.to(torch.promote_types(input.dtype, torch.float32))
    step = torch.arange(time, device=input.device)
    if (any_length := exports_any_length(input)) or time > size:
        blocks = time // size + (2 if any_length else 1)  # two at least: one would tie an exported graph to its length
        rows = F.pad(rows, (0, 0, before, blocks * size + beyond - input.shape[1] - before))
        sums = _prefix_sums(rows.unfold(1, size + beyond, size).mT).flatten(1, 2)
        first = step + step // size * beyond
    else:
        length = _CHUNK * ((time + kernel_size + _CHUNK - 1) // _CHUNK)
        rows = F.pad(rows, (0, 0, before, length - input.shape[1] - before))
        sums, first = _prefix_sums(rows), step

    def pick(table: Tensor, index: Tensor) -> Tensor:
        """The rows of ``table`` (B, N, C) at ``index`` (B, T, H): (B, T, H, R)."""
        start = torch.arange(batch, device=index.device)[:, None, None] * table.shape[1]
        index = (start + index) * heads + torch.arange(heads, device=index.device)
        # A row of R channels at once: many times faster than torch.gather, which reads an index for each number.
        return table.reshape(-1, table.shape[2] // heads).index_select(0, index.flatten()).unflatten(0, index.shape)

    (whole_left, part_left), (whole_right, part_right) = (_split(*side) for side in zip((left, right), reach))
    last, first_whole = reach[0] + 1 + whole_right, reach[0] + 1 - whole_left  # rows of the current step's window
    output = pick(sums, first[:, None] + last) - pick(sums, first[:, None] + first_whole - 1)
    # A side of no steps has no part of one. Its extents stay in the graph: their gradient is zero.
    for extent, part, row, most in (
        (left, part_left, first_whole - 1, reach[0]),
        (right, part_right, last + 1, reach[1]),
    ):
        output = output + (part[..., None] * pick(rows, step[:, None] + row) if most else extent[..., :0].sum())
    return (output / kernel_size).flatten(2).to(input.dtype)


def _prefix_sums(rows: Tensor) -> Tensor:
    """Prefix sums over dimension −2, whose length is a multiple of ``_CHUNK``: within chunks, then of the chunks.

    Faster than one ``cumsum``, whose strides leave the cache, and more exact.
    """
    sums = rows.unflatten(-2, (-1, _CHUNK)).cumsum(-2)
    before = F.pad(sums[..., :-1, -1, :].cumsum(-2), (0, 0, 1, 0))
    return (sums + before[..., None, :]).flatten(-3, -2)


def _prefix_sums_pay(input: Tensor, kernels: Sequence[int], dilation: int) -> bool:
    return kernels[-1] > 32 or exports_any_length(input)  # measured: benchmarks/talk.py


# From the definition to the fastest. ``run`` takes (input, padding, left, right, reach), the extents from 0 to reach.
BACKENDS: dict[str, Backend] = {
    **backends_with_kernels(windows),
    "prefix_sums": Backend(_by_prefix_sums, pays=_prefix_sums_pay),
}


def _choose(input: Tensor, left: Tensor, reach: Reach, backend: str | None) -> Backend:
    return choose(BACKENDS, backend, input, (*left.shape, sum(reach) + 1))


def _clamp(left: Tensor, right: Tensor, reach: Reach) -> tuple[Tensor, ...]:
    """The extents in float32 at least, from 0 to ``reach``."""
    sides = zip((left, right), reach)
    return tuple(side.to(torch.promote_types(side.dtype, torch.float32)).clamp(0, most) for side, most in sides)


def _check(input: Tensor, left: Tensor, right: Tensor, reach: Reach, pads: Reach) -> None:
    check_input(input)
    for name, most in zip(("max_left", "max_right"), reach):
        if not isinstance(most, int) or isinstance(most, bool) or most < 0:
            raise ValueError(f"{name} must be an int >= 0, got {most!r}")
    steps = (input.shape[0], input.shape[1] + sum(pads) - sum(reach))
    if steps[1] < 1:
        raise ValueError(
            f'input must have more than max_left + max_right = {sum(reach)} steps where padding="valid", got '
            f"{input.shape[1]}"
        )
    for name, extent in (("left", left), ("right", right)):
        if extent.dim() != 3 or extent.shape[:2] != steps or not extent.is_floating_point():
            raise ValueError(
                f"{name} must be a floating-point (B, T, H) tensor with the output's (B, T) = {steps}, got "
                f"{extent.dtype} {tuple(extent.shape)}"
            )
        if extent.device != input.device:
            raise ValueError(f"{name} must be on the input's device, {input.device}, got {extent.device}")
    check_heads(input, left.shape[2])
    if right.shape[2] != left.shape[2]:
        raise ValueError(f"left and right must have the same heads, got {left.shape[2]} and {right.shape[2]}")
