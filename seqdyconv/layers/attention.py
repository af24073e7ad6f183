"""Self-attention as a mixer, the baseline of every comparison, and the attention of a decoder to its encoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional.context import in_autocast
from seqdyconv.functional.packing import check_packed, repack, run_packed, unpack
from seqdyconv.layers.checks import check_dropout, check_heads, check_input, check_state_kind, layer_dtype
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.masking import zero_padding
from seqdyconv.layers.short import IdentityShortConv1d, ShortConv1d
from seqdyconv.layers.states import AttentionState, ParallelState, extend_attention_state, initial_attention_state

_SHORT = 256  # keys


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762), (batch, time, channels).

    Computed by :func:`torch.nn.functional.scaled_dot_product_attention`; what learns in half precision on a CPU, of at
    most 256 steps, in float32, which is faster there.

    Args:
        dim: D, the width of input and output.
        num_heads: H, divides D.
        causal: attend to the current and earlier steps alone.
        attention_dropout: dropout of the attention weights in training.
        short_conv: ``"static"`` or ``"dynamic"``: queries, keys and values go through a :class:`seqdyconv.ShortConv1d`
            that starts as the identity, with a kernel of each channel or one predicted for each head; None: there is
            none.
        short_conv_size: K of that; None: 4.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, D) → output (B, T, D). Parameters: ``in_proj`` (query, key, value stacked), ``out_proj``,
        ``short_conv``.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import SelfAttention
        >>> SelfAttention(512, num_heads=8, causal=True)(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        causal: bool = False,
        attention_dropout: float = 0.0,
        short_conv: str | None = None,
        short_conv_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_heads(num_heads, dim=dim)
        check_dropout(attention_dropout=attention_dropout)
        if short_conv not in (None, "static", "dynamic"):
            raise ValueError(f'short_conv must be "static", "dynamic" or None, got {short_conv!r}')
        if short_conv is None and short_conv_size is not None:
            raise ValueError(f"short_conv_size needs a short_conv, got {short_conv_size} without one")
        self.dim = dim
        self.num_heads = num_heads
        self.causal = causal
        self.attention_dropout = attention_dropout
        self.in_proj = xavier_linear(dim, 3 * dim, device=device, dtype=dtype)
        self.out_proj = xavier_linear(dim, dim, device=device, dtype=dtype)
        self.short_conv: ShortConv1d | None = None
        if short_conv is not None:
            self.short_conv = IdentityShortConv1d(
                3 * dim,
                4 if short_conv_size is None else short_conv_size,
                3 * num_heads,
                padding="causal" if causal else "same",
                dynamic_kernel=short_conv == "dynamic",
                static_kernel=short_conv == "static",
                query_dim=dim if short_conv == "dynamic" else None,
                device=device,
                dtype=dtype,
            )

    in_proj_roles = ("query", "key", "value")

    def reset_parameters(self) -> None:
        reset_children(self)

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}, causal={self.causal}"

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Attend within a whole sequence.

        Args:
            input: (B, T, D).
            padding_mask: (B, T) bool, True at padded steps, which no step attends to but themselves.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, D) begin and end, instead of a mask.

        Returns:
            (B, T, D).
        """
        check_packed(cu_seqlens, input, padding_mask)
        query, key, value = self._project(input, padding_mask, cu_seqlens)
        if cu_seqlens is None:
            return self.out_proj(self._mix(query, key, value, padding_mask))
        mixed = run_packed(
            lambda rows, mask, key, value: self._mix(rows, key, value, mask), query, cu_seqlens, None, key, value
        )
        return self.out_proj(mixed)

    def attention_maps(self, input: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """How much each step attends to each, without dropout: (B, H, T, T) for the input (B, T, D)."""
        query, key, _ = self._project(input, padding_mask)
        steps = torch.eye(input.shape[1], dtype=query.dtype, device=query.device)
        value = steps.repeat(1, self.num_heads).expand(len(input), -1, -1)  # which tell where they come from
        attended = self_attend(query, key, value, self.num_heads, padding_mask, causal=self.causal)
        return attended.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first chunk: no steps yet, and where there is a short convolution its state beside."""
        state = initial_attention_state(self.in_proj, batch_size, self.dim)
        return state if self.short_conv is None else ParallelState(self.short_conv.initial_state(batch_size), state)

    def stream(self, input: Tensor, state: Any, padding_mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """Attend from the next chunk of a causal layer to it and all chunks before.

        Args:
            input: (B, T, D), T ≥ 1.
            state: keys, values and which are real, of the steps so far; and the last inputs of a short convolution.
            padding_mask: (B, T) bool.

        Returns:
            The output (B, T, D), and the next state, of T more steps.
        """
        if self.short_conv is None:
            query, key, value = self.project_chunk(input, padding_mask)
            attended, following = self.attend_chunk(query, key, value, state, padding_mask)
            return self.out_proj(attended), following
        check_state_kind(state, ParallelState)
        input = self._checked(input, padding_mask)
        projected, conv = self.short_conv.stream(self.in_proj(input), state.conv, padding_mask, self._conv_query(input))
        query, key, value = projected.chunk(3, dim=-1)
        attended, attention = self.attend_chunk(query, key, value, state.attention, padding_mask)
        return self.out_proj(attended), ParallelState(conv, attention)

    def _project(
        self, input: Tensor, padding_mask: Tensor | None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (B, T, D)."""
        input = self._checked(input, padding_mask)
        projected = self.in_proj(input)
        if self.short_conv is not None:
            query_input = self._conv_query(input)
            projected = self.short_conv(projected, padding_mask=padding_mask, query=query_input, cu_seqlens=cu_seqlens)
        query, key, value = projected.chunk(3, dim=-1)
        return query, key, value

    def _checked(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        check_input(input, self.dim, layer_dtype(self.in_proj), padding_mask)
        return zero_padding(input, padding_mask)

    def _conv_query(self, input: Tensor) -> Tensor | None:
        """What the kernels of the short convolution are predicted from, if they are."""
        return None if self.short_conv is None or self.short_conv.query_dim is None else input

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None) -> Tensor:
        """What ``out_proj`` gets, (B, T, D), of a whole sequence."""
        dropout = self.attention_dropout if self.training else 0.0
        return self_attend(query, key, value, self.num_heads, padding_mask, dropout, self.causal)

    def project_chunk(self, input: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if not self.causal:
            raise ValueError("only a causal layer streams, got causal=False")
        return self._project(input, padding_mask)

    def attend_chunk(
        self, query: Tensor, key: Tensor, value: Tensor, state: AttentionState, padding_mask: Tensor | None
    ) -> tuple[Tensor, AttentionState]:
        dropout = self.attention_dropout if self.training else 0.0
        return self_attend_chunk(query, key, value, state, self.num_heads, padding_mask, dropout)


class CrossAttention(nn.Module):
    """Attention of a decoder to its encoder's output (Vaswani et al. 2017, arXiv 1706.03762).

    Args:
        dim: D, the width of both sides.
        num_heads: H, divides D.
        attention_dropout: dropout of the attention weights in training.
    """

    def __init__(self, dim: int, num_heads: int, *, attention_dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(num_heads, dim=dim)
        check_dropout(attention_dropout=attention_dropout)
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.query_proj = xavier_linear(dim, dim)
        self.memory_proj = xavier_linear(dim, 2 * dim)
        self.out_proj = xavier_linear(dim, dim)

    def reset_parameters(self) -> None:
        reset_children(self)

    def project(self, memory: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, S, D), of the encoder's output (B, S, D); they stay while a sentence is decoded."""
        key, value = self.memory_proj(zero_padding(memory, padding_mask)).chunk(2, dim=-1)
        return key, value

    def forward(
        self,
        input: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        padding_mask: Tensor | None = None,
        cu_seqlens: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend from each step to the encoder's steps.

        Args:
            input: (B, T, D).
            key, value: (B, S, D), of :meth:`project`.
            padding_mask: (B, S) bool, True at padded steps of the encoder.
            cu_seqlens: two (N + 1,), where N sequences packed into one row begin and end: those of the T steps, and
                those of the S steps; sequence n attends to sequence n.

        Returns:
            (B, T, D).
        """
        query = self.query_proj(input)
        if cu_seqlens is None:
            return self.out_proj(self._attend(query, key, value, padding_mask))
        query, _ = unpack(query, cu_seqlens[0])
        memory, padding_mask = unpack(torch.cat([key, value], dim=-1), cu_seqlens[1])
        key, value = memory.chunk(2, dim=-1)
        attended = self._attend(query, key, value, padding_mask)
        return self.out_proj(repack(attended, cu_seqlens[0], input.shape[1]))

    def step_memory(self, memory: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What :meth:`step` needs of the encoder's output (B, S, D).

        Returns:
            Keys (B, H, R, S), scaled, and values (B, H, S, R), where D = H·R.
        """
        key, value = (x.unflatten(-1, (self.num_heads, -1)) for x in self.project(memory, padding_mask))
        return (key * key.shape[-1] ** -0.5).permute(0, 2, 3, 1).contiguous(), value.transpose(1, 2).contiguous()

    def step(self, input: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """:meth:`forward` in evaluation mode, from what :meth:`step_memory` gives, which is used as it lies.

        Args:
            input: (B·K, 1, D), a step of each of K beams.
            key, value: (B, H, R, S) and (B, H, S, R), one for all beams.
            bias: (B, 1, 1, S), of :meth:`step_bias`.

        Returns:
            (B·K, 1, D).
        """
        batch, heads, width, _ = key.shape
        scores = self.query_proj(input).view(batch, -1, heads, width).transpose(1, 2) @ key
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return self.out_proj((weights @ value).transpose(1, 2).reshape(-1, 1, heads * width))

    @staticmethod
    def step_bias(padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """What :meth:`step` adds to the scores of S steps: (B, 1, 1, S), 0 or the lowest number, from (B, S) bool."""
        lowest = torch.finfo(dtype).min  # minus infinity would make a source of nothing but padding NaN
        return torch.zeros_like(padding_mask, dtype=dtype).masked_fill(padding_mask, lowest)[:, None, None]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None) -> Tensor:
        keep = None
        if padding_mask is not None:
            # A source of nothing but padding is attended to as zeros: finite.
            keep = (~padding_mask | padding_mask.all(1, keepdim=True))[:, None]
        dropout = self.attention_dropout if self.training else 0.0
        return attend(query, key, value, self.num_heads, keep, dropout)


def self_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    padding_mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Attention within a sequence, all (B, T, D); no step attends to those where ``padding_mask`` (B, T) is True."""
    if padding_mask is None:
        return attend(query, key, value, num_heads, None, dropout, causal)
    time = torch.arange(query.shape[1], device=query.device)
    keep = ~padding_mask[:, None, :]
    if causal:
        keep = keep & (time <= time[:, None])
    # Each step attends to itself at least, so that a row of nothing but padding stays finite.
    return attend(query, key, value, num_heads, keep | (time == time[:, None]), dropout)


def self_attend_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: AttentionState,
    num_heads: int,
    padding_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, AttentionState]:
    """Causal attention of T steps, all (B, T, D), to themselves and those before; and the state with them."""
    state = extend_attention_state(state, key, value, padding_mask)
    step = torch.arange(state.key.shape[1], device=query.device)
    now = step[state.key.shape[1] - query.shape[1] :, None]
    keep = state.is_real[:, None] & (step <= now) | (step == now)
    return attend(query, state.key, state.value, num_heads, keep, dropout), state


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    keep: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention of (B, T, D) to (B, S, D), head by head; ``keep`` (B, 1 or T, S) bool."""
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    keep = None if keep is None else keep[:, None]
    query, key, value = in_autocast(query, key, value)
    if _is_faster_in_float32(query, key, value):
        with torch.autocast("cpu", enabled=False):
            wide = query.float(), key.float(), value.float()
            output = F.scaled_dot_product_attention(*wide, keep, dropout, causal).to(query.dtype)
    else:
        output = F.scaled_dot_product_attention(query, key, value, keep, dropout, causal)
    return output.transpose(1, 2).flatten(2)


def _is_faster_in_float32(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether gradients of attention in half precision would take longer, on a CPU up to twice as long."""
    if torch.compiler.is_compiling() or query.device.type != "cpu" or query.dtype.itemsize >= 4:
        return False
    learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    return learns and key.shape[-2] <= _SHORT
