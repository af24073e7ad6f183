"""Streaming of a mixer inside a residual connection, also of one whose output is late because it looks ahead."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from seqdyconv.layers.states import initial_zeros


def share_lookahead(steps: int, lookaheads: Sequence[range]) -> list[int]:
    """How far each of several layers looks ahead, where all together look at most ``steps`` ahead.

    The layers take one more in turn, from the first to the last and again, as far as each of them can; so their shares
    are as equal as may be, and the first layers have the larger ones.

    Args:
        steps: for all layers together. Where it is less than the least of all layers, each has its least.
        lookaheads: of each layer, from the least to the most.

    Example:
        >>> share_lookahead(8, [range(5)] * 6)
        [2, 2, 1, 1, 1, 1]
    """
    shares = [possible[0] for possible in lookaheads]
    while True:
        left = steps - sum(shares)
        able = [
            layer
            for layer, (share, possible) in enumerate(zip(shares, lookaheads))
            if share < possible[-1] and possible.step <= left
        ]
        if not able:
            return shares
        layer = min(able, key=shares.__getitem__)
        shares[layer] += lookaheads[layer].step


class BlockState(NamedTuple):
    """What a mixer inside a residual connection remembers between the chunks of a stream."""

    waiting: Tensor
    """(B, ≤ lookahead, D): what went in and has not come out yet."""
    mixer: Any
    """The mixer's own state, see ``seqdyconv.layers.states``."""


class RunBlock(Protocol):
    """How a layer runs a mixer inside a residual connection on the next chunk of a stream."""

    def __call__(
        self, mixer: Any, normalize: Callable[[Tensor], Tensor], hidden: Tensor, state: BlockState
    ) -> tuple[Tensor, Tensor, BlockState]:
        """What :func:`stream_block` takes and gives."""


def initial_block_state(mixer: Any, batch_size: int) -> BlockState:
    """The state of one mixer before the first chunk."""
    waiting = initial_zeros(mixer, batch_size, 0, mixer.dim)
    return BlockState(waiting, mixer.initial_state(batch_size))


def stream_block(
    mixer: Any, normalize: Callable[[Tensor], Tensor], hidden: Tensor, state: BlockState, flush: bool
) -> tuple[Tensor, Tensor, BlockState]:
    """Run a mixer on the next chunk, which may be empty; with ``flush`` it is the last one.

    Args:
        mixer: it streams, its output being ``mixer.lookahead`` steps late.
        normalize: what its input goes through first.
        hidden: (B, T, D), what goes into the residual connection.
        state: of the last call.
        flush: give the steps that still wait, too.

    Returns:
        Of the steps that are due now, (B, T', D) each: what went into the residual connection, and what the mixer gives
        for it; and the next state.
    """
    lookahead, mixer_state = mixer.lookahead, state.mixer
    outputs = []
    if hidden.shape[1] > 0:
        output, mixer_state = mixer.stream(normalize(hidden), mixer_state)
        outputs.append(output)
    waiting = torch.cat([state.waiting.to(hidden.dtype), hidden], dim=1)
    due = waiting.shape[1] if flush else max(0, waiting.shape[1] - lookahead)
    if flush and lookahead > 0:  # the steps after the end are zeros to the convolution, as padding is
        after = hidden.new_zeros(hidden.shape[0], lookahead, hidden.shape[2])
        outputs.append(mixer.stream(after, mixer_state, torch.ones_like(after[..., 0], dtype=torch.bool))[0])
    # The first `lookahead` outputs of a stream belong to no step: what is due is what came last.
    mixed = torch.cat(outputs, dim=1)[:, -due:] if due else hidden[:, :0]
    # A view would keep the whole chunk in memory.
    return waiting[:, :due], mixed, BlockState(waiting[:, due:].clone(), mixer_state)
