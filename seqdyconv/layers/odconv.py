"""Omni-dimensional dynamic convolution: four attentions, over the channels, filters, taps and kernels."""

import itertools
import math
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional.conv import ConvPadding
from seqdyconv.layers.mixed_conv import (
    MixedConv,
    Size,
    check_reduction,
    check_word,
    in_float32,
)


class _FourAttentions(nn.Module):
    """ODConv's attentions: their logits from the squeezed input (..., C); None where there is nothing to choose."""

    def __init__(self, conv: MixedConv, reduction: float, norm: str, factory: dict[str, Any]) -> None:
        super().__init__()
        hidden = max(int(conv.in_channels * reduction), 16)
        taps = math.prod(conv.kernel_size)
        depthwise = conv.in_channels == conv.groups == conv.out_channels
        self.fc = nn.Linear(conv.in_channels, hidden, bias=False, **factory)
        self.norm = nn.LayerNorm(hidden, **factory) if norm == "layer" else nn.BatchNorm1d(hidden, **factory)
        self.channel_fc = nn.Linear(hidden, conv.in_channels, **factory)
        self.filter_fc = None if depthwise else nn.Linear(hidden, conv.out_channels, **factory)
        self.spatial_fc = None if taps == 1 else nn.Linear(hidden, taps, **factory)
        self.kernel_fc = None if conv.num_kernels == 1 else nn.Linear(hidden, conv.num_kernels, **factory)

    def forward(self, squeezed: Tensor) -> list[Tensor | None]:
        hidden = self.fc(squeezed)
        hidden = F.relu(self.norm(hidden.flatten(0, -2)).view_as(hidden))
        heads = (self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc)
        return [None if head is None else head(hidden) for head in heads]


class _ODConv(MixedConv):
    """Omni-dimensional dynamic convolution, in one and two dimensions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: ConvPadding | tuple[ConvPadding, ...] = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        num_kernels: int = 4,
        reduction: float = 0.0625,
        temperature: float = 1.0,
        norm: Literal["layer", "batch"] = "layer",
        mixing: Literal["global", "time", "frequency"] = "global",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        convolution = (kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(in_channels, out_channels, *convolution, num_kernels, temperature, mixing, factory)
        check_reduction(reduction)
        check_word("norm", norm, ("layer", "batch"))
        if norm == "batch" and any(self.varies):
            raise ValueError(
                'norm="batch" would normalise over padded steps where the kernel varies: it needs '
                f'mixing="global" and no causal padding, got {mixing!r} and {padding!r}'
            )
        self.attention = _FourAttentions(self, reduction, norm, factory)
        self.reset_parameters()

    def _attend(self, squeezed: Tensor) -> list[Tensor]:
        """Of channels (B, C, ...), filters (B, O, ...), taps (B, taps, ...) and kernels (B, N, ...); 1 if absent."""
        logits = self.attention(squeezed.movedim(1, -1).to(self.weight.dtype))
        scaled = [None if x is None else in_float32(x).movedim(-1, 1) / self.temperature for x in logits]
        attentions = [None if x is None else x.sigmoid() for x in scaled[:3]]
        attentions.append(None if scaled[3] is None else scaled[3].softmax(1))
        return [torch.ones_like(squeezed[:, :1]) if x is None else x for x in attentions]

    def _kernel_weights(self, attentions: list[Tensor]) -> Tensor:
        return attentions[3]

    def _convolve(self, window: Tensor, attentions: list[Tensor]) -> Tensor:
        if not any(self.varies) and window.shape[0] > 0:  # a convolution of no groups does not exist
            return self.conv_rows(window, *self._scaled_kernels(attentions))
        # Where the kernel varies, the outputs of all kernels are mixed, made tap by tap of scaled input.
        channel, filter, spatial, kernel = (x.to(window.dtype) for x in attentions)
        output = self.mix_outputs(partial(self._conv_scaled, window, channel, spatial), None, kernel)
        output = output * filter.to(output.dtype)
        if self.bias is not None:
            output = output + (kernel.movedim(1, -1) @ self.bias).movedim(-1, 1)
        return output

    def _conv_scaled(self, window: Tensor, channel: Tensor, spatial: Tensor, weight: Tensor, _: None) -> Tensor:
        """The convolution of input that is scaled anew for each output."""
        strides, dilations = self.in_2d(self.stride, 1), self.in_2d(self.dilation, 1)
        first_taps = []
        for size, reach, stride in zip(window.shape[2:], self.in_2d(self.reach, 0), strides):
            first_taps.append(torch.arange((size - reach - 1) // stride + 1, device=window.device) * stride)
        total: Tensor | float = 0.0
        for tap, place in enumerate(itertools.product(*map(range, self.in_2d(self.kernel_size, 1)))):
            read = window
            for axis, steps in enumerate(first_taps):
                read = read.index_select(2 + axis, steps + place[axis] * dilations[axis])
            scaled = read * channel * spatial[:, tap : tap + 1]
            total = total + F.conv2d(scaled, weight.flatten(2)[..., tap, None, None], groups=self.groups)
        return cast(Tensor, total)

    def _scaled_kernels(self, attentions: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The kernels (B, O, C // groups, *kernel_size) and biases (B, O) of each row. To scale a kernel is the same as
        to scale what it reads and gives, and costs less."""
        channel, filter, spatial = (x.flatten(1).to(self.weight.dtype) for x in attentions[:3])
        kernels, bias = self.mixed_kernels(attentions[3])
        channel = channel.unflatten(1, (self.groups, 1, -1, 1))
        scaled = (kernels.flatten(3).unflatten(1, (self.groups, -1)) * channel).flatten(1, 2)
        scaled = scaled * filter[:, :, None, None] * spatial[:, None, None]
        return scaled.view_as(kernels), bias


class ODConv1d(_ODConv):
    """Omni-dimensional dynamic convolution over time (Li et al. 2022, arXiv 2209.07947), (batch, time, channels).

    The layout is (B, T, C), unlike :class:`torch.nn.Conv1d`; see :class:`seqdyconv.ODConv2d` for the rest.

    Example:
        >>> import torch
        >>> from seqdyconv import ODConv1d
        >>> ODConv1d(8, 12, 3, padding="same")(torch.randn(2, 10, 8)).shape
        torch.Size([2, 10, 12])
    """

    axes = 1


class ODConv2d(_ODConv):
    """Omni-dimensional dynamic 2-D convolution (Li et al. 2022, arXiv 2209.07947), (B, C, H, W).

    The mean over the image is squeezed into four attentions: over the input's channels, over the outputs (filters) and
    over the taps of a kernel (spatial), all sigmoids, and over N kernels, a softmax. The mixed kernel is scaled by the
    other three; the mixed bias, which the original lacks, is not. An attention that has nothing to choose from is
    absent: of filters where the convolution is depthwise, of taps where there is one, of kernels where N = 1.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation, groups, bias, padding_mode: as in ``nn.Conv2d``.
        padding, mixing: as in :class:`seqdyconv.KernelAttentionConv2d`. Where the attentions vary along an axis, by
            causal padding or by ``mixing``, the taps of a kernel are one convolution each, which is slower.
        num_kernels: N.
        reduction: the hidden layer of the attention has int(C·reduction) units, 16 at least.
        temperature: the logits of all four are divided by it. It may be changed at any time and is not part of the
            state dict.
        norm: of the hidden layer: ``"layer"``; ``"batch"`` as in the original, whose parameters then fit, with
            ``attention.bn`` renamed to ``attention.norm`` and the 1×1 convolutions flattened. In training, batch
            normalisation makes an output depend on the other rows of the batch, and needs two of them.
        device, dtype: of the parameters.

    Shapes:
        input (B, C, H, W), padding_mask (B, H) → output (B, O, H', W'). Parameters: ``weight`` (N, O, C // groups,
        *kernel_size), ``bias`` (N, O), and those of ``attention``.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import ODConv2d
        >>> ODConv2d(3, 16, 3, stride=2, padding=1)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 16, 16, 16])
    """

    axes = 2
