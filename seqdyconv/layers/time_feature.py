"""Convolutions over time and over the features of each step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional import lightweight_conv1d
from seqdyconv.functional.conv import Padding
from seqdyconv.functional.packing import check_packed, run_packed
from seqdyconv.layers.checks import check_input, check_positive, layer_dtype
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.initialization import first_part_linear, reset_children, xavier_linear
from seqdyconv.layers.masking import zero_padding
from seqdyconv.layers.states import RealInputs
from seqdyconv.layers.window import AroundWindow


class _TimeFeatureConv(AroundWindow, nn.Module):
    """What both layers share: all but the kernels over the features."""

    def __init__(self, conv: LightweightConv1d | DynamicConv1d, factory: dict[str, Any]) -> None:
        super().__init__()
        self.channels = conv.channels
        self.conv = conv
        # The start is the convolution over time alone: the features come in as this learns to read them.
        self.merge = first_part_linear(2 * conv.channels, conv.channels, **factory)

    def reset_parameters(self) -> None:
        reset_children(self)

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Convolve a whole sequence.

        Args:
            input: (B, T, C).
            padding_mask: (B, T) bool, True at padded steps, which are read as zeros.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, instead of a mask.

        Returns:
            (B, T, C).
        """
        check_input(input, self.channels, layer_dtype(self.merge), padding_mask)
        if cu_seqlens is not None:
            check_packed(cu_seqlens, input, padding_mask)
            return run_packed(self._forward, input, cu_seqlens, self.conv.packing_gap)
        return self._forward(input, padding_mask)

    def initial_state(self, batch_size: int) -> Tensor | RealInputs:
        """The state before the first chunk: that of the convolution over time, (B, (K−1)·dilation, C)."""
        return self.conv.initial_state(batch_size)

    def stream(
        self, input: Tensor, state: Tensor | RealInputs, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | RealInputs]:
        """Convolve the next chunk (B, T, C), as :meth:`seqdyconv.LightweightConv1d.stream` does."""
        check_input(input, self.channels, layer_dtype(self.merge), padding_mask)
        input = zero_padding(input, padding_mask)
        output, following = self.conv.stream(input, state, padding_mask)
        if self.lookahead:  # the output is of steps before the newest, and so are its features
            input = self.conv.current_inputs(torch.cat([self.conv.past_inputs(state).to(input.dtype), input], dim=1))
        return self._merge(output, input), following

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        input = zero_padding(input, padding_mask)
        return self._merge(self.conv(input, padding_mask=padding_mask), input)

    def _merge(self, convolved: Tensor, input: Tensor) -> Tensor:
        return self.merge(torch.cat([convolved, self.features_of(input)], dim=-1))

    def features_of(self, input: Tensor) -> Tensor:
        """The convolution over the features of each step, (B, T, C) → (B, T, C)."""
        raise NotImplementedError


class TimeFeatureLightweightConv(_TimeFeatureConv):
    """Lightweight time-feature convolution (Fujita 2019, https://arxiv.org/abs/1912.11793), (batch, time, channels).

    ESPnet's LightConv2D. One kernel slides over the channels of each step, the same at all steps; a linear layer makes
    C channels of that and of :class:`seqdyconv.LightweightConv1d` over time.

    .. math:: f[b,t,c] = \\sum_k weight[k] \\cdot input[b, t, c + k - (K_f - 1) // 2]

    Args:
        channels: C.
        kernel_size: K of the kernels over time.
        num_heads: H of them, divides C.
        padding, dilation, bias, renormalize: of the convolution over time, see :class:`seqdyconv.LightweightConv1d`.
        weight_softmax: softmax over the taps, of the kernels over time and over the features.
        weight_dropout: DropConnect, of the kernels over time and over the features.
        feature_kernel_size: K_f of the kernel over the features; None: K.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C) → output (B, T, C). Parameters: ``conv``, over time; ``feature_conv.weight`` (1, K_f);
        ``merge`` (2·C → C), which reads time first.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import TimeFeatureLightweightConv
        >>> TimeFeatureLightweightConv(256, kernel_size=31, num_heads=4)(torch.randn(2, 10, 256)).shape
        torch.Size([2, 10, 256])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        *,
        padding: Padding = "same",
        dilation: int = 1,
        bias: bool = False,
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        renormalize: bool = False,
        feature_kernel_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        kernels: dict[str, Any] = {"weight_softmax": weight_softmax, "weight_dropout": weight_dropout, **factory}
        conv = LightweightConv1d(
            channels,
            kernel_size,
            num_heads,
            padding=padding,
            dilation=dilation,
            bias=bias,
            renormalize=renormalize,
            **kernels,
        )
        feature_kernel_size = _feature_kernel_size(feature_kernel_size, kernel_size)
        super().__init__(conv, factory)
        self.feature_conv = LightweightConv1d(1, feature_kernel_size, 1, **kernels)

    def features_of(self, input: Tensor) -> Tensor:
        steps = input.flatten(0, 1)[..., None]  # each step is a sequence of C features
        return self.feature_conv(steps).reshape(input.shape)


class TimeFeatureDynamicConv(_TimeFeatureConv):
    """Dynamic time-feature convolution (Fujita 2019, https://arxiv.org/abs/1912.11793), (batch, time, channels).

    ESPnet's DynamicConv2D. At each step a linear layer predicts one kernel, without softmax, that slides over the
    step's channels; another makes C channels of that and of :class:`seqdyconv.DynamicConv1d` over time.

    .. math:: f[b,t,c] = \\sum_k kernel[b, t, k] \\cdot input[b, t, c + k - (K_f - 1) // 2]

    Args:
        channels: C.
        kernel_size: K of the kernels over time.
        num_heads: H of them, divides C.
        padding, dilation, bias, weight_softmax, renormalize: of the convolution over time, see
            :class:`seqdyconv.DynamicConv1d`.
        weight_dropout: DropConnect, of the kernels over time and over the features.
        generator_bias: give both generators a bias.
        feature_kernel_size: K_f of the kernels over the features; None: K.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C) → output (B, T, C). Parameters: ``conv``, over time; ``feature_generator`` (C → K_f);
        ``merge`` (2·C → C), which reads time first.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import TimeFeatureDynamicConv
        >>> TimeFeatureDynamicConv(256, kernel_size=31, num_heads=4)(torch.randn(2, 10, 256)).shape
        torch.Size([2, 10, 256])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        *,
        padding: Padding = "same",
        dilation: int = 1,
        bias: bool = False,
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        renormalize: bool = False,
        generator_bias: bool = False,
        feature_kernel_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        conv = DynamicConv1d(
            channels,
            kernel_size,
            num_heads,
            padding=padding,
            dilation=dilation,
            bias=bias,
            weight_softmax=weight_softmax,
            weight_dropout=weight_dropout,
            renormalize=renormalize,
            generator_bias=generator_bias,
            **factory,
        )
        feature_kernel_size = _feature_kernel_size(feature_kernel_size, kernel_size)
        super().__init__(conv, factory)
        self.feature_generator = xavier_linear(channels, feature_kernel_size, bias=generator_bias, **factory)

    def features_of(self, input: Tensor) -> Tensor:
        kernels = F.dropout(self.feature_generator(input), self.conv.weight_dropout, self.training)
        if input.shape[0] == 0:
            return kernels.new_zeros(input.shape)  # below, each step is a head, of which there must be one
        # One sequence of C features, in which each step is a channel with a kernel of its own.
        steps = input.flatten(0, 1).T[None].to(kernels.dtype)
        return lightweight_conv1d(steps, kernels.flatten(0, 1))[0].T.reshape(input.shape)


def _feature_kernel_size(size: int | None, kernel_size: int) -> int:
    size = kernel_size if size is None else size
    check_positive(feature_kernel_size=size)
    return size
