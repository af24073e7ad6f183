"""What convolutions over time share whose output at a step depends on a window of the input around it."""

from typing import Any

from torch import Tensor, nn

from seqdyconv.functional.checks import check_state_shape
from seqdyconv.functional.conv import Padding, left_padding
from seqdyconv.functional.packing import check_packed, run_packed
from seqdyconv.layers.checks import check_dtype, check_heads, check_input, check_positive, layer_dtype
from seqdyconv.layers.masking import append_real_inputs, zero_padding
from seqdyconv.layers.states import initial_zeros


class AroundWindow:
    """The look-ahead of a module whose window of time is that of the convolution in it, its ``conv``."""

    conv: Any

    @property
    def lookahead(self) -> int:
        """The steps after the current one that the convolution reads."""
        steps: int = self.conv.lookahead
        return steps

    @property
    def lookaheads(self) -> range:
        """The steps that it may be told to look ahead; the last are those of all taps."""
        steps: range = self.conv.lookaheads
        return steps

    def set_lookahead(self, steps: int | None = None) -> None:
        """From now on look that many steps ahead, see :meth:`seqdyconv.DynamicConv1d.set_lookahead`."""
        self.conv.set_lookahead(steps)


class WindowConv(nn.Module):
    """A convolution with K taps, (batch, time, channels): its checks, padding, packed sequences and streaming.

    A subclass brings parameters and two methods: ``_forward`` for whole sequences, and ``_stream`` for the chunk at the
    end of a window.

    Args:
        channels: C.
        kernel_size: K ≥ 1, odd or even, also longer than the sequence.
        num_heads: H, divides C.
        padding: ``"causal"``, ``"same"`` or the number of zeros before the sequence.
        dilation: steps between taps.
        query_dim: Q, the width of a second sequence that ``forward`` and ``stream`` then need, and which ``_forward``
            and ``_stream`` get as one more argument; None: there is none.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        padding: Padding = "same",
        dilation: int = 1,
        query_dim: int | None = None,
    ) -> None:
        super().__init__()
        if query_dim is not None:
            check_positive(query_dim=query_dim)
        self.query_dim = query_dim
        check_heads(num_heads, channels=channels)
        check_positive(kernel_size=kernel_size, dilation=dilation)
        self.channels = channels
        self.kernel_size = kernel_size
        self.num_heads = num_heads
        self.padding = padding
        self.dilation = dilation
        self.left = left_padding(padding, kernel_size, dilation)
        self.taps = kernel_size  # that are read: all, unless set_lookahead leaves some out
        self.reach = (kernel_size - 1) * dilation  # steps between the first and the last of them
        self.lookahead = self.reach - self.left  # steps after the current one that the last of them reads

    @property
    def lookaheads(self) -> range:
        """The steps after the current one that the layer may be told to look ahead; the last are those of all taps."""
        full = (self.kernel_size - 1) * self.dilation - self.left
        return range(full % self.dilation, full + 1, self.dilation)

    def set_lookahead(self, steps: int | None = None) -> None:
        """From now on look that many steps ahead: the taps further ahead are left out.

        The others stay where they are; where the layer has a softmax over its taps, it is that of the others. A state
        is as many steps shorter, so a stream begins anew.

        Args:
            steps: one of :attr:`lookaheads`; None: the last of them, as at the start.

        Raises:
            ValueError: a number that is none of them.
        """
        lookaheads = self.lookaheads
        steps = lookaheads[-1] if steps is None else steps
        if steps not in lookaheads:
            raise ValueError(f"lookahead must be one of {', '.join(map(str, lookaheads))}, got {steps}")
        self.lookahead, self.reach = steps, self.left + steps
        self.taps = self.reach // self.dilation + 1

    def forward(
        self,
        input: Tensor,
        *,
        padding_mask: Tensor | None = None,
        query: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Convolve a whole sequence.

        Args:
            input: (B, T, C).
            padding_mask: (B, T) bool, True at padded steps, which are read as zeros.
            query: (B, T, Q) where the layer has a ``query_dim``, else None.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, instead of a mask:
                sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.

        Returns:
            (B, T, C).
        """
        queries = self.checked_queries(input, padding_mask, query)
        if cu_seqlens is None:
            return self._forward_padded(input, padding_mask, *queries)
        check_packed(cu_seqlens, input, padding_mask)
        return run_packed(self._forward_padded, input, cu_seqlens, self.packing_gap, *queries)

    def _forward_padded(self, input: Tensor, padding_mask: Tensor | None, *queries: Tensor) -> Tensor:
        queries = tuple(zero_padding(query, padding_mask) for query in queries)
        return self._forward(zero_padding(input, padding_mask), padding_mask, *queries)

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first chunk: (B, (K−1)·dilation, C) zeros on the layer's device, in its dtype."""
        return initial_zeros(self, batch_size, self.reach, self.channels)

    def stream(
        self, input: Tensor, state: Any, padding_mask: Tensor | None = None, query: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Convolve the next chunk of a causal layer; any chunking of a sequence gives what ``forward`` gives.

        A layer with ``padding=P`` looks L = (K−1)·dilation − P steps ahead, so its output comes L steps late: the
        first L steps of it mean nothing, and a last chunk of L padded steps brings the rest.

        Args:
            input: (B, T, C), T ≥ 1.
            state: (B, (K−1)·dilation, C), of :meth:`initial_state` or the last call.
            padding_mask: (B, T) bool; padding at a row's end does not enter its state.
            query: (B, T, Q) where the layer has a ``query_dim``, else None; of the steps of the output.

        Returns:
            The output (B, T, C), and the next state.
        """
        queries = self.checked_queries(input, padding_mask, query)
        if self.lookahead == 0:  # else the mask is of other steps
            queries = tuple(zero_padding(query, padding_mask) for query in queries)
        return self._advance(zero_padding(input, padding_mask), state, padding_mask, *queries)

    def _advance(self, input: Tensor, state: Any, padding_mask: Tensor | None, *queries: Tensor) -> tuple[Tensor, Any]:
        window, following = self.chunk_window(input, state, padding_mask)
        return self._stream(window, *queries), following

    # What a subclass brings

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(B, T, C) from a whole sequence (B, T, C), in which padded steps are zeros already."""
        raise NotImplementedError

    def _stream(self, window: Tensor) -> Tensor:
        """The output (B, T, C) of a chunk from the inputs (B, (K−1)·dilation + T, C) that end with it.

        The output's steps are ``self.current_inputs(window)``, ``self.lookahead`` before the newest ones.
        """
        raise NotImplementedError

    # What it may use

    @property
    def packing_gap(self) -> int | None:
        """The steps that must be between packed sequences; None: any step may matter."""
        return max(self.left, self.lookahead)

    def taken(self, kernels: Tensor) -> Tensor:
        """Of kernels (..., K) the taps that are not too far ahead."""
        return kernels if self.taps == self.kernel_size else kernels[..., : self.taps]

    def current_inputs(self, window: Tensor) -> Tensor:
        """Of a chunk's window, the steps that its output belongs to."""
        return window[:, self.left : window.shape[1] - self.lookahead]

    def checked_queries(self, input: Tensor, padding_mask: Tensor | None, query: Tensor | None) -> tuple[Tensor, ...]:
        """The query, if there is one, once all fits."""
        check_input(input, self.channels, layer_dtype(self), padding_mask)
        if (query is None) != (self.query_dim is None):
            raise ValueError(f"query must be given if and only if the layer has a query_dim, here {self.query_dim}")
        if query is None:
            return ()
        expected = (*input.shape[:2], self.query_dim)
        if query.shape != expected:
            raise ValueError(f"query must be (B, T, Q) = {expected}, got {tuple(query.shape)}")
        check_dtype(layer_dtype(self), query=query)
        return (query,)

    def chunk_window(self, input: Tensor, state: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """State and chunk in one, and the next state."""
        self._check_stream(input, state)
        return append_real_inputs(state, input, padding_mask)

    def _check_stream(self, input: Tensor, state: Tensor) -> None:
        if self.padding == "same" and self.lookahead:
            raise ValueError(
                'only a causal layer streams, or one whose padding is an int: padding must be "causal" or P, got "same"'
            )
        check_state_shape(input, state, self.reach)
