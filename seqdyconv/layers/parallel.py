"""Self-attention and a convolution side by side."""

import torch
from torch import Tensor

from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.checks import check_state_kind
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.kernel_sizes import KernelSize
from seqdyconv.layers.states import ParallelState

CONVOLUTIONS = {"dynamic_conv": DynamicConv1d, "lightweight_conv": LightweightConv1d}


class ParallelMixer(SelfAttention):
    """Self-attention plus a convolution (Zhao et al. 2019, https://arxiv.org/abs/1911.09483), (batch, time, channels).

    The idea of MUSE: attention finds what is far away, the convolution what is near. Both read one value projection,
    and one projection maps their sum. All parameters but those of the convolution are those of
    :class:`seqdyconv.SelfAttention`, under the same names.

    Args:
        dim: D, the width of input and output.
        num_heads: H of both, divides D.
        kernel_size: K of the convolution, or several, see :class:`seqdyconv.LightweightConv1d`.
        conv: ``"dynamic_conv"``, which predicts its kernels from the values, or ``"lightweight_conv"``.
        causal: see the current and earlier steps alone.
        attention_dropout: dropout of the attention weights in training.
        dilation, weight_softmax, weight_dropout, renormalize: of the convolution, see
            :class:`seqdyconv.LightweightConv1d`.
        generator_bias: of a dynamic convolution, see :class:`seqdyconv.DynamicConv1d`.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, D) → output (B, T, D). Parameters: ``in_proj`` (query, key, value stacked), ``conv``, ``out_proj``.

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
        kernel_size: KernelSize,
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

    def initial_state(self, batch_size: int) -> ParallelState:
        """The state before the first chunk: those of the convolution and of attention."""
        return ParallelState(self.conv.initial_state(batch_size), super().initial_state(batch_size))

    def stream(
        self, input: Tensor, state: ParallelState, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, ParallelState]:
        """Mix the next chunk (B, T, D) of a causal mixer; returns its output (B, T, D) and the next state."""
        check_state_kind(state, ParallelState)
        query, key, value = self.project_chunk(input, padding_mask)
        attended, attention = self.attend_chunk(query, key, value, state.attention, padding_mask)
        convolved, conv = self.conv.stream(value, state.conv, padding_mask)
        return self.out_proj(attended + convolved), ParallelState(conv, attention)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None) -> Tensor:
        return super()._mix(query, key, value, padding_mask) + self.conv(value, padding_mask=padding_mask)
