"""A short convolution between two gates, as a mixer."""

import torch
from torch import Tensor, nn

from seqdyconv.functional.packing import check_packed
from seqdyconv.layers.checks import check_heads, check_input, layer_dtype
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.masking import zero_padding
from seqdyconv.layers.short import ShortConv1d
from seqdyconv.layers.window import AroundWindow


class GatedShortConv(AroundWindow, nn.Module):
    """Gated short convolution, the block of LFM2 (2025, https://arxiv.org/abs/2511.23404), (batch, time, channels).

    Linear D → 3·C: input gate, output gate and values; a depthwise convolution of few taps over the product of input
    gate and values; times the output gate; linear C → D. The gates have no sigmoid.

    Args:
        dim: D, the width of input and output.
        num_heads: H of the predicted kernels, divides C; static kernels have none.
        kernel_size: K.
        causal: see the current and earlier steps alone.
        dynamic_kernel: to the static kernel of each channel add one that is predicted from the block's input at every
            step, zero at the start: see :class:`seqdyconv.ShortConv1d`.
        rank: the rank of the predicted kernels; None: a kernel for each head.
        conv_dim: C; None: D.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, D) → output (B, T, D). State (B, K−1, C). Parameters: ``in_proj`` (input gate, output gate, values
        stacked), ``conv``, ``out_proj``.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import GatedShortConv
        >>> GatedShortConv(512, num_heads=8, causal=True)(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
    """

    in_proj_roles = ("linear_gate", "linear_gate", "value")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        kernel_size: int = 3,
        causal: bool = False,
        dynamic_kernel: bool = False,
        rank: int | None = None,
        conv_dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        conv_dim = dim if conv_dim is None else conv_dim
        check_heads(num_heads, conv_dim=conv_dim)
        self.dim = dim
        self.dynamic_kernel = dynamic_kernel
        self.in_proj = xavier_linear(dim, 3 * conv_dim, device=device, dtype=dtype)
        self.conv = ShortConv1d(
            conv_dim,
            kernel_size,
            num_heads,
            padding="causal" if causal else "same",
            dynamic_kernel=dynamic_kernel,
            static_kernel=True,
            rank=rank,
            residual=False,
            query_dim=dim if dynamic_kernel else None,
            device=device,
            dtype=dtype,
        )
        self.out_proj = xavier_linear(conv_dim, dim, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        reset_children(self)

    def extra_repr(self) -> str:
        return f"{self.dim}, dynamic_kernel={self.dynamic_kernel}"

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
        gated, query, gate = self.enter(input, padding_mask)
        return self.leave(self.conv(gated, padding_mask=padding_mask, query=query, cu_seqlens=cu_seqlens), gate)

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first chunk: that of the convolution."""
        return self.conv.initial_state(batch_size)

    def stream(self, input: Tensor, state: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix the next chunk (B, T, D) of a causal mixer; returns its output (B, T, D) and the next state."""
        gated, query, gate = self.enter(input, padding_mask)
        mixed, state = self.conv.stream(gated, state, padding_mask, query)
        return self.leave(mixed, gate), state

    def enter(self, input: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        """What ``conv`` gets of (B, T, D): the gated values (B, T, C), and what its kernels are predicted from, if they
        are; and the output gate for :meth:`leave`.
        """
        check_input(input, self.dim, layer_dtype(self.in_proj), padding_mask)
        # Zeros before the projection keep NaN out of its gradient; those after it, in the convolution, are what keeps
        # padding from its neighbours.
        input = zero_padding(input, padding_mask)
        input_gate, output_gate, values = self.in_proj(input).chunk(3, dim=-1)
        return input_gate * values, input if self.dynamic_kernel else None, output_gate

    def leave(self, mixed: Tensor, gate: Tensor) -> Tensor:
        """The block's output (B, T, D) from that of ``conv`` and the output gate."""
        return self.out_proj(gate * mixed)
