"""Short convolutions: a few taps over the outputs of a projection, static or predicted at every step."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional import dynamic_conv1d, lightweight_conv1d, low_rank_conv1d
from seqdyconv.functional.conv import OpPadding, Padding
from seqdyconv.layers.checks import check_positive
from seqdyconv.layers.initialization import reset_children, xavier_linear, zero_linear
from seqdyconv.layers.states import initial_zeros
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
        return _convolve([self], input, input, query, self.left)

    def _stream(self, window: Tensor, query: Tensor | None = None) -> Tensor:
        return _convolve([self], window, self.current_inputs(window), query, "valid")


class IdentityShortConv1d(ShortConv1d):
    """A short convolution that starts as the identity with a static kernel too, if it has a residual."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.static_kernel is not None and self.residual:
            nn.init.zeros_(self.static_kernel)


class JointShortConv1d(WindowConv):
    """Several short convolutions as one, over their channels one after the other: one call instead of one for each.

    Its parameters are those of the parts, and it has none of its own.

    Args:
        parts: causal ones that differ in their channels and heads alone; predicted kernels are without a rank, of equal
            width, and from one ``query``.

    Shapes:
        input (B, T, sum of C), query (B, T, Q) → output (B, T, sum of C).

    Raises:
        ValueError: parts that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv.layers.short import JointShortConv1d, ShortConv1d
        >>> parts = [ShortConv1d(channels, 4, channels // 8, query_dim=32) for channels in (32, 16, 16)]
        >>> projected, hidden = torch.randn(2, 9, 64), torch.randn(2, 9, 32)
        >>> JointShortConv1d(parts)(projected, query=hidden).shape
        torch.Size([2, 9, 64])
    """

    def __init__(self, parts: Sequence[ShortConv1d]) -> None:
        first = parts[0]
        if len({_kind(part) for part in parts}) > 1 or first.rank is not None or first.padding != "causal":
            raise ValueError(f"parts must be causal short convolutions of one kind, without a rank, got {list(parts)}")
        if first.generator is not None and first.query_dim is None:
            raise ValueError("parts must have a query_dim: their kernels are predicted from one query")
        channels, heads = sum(part.channels for part in parts), sum(part.num_heads for part in parts)
        super().__init__(channels, first.kernel_size, heads, "causal", query_dim=first.query_dim)
        self.parts = tuple(parts)  # a tuple: they belong to other modules

    def initial_state(self, batch_size: int) -> Tensor:
        return initial_zeros(self.parts[0], batch_size, self.reach, self.channels)

    def _forward(self, input: Tensor, padding_mask: Tensor | None, query: Tensor | None = None) -> Tensor:
        return _convolve(self.parts, input, input, query, self.left)

    def _stream(self, window: Tensor, query: Tensor | None = None) -> Tensor:
        return _convolve(self.parts, window, self.current_inputs(window), query, "valid")


def _kind(conv: ShortConv1d) -> tuple[object, ...]:
    """What short convolutions have in common that can be computed as one."""
    width = None if conv.generator is None else conv.channels // conv.num_heads
    static, bias = conv.static_kernel is not None, conv.bias is not None
    return (conv.kernel_size, width, conv.rank, static, bias, conv.residual, conv.silu, conv.padding, conv.query_dim)


def _convolve(
    convs: Sequence[ShortConv1d], input: Tensor, current: Tensor, query: Tensor | None, padding: OpPadding
) -> Tensor:
    """What convolutions over channels one after the other give; ``current`` are the steps that the output is of."""
    first, parts = convs[0], []
    if first.static_kernel is not None:
        static = _joined([conv.taken(conv.static_kernel) for conv in convs if conv.static_kernel is not None], 0)
        parts.append(lightweight_conv1d(input, static, padding=padding))
    generated = [conv.generator(current if query is None else query) for conv in convs if conv.generator is not None]
    if first.basis is not None:
        parts.append(low_rank_conv1d(input, generated[0], first.taken(first.basis), padding=padding))
    elif generated:
        kernels = _joined(generated, -1).unflatten(-1, (-1, first.kernel_size))
        parts.append(dynamic_conv1d(input, first.taken(kernels), padding=padding))
    output = sum(parts[1:], parts[0])
    if first.residual:
        output = output + current.to(output.dtype)  # autocast's, where that is on
    if first.bias is not None:
        output = output + _joined([conv.bias for conv in convs if conv.bias is not None], 0).to(output.dtype)
    return F.silu(output) if first.silu else output


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim)
