"""Short convolutions: a few taps over the outputs of a projection, static or predicted at every step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional import dynamic_conv1d, lightweight_conv1d, low_rank_conv1d
from seqdyconv.functional.conv import OpPadding, Padding
from seqdyconv.layers.checks import check_positive
from seqdyconv.layers.initialization import reset_children, xavier_linear, zero_linear
from seqdyconv.layers.window import WindowConv


class ShortConv1d(WindowConv):
    """Dynamic short convolution (2026, https://arxiv.org/abs/2606.03825), (batch, time, channels).

    A residual convolution of few taps, without softmax. Its kernels are predicted at every step, one for each head; or,
    with a ``rank``, one for each channel, as a mix of ``rank`` learnt ones. Beside or instead of them there may be a
    static kernel for each channel: alone that is the Canon layer (2025, https://arxiv.org/abs/2512.17351).

    .. math:: out[t,c] = input[t,c] + \\sum_k (kernel[t, c // R, k] + static[c,k]) \\cdot input[t + k - P, c]

    Args:
        channels: C.
        kernel_size: K ≥ 1, usually 3 or 4; the last tap of a causal layer is the current step.
        num_heads: H, divides C; None: C. Predicted kernels of a ``rank`` and static ones have no heads.
        padding: ``"causal"``, ``"same"`` or the number of zeros before the sequence, see
            :func:`seqdyconv.lightweight_conv1d`.
        dynamic_kernel: predict kernels.
        static_kernel: have a kernel for each channel that is the same at every step.
        rank: the rank of the predicted kernels of all channels; None: a kernel for each head.
        residual: add the input.
        silu: apply SiLU to the output.
        bias: add a learned (C,) to the sum, before SiLU.
        query_dim: Q, the width of a separate ``query`` from which the kernels are predicted; None: from the input.
        generator_bias: give the generator's last layer a bias.
        generator_reduction: the generator is ``W₂ silu(W₁ query)`` with Q // reduction hidden units (Jet-Nemotron 2025,
            https://arxiv.org/abs/2508.15884: 8); None: it is one linear layer.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C), query (B, T, Q) → output (B, T, C). Parameters: ``generator`` Q → H·K, row h·K + k for tap k of
        head h, or Q → rank with ``basis`` (rank, C, K); ``static_kernel`` (C, K); ``bias`` (C,). The last weight before
        the predicted kernels starts at zero, so that a layer with a residual and no static kernel starts as the
        identity.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import ShortConv1d
        >>> values, hidden = torch.randn(2, 9, 64), torch.randn(2, 9, 32)
        >>> layer = ShortConv1d(64, kernel_size=4, num_heads=8, query_dim=32)
        >>> torch.equal(layer(values, query=hidden), values)  # before any training
        True
    """

    basis: Tensor | None
    bias: Tensor | None
    static_kernel: Tensor | None

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int | None = None,
        *,
        padding: Padding = "causal",
        dynamic_kernel: bool = True,
        static_kernel: bool = False,
        rank: int | None = None,
        residual: bool = True,
        silu: bool = False,
        bias: bool = False,
        query_dim: int | None = None,
        generator_bias: bool = False,
        generator_reduction: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        num_heads = channels if num_heads is None else num_heads
        super().__init__(channels, kernel_size, num_heads, padding, query_dim=query_dim)
        if not (dynamic_kernel or static_kernel):
            raise ValueError("a short convolution has a kernel: dynamic_kernel, static_kernel or both must be True")
        of_dynamic = {"rank": rank, "query_dim": query_dim, "generator_reduction": generator_reduction}
        given = {name: value for name, value in of_dynamic.items() if value is not None}
        check_positive(**given)
        if given and not dynamic_kernel:
            raise ValueError(f"{', '.join(given)} must be None where dynamic_kernel=False, got {given}")
        self.rank = rank
        self.residual = residual
        self.silu = silu

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.generator: nn.Linear | nn.Sequential | None = None
        if dynamic_kernel:
            width = channels if query_dim is None else query_dim
            size = self.num_heads * kernel_size if rank is None else rank
            last_layer = zero_linear if rank is None else xavier_linear  # with a rank, the basis is the last weight
            if generator_reduction is None:
                self.generator = last_layer(width, size, bias=generator_bias, device=device, dtype=dtype)
            else:
                hidden = max(1, width // generator_reduction)
                first = xavier_linear(width, hidden, bias=False, device=device, dtype=dtype)
                last = last_layer(hidden, size, bias=generator_bias, device=device, dtype=dtype)
                self.generator = nn.Sequential(first, nn.SiLU(), last)
        self.register_parameter("basis", None if rank is None else parameter(rank, channels, kernel_size))
        self.register_parameter("static_kernel", parameter(channels, kernel_size) if static_kernel else None)
        self.register_parameter("bias", parameter(channels) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_children(self)
        if self.basis is not None:
            nn.init.zeros_(self.basis)
        if self.static_kernel is not None:
            nn.init.uniform_(self.static_kernel, -(self.kernel_size**-0.5), self.kernel_size**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        text = f"{self.channels}, kernel_size={self.kernel_size}"
        if self.generator is not None:
            text += f", num_heads={self.num_heads}" if self.rank is None else f", rank={self.rank}"
        text += f", padding={self.padding!r}, static_kernel={self.static_kernel is not None}, residual={self.residual}"
        return text + (", silu=True" if self.silu else "") + (", bias=True" if self.bias is not None else "")

    def _forward(self, input: Tensor, padding_mask: Tensor | None, query: Tensor | None = None) -> Tensor:
        return self._convolve(input, input, query, self.left)

    def _stream(self, window: Tensor, query: Tensor | None = None) -> Tensor:
        return self._convolve(window, self.current_inputs(window), query, "valid")

    def _convolve(self, input: Tensor, current: Tensor, query: Tensor | None, padding: OpPadding) -> Tensor:
        """The sum of all parts; ``current`` are the steps of ``input`` that the output is of."""
        parts = []
        if self.static_kernel is not None:
            parts.append(lightweight_conv1d(input, self.taken(self.static_kernel), padding=padding))
        if self.generator is not None:
            generated = self.generator(current if query is None else query)
            if self.basis is not None:
                parts.append(low_rank_conv1d(input, generated, self.taken(self.basis), padding=padding))
            else:
                kernels = generated.unflatten(-1, (self.num_heads, self.kernel_size))
                parts.append(dynamic_conv1d(input, self.taken(kernels), padding=padding))
        output = sum(parts[1:], parts[0])
        if self.residual:
            output = output + current.to(output.dtype)  # autocast's, where that is on
        if self.bias is not None:
            output = output + self.bias.to(output.dtype)
        return F.silu(output) if self.silu else output
