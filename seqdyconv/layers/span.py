"""ConvBERT's convolution, whose kernels come from spans of the input, and its block, where half of the heads attend."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional.conv import Padding
from seqdyconv.functional.packing import check_packed, run_packed
from seqdyconv.layers.attention import self_attend, self_attend_chunk
from seqdyconv.layers.checks import (
    check_dropout,
    check_dtype,
    check_heads,
    check_input,
    check_positive,
    check_state_kind,
    layer_dtype,
)
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.conv_mixer import mixer_padding
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.masking import zero_padding
from seqdyconv.layers.states import ParallelState, SpanState, initial_attention_state
from seqdyconv.layers.window import AroundWindow


class SpanDynamicConv1d(AroundWindow, nn.Module):
    """Span-based dynamic convolution (Jiang et al. 2020, https://arxiv.org/abs/2008.02496), (batch, time, channels).

    A dynamic convolution whose kernel at a step is predicted from the steps around it: from the product of that step's
    query and of what a depthwise convolution, as long as the kernels, and a linear layer make of the source.

    Args:
        channels: C.
        kernel_size: K of both convolutions, ≥ 1, odd or even, also longer than the sequence.
        num_heads: H of the dynamic convolution, divides C.
        padding: of both: ``"causal"``, ``"same"`` or the number of zeros before the sequence.
        dilation: of both, steps between taps.
        weight_softmax, weight_dropout, renormalize: of the dynamic convolution, see :class:`seqdyconv.DynamicConv1d`.
        source_dim: S, the width of a separate ``source``; None: C.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C), query (B, T, C), source (B, T, S) → output (B, T, C). Parameters: ``depthwise.weight`` (S, K),
        ``pointwise`` (S → C), ``conv.generator`` (C → H·K).

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import SpanDynamicConv1d
        >>> SpanDynamicConv1d(512, kernel_size=9, num_heads=8)(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        *,
        padding: Padding = "same",
        dilation: int = 1,
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        renormalize: bool = False,
        source_dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        source_dim = channels if source_dim is None else source_dim
        check_heads(num_heads, channels=channels)
        check_positive(source_dim=source_dim)
        self.channels = channels
        self.source_dim = source_dim
        self.depthwise = LightweightConv1d(
            source_dim, kernel_size, source_dim, padding=padding, dilation=dilation, weight_softmax=False, **factory
        )
        self.pointwise = xavier_linear(source_dim, channels, **factory)
        self.conv = DynamicConv1d(
            channels,
            kernel_size,
            num_heads,
            padding=padding,
            dilation=dilation,
            weight_softmax=weight_softmax,
            weight_dropout=weight_dropout,
            renormalize=renormalize,
            query_dim=channels,
            generator_bias=True,
            **factory,
        )

    def set_lookahead(self, steps: int | None = None) -> None:
        """As :meth:`seqdyconv.DynamicConv1d.set_lookahead`: what predicts the kernels looks no further either."""
        super().set_lookahead(steps)
        self.depthwise.set_lookahead(steps)

    def reset_parameters(self) -> None:
        reset_children(self)

    def forward(
        self,
        input: Tensor,
        *,
        padding_mask: Tensor | None = None,
        query: Tensor | None = None,
        source: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Convolve a whole sequence.

        Args:
            input: (B, T, C), what is convolved.
            padding_mask: (B, T) bool, True at padded steps, which are read as zeros.
            query: (B, T, C); None: ``input``.
            source: (B, T, S); None: ``input``.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, instead of a mask.

        Returns:
            (B, T, C).
        """
        query, source = self._check(input, padding_mask, query, source)
        if cu_seqlens is None:
            return self._forward(input, query, source, padding_mask)
        check_packed(cu_seqlens, input, padding_mask)
        return run_packed(
            lambda rows, mask, query, source: self._forward(rows, query, source, mask),
            input,
            cu_seqlens,
            self.conv.packing_gap,
            query,
            source,
        )

    def initial_state(self, batch_size: int) -> SpanState:
        """The state before the first chunk: those of both convolutions."""
        return SpanState(self.depthwise.initial_state(batch_size), self.conv.initial_state(batch_size))

    def stream(
        self,
        input: Tensor,
        state: SpanState,
        padding_mask: Tensor | None = None,
        query: Tensor | None = None,
        source: Tensor | None = None,
    ) -> tuple[Tensor, SpanState]:
        """Convolve the next chunk of a causal layer; any chunking of a sequence gives what ``forward`` gives.

        A layer that looks L steps ahead gives its output L steps late, see :meth:`seqdyconv.DynamicConv1d.stream`.

        Args:
            input: (B, T, C), T ≥ 1.
            state: of :meth:`initial_state` or the last call.
            padding_mask: (B, T) bool; padding at a row's end does not enter its state.
            query: (B, T, C), of the steps of the output; None: ``input``.
            source: (B, T, S), of the steps of the input; None: ``input``.

        Returns:
            The output (B, T, C), and the next state.
        """
        check_state_kind(state, SpanState)
        late = query is None and self.lookahead > 0
        query, source = self._check(input, padding_mask, query, source)
        span, sources = self.depthwise.stream(source, state.source, padding_mask)
        if late:
            query = self.output_steps(self.conv.past_inputs(state.input), zero_padding(input, padding_mask))
        elif self.lookahead == 0:
            query = zero_padding(query, padding_mask)
        output, inputs = self.conv.stream(input, state.input, padding_mask, query * self.pointwise(span))
        return output, SpanState(sources, inputs)

    def _forward(self, input: Tensor, query: Tensor, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        span = self.pointwise(self.depthwise(source, padding_mask=padding_mask))
        return self.conv(input, padding_mask=padding_mask, query=zero_padding(query, padding_mask) * span)

    def output_steps(self, past: Tensor, rows: Tensor) -> Tensor:
        """Of a stream's ``rows`` (B, T, C) and those before, (B, (K−1)·dilation, C), the T that the output is of."""
        return self.conv.current_inputs(torch.cat([past.to(rows.dtype), rows], dim=1))

    def _check(
        self, input: Tensor, padding_mask: Tensor | None, query: Tensor | None, source: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        check_input(input, self.channels, layer_dtype(self.pointwise), padding_mask)
        query, source = (input if part is None else part for part in (query, source))
        for name, part, width in (("query", query, self.channels), ("source", source, self.source_dim)):
            expected = (*input.shape[:2], width)
            if part.shape != expected:
                raise ValueError(f"{name} must be (B, T, {width}) = {expected}, got {tuple(part.shape)}")
        check_dtype(layer_dtype(self.pointwise), query=query, source=source)
        return query, source


class _SpanBlock(nn.Module):
    """What both mixers share: the linear layers around what mixes, of which one part is a span-based convolution."""

    in_proj_roles: tuple[str, ...]

    def __init__(self, dim: int, conv: SpanDynamicConv1d, mixed_dim: int, factory: dict[str, Any]) -> None:
        super().__init__()
        self.dim = dim
        self.in_proj = xavier_linear(dim, len(self.in_proj_roles) * conv.channels, **factory)
        self.conv = conv
        self.out_proj = xavier_linear(mixed_dim, dim, **factory)

    def reset_parameters(self) -> None:
        reset_children(self)

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Mix a whole sequence.

        Args:
            input: (B, T, D).
            padding_mask: (B, T) bool, True at padded steps.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, D) begin and end, instead of a mask.

        Returns:
            (B, T, D).
        """
        check_packed(cu_seqlens, input, padding_mask)
        input = self._enter(input, padding_mask)
        projected = self.in_proj(input)
        if cu_seqlens is None:
            return self.out_proj(self._mix(input, projected, padding_mask))
        mixed = run_packed(
            lambda rows, mask, projected: self._mix(rows, projected, mask),
            input,
            cu_seqlens,
            self.packing_gap,
            projected,
        )
        return self.out_proj(mixed)

    @property
    def packing_gap(self) -> int | None:
        """The steps that must be between packed sequences."""
        return self.conv.conv.packing_gap

    def _enter(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        """The block's input: what is projected, and the source of the kernels."""
        check_input(input, self.dim, layer_dtype(self.in_proj), padding_mask)
        return zero_padding(input, padding_mask)

    def _mix(self, input: Tensor, projected: Tensor, padding_mask: Tensor | None) -> Tensor:
        """What ``out_proj`` gets, of a whole sequence."""
        raise NotImplementedError


class SpanDynamicConvMixer(AroundWindow, _SpanBlock):
    """Span-based dynamic convolution, a mixer (Jiang 2020, https://arxiv.org/abs/2008.02496), (batch, time, channels).

    Linear D → 2·C gives query and values; :class:`seqdyconv.SpanDynamicConv1d` convolves the values with kernels from
    the query and spans of the block's input; linear C → D.

    Args:
        dim: D, the width of input and output.
        num_heads: H, divides C.
        kernel_size: K.
        causal: see the current and earlier steps alone.
        lookahead: the steps after the current one that are seen, instead of ``causal``.
        conv_dim: C; None: D.
        input_dropout: dropout of the block's input in training.
        dilation, weight_softmax, weight_dropout, renormalize: see :class:`seqdyconv.SpanDynamicConv1d`.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, D) → output (B, T, D). Parameters: ``in_proj`` (query and value stacked), ``conv``, ``out_proj``.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import build_mixer
        >>> build_mixer("span_dynamic_conv", 512, 8, kernel_size=9)(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
    """

    in_proj_roles = ("query", "value")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        kernel_size: int,
        causal: bool = False,
        lookahead: int | None = None,
        conv_dim: int | None = None,
        input_dropout: float = 0.0,
        dilation: int = 1,
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        renormalize: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_dropout(input_dropout=input_dropout)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        conv = SpanDynamicConv1d(
            dim if conv_dim is None else conv_dim,
            kernel_size,
            num_heads,
            padding=mixer_padding(kernel_size, dilation, causal, lookahead),
            dilation=dilation,
            weight_softmax=weight_softmax,
            weight_dropout=weight_dropout,
            renormalize=renormalize,
            source_dim=dim,
            **factory,
        )
        super().__init__(dim, conv, conv.channels, factory)
        self.num_heads = num_heads
        self.input_dropout = input_dropout

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}"

    def initial_state(self, batch_size: int) -> SpanState:
        """The state before the first chunk: that of the convolution."""
        return self.conv.initial_state(batch_size)

    def stream(self, input: Tensor, state: SpanState, padding_mask: Tensor | None = None) -> tuple[Tensor, SpanState]:
        """Mix the next chunk (B, T, D); returns its output (B, T, D), ``lookahead`` steps late, and the next state."""
        check_state_kind(state, SpanState)
        input = self._enter(input, padding_mask)
        query, value = self.in_proj(input).chunk(2, dim=-1)
        if self.lookahead:  # the query is of the steps of the output
            query = self.in_proj(self.conv.output_steps(state.source, input)).chunk(2, dim=-1)[0]
        output, state = self.conv.stream(value, state, padding_mask, query, input)
        return self.out_proj(output), state

    def _enter(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        return F.dropout(super()._enter(input, padding_mask), self.input_dropout, self.training)

    def _mix(self, input: Tensor, projected: Tensor, padding_mask: Tensor | None) -> Tensor:
        query, value = projected.chunk(2, dim=-1)
        return self.conv(value, padding_mask=padding_mask, query=query, source=input)


class MixedAttention(_SpanBlock):
    """ConvBERT's mixed attention (Jiang et al. 2020, https://arxiv.org/abs/2008.02496), (batch, time, channels).

    One half of the width attends, the other half is convolved by :class:`seqdyconv.SpanDynamicConv1d`, whose kernels
    come from attention's queries and spans of the block's input. The results stand side by side, attention first.

    Args:
        dim: D, the width of input and output.
        num_heads: H, divides D; with ``head_ratio=2`` each head is as wide as in self-attention of H heads.
        kernel_size: K of the convolution.
        head_ratio: H // head_ratio heads attend, one at least, and as many convolve; twice their number divides D.
        causal: see the current and earlier steps alone.
        attention_dropout: dropout of the attention weights in training.
        dilation, weight_softmax, weight_dropout, renormalize: see :class:`seqdyconv.SpanDynamicConv1d`.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, D) → output (B, T, D). Parameters: ``in_proj`` (query, key and value of attention and value of the
        convolution, D/2 each, stacked), ``conv``, ``out_proj``.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import MixedAttention
        >>> MixedAttention(768, num_heads=12, kernel_size=9)(torch.randn(2, 10, 768)).shape
        torch.Size([2, 10, 768])
    """

    # The first half of the values attends, the second half is convolved.
    in_proj_roles = ("query", "key", "value", "value")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        kernel_size: int,
        head_ratio: int = 2,
        causal: bool = False,
        attention_dropout: float = 0.0,
        dilation: int = 1,
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        renormalize: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_heads(num_heads, dim=dim)
        check_positive(head_ratio=head_ratio)
        check_dropout(attention_dropout=attention_dropout)
        attention_heads = max(1, num_heads // head_ratio)
        if dim % (2 * attention_heads):
            raise ValueError(
                f"dim must be a multiple of {2 * attention_heads}: {attention_heads} heads attend and as many "
                f"convolve, got dim={dim}"
            )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        conv = SpanDynamicConv1d(
            dim // 2,
            kernel_size,
            attention_heads,
            padding="causal" if causal else "same",
            dilation=dilation,
            weight_softmax=weight_softmax,
            weight_dropout=weight_dropout,
            renormalize=renormalize,
            source_dim=dim,
            **factory,
        )
        super().__init__(dim, conv, dim, factory)
        self.num_heads = num_heads
        self.attention_heads = attention_heads
        self.causal = causal
        self.attention_dropout = attention_dropout

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}, attention_heads={self.attention_heads}, causal={self.causal}"

    def initial_state(self, batch_size: int) -> ParallelState:
        """The state before the first chunk: those of the convolution and of attention."""
        attention = initial_attention_state(self.in_proj, batch_size, self.conv.channels)
        return ParallelState(self.conv.initial_state(batch_size), attention)

    def stream(
        self, input: Tensor, state: ParallelState, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, ParallelState]:
        """Mix the next chunk of a causal layer.

        Args:
            input: (B, T, D), T ≥ 1.
            state: of :meth:`initial_state` or the last call.
            padding_mask: (B, T) bool.

        Returns:
            The output (B, T, D), and the next state, its attention of T more steps.
        """
        if not self.causal:
            raise ValueError("only a causal layer streams, got causal=False")
        check_state_kind(state, ParallelState)
        input = self._enter(input, padding_mask)
        query, key, value, convolved = self.in_proj(input).chunk(4, dim=-1)
        attended, attention = self_attend_chunk(
            query, key, value, state.attention, self.attention_heads, padding_mask, self._dropout
        )
        convolved, conv = self.conv.stream(convolved, state.conv, padding_mask, query, input)
        return self.out_proj(torch.cat([attended, convolved], dim=-1)), ParallelState(conv, attention)

    @property
    def packing_gap(self) -> None:
        return None

    @property
    def _dropout(self) -> float:
        return self.attention_dropout if self.training else 0.0

    def _mix(self, input: Tensor, projected: Tensor, padding_mask: Tensor | None) -> Tensor:
        query, key, value, convolved = projected.chunk(4, dim=-1)
        attended = self_attend(query, key, value, self.attention_heads, padding_mask, self._dropout, self.causal)
        convolved = self.conv(convolved, padding_mask=padding_mask, query=query, source=input)
        return torch.cat([attended, convolved], dim=-1)
