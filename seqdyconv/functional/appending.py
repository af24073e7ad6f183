"""The inputs that a stream remembers, with the next chunk after them: neither is copied at every step.

A state is a tensor (B, S, C), the last S inputs, to be read only. Without gradients it is a view of a longer buffer:
the next chunk is written behind it, and the state after that is a view of the same buffer, some steps on. Where that
ends, the S steps move to a new one, which is once in about S steps. What was written is never written again, so that
states from before stay as they are: a stream may go on from any of them, more than once.
"""

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from seqdyconv.functional.context import in_transform

_LEAST_ROOM = 16  # steps behind a state in its buffer; there are as many as it has, where these are more


@dataclass
class _Buffer:
    """Steps (B, S + room, C), of which the first ``written`` are in use."""

    steps: Tensor
    written: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def claim(self, begin: int, time: int) -> bool:
        """Whether ``time`` more steps may be written from ``begin`` on; they then belong to the caller."""
        with self.lock:
            free = self.written == begin and begin + time <= self.steps.shape[1]
            self.written += time if free else 0
            return free


# Of each state that is a view of a buffer: that, and where the state ends. Copies of a state are no views.
_BUFFERS = WeakIdKeyDictionary()


def append_inputs(state: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """The window that a chunk's outputs read, and the state after the chunk.

    Args:
        state: (B, S, C), the inputs before the chunk. It goes on saying that, whatever comes.
        input: (B, T, C), the chunk; its dtype is that of the results.

    Returns:
        (B, S + T, C), state and input one after the other, to be read only; and its last S steps, the next state.

    Example:
        >>> import torch
        >>> from seqdyconv.functional.appending import append_inputs
        >>> window, state = append_inputs(torch.zeros(1, 2, 1), torch.ones(1, 1, 1))
        >>> window.flatten().tolist(), state.flatten().tolist()
        ([0.0, 0.0, 1.0], [0.0, 1.0])
    """
    steps, time = state.shape[1], input.shape[1]
    if not _in_place(state, input) or time > max(steps, _LEAST_ROOM):
        window = torch.cat([state.to(input.dtype), input], dim=1)
        return window, window[:, time:].clone()  # a view would keep the whole chunk in memory
    buffer, end = _BUFFERS.get(state) or (None, 0)
    if buffer is None or not _fits(buffer.steps, input) or not buffer.claim(end, time):
        buffer, end = _with_room(input, state.shape), steps
        buffer.steps[:, :steps] = state
        buffer.written += time
    buffer.steps[:, end : end + time] = input
    return buffer.steps[:, end - steps : end + time], _view(buffer, steps, end + time)


def select_rows(state: Tensor, rows: Tensor) -> Tensor:
    """``state[rows]`` (B', ...), for any rows (B',) of a state (B, ...); one of (B, S, C) has room for more steps."""
    if state.dim() != 3 or not _in_place(state, state):
        return state.index_select(0, rows)
    buffer = _with_room(state, (len(rows), *state.shape[1:]))
    torch.index_select(state, 0, rows, out=buffer.steps[:, : state.shape[1]])
    return _view(buffer, state.shape[1], state.shape[1])


def _in_place(state: Tensor, input: Tensor) -> bool:
    """Whether nobody but the two tensors is concerned: neither autograd nor a tracer, and no tensor of another kind."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return type(state) is Tensor and type(input) is Tensor and not in_transform()


def _fits(steps: Tensor, input: Tensor) -> bool:
    return (
        steps.dtype == input.dtype
        and steps.device == input.device
        and (torch.is_inference_mode_enabled() or not steps.is_inference())
    )


def _with_room(like: Tensor, shape: tuple[int, ...]) -> _Buffer:
    batch, steps, channels = shape
    return _Buffer(like.new_empty(batch, steps + max(steps, _LEAST_ROOM), channels), steps)


def _view(buffer: _Buffer, steps: int, end: int) -> Tensor:
    state = buffer.steps[:, end - steps : end]
    _BUFFERS[state] = buffer, end
    return state
