"""The block around a convolution that makes it a mixer."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqdyconv.functional.conv import Padding
from seqdyconv.functional.packing import check_packed
from seqdyconv.layers.checks import check_dropout, check_input, layer_dtype
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.kernel_sizes import KernelSize, kernel_sizes_of
from seqdyconv.layers.masking import RealSteps, zero_padding
from seqdyconv.layers.window import AroundWindow

_CHUNK = 2**15  # steps of a long sequence that are in memory at once, where nothing must be kept
# What the block decides, or what only the layer by itself has.
_NOT_OF_A_MIXER = ("channels", "kernel_size", "num_heads", "padding", "bias", "query_dim", "device", "dtype")


class ConvMixer(AroundWindow, nn.Module):
    """The block of Wu et al. 2019 (https://arxiv.org/abs/1901.10430) around a convolution, (batch, time, channels).

    Linear D → 2·C and a gated linear unit (or linear D → C), zero at padded steps, the convolution, linear C → D.

    Args:
        dim: D, the width of input and output.
        conv: the convolution over C channels, with ``channels``, ``lookahead``, ``forward`` and ``stream`` as in
            :class:`seqdyconv.DynamicConv1d`.
        glu: gate the convolution's input.
        input_dropout: dropout of the block's input in training.
        recompute: keep the block's input alone for the backward pass, and compute the rest there again: a sixth of the
            memory, for a forward pass more; of a long sequence only a part at a time.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        dim: int,
        conv: Any,
        *,
        glu: bool = True,
        input_dropout: float = 0.0,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_dropout(input_dropout=input_dropout)
        self.dim = dim
        self.glu = glu
        self.input_dropout = input_dropout
        self.recompute = recompute
        self.in_proj = xavier_linear(dim, conv.channels * (2 if glu else 1), device=device, dtype=dtype)
        self.conv = conv
        self.out_proj = xavier_linear(conv.channels, dim, device=device, dtype=dtype)

    @property
    def in_proj_roles(self) -> tuple[str, ...]:
        """What the equal parts of ``in_proj`` are: see ``seqdyconv.swap.transfer``."""
        return ("value", "gate") if self.glu else ("value",)

    def reset_parameters(self) -> None:
        reset_children(self)

    def extra_repr(self) -> str:
        return f"{self.dim}, glu={self.glu}" + (", recompute=True" if self.recompute else "")

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Mix a whole sequence.

        Args:
            input: (B, T, D).
            padding_mask: (B, T) bool, True at padded steps.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, D) begin and end, instead of a mask.

        Returns:
            (B, T, D), zeros at padded steps.
        """
        check_packed(cu_seqlens, input, padding_mask)
        gap = getattr(self.conv, "packing_gap", None)
        keep_all = torch.is_grad_enabled() and not self.recompute
        if gap is None or keep_all or cu_seqlens is not None or not _is_long(input):
            return self._whole(input, padding_mask, cu_seqlens)
        parts = []
        for begin in range(0, input.shape[1], _CHUNK):
            first = max(0, begin - gap)
            seen = slice(first, begin + _CHUNK + gap)
            part = self._whole(input[:, seen], None if padding_mask is None else padding_mask[:, seen], None)
            parts.append(part[:, begin - first : begin - first + _CHUNK])
        return torch.cat(parts, dim=1)

    def _whole(self, input: Tensor, padding_mask: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            output: Tensor = checkpoint(self._forward, input, padding_mask, cu_seqlens, use_reentrant=False)
            return output
        return self._forward(input, padding_mask, cu_seqlens)

    def _forward(self, input: Tensor, padding_mask: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        check_input(input, self.dim, layer_dtype(self.in_proj), padding_mask)
        real = RealSteps.where_faster(padding_mask)
        if real is not None:
            mixed = self.conv(real.put(self._project(real.take(input))), padding_mask=padding_mask)
            return real.put(self.out_proj(real.take(mixed)))
        # Zeros before the projection keep NaN out of its gradient; those after it, in the convolution, are what keeps
        # padding from its neighbours.
        projected = self._project(zero_padding(input, padding_mask))
        output = self.out_proj(self.conv(projected, padding_mask=padding_mask, cu_seqlens=cu_seqlens))
        return zero_padding(output, padding_mask)

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first chunk: that of the convolution."""
        return self.conv.initial_state(batch_size)

    def stream(self, input: Tensor, state: Any, padding_mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """Mix the next chunk (B, T, D); returns its output (B, T, D), ``lookahead`` steps late, and the next state."""
        projected, *_ = self.enter(input, padding_mask)
        output, state = self.conv.stream(projected, state, padding_mask)
        return self.leave(output), state

    def enter(self, input: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, None, None]:
        """What ``conv`` gets of (B, T, D): its input (B, T, C), no query, and no gate for :meth:`leave`.

        For who runs the convolution in another way: ``leave(conv(...), gate)`` is what :meth:`forward` gives.
        """
        check_input(input, self.dim, layer_dtype(self.in_proj), padding_mask)
        return self._project(zero_padding(input, padding_mask)), None, None

    def leave(self, mixed: Tensor, gate: None = None) -> Tensor:
        """The block's output (B, T, D) from that of ``conv``."""
        return self.out_proj(mixed)

    def _project(self, steps: Tensor) -> Tensor:
        projected = self.in_proj(F.dropout(steps, self.input_dropout, self.training))
        return F.glu(projected, dim=-1) if self.glu else projected


def _is_long(input: Tensor) -> bool:
    return not torch.compiler.is_compiling() and input.shape[1] > 2 * _CHUNK


def mixer_padding(kernel_size: KernelSize, dilation: int, causal: bool, lookahead: int | None) -> Padding:
    """The padding of a mixer's convolution, from what it may see."""
    if lookahead is None:
        return "causal" if causal else "same"
    if causal or lookahead < 0:
        raise ValueError(f"lookahead must be >= 0 and causal False, got {lookahead} and causal={causal}")
    reach = (kernel_sizes_of(kernel_size)[-1] - 1) * dilation
    return max(0, reach - lookahead)  # a kernel can't look further than it is long


def conv_mixer(layer: Callable[..., nn.Module]) -> Callable[..., ConvMixer]:
    """The builder of a mixer, a row of ``MIXERS``: a :class:`ConvMixer` around a convolution.

    Args:
        layer: the convolution's class, called with ``(channels, kernel_size, num_heads, padding=..., device=...,
            dtype=...)`` and options of its own, all by keyword. These are options of the mixer too.

    Returns:
        A function of ``(dim, num_heads)`` and, by keyword, ``kernel_size``, ``causal``, ``lookahead``, ``conv_dim``,
        ``glu``, ``input_dropout``, ``recompute``, the layer's options, ``device`` and ``dtype``.
    """

    def build(
        dim: int,
        num_heads: int,
        *,
        kernel_size: KernelSize,
        causal: bool = False,
        lookahead: int | None = None,
        conv_dim: int | None = None,
        glu: bool = True,
        input_dropout: float = 0.0,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> ConvMixer:
        """The mixer of a convolution: options of the two, and those of the block and of the convolution.

        Args:
            causal: see the current and earlier steps alone.
            lookahead: the steps after the current one that are seen, instead of ``causal``.
            conv_dim: C, the width of the convolution; None: D.
        """
        padding = mixer_padding(kernel_size, options.get("dilation", 1), causal, lookahead)
        conv = layer(
            dim if conv_dim is None else conv_dim,
            kernel_size,
            num_heads,
            padding=padding,
            device=device,
            dtype=dtype,
            **options,
        )
        return ConvMixer(
            dim, conv, glu=glu, input_dropout=input_dropout, recompute=recompute, device=device, dtype=dtype
        )

    # The options of block and layer are declared there alone: signature and docstring are put together from theirs.
    build.__doc__ = "\n\n".join(inspect.getdoc(part) or "" for part in (build, ConvMixer, layer))
    signature = inspect.signature(build)
    own = [
        parameter for parameter in inspect.signature(layer).parameters.values() if parameter.name not in _NOT_OF_A_MIXER
    ]
    block = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    sizes = inspect.signature(layer).parameters["kernel_size"].annotation
    block = [item.replace(annotation=sizes) if item.name == "kernel_size" else item for item in block]
    build.__signature__ = signature.replace(parameters=[*block, *own])  # type: ignore[attr-defined]
    return build
