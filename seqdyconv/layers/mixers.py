"""Mixers: the blocks that let time steps see each other, chosen by name.

A mixer maps (B, T, D) to (B, T, D) with ``forward(input, *, padding_mask=None)``; where it is causal it has
``initial_state(batch_size)`` and ``stream(input, state, padding_mask=None) -> (output, state)`` too. So it has where it
looks a number of steps ahead, its ``lookahead``; then the output comes as many steps late.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional.conv import Padding
from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.checks import check_dropout, check_input
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.masking import zero_padding
from seqdyconv.layers.parallel import ParallelMixer


class ConvMixer(nn.Module):
    """The block of Wu et al. 2019 (https://arxiv.org/abs/1901.10430) around a convolution, (batch, time, channels).

    Linear D → 2·C and a gated linear unit (or linear D → C), zero at padded steps, the convolution, linear C → D.

    Args:
        dim: D, the width of input and output.
        conv: the convolution over C channels, with ``channels``, ``forward`` and ``stream`` as in
            :class:`seqdyconv.DynamicConv1d`.
        glu: gate the convolution's input.
        input_dropout: dropout of the block's input in training.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        dim: int,
        conv: LightweightConv1d | DynamicConv1d,
        *,
        glu: bool = True,
        input_dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_dropout(input_dropout=input_dropout)
        self.dim = dim
        self.glu = glu
        self.input_dropout = input_dropout
        self.in_proj = nn.Linear(dim, conv.channels * (2 if glu else 1), device=device, dtype=dtype)
        self.conv = conv
        self.out_proj = nn.Linear(conv.channels, dim, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.in_proj, self.out_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def extra_repr(self) -> str:
        return f"{self.dim}, glu={self.glu}"

    def forward(self, input: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
        """Mix a whole sequence (B, T, D); ``padding_mask`` (B, T) bool, True at padded steps. Returns (B, T, D)."""
        return self.out_proj(self.conv(self._project(input, padding_mask), padding_mask=padding_mask))

    @property
    def lookahead(self) -> int:
        """The steps after the current one that the convolution reads."""
        return self.conv.lookahead

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first chunk: that of the convolution."""
        return self.conv.initial_state(batch_size)

    def stream(self, input: Tensor, state: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix the next chunk (B, T, D); returns its output (B, T, D), ``lookahead`` steps late, and the next state."""
        output, state = self.conv.stream(self._project(input, padding_mask), state, padding_mask)
        return self.out_proj(output), state

    def _project(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        check_input(input, self.dim, self.in_proj.weight.dtype, padding_mask)
        # Zeros before the projection keep NaN out of its gradient; those after it, in the convolution, are what keeps
        # padding from its neighbours.
        input = F.dropout(zero_padding(input, padding_mask), self.input_dropout, self.training)
        projected = self.in_proj(input)
        return F.glu(projected, dim=-1) if self.glu else projected


def _conv_mixer(
    layer: type[LightweightConv1d] | type[DynamicConv1d],
    dim: int,
    num_heads: int,
    *,
    kernel_size: int,
    causal: bool = False,
    lookahead: int | None = None,
    conv_dim: int | None = None,
    glu: bool = True,
    input_dropout: float = 0.0,
    dilation: int = 1,
    weight_softmax: bool = True,
    weight_dropout: float = 0.0,
    renormalize: bool = False,
    generator_bias: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ConvMixer:
    generator: dict[str, Any] = {"generator_bias": generator_bias} if layer is DynamicConv1d else {}
    padding: Padding = "causal" if causal else "same"
    if lookahead is not None:
        if causal or lookahead < 0:
            raise ValueError(f"lookahead must be >= 0 and causal False, got {lookahead} and causal={causal}")
        padding = max(0, (kernel_size - 1) * dilation - lookahead)  # a kernel can't look further than it is long
    conv = layer(
        dim if conv_dim is None else conv_dim,
        kernel_size,
        num_heads,
        padding=padding,
        dilation=dilation,
        weight_softmax=weight_softmax,
        weight_dropout=weight_dropout,
        renormalize=renormalize,
        device=device,
        dtype=dtype,
        **generator,
    )
    return ConvMixer(dim, conv, glu=glu, input_dropout=input_dropout, device=device, dtype=dtype)


MIXERS: dict[str, Callable[..., nn.Module]] = {
    "lightweight_conv": partial(_conv_mixer, LightweightConv1d),
    "dynamic_conv": partial(_conv_mixer, DynamicConv1d),
    "self_attention": SelfAttention,
    "parallel": ParallelMixer,
}


def build_mixer(name: str, dim: int, num_heads: int, **options: Any) -> nn.Module:
    """A mixer by its name in ``MIXERS``, (batch, time, channels).

    Args:
        name: ``"lightweight_conv"``, ``"dynamic_conv"``, ``"self_attention"`` or ``"parallel"``.
        dim: D, the width of input and output.
        num_heads: H, divides D, and ``conv_dim`` where that is given.
        options: keywords of the mixers: ``kernel_size``, ``causal``, ``lookahead`` (the steps after
            the current one that a convolution sees, at most (K−1)·dilation, instead of ``causal``), ``conv_dim``,
            ``glu``, ``input_dropout``, ``dilation``, ``weight_softmax``, ``weight_dropout``, ``renormalize``,
            ``generator_bias``, ``attention_dropout``, ``conv``, ``device``, ``dtype``. Those that only other mixers
            have are left out, so that one set of options serves all; but not a ``lookahead``.

    Raises:
        ValueError: a name that is no mixer, an option that no mixer has, or a ``lookahead`` of a mixer with attention.

    Example:
        >>> from seqdyconv import build_mixer
        >>> build_mixer("dynamic_conv", 512, 8, kernel_size=31, causal=True).conv
        DynamicConv1d(
          512, kernel_size=31, num_heads=8, padding='causal'
          (generator): Linear(in_features=512, out_features=248, bias=False)
        )
    """
    if name not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {name!r}")
    parameters = {mixer: inspect.signature(build).parameters for mixer, build in MIXERS.items()}
    known = set().union(*parameters.values())
    if unknown := sorted(set(options) - known):
        raise ValueError(f"no mixer has the option {', '.join(unknown)}; options are {', '.join(sorted(known))}")
    if options.get("lookahead") is not None and "lookahead" not in parameters[name]:
        able = ", ".join(mixer for mixer in MIXERS if "lookahead" in parameters[mixer])
        raise ValueError(f"lookahead needs a mixer of {able}, got {name!r}")
    return MIXERS[name](dim, num_heads, **{key: options[key] for key in options if key in parameters[name]})
