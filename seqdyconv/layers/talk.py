"""TaLK convolution as a layer: the linear layer that predicts the windows, padding and streaming."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional import talk_conv1d
from seqdyconv.functional.conv import Padding
from seqdyconv.layers.checks import check_dropout, check_input, layer_dtype
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.window import WindowConv


class TaLKConv1d(WindowConv):
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
        super().__init__(channels, kernel_size, num_heads, padding)
        check_dropout(offset_dropout=offset_dropout)
        self.offset_dropout = offset_dropout
        sides = 2 if self.left and self.lookahead else 1
        self.generator = xavier_linear(channels, sides * num_heads, device=device, dtype=dtype)
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_children(self)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        text = f"{self.channels}, kernel_size={self.kernel_size}, num_heads={self.num_heads}, padding={self.padding!r}"
        dropout = f", offset_dropout={self.offset_dropout}" if self.offset_dropout else ""
        return text + dropout + (", bias=True" if self.bias is not None else "")

    def extents(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The windows of :meth:`forward`: how many steps each reaches back and ahead; in training, after dropout.

        Args:
            input: (B, T, C). A step's windows depend on that step alone.

        Returns:
            Two of (B, T, H), from 0 to the most steps on that side, in float32 at least: bfloat16 can't tell 200 steps
            from 200.5.
        """
        check_input(input, self.channels, layer_dtype(self.generator), None)
        logits = self.generator(input)
        shares = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        shares = F.dropout(shares, self.offset_dropout, self.training).clamp(max=1)
        ahead = self.lookaheads[-1]
        if self.left and ahead:
            left, right = shares.chunk(2, dim=-1)
        else:
            left = right = shares
        return self.left * left, (ahead * right).clamp(max=self.lookahead)

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        extents = self.extents(input)
        return self._finish(talk_conv1d(input, *extents, max_left=self.left, max_right=self.lookahead))

    def _stream(self, window: Tensor) -> Tensor:
        extents = self.extents(self.current_inputs(window))
        output = talk_conv1d(window, *extents, max_left=self.left, max_right=self.lookahead, padding="valid")
        return self._finish(output)

    def _finish(self, output: Tensor) -> Tensor:
        if self.taps < self.kernel_size:  # the divisor is the same however far it looks ahead
            output = output * (self.taps / self.kernel_size)
        return output if self.bias is None else output + self.bias.to(output.dtype)
