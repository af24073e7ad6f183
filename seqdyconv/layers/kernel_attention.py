"""Convolutions whose kernels are mixed by attention: the input is squeezed into weights over a set of kernels."""

from functools import partial
from typing import Any, Literal

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


class _Routing(nn.Module):
    """From the squeezed input (..., C) to a logit for each kernel (..., N)."""

    def __init__(self, channels: int, num_kernels: int, reduction: float | None, factory: dict[str, Any]) -> None:
        super().__init__()
        hidden = channels if reduction is None else int(channels * reduction) + 1
        self.fc1 = None if reduction is None else nn.Linear(channels, hidden, bias=False, **factory)
        self.fc2 = nn.Linear(hidden, num_kernels, **factory)

    def forward(self, squeezed: Tensor) -> Tensor:
        return self.fc2(squeezed if self.fc1 is None else F.relu(self.fc1(squeezed)))


class _KernelAttentionConv(MixedConv):
    """Attention over kernels, in one and two dimensions."""

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
        reduction: float | None = 0.25,
        temperature: float = 1.0,
        routing: Literal["softmax", "sigmoid"] = "softmax",
        mixing: Literal["global", "time", "frequency"] = "global",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        convolution = (kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(in_channels, out_channels, *convolution, num_kernels, temperature, mixing, factory)
        check_word("routing", routing, ("softmax", "sigmoid"))
        if reduction is not None:
            check_reduction(reduction)
        self.routing = routing
        # The softmax over one kernel is 1: nothing to learn.
        static = num_kernels == 1 and routing == "softmax"
        self.attention = None if static else _Routing(in_channels, num_kernels, reduction, factory)
        self.reset_parameters()

    def _attend(self, squeezed: Tensor) -> Tensor:
        if self.attention is None:
            return torch.ones_like(squeezed[:, :1])
        logits = self.attention(squeezed.movedim(1, -1).to(self.weight.dtype))
        logits = in_float32(logits) / self.temperature
        weights = logits.softmax(-1) if self.routing == "softmax" else logits.sigmoid()
        return weights.movedim(-1, 1)

    def _kernel_weights(self, attentions: Tensor) -> Tensor:
        return attentions

    def _convolve(self, window: Tensor, attentions: Tensor) -> Tensor:
        if self.attention is None:
            return self.conv_static(window)
        if not any(self.varies) and window.shape[0] > 0:  # a convolution of no groups does not exist
            return self.conv_rows(window, *self.mixed_kernels(attentions))
        # Where the kernel varies, the outputs of all kernels are mixed: one convolution, too.
        return self.mix_outputs(partial(self.conv, window, groups=self.groups), self.bias, attentions)


class KernelAttentionConv1d(_KernelAttentionConv):
    """Convolution over time whose kernels are mixed by attention (DyConv: Chen et al. 2020, arXiv 1912.03458),
    (batch, time, channels).

    The mean over time, through two linear layers and a softmax, gives weights over N kernels (and biases); their
    weighted sum convolves. See :class:`seqdyconv.KernelAttentionConv2d` for the variants of other papers.

    The layout is (B, T, C), unlike :class:`torch.nn.Conv1d`, whose options it has otherwise.

    Args:
        in_channels, out_channels: C and O.
        kernel_size: K ≥ 1.
        stride, dilation, groups, bias, padding_mode: as in ``nn.Conv1d``.
        padding: an int, ``"valid"``, ``"same"`` (stride 1), or ``"causal"``: (K−1)·dilation zeros before the input and
            none after. A causal layer squeezes the steps so far, a running mean, so its mixture changes from step to
            step, and it streams.
        num_kernels: N. With one kernel, and the softmax, it is ``nn.Conv1d``.
        reduction: the hidden layer of the attention has int(C·reduction) + 1 units; None: a single linear layer.
        temperature: the logits are divided by it; the papers start from about 30 and anneal it to 1. It may be changed
            at any time and is not part of the state dict.
        routing: ``"softmax"``, or ``"sigmoid"`` (CondConv).
        mixing: ``"global"``: one mixture for the whole input; ``"time"``: at each step one from that step alone.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C) → output (B, T', O). Parameters: ``weight`` (N, O, C // groups, K), ``bias`` (N, O),
        ``attention.fc1.weight`` (hidden, C), ``attention.fc2.weight`` (N, hidden), ``attention.fc2.bias`` (N,).

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import KernelAttentionConv1d
        >>> layer = KernelAttentionConv1d(8, 12, 3, padding="causal")
        >>> whole = torch.randn(2, 10, 8)
        >>> state = layer.initial_state(2)
        >>> first, state = layer.stream(whole[:, :4], state)
        >>> rest, state = layer.stream(whole[:, 4:], state)
        >>> torch.allclose(torch.cat([first, rest], 1), layer(whole), atol=1e-5)
        True
    """

    axes = 1


class KernelAttentionConv2d(_KernelAttentionConv):
    """2-D convolution whose kernels are mixed by attention (DyConv: Chen et al. 2020, arXiv 1912.03458), (B, C, H, W).

    The mean over the image, through two linear layers and a softmax, gives weights over N kernels (and biases); their
    weighted sum convolves. All images of a batch, each with its own kernel, are one grouped convolution.

    Variants: CondConv (Yang et al. 2019, arXiv 1904.04971) is ``routing="sigmoid", reduction=None``. For spectrograms,
    whose time is H and whose frequency is W, ``mixing="time"`` is temporal (TDY: Kim et al. 2021, arXiv 2110.03213) and
    ``mixing="frequency"`` is frequency dynamic convolution (FDY: Nam et al. 2022, arXiv 2203.15296). They convolve with
    all N kernels and mix the outputs; the weights of a step or a bin come from its own mean alone, while the papers'
    attention sees some neighbours too and uses batch normalisation, through which padding would leak.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation, groups, bias, padding_mode: as in ``nn.Conv2d``.
        padding: an int, ``"valid"``, ``"same"`` (stride 1), or one of these for each axis. Along H, as in
            ``("causal", 1)``, it may be causal: (K−1)·dilation zeros before the input and none after. A causal layer
            squeezes the steps so far, a running mean, so its mixture changes from step to step, and it streams.
        num_kernels: N. With one kernel, and the softmax, it is ``nn.Conv2d``.
        reduction: the hidden layer of the attention has int(C·reduction) + 1 units; None: a single linear layer.
        temperature: the logits are divided by it; the papers start from about 30 and anneal it to 1. It may be changed
            at any time and is not part of the state dict.
        routing: ``"softmax"`` or ``"sigmoid"``.
        mixing: ``"global"``: one mixture for the whole input; ``"time"``, ``"frequency"``: one for each step, or bin.
        device, dtype: of the parameters.

    Shapes:
        input (B, C, H, W), padding_mask (B, H) → output (B, O, H', W'). Parameters: ``weight`` (N, O, C // groups,
        *kernel_size), ``bias`` (N, O), ``attention.fc1.weight`` (hidden, C), ``attention.fc2.weight`` (N, hidden),
        ``attention.fc2.bias`` (N,).

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import KernelAttentionConv2d
        >>> layer = KernelAttentionConv2d(3, 16, 3, padding=1, num_kernels=4)
        >>> images = torch.randn(2, 3, 32, 32)
        >>> layer(images).shape, layer.mixture(images).shape
        (torch.Size([2, 16, 32, 32]), torch.Size([2, 4, 1, 1]))
    """

    axes = 2
