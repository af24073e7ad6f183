"""What the convolutions share whose kernels an attention makes from the input: all but the attention itself.

Symbols: B batch, T time, C channels of the input, O of the output, N kernels, K kernel size. A 1-D layer takes
(B, T, C), as all layers of this package; a 2-D layer takes (B, C, H, W), as :class:`torch.nn.Conv2d`, and of a
spectrogram H is time and W frequency. Inside, everything is (B, C, H, W): in one dimension W is 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional.conv import ConvPadding, conv_padding
from seqdyconv.functional.packing import check_packed, run_packed
from seqdyconv.layers.checks import check_dtype, check_input, check_positive, check_state_kind
from seqdyconv.layers.initialization import reset_children
from seqdyconv.layers.masking import last_inputs, until_padding, zero_padding
from seqdyconv.layers.options import changed_options
from seqdyconv.layers.states import initial_zeros

Size = int | tuple[int, ...]


class MixedConvState(NamedTuple):
    """What a causal layer remembers between chunks."""

    inputs: Tensor
    """(B, (K−1)·dilation, C·W), the last inputs."""
    total: Tensor
    """(B, C, 1, W or 1), the sum of what was squeezed so far, in float32 at least."""
    steps: Tensor
    """(B,), how many steps that were, in the dtype of the sum."""
    phase: Tensor
    """(B,) int, the steps since the last output, modulo the stride."""


class MixedConv(nn.Module):
    """What all layers here share: everything but the attention, and how it acts on the kernels."""

    axes: ClassVar[int]  # 1 or 2
    attention: Any  # a module; None: there is nothing to attend to, the only kernel is as it is
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: ConvPadding | tuple[ConvPadding, ...],
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        num_kernels: int,
        temperature: float,
        mixing: str,
        factory: dict[str, Any],
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels, groups=groups, num_kernels=num_kernels)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels, got {groups} groups, {in_channels} and "
                f"{out_channels} channels"
            )
        check_word("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        check_word("mixing", mixing, ("global", "time", "frequency")[: self.axes + 1])
        _check_temperature(temperature)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._sizes(kernel_size=kernel_size)
        self.stride = self._sizes(stride=stride)
        self.padding = padding
        self.dilation = self._sizes(dilation=dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        self.num_kernels = num_kernels
        self.temperature = temperature
        self.mixing = mixing
        # Per axis, in steps: from a kernel's first tap to its last, and the padding before and after the input.
        self.reach = tuple((size - 1) * step for size, step in zip(self.kernel_size, self.dilation))
        paddings = padding if isinstance(padding, (tuple, list)) else (padding,) * self.axes
        if len(paddings) != self.axes:
            raise ValueError(f"padding must be one value or {self.axes}, got {padding!r}")
        self.pads = tuple(self._axis_pads(axis, value) for axis, value in enumerate(paddings))
        self.causal = paddings[0] == "causal"
        if self.causal and padding_mode != "zeros":
            raise ValueError(f'causal padding needs padding_mode="zeros", got {padding_mode!r}')
        shape = (num_kernels, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(num_kernels, out_channels, **factory)) if bias else None
        )

    def _sizes(self, **size: Size) -> tuple[int, ...]:
        """One int ≥ 1 per axis."""
        ((name, value),) = size.items()
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * self.axes
        if len(values) != self.axes:
            raise ValueError(f"{name} must be one int or {self.axes}, got {value!r}")
        for each in values:
            check_positive(**{name: each})
        return values

    def _axis_pads(self, axis: int, padding: ConvPadding) -> tuple[int, int]:
        if padding == "causal" and axis > 0:
            raise ValueError(f'padding may be "causal" in time, the first axis, got it for axis {axis}')
        return conv_padding(padding, self.reach[axis], self.stride[axis])

    def reset_parameters(self) -> None:
        """Draw each kernel as ``nn.Conv`` draws its one."""
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        reset_children(self)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, num_kernels={self.num_kernels}"
        )
        ones = (1,) * self.axes
        defaults = {
            "stride": ones,
            "padding": 0,
            "dilation": ones,
            "groups": 1,
            "padding_mode": "zeros",
            "routing": "softmax",
            "mixing": "global",
            "temperature": 1.0,
        }
        return text + changed_options(self, defaults) + ("" if self.bias is not None else ", bias=False")

    # What the two kinds of layer differ in

    def _attend(self, squeezed: Tensor) -> Any:
        """The attentions, from what was squeezed (B, C, H' or 1, W' or 1)."""
        raise NotImplementedError

    def _kernel_weights(self, attentions: Any) -> Tensor:
        """The weights (B, N, H' or 1, W' or 1) of the kernels among them."""
        raise NotImplementedError

    def _convolve(self, window: Tensor, attentions: Any) -> Tensor:
        """The output (B, O, H', W') from padded input (B, C, H, W)."""
        raise NotImplementedError

    # What users call

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Convolve a whole input.

        Args:
            input: (B, T, C), or (B, C, H, W) in two dimensions.
            padding_mask: (B, T) or (B, H) bool, True at padded steps: they are read as zeros, and not squeezed.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, instead of a mask.
                Only in one dimension, where the output has as many steps as the input.

        Returns:
            (B, T', O) or (B, O, H', W'), the sizes being those of ``nn.Conv1d`` and ``nn.Conv2d``.
        """
        if cu_seqlens is None:
            return self._forward(input, padding_mask)
        if self.axes != 1 or self.stride[0] != 1 or sum(self.pads[0]) != self.reach[0]:
            raise ValueError(
                "cu_seqlens needs a 1-D layer whose output has as many steps as its input: stride 1 and "
                f'padding "same" or "causal", got {self}'
            )
        check_input(input, self.in_channels, self.weight.dtype, padding_mask)
        check_packed(cu_seqlens, input, padding_mask)
        return run_packed(self._forward, input, cu_seqlens, gap=None)

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        image = self._read(input, padding_mask)
        if self.attention is None:
            return self._write(self._convolve_static(image))
        attentions = self._attend(self._squeeze_whole(image, padding_mask))
        return self._write(self._convolve(self._pad(image, self.pads), attentions))

    def _convolve_static(self, image: Tensor) -> Tensor:
        """The output (B, O, H', W') of the only kernel: nothing need be squeezed, the convolution itself can pad."""
        sizes = [self._output_size(size, axis) for axis, size in enumerate(image.shape[2:])]
        pads = self.in_2d(self.pads, (0, 0))
        padded_before = self.padding_mode != "zeros" or torch.compiler.is_exporting()
        if padded_before or any(left < right for left, right in pads):
            return self.conv_static(self._pad(image, self.pads))
        output = self.conv_static(image, [left for left, _ in pads])
        for axis, (left, right) in enumerate(pads):
            if left > right:  # as many zeros were read behind the input as before it
                output = output.narrow(2 + axis, 0, sizes[axis])
        return output

    def mixture(self, input: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
        """The weights of the kernels that :meth:`forward` mixes, in float32 at least.

        Args:
            input, padding_mask: as in :meth:`forward`.

        Returns:
            (B, T', N), or (B, N, H', W') in two dimensions; an axis along which the mixture is the same has size 1.
        """
        image = self._read(input, padding_mask)
        return self._write(self._kernel_weights(self._attend(self._squeeze_whole(image, padding_mask))))

    def stream(
        self, input: Tensor, state: MixedConvState, padding_mask: Tensor | None = None, *, skipped: int | None = None
    ) -> tuple[Tensor, MixedConvState]:
        """Convolve the next chunk of a causal layer; any chunking of an input gives what ``forward`` gives.

        Args:
            input: (B, T, C) or (B, C, H, W), T and H ≥ 1.
            state: of ``initial_state`` or the last call.
            padding_mask: (B, T) or (B, H) bool; padding at a row's end does not enter its state. With a stride, all
                rows that have a step in the chunk must be equally far from their next output.
            skipped: how many steps of the chunk come before its first output; None: the state tells it, which a graph
                can't read.

        Returns:
            The outputs whose last tap is a step of this chunk: with a stride s they are those of every s-th step from
            the very first one on, so that a chunk may have none. And the next state.
        """
        image = self._read(input, padding_mask)
        if not self.causal:
            raise ValueError(f'only a causal layer streams: padding of time must be "causal", got {self.padding!r}')
        check_state_kind(state, MixedConvState)
        batch, channels, steps, width = image.shape
        reach, stride = self.reach[0], self.stride[0]
        for name, part, shape in zip(state._fields, state, self._state_shapes(batch, width)):
            if part.shape != shape:
                raise ValueError(f"{name} of state must be {shape}, got {tuple(part.shape)}")
        past = state.inputs.unflatten(2, (channels, width)).transpose(1, 2)
        window = torch.cat([past.to(image.dtype), image], dim=2)
        squeezed, total, count = self._squeeze(image, padding_mask, state.total, state.steps[:, None, None, None])

        if skipped is None:
            skipped = self._steps_to_output(state.phase, padding_mask)
        outputs = (steps - skipped + stride - 1) // stride
        if outputs > 0:
            squeezed = self._at_outputs(squeezed[:, :, skipped:], outputs, self._output_size(width, 1))
            columns = self._pad(window[:, :, skipped:], ((0, 0), *self.pads[1:]))
            output = self._convolve(columns, self._attend(squeezed))
        else:
            output = window.new_zeros(batch, self.out_channels, 0, self._output_size(width, 1))

        inputs = last_inputs(window.transpose(1, 2).flatten(2), padding_mask, reach)
        taken = steps if padding_mask is None else until_padding(padding_mask)
        phase = (state.phase + taken) % stride
        # Views would keep the whole chunk in memory.
        following = MixedConvState(inputs, total.clone(), count[:, 0, 0, 0].clone(), phase)
        return self._write(output), following

    def initial_state(self, batch_size: int, width: int | None = None) -> MixedConvState:
        """The state before the first chunk, of zeros.

        Args:
            batch_size: B.
            width: W of the input, in two dimensions only.
        """
        if (width is None) != (self.axes == 1):
            raise ValueError(f"width must be given for a 2-D layer, and only there, got {width!r}")
        wide = torch.promote_types(self.weight.dtype, torch.float32)  # the running mean needs it
        dtypes = (self.weight.dtype, wide, wide, torch.long)
        shapes = self._state_shapes(batch_size, width or 1)
        return MixedConvState(*(initial_zeros(self, *shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes)))

    # Streaming

    def _state_shapes(self, batch: int, width: int) -> tuple[tuple[int, ...], ...]:
        bins = width if self.mixing == "frequency" else 1
        return (
            (batch, self.reach[0], self.in_channels * width),
            (batch, self.in_channels, 1, bins),
            (batch,),
            (batch,),
        )

    def _steps_to_output(self, phase: Tensor, padding_mask: Tensor | None) -> int:
        """How many steps of a chunk come before its first output; with a stride this reads the state's numbers."""
        stride = self.stride[0]
        if stride == 1:
            return 0
        if padding_mask is not None:
            phase = phase[~padding_mask.all(1)]
        phases = sorted({int(steps) for steps in phase.tolist()})
        if len(phases) > 1:
            raise ValueError(
                "with a stride, the rows of a chunk must be equally far from their next output, got "
                f"{phases} steps since the last one, modulo {stride}"
            )
        return -phases[0] % stride if phases else 0

    # Layout and padding

    def _read(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(B, C, H, W) from what the layer is given, checked, with zeros at padded steps."""
        if self.axes == 1:
            check_input(input, self.in_channels, self.weight.dtype, padding_mask)
            image = zero_padding(input, padding_mask).transpose(1, 2).contiguous()[..., None]
        else:
            _check_image(input, self.in_channels, self.weight.dtype, padding_mask)
            image = input if padding_mask is None else input.masked_fill(padding_mask[:, None, :, None], 0)
        if padding_mask is not None and self.padding_mode != "zeros":
            raise ValueError(
                'a padding_mask needs padding_mode="zeros", as other modes would copy padded steps, got '
                f"{self.padding_mode!r}"
            )
        return image

    def _write(self, output: Tensor) -> Tensor:
        """The layout that the layer gives, from (B, ·, H, W)."""
        return output[..., 0].transpose(1, 2) if self.axes == 1 else output

    def in_2d(self, per_axis: tuple[Any, ...], missing: Any) -> tuple[Any, ...]:
        return per_axis if self.axes == 2 else (*per_axis, missing)

    def _output_size(self, size: int, axis: int) -> int:
        """How many outputs ``size`` steps of an axis give."""
        if axis == self.axes:  # W of a 1-D layer
            return size
        free = size + sum(self.pads[axis]) - self.reach[axis] - 1
        if free < 0:
            raise ValueError(
                f"a kernel that spans {self.reach[axis] + 1} steps does not fit into an input of {size} "
                f"with padding {self.pads[axis]}, axis {axis}"
            )
        return free // self.stride[axis] + 1

    def _pad(self, image: Tensor, pads: tuple[tuple[int, int], ...]) -> Tensor:
        if not any(map(any, pads)):
            return image
        amounts = [steps for pair in reversed(self.in_2d(pads, (0, 0))) for steps in pair]
        if self.padding_mode == "zeros":
            return F.pad(image, amounts)
        for axis, pair in enumerate(pads):
            longest = image.shape[2 + axis] - (self.padding_mode == "reflect")
            if self.padding_mode != "replicate" and max(pair) > longest:
                raise ValueError(
                    f"{self.padding_mode} padding of {max(pair)} steps needs a longer input, got "
                    f"{image.shape[2 + axis]} steps in axis {axis}"
                )
        return F.pad(image, amounts, self.padding_mode)

    # Squeezing

    def _squeeze_whole(self, image: Tensor, padding_mask: Tensor | None) -> Tensor:
        sizes = [self._output_size(size, axis) for axis, size in enumerate(image.shape[2:])]
        return self._at_outputs(self._squeeze(image, padding_mask)[0], *sizes)

    def _squeeze(
        self, image: Tensor, padding_mask: Tensor | None, total: Tensor | float = 0.0, count: Tensor | float = 0.0
    ) -> tuple[Tensor, Any, Any]:
        """The mean (B, C, H or 1, W or 1) that the attention sees, in float32 at least.

        Of a causal layer it is the running mean; ``total`` and ``count`` are the sum and the number of the steps
        before, and are returned as they stand after the last one.
        """
        dtype = torch.promote_types(image.dtype, torch.float32)
        bins = image.to(dtype) if self.mixing == "frequency" else image.mean(3, keepdim=True, dtype=dtype)
        if self.mixing == "time":
            return bins, total, count
        real = torch.ones_like(image[:, :1, :, :1], dtype=dtype)
        if padding_mask is not None:
            real = real.masked_fill(padding_mask[:, None, :, None], 0)
        if not self.causal:
            return bins.sum(2, keepdim=True) / real.sum(2, keepdim=True).clamp(min=1), total, count
        totals, counts = bins.cumsum(2) + total, real.cumsum(2) + count
        return totals / counts.clamp(min=1), totals[:, :, -1:], counts[:, :, -1:]

    @property
    def varies(self) -> tuple[bool, bool]:
        """Whether the attentions vary along time, and along frequency."""
        return self.causal or self.mixing == "time", self.mixing == "frequency"

    def _at_outputs(self, squeezed: Tensor, *sizes: int) -> Tensor:
        """What the attention sees for each output: the mean at the middle tap of its kernel, in the time of a causal
        layer at the last one; zero where that tap is outside the input."""
        for axis in range(self.axes):
            if not self.varies[axis]:
                continue
            reach, (left, right) = self.reach[axis], self.pads[axis]
            tap = reach if axis == 0 and self.causal else reach // 2
            outside = [max(0, left - tap), max(0, right - (reach - tap))]
            if any(outside):
                squeezed = F.pad(squeezed, [0, 0, *outside] if axis == 0 else outside)
            taps = torch.arange(sizes[axis], device=squeezed.device) * self.stride[axis] + max(0, tap - left)
            squeezed = squeezed.index_select(2 + axis, taps)
        return squeezed

    # Convolving

    def conv(
        self, window: Tensor, weight: Tensor, bias: Tensor | None, groups: int, padding: Sequence[int] = (0, 0)
    ) -> Tensor:
        """Input (B, C, H, W) with ``weight`` (O, C // groups, *kernel_size), ``padding`` zeros around it."""
        weight = weight if self.axes == 2 else weight[..., None]
        return F.conv2d(window, weight, bias, self.in_2d(self.stride, 1), padding, self.in_2d(self.dilation, 1), groups)

    def conv_static(self, window: Tensor, padding: Sequence[int] = (0, 0)) -> Tensor:
        """The same with the only kernel, as it is."""
        return self.conv(window, self.weight[0], None if self.bias is None else self.bias[0], self.groups, padding)

    def conv_rows(self, window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Each row with its own kernel (B, O, C // groups, *kernel_size): one convolution whose groups are the rows."""
        batch, channels = window.shape[:2]
        bias = None if bias is None else bias.flatten()
        if torch.compiler.is_exporting():  # it can't merge two dimensions whose strides depend on the input's size
            order = torch.arange(batch * channels, device=window.device).view(channels, batch).t().flatten()
            rows = torch.cat(window.unbind(1)).index_select(0, order)
        else:
            rows = window.flatten(0, 1)
        return self.conv(rows, weight.flatten(0, 1), bias, batch * self.groups).unflatten(0, (batch, -1))

    def mix_outputs(
        self, conv: Callable[[Tensor, Tensor | None], Tensor], bias: Tensor | None, weights: Tensor
    ) -> Tensor:
        """The outputs of all kernels, mixed by ``weights`` (B, N, H' or 1, W' or 1).

        ``conv`` takes the kernels (O·N, C // groups, *kernel_size) and biases, those of an output beside each other.
        """
        bias = None if bias is None else bias.t().flatten()
        outputs = conv(self.weight.transpose(0, 1).flatten(0, 1), bias).unflatten(1, (self.out_channels, -1))
        return (outputs * weights[:, None].to(outputs.dtype)).sum(2)

    def mixed_kernels(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """The kernels (B, O, C // groups, *kernel_size) and biases (B, O) from weights (B, N, 1, 1)."""
        weights = weights.flatten(1).to(self.weight.dtype)
        kernels = (weights @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        return kernels, None if self.bias is None else weights @ self.bias


def set_temperature(module: nn.Module, temperature: float) -> int:
    """Set the temperature of all layers of this file in ``module``, and say how many there are.

    Raises:
        ValueError: the temperature is not above 0.
    """
    _check_temperature(temperature)
    layers = [layer for layer in module.modules() if isinstance(layer, MixedConv)]
    for layer in layers:
        layer.temperature = temperature
    return len(layers)


def in_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_word(name: str, word: str, allowed: tuple[str, ...]) -> None:
    if word not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {word!r}")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")


def check_reduction(reduction: float) -> None:
    if not reduction >= 0:
        raise ValueError(f"reduction must be at least 0, got {reduction!r}")


def _check_image(input: Tensor, channels: int, dtype: torch.dtype, padding_mask: Tensor | None) -> None:
    if input.dim() != 4 or input.shape[1] != channels or 0 in input.shape[2:]:
        raise ValueError(f"input must be (B, C, H, W) with H, W >= 1 and C = {channels}, got {tuple(input.shape)}")
    check_dtype(dtype, input=input)
    expected = (input.shape[0], input.shape[2])
    if padding_mask is not None and (padding_mask.dtype != torch.bool or padding_mask.shape != expected):
        raise ValueError(
            f"padding_mask must be bool (B, H) = {expected}, True where padded, got {padding_mask.dtype} "
            f"{tuple(padding_mask.shape)}"
        )
