"""TaLK convolution as a layer: the linear layer that predicts the windows, padding and streaming."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional import talk_conv1d, talk_conv1d_step
from seqdyconv.functional.conv import Padding, left_padding
from seqdyconv.functional.packing import check_packed, run_packed
from seqdyconv.layers.checks import check_dropout, check_heads, check_input, check_positive
from seqdyconv.layers.masking import last_inputs, zero_padding


class TaLKConv1d(nn.Module):
    """Time-aware large kernels (Lioutas & Guo 2020, https://arxiv.org/abs/2002.03184), (batch, time, channels).

    A dynamic convolution whose kernels are windows: a linear layer, the generator, predicts at every step and head how
    far the window reaches to either side, and the output is the sum of the inputs in it over K. The time this takes
    does not depend on K.

    Args:
        channels: C.
        kernel_size: K ≥ 1, the longest window, odd or even, also longer than the sequence.
        num_heads: H, divides C.
        padding: how many of the K−1 steps beside the current one are before it. ``"causal"``: all of them. ``"same"``:
            the half, (K−1) // 2. An int: that many.
        offset_dropout: in training, the probability that a window has no steps on one side of the current one. The
            other extents grow by 1 / (1 − ``offset_dropout``), up to the longest.
        bias: add a learned (C,) to the output.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C) → output (B, T, C). Parameters: ``generator.weight`` (H, C) and ``generator.bias`` (H,) where
        all steps are on one side, else (2·H, C) and (2·H,), first the left; ``bias`` (C,).

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import TaLKConv1d
        >>> layer = TaLKConv1d(512, kernel_size=255, num_heads=8)
        >>> input = torch.randn(2, 10, 512)
        >>> layer(input).shape
        torch.Size([2, 10, 512])
        >>> left, right = layer.extents(input)  # each (2, 10, 8), from 0 to 127 steps
    """

    bias: Tensor | None

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        *,
        padding: Padding = "same",
        offset_dropout: float = 0.0,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_heads(num_heads, channels=channels)
        check_positive(kernel_size=kernel_size)
        check_dropout(offset_dropout=offset_dropout)
        self.channels = channels
        self.kernel_size = kernel_size
        self.num_heads = num_heads
        self.padding = padding
        self.offset_dropout = offset_dropout
        self.left = left_padding(padding, kernel_size)
        self.lookahead = kernel_size - 1 - self.left  # steps after the current one that a window reaches at most
        sides = 2 if self.left and self.lookahead else 1
        self.generator = nn.Linear(channels, sides * num_heads, device=device, dtype=dtype)
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.generator.weight)
        nn.init.zeros_(self.generator.bias)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        text = f"{self.channels}, kernel_size={self.kernel_size}, num_heads={self.num_heads}, padding={self.padding!r}"
        dropout = f", offset_dropout={self.offset_dropout}" if self.offset_dropout else ""
        return text + dropout + (", bias=True" if self.bias is not None else "")

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Convolve a whole sequence.

        Args:
            input: (B, T, C).
            padding_mask: (B, T) bool, True at padded steps, which are read as zeros.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, instead of a mask:
                sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.

        Returns:
            (B, T, C).
        """
        check_input(input, self.channels, self.generator.weight.dtype, padding_mask)
        check_packed(cu_seqlens, input, padding_mask)
        if cu_seqlens is not None:
            return run_packed(self._forward, input, cu_seqlens, gap=max(self.left, self.lookahead))
        return self._forward(input, padding_mask)

    def extents(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The windows of :meth:`forward`: how many steps each reaches back and ahead; in training, after dropout.

        Args:
            input: (B, T, C). A step's windows depend on that step alone.

        Returns:
            Two of (B, T, H), from 0 to the most steps on that side, in float32 at least: bfloat16 can't tell 200 steps
            from 200.5.
        """
        check_input(input, self.channels, self.generator.weight.dtype, None)
        logits = self.generator(input)
        shares = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        shares = F.dropout(shares, self.offset_dropout, self.training).clamp(max=1)
        if self.left and self.lookahead:
            left, right = shares.chunk(2, dim=-1)
        else:
            left = right = shares
        return self.left * left, self.lookahead * right

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first chunk: (B, K−1, C) zeros, on the layer's device, in its dtype."""
        return self.generator.weight.new_zeros(batch_size, self.kernel_size - 1, self.channels)

    def stream(self, input: Tensor, state: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve the next chunk of a causal layer; any chunking of a sequence gives what ``forward`` gives.

        A layer with ``padding=P`` looks L = K−1−P steps ahead, so its output comes L steps late: the first L steps of
        it mean nothing, and a last chunk of L padded steps brings the rest.

        Args:
            input: (B, T, C), T ≥ 1.
            state: (B, K−1, C), of :meth:`initial_state` or the last call.
            padding_mask: (B, T) bool; padding at a row's end does not enter its state.

        Returns:
            The output (B, T, C), and the next state.
        """
        check_input(input, self.channels, self.generator.weight.dtype, padding_mask)
        if self.padding == "same" and self.lookahead:
            raise ValueError('only a causal layer streams, or one whose padding is an int: padding must be "causal" or '
                             'P, got "same"')  # fmt: skip
        expected = (input.shape[0], self.kernel_size - 1, self.channels)
        if state.shape != expected:
            raise ValueError(f"state must be (B, K-1, C) = {expected}, got {tuple(state.shape)}")
        input, state = zero_padding(input, padding_mask), state.to(input.dtype)
        window = torch.cat([state, input], dim=1)
        # The windows of the output's steps, the lookahead before the newest.
        extents = self.extents(window[:, self.left : self.left + input.shape[1]])
        output, _ = talk_conv1d_step(input, state, *extents, max_left=self.left, max_right=self.lookahead)
        return self._add_bias(output), last_inputs(window, padding_mask, self.kernel_size - 1)

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        input = zero_padding(input, padding_mask)
        extents = self.extents(input)
        return self._add_bias(talk_conv1d(input, *extents, max_left=self.left, max_right=self.lookahead))

    def _add_bias(self, output: Tensor) -> Tensor:
        return output if self.bias is None else output + self.bias.to(output.dtype)
