"""Self-attention and a convolution side by side."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d

CONVOLUTIONS = {"dynamic_conv": DynamicConv1d, "lightweight_conv": LightweightConv1d}


class ParallelMixer(SelfAttention):
    """Self-attention plus a convolution (Zhao et al. 2019, https://arxiv.org/abs/1911.09483), (batch, time, channels).

    The idea of MUSE: attention finds what is far away, the convolution what is near. Both read one value projection,
    and one projection maps their sum. All parameters but those of the convolution are those of
    :class:`seqdyconv.SelfAttention`, under the same names.

    Args:
        dim: D, the width of input and output.
        num_heads: H of both, divides D.
        kernel_size: K of the convolution.
        conv: ``"dynamic_conv"``, which predicts its kernels from the values, or ``"lightweight_conv"``.
        causal: see the current and earlier steps alone.
        attention_dropout: dropout of the attention weights in training.
        dilation, weight_softmax, weight_dropout, renormalize: of the convolution, see
            :class:`seqdyconv.LightweightConv1d`.
        generator_bias: of a dynamic convolution, see :class:`seqdyconv.DynamicConv1d`.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, D) → output (B, T, D). State (B, (K−1)·dilation + 1 + S, 2·D + 1): the convolution's rows, in
        columns 0 to D−1, then those of attention. Parameters: ``in_proj`` (query, key, value stacked), ``conv``,
        ``out_proj``.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import ParallelMixer
        >>> ParallelMixer(512, num_heads=8, kernel_size=7)(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        kernel_size: int,
        conv: str = "dynamic_conv",
        causal: bool = False,
        attention_dropout: float = 0.0,
        dilation: int = 1,
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        renormalize: bool = False,
        generator_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if conv not in CONVOLUTIONS:
            raise ValueError(f"conv must be one of {', '.join(CONVOLUTIONS)}, got {conv!r}")
        super().__init__(dim, num_heads, causal=causal, attention_dropout=attention_dropout, device=device, dtype=dtype)
        self.conv: DynamicConv1d | LightweightConv1d = CONVOLUTIONS[conv](
            dim,
            kernel_size,
            num_heads,
            padding="causal" if causal else "same",
            dilation=dilation,
            weight_softmax=weight_softmax,
            weight_dropout=weight_dropout,
            renormalize=renormalize,
            device=device,
            dtype=dtype,
            **({"generator_bias": generator_bias} if conv == "dynamic_conv" else {}),
        )

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first chunk: (B, (K−1)·dilation + 1, 2·D + 1)."""
        # Attention starts from one step that is not real: its rows are then never none, which an export would fix.
        return F.pad(self.conv.initial_state(batch_size), (0, self.dim + 1, 0, 1))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None) -> Tensor:
        return super()._mix(query, key, value, padding_mask) + self.conv(value, padding_mask=padding_mask)

    def _mix_chunk(self, query: Tensor, state: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        reach, time = self.conv.reach, query.shape[1]
        if state.shape[1] <= reach + time:
            raise ValueError(
                f"state must have at least (K-1)*dilation + 1 = {reach + 1} rows, got {state.shape[1] - time}"
            )
        kept, memory = state[:, :reach, : self.dim], state[:, reach:]
        attended, memory = super()._mix_chunk(query, memory, padding_mask)
        convolved, kept = self.conv.stream(memory[:, -time:, self.dim : -1], kept, padding_mask)
        return attended + convolved, torch.cat([F.pad(kept, (0, self.dim + 1)), memory], dim=1)
