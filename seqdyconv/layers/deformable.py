"""Deformable convolutions as layers: where their taps read is predicted from the input."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional.checks import check_state_shape
from seqdyconv.functional.conv import ConvPadding, Padding, conv_padding, dynamic_conv1d
from seqdyconv.functional.deformable import (
    PADDING_MODES,
    deformable_conv1d,
    deformable_depthwise_conv1d,
    deformable_kernels,
    limits,
    pad_time,
    sampled_positions,
)
from seqdyconv.functional.packing import check_packed, run_packed
from seqdyconv.layers.checks import check_dropout, check_input, check_positive
from seqdyconv.layers.initialization import reset_children, zero_conv1d, zero_linear
from seqdyconv.layers.masking import append_real_inputs, zero_padding
from seqdyconv.layers.options import changed_options
from seqdyconv.layers.states import initial_zeros
from seqdyconv.layers.window import WindowConv


class DeformableConv1d(nn.Module):
    """Deformable convolution (Dai et al. 2017, https://arxiv.org/abs/1703.06211), (batch, time, channels).

    A convolution whose taps read where offsets move them. A convolution over the same window, the predictor, predicts
    the offsets, and with ``modulation`` (Zhu et al. 2018, https://arxiv.org/abs/1811.11168) also a factor between 0 and
    2 for each tap. It starts at zero: the layer then is ``nn.Conv1d``. For offsets from elsewhere there is
    :func:`seqdyconv.deformable_conv1d`.

    Args:
        in_channels, out_channels: C and O.
        kernel_size: K ≥ 1.
        stride, dilation, groups, bias: as in ``nn.Conv1d``.
        padding: the steps before and after the input, or ``"valid"``, ``"same"`` (where the stride is 1), ``"causal"``:
            (K−1)·dilation before it.
        offset_groups: G, divides C; the channels of a group share their offsets.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        modulation: predict a factor for each tap.
        clamp: a tap stays in the window of its output, as in Ravenscroft et al. 2022
            (https://arxiv.org/abs/2210.15305). False: it may go to anywhere in the padded sequence.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C) → output (B, T', O), T' as in ``nn.Conv1d``. Parameters: ``weight`` (O, C // groups, K) and
        ``bias`` (O,), those of ``nn.Conv1d``; ``predictor.weight`` (G·K, C, K), row g·K + k for tap k of group g, and
        ``predictor.bias`` (G·K,). With modulation as many rows again, those of the factors.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import DeformableConv1d
        >>> DeformableConv1d(8, 12, 3, padding="same", modulation=True)(torch.randn(2, 10, 8)).shape
        torch.Size([2, 10, 12])
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: ConvPadding = 0,
        dilation: int = 1,
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        modulation: bool = False,
        clamp: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            offset_groups=offset_groups,
            in_channels=in_channels,
            out_channels=out_channels,
        )
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels, got {groups} groups, {in_channels} and "
                f"{out_channels} channels"
            )
        if in_channels % offset_groups:
            raise ValueError(
                f"offset_groups must divide in_channels, got {offset_groups} groups and {in_channels} channels"
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        if padding == "causal" and (padding_mode != "zeros" or not clamp):
            raise ValueError(
                f'causal padding needs padding_mode="zeros" and clamp=True, got {padding_mode!r} and clamp={clamp}'
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.offset_groups = offset_groups
        self.padding_mode = padding_mode
        self.modulation = modulation
        self.clamp = clamp
        self.reach = (kernel_size - 1) * dilation  # steps between the first and the last tap
        self._pads = conv_padding(padding, self.reach, stride)
        self.left = self._pads[0]
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, kernel_size, device=device, dtype=dtype)
        )
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.predictor = zero_conv1d(
            in_channels,
            offset_groups * kernel_size * (1 + modulation),
            kernel_size,
            stride,
            dilation=dilation,
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Conv1d
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        reset_children(self)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, padding={self.padding!r}"
        defaults = {
            "stride": 1,
            "dilation": 1,
            "groups": 1,
            "offset_groups": 1,
            "padding_mode": "zeros",
            "modulation": False,
            "clamp": True,
        }
        return text + changed_options(self, defaults) + ("" if self.bias is not None else ", bias=False")

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Convolve a whole sequence.

        Args:
            input: (B, T, C).
            padding_mask: (B, T) bool, True at padded steps, which are read as zeros. With a stride, padding before a
                sequence moves it against its outputs unless it is as long as a number of strides.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, instead of a mask.
                Only where the output has as many steps as the input.

        Returns:
            (B, T', O).
        """
        check_input(input, self.in_channels, self.weight.dtype, padding_mask)
        if self.padding_mode != "zeros" and not (padding_mask is None and cu_seqlens is None):
            raise ValueError(
                'a padding_mask or cu_seqlens needs padding_mode="zeros", as other modes would copy '
                f"padded steps, got {self.padding_mode!r}"
            )
        if cu_seqlens is None:
            return self._forward(input, padding_mask)
        check_packed(cu_seqlens, input, padding_mask)
        if self.stride != 1 or sum(self._pads) != self.reach:
            raise ValueError(
                "cu_seqlens needs a layer whose output has as many steps as its input: stride 1 and "
                f'padding "same" or "causal", got {self}'
            )
        return run_packed(self._forward, input, cu_seqlens, max(self._pads) if self.clamp else None)

    def sampling(self, input: Tensor, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where the taps read, and how much what they read counts.

        Args:
            input, padding_mask: as in :meth:`forward`.

        Returns:
            Positions (B, T', G, K), in steps of the input from 0, in float32 at least. And of the same shape, the norm
            of the tap's weights, times its modulation.
        """
        check_input(input, self.in_channels, self.weight.dtype, padding_mask)
        input = zero_padding(input, padding_mask)
        offset, modulation = self._predict(pad_time(input, self._pads, self.padding_mode))
        low, high = limits(input, offset, self._pads, self.dilation, self.stride, self.clamp, padding_mask)
        start = torch.arange(offset.shape[1], device=input.device)[:, None, None] * self.stride - self._pads[0]
        norm = torch.linalg.vector_norm(self.weight, dim=(0, 1))
        weights = norm * (torch.ones_like(offset) if modulation is None else modulation)
        return start + sampled_positions(offset, self.dilation, low, high), weights

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first chunk: (B, (K−1)·dilation, C) zeros."""
        return initial_zeros(self, batch_size, self.reach, self.in_channels)

    def stream(self, input: Tensor, state: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve the next chunk of a causal layer; any chunking of a sequence gives what ``forward`` gives.

        Args:
            input: (B, T, C), T ≥ 1.
            state: (B, (K−1)·dilation, C), of :meth:`initial_state` or the last call.
            padding_mask: (B, T) bool; padding at a row's end does not enter its state.

        Returns:
            The output (B, T, O), and the next state.
        """
        check_input(input, self.in_channels, self.weight.dtype, padding_mask)
        if self.padding != "causal" or self.stride != 1:
            raise ValueError(
                'only a causal layer streams: padding must be "causal" and stride 1, got '
                f"{self.padding!r} and {self.stride}"
            )
        check_state_shape(input, state, self.reach)
        window, following = append_real_inputs(state, zero_padding(input, padding_mask), padding_mask)
        return self._convolve(window, window, 0, None), following

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        input = zero_padding(input, padding_mask)
        return self._convolve(input, pad_time(input, self._pads, self.padding_mode), self.padding, padding_mask)

    def _convolve(self, input: Tensor, padded: Tensor, padding: ConvPadding, padding_mask: Tensor | None) -> Tensor:
        offset, modulation = self._predict(padded)
        return deformable_conv1d(
            input,
            offset,
            self.weight,
            self.bias,
            modulation=modulation,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            clamp=self.clamp,
            padding_mask=padding_mask,
        )

    def _predict(self, padded: Tensor) -> tuple[Tensor, Tensor | None]:
        if padded.shape[1] <= self.reach:
            raise ValueError(
                f"input must have at least {self.reach + 1 - sum(self._pads)} steps for a kernel that "
                f"spans {self.reach + 1}, got {padded.shape[1] - sum(self._pads)}"
            )
        return _split(self.predictor(padded.transpose(1, 2)).transpose(1, 2), self.offset_groups, self.kernel_size)


class DeformableDepthwiseConv1d(WindowConv):
    """Depthwise deformable convolution (Dai et al. 2017, https://arxiv.org/abs/1703.06211), (batch, time, channels).

    Each of the H heads has one kernel, shared by its R = C // H neighbouring channels, and moves its taps. A linear
    layer, the predictor, predicts the offsets of a step from that step alone, and with ``modulation`` (Zhu et al. 2018,
    https://arxiv.org/abs/1811.11168) also a factor between 0 and 2 for each tap. It starts at zero: the layer then is
    a lightweight convolution without softmax, near an average of what its taps read.

    Args:
        channels: C.
        kernel_size: K ≥ 1, odd or even, also longer than the sequence.
        num_heads: H, divides C.
        padding: ``"causal"``, ``"same"`` or the number of zeros before the sequence, see
            :func:`seqdyconv.lightweight_conv1d`.
        dilation: steps between taps.
        bias: add a learned (C,) to the output.
        modulation: predict a factor for each tap.
        clamp: a tap stays in the window of its output, from the first tap at zero offsets to the last, as in
            Ravenscroft et al. 2022 (https://arxiv.org/abs/2210.15305). False: it may go to anywhere in the sequence
            and the zeros around it; the layer then sees the whole sequence and does not stream: ``padding`` must be
            ``"same"``.
        weight_dropout: DropConnect, the probability of dropping a tap of a kernel in training.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C) → output (B, T, C). Parameters: ``weight`` (H, K), ``bias`` (C,), ``predictor.weight`` (H·K, C),
        row h·K + k for tap k of head h, ``predictor.bias`` (H·K,). With modulation the predictor has as many rows
        again, those of the factors.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import DeformableDepthwiseConv1d
        >>> DeformableDepthwiseConv1d(512, kernel_size=7, num_heads=8, padding="causal")(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
    """

    bias: Tensor | None

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        *,
        padding: Padding = "same",
        dilation: int = 1,
        bias: bool = False,
        modulation: bool = False,
        clamp: bool = True,
        weight_dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, kernel_size, num_heads, padding, dilation)
        check_dropout(weight_dropout=weight_dropout)
        if not clamp and padding != "same":
            raise ValueError(
                'clamp=False needs padding="same", as a tap that is not clamped may read any step, got '
                f"padding={padding!r}"
            )
        self.modulation = modulation
        self.clamp = clamp
        self.weight_dropout = weight_dropout
        self.weight = nn.Parameter(torch.empty(num_heads, kernel_size, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        )
        self.predictor = zero_linear(channels, num_heads * kernel_size * (1 + modulation), device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, 0, 2 / self.kernel_size)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        reset_children(self)

    def extra_repr(self) -> str:
        text = f"{self.channels}, kernel_size={self.kernel_size}, num_heads={self.num_heads}, padding={self.padding!r}"
        defaults = {"dilation": 1, "modulation": False, "clamp": True, "weight_dropout": 0.0}
        return text + changed_options(self, defaults) + (", bias=True" if self.bias is not None else "")

    def sampling(self, input: Tensor, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where the taps read, and by what they multiply what they read.

        Args:
            input, padding_mask: as in :meth:`forward`.

        Returns:
            Positions (B, T, H, K), in steps of the input from 0, in float32 at least. And of the same shape, the
            weights: kernel times modulation.
        """
        check_input(input, self.channels, self.weight.dtype, padding_mask)
        input = zero_padding(input, padding_mask)
        offset, modulation = self._predict(input)
        pads = (self.left, self.lookahead)
        low, high = limits(input, offset, pads, self.dilation, 1, self.clamp, padding_mask)
        start = torch.arange(offset.shape[1], device=input.device)[:, None, None] - self.left
        weights = self.taken(self.weight) * (torch.ones_like(offset) if modulation is None else modulation)
        return start + sampled_positions(offset, self.dilation, low, high), weights

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        offset, modulation = self._predict(input)
        return deformable_depthwise_conv1d(
            input,
            offset,
            self._weight().to(input.dtype),
            self.bias,
            modulation=modulation,
            padding=self.left,
            dilation=self.dilation,
            clamp=self.clamp,
            padding_mask=padding_mask,
        )

    def _stream(self, window: Tensor) -> Tensor:
        offset, modulation = self._predict(self.current_inputs(window))
        kernels = deformable_kernels(offset, self._weight(), modulation=modulation, dilation=self.dilation)
        return dynamic_conv1d(window, kernels.to(window.dtype), self.bias, padding="valid")

    def _check_stream(self, input: Tensor, state: Tensor) -> None:
        if not self.clamp:
            raise ValueError(
                "only a causal layer streams, in which taps stay in their window: clamp must be True, got False"
            )
        super()._check_stream(input, state)

    @property
    def lookaheads(self) -> range:
        # Without clamping a tap may read any step, wherever its place is.
        return super().lookaheads if self.clamp else super().lookaheads[-1:]

    @property
    def packing_gap(self) -> int | None:
        return super().packing_gap if self.clamp else None

    def _weight(self) -> Tensor:
        return F.dropout(self.taken(self.weight), self.weight_dropout, self.training)

    def _predict(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        offset, modulation = _split(self.predictor(input), self.num_heads, self.kernel_size)
        return self.taken(offset), None if modulation is None else self.taken(modulation)


def _split(predicted: Tensor, groups: int, kernel_size: int) -> tuple[Tensor, Tensor | None]:
    """Offsets and modulation, each (B, T, G, K), from what a predictor gives; zeros are no offset and a factor of 1."""
    offset, *gates = predicted.unflatten(-1, (-1, groups, kernel_size)).unbind(2)
    return offset, 2 * gates[0].sigmoid() if gates else None
