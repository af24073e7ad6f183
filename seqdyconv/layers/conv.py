"""Lightweight and dynamic convolutions as layers: parameters, softmax, DropConnect, padding and streaming."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional import dynamic_conv1d, dynamic_conv1d_step, lightweight_conv1d, lightweight_conv1d_step
from seqdyconv.functional.conv import Padding
from seqdyconv.functional.packing import check_packed, run_packed
from seqdyconv.layers.checks import check_dropout, check_input, check_positive
from seqdyconv.layers.initialization import XavierLinear, reset_children
from seqdyconv.layers.masking import last_inputs, zero_padding
from seqdyconv.layers.window import WindowConv


class _HeadConv1d(WindowConv):
    """What both layers share: all but where the logits of their kernels come from."""

    bias: Tensor | None

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        padding: Padding,
        dilation: int,
        bias: bool,
        weight_softmax: bool,
        weight_dropout: float,
        renormalize: bool,
        factory: dict[str, Any],
    ) -> None:
        super().__init__(channels, kernel_size, num_heads, padding, dilation)
        check_dropout(weight_dropout=weight_dropout)
        if renormalize and not weight_softmax:
            raise ValueError("renormalize is a softmax over the taps inside the sequence: it needs weight_softmax=True")
        self.weight_softmax = weight_softmax
        self.weight_dropout = weight_dropout
        self.renormalize = renormalize
        self.register_parameter("bias", nn.Parameter(torch.empty(channels, **factory)) if bias else None)

    def extra_repr(self) -> str:
        text = f"{self.channels}, kernel_size={self.kernel_size}, num_heads={self.num_heads}, padding={self.padding!r}"
        defaults = {"dilation": 1, "weight_softmax": True, "weight_dropout": 0.0, "renormalize": False}
        changed = (
            f", {name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value
        )
        return text + "".join(changed) + (", bias=True" if self.bias is not None else "")

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first chunk: (B, (K−1)·dilation, C) on the layer's device, in its dtype.

        Zeros; with ``renormalize`` NaN, which marks the steps where there was no input.
        """
        parameter = next(self.parameters())
        return parameter.new_full((batch_size, self.reach, self.channels), math.nan if self.renormalize else 0.0)

    def _kernels(self, logits: Tensor, valid: Tensor | None) -> Tensor:
        """(..., H, K) from logits; ``valid`` (B, T + reach) tells which steps of the window are of the sequence."""
        if self.weight_softmax:
            dtype = torch.promote_types(logits.dtype, torch.float32)
            if valid is not None:
                steps = torch.arange(valid.shape[1] - self.reach, device=valid.device)
                taps = torch.arange(self.kernel_size, device=valid.device) * self.dilation
                inside = valid[:, steps[:, None] + taps][:, :, None]  # (B, T, 1, K)
                # The lowest number instead of −inf: with no tap inside, the kernel is finite and reads zeros.
                logits = logits.to(dtype).masked_fill(~inside, torch.finfo(dtype).min)
            logits = logits.softmax(-1, dtype=dtype)
        return F.dropout(logits, self.weight_dropout, self.training)

    def _whole_kernels(self, logits: Tensor, padding_mask: Tensor | None) -> Tensor:
        """The kernels of a whole sequence; ``renormalize`` needs the mask (B, T), see :meth:`_mask`."""
        valid = None
        if self.renormalize and padding_mask is not None:
            valid = F.pad(~padding_mask, (self.left, self.reach - self.left))
        return self._kernels(logits, valid)

    def _mask(self, input: Tensor, padding_mask: Tensor | None) -> Tensor | None:
        """The mask, made where ``renormalize`` needs one and nothing is padded."""
        if self.renormalize and padding_mask is None:
            return torch.zeros_like(input[..., 0], dtype=torch.bool)
        return padding_mask

    def _convolve(self, input: Tensor, kernels: Tensor) -> Tensor:
        convolve = lightweight_conv1d if kernels.dim() == 2 else dynamic_conv1d
        return convolve(input, kernels.to(input.dtype), self.bias, padding=self.padding, dilation=self.dilation)

    def past_inputs(self, state: Tensor) -> Tensor:
        """The inputs before a chunk: zeros where ``renormalize`` marks that there was none."""
        return torch.where(state.isnan(), 0, state) if self.renormalize else state

    def _stream_kernels(
        self, input: Tensor, logits: Tensor, state: Tensor, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        valid, marked = None, input
        if self.renormalize:
            if padding_mask is not None:
                marked = input.masked_fill(padding_mask[..., None], math.nan)
            valid = ~torch.cat([state[..., 0], marked[..., 0]], dim=1).isnan()
        kernels = self._kernels(logits, valid).to(input.dtype)
        step = lightweight_conv1d_step if kernels.dim() == 2 else dynamic_conv1d_step
        output, following = step(input, self.past_inputs(state), kernels, self.bias, dilation=self.dilation)
        if self.renormalize or padding_mask is not None:  # marks, or padding at a row's end, which the op knows not of
            window = torch.cat([state.to(input.dtype), marked], dim=1)
            following = last_inputs(window, padding_mask, self.reach)
        return output, following.to(input.dtype)


class LightweightConv1d(_HeadConv1d):
    """Lightweight convolution (Wu et al. 2019, https://arxiv.org/abs/1901.10430), (batch, time, channels).

    A depthwise convolution whose H kernels are softmax-normalised over their K taps, each shared by the R = C // H
    neighbouring channels of its head.

    Args:
        channels: C.
        kernel_size: K ≥ 1, odd or even, also longer than the sequence.
        num_heads: H, divides C.
        padding: ``"causal"``, ``"same"`` or the number of zeros before the sequence, see
            :func:`seqdyconv.lightweight_conv1d`.
        dilation: steps between taps.
        bias: add a learned (C,) to the output.
        weight_softmax: softmax over the taps; without it the kernels are the parameter itself.
        weight_dropout: DropConnect, the probability of dropping a tap of a normalised kernel in training.
        renormalize: softmax over the taps that read the sequence, neither padding nor what is outside, instead of
            all K.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C) → output (B, T, C). Parameters: ``weight`` (H, K), ``bias`` (C,).

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import LightweightConv1d
        >>> layer = LightweightConv1d(512, kernel_size=7, num_heads=8, padding="causal")
        >>> layer(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__(
            channels,
            kernel_size,
            num_heads,
            padding,
            dilation,
            bias,
            weight_softmax,
            weight_dropout,
            renormalize,
            factory,
        )
        self.weight = nn.Parameter(torch.empty(num_heads, kernel_size, **factory))  # type: ignore[arg-type]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _forward(self, input: Tensor, padding_mask: Tensor | None) -> Tensor:
        return self._convolve(input, self.kernels(self._mask(input, padding_mask)))

    def kernels(self, padding_mask: Tensor | None = None) -> Tensor:
        """The finished kernels that :meth:`forward` convolves with, after softmax and, in training, DropConnect.

        Args:
            padding_mask: (B, T) bool. Only kernels with ``renormalize`` depend on it, and they need it, all False where
                nothing is padded: what is renormalised depends on the length.

        Returns:
            (H, K), of the parameter's dtype; with ``renormalize`` (B, T, H, K).

        Raises:
            ValueError: ``renormalize`` without a mask.
        """
        if self.renormalize and padding_mask is None:
            raise ValueError(
                "kernels with renormalize depend on the length: padding_mask (B, T) must be given, got None"
            )
        return self._whole_kernels(self.weight, padding_mask).to(self.weight.dtype)

    def stream(self, input: Tensor, state: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_input(input, self.channels, self.weight.dtype, padding_mask)
        self._check_stream(input, state)
        return self._stream_kernels(zero_padding(input, padding_mask), self.weight, state, padding_mask)


class DynamicConv1d(_HeadConv1d):
    """Dynamic convolution (Wu et al. 2019, https://arxiv.org/abs/1901.10430), (batch, time, channels).

    A lightweight convolution whose kernels a linear layer, the generator, predicts at every step from that step alone.

    Args:
        channels: C.
        kernel_size: K ≥ 1, odd or even, also longer than the sequence.
        num_heads: H, divides C.
        padding: ``"causal"``, ``"same"`` or the number of zeros before the sequence, see
            :func:`seqdyconv.dynamic_conv1d`.
        dilation: steps between taps.
        bias: add a learned (C,) to the output.
        weight_softmax: softmax over the taps; without it the kernels are what the generator gives.
        weight_dropout: DropConnect, the probability of dropping a tap of a normalised kernel in training.
        renormalize: softmax over the taps that read the sequence, neither padding nor what is outside, instead of
            all K.
        query_dim: Q, the width of a separate ``query`` from which the kernels are predicted; None: from the input.
        generator_bias: give the generator a bias: the part of the kernels that does not depend on the input.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, C), query (B, T, Q) → output (B, T, C). Parameters: ``generator.weight`` (H·K, Q or C), row
        h·K + k for tap k of head h; ``generator.bias`` (H·K,); ``bias`` (C,).

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import DynamicConv1d
        >>> layer = DynamicConv1d(512, kernel_size=7, num_heads=8, padding="causal")
        >>> whole = torch.randn(2, 10, 512)
        >>> state = layer.initial_state(2)
        >>> first, state = layer.stream(whole[:, :4], state)
        >>> rest, state = layer.stream(whole[:, 4:], state)
        >>> torch.allclose(torch.cat([first, rest], 1), layer(whole), atol=1e-6)
        True
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
        query_dim: int | None = None,
        generator_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__(
            channels,
            kernel_size,
            num_heads,
            padding,
            dilation,
            bias,
            weight_softmax,
            weight_dropout,
            renormalize,
            factory,
        )
        if query_dim is not None:
            check_positive(query_dim=query_dim)
        self.query_dim = query_dim
        self.generator = XavierLinear(
            channels if query_dim is None else query_dim, num_heads * kernel_size, bias=generator_bias, **factory
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_children(self)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        input: Tensor,
        *,
        padding_mask: Tensor | None = None,
        query: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Convolve a whole sequence.

        Args:
            input: (B, T, C).
            padding_mask: (B, T) bool, True at padded steps, which are read as zeros.
            query: (B, T, Q) where the layer has a ``query_dim``, else None.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, instead of a mask:
                sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.

        Returns:
            (B, T, C).
        """
        if cu_seqlens is None:
            return self._convolve(*self._input_and_kernels(input, padding_mask, query))
        check_input(input, self.channels, self.generator.weight.dtype, padding_mask)
        check_packed(cu_seqlens, input, padding_mask)
        self._check_query(input, query)

        def forward(rows: Tensor, mask: Tensor, query: Tensor | None = None) -> Tensor:
            return self._convolve(*self._input_and_kernels(rows, mask, query))

        return run_packed(forward, input, cu_seqlens, self.packing_gap, *([] if query is None else [query]))

    def kernels(self, input: Tensor, *, padding_mask: Tensor | None = None, query: Tensor | None = None) -> Tensor:
        """The finished kernels that :meth:`forward` convolves with, after softmax and, in training, DropConnect.

        Args:
            input, padding_mask, query: as in :meth:`forward`.

        Returns:
            (B, T, H, K), of the input's dtype. Those at padded steps mean nothing.
        """
        return self._input_and_kernels(input, padding_mask, query)[1]

    def stream(
        self, input: Tensor, state: Tensor, padding_mask: Tensor | None = None, query: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolve the next chunk of a causal layer; any chunking of a sequence gives what ``forward`` gives.

        A layer with ``padding=P`` looks L = (K−1)·dilation − P steps ahead, so its output comes L steps late: the
        first L steps of it mean nothing, and a last chunk of L padded steps brings the rest.

        Args:
            input: (B, T, C), T ≥ 1.
            state: (B, (K−1)·dilation, C), of :meth:`initial_state` or the last call.
            padding_mask: (B, T) bool; padding at a row's end does not enter its state.
            query: (B, T, Q) where the layer has a ``query_dim``, else None; of the steps of the output.

        Returns:
            The output (B, T, C), and the next state.
        """
        check_input(input, self.channels, self.generator.weight.dtype, padding_mask)
        self._check_stream(input, state)
        input = zero_padding(input, padding_mask)
        if self.lookahead == 0:
            logits = self._logits(input, query, padding_mask)
        elif query is None:  # an output's kernel comes from its own step, L before the newest
            window = torch.cat([self.past_inputs(state).to(input.dtype), input], dim=1)
            logits = self._logits(self.current_inputs(window), None, None)
        else:
            logits = self._logits(input, query, None)
        return self._stream_kernels(input, logits, state, padding_mask)

    def _input_and_kernels(
        self, input: Tensor, padding_mask: Tensor | None, query: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        check_input(input, self.channels, self.generator.weight.dtype, padding_mask)
        input = zero_padding(input, padding_mask)
        logits = self._logits(input, query, padding_mask)
        return input, self._whole_kernels(logits, self._mask(input, padding_mask)).to(input.dtype)

    def _logits(self, input: Tensor, query: Tensor | None, padding_mask: Tensor | None) -> Tensor:
        self._check_query(input, query)
        query = input if query is None else zero_padding(query, padding_mask)
        return self.generator(query).unflatten(-1, (self.num_heads, self.kernel_size))

    def _check_query(self, input: Tensor, query: Tensor | None) -> None:
        if (query is None) != (self.query_dim is None):
            raise ValueError(f"query must be given if and only if the layer has a query_dim, here {self.query_dim}")
        expected = (*input.shape[:2], self.query_dim)
        if query is not None and query.shape != expected:
            raise ValueError(f"query must be (B, T, Q) = {expected}, got {tuple(query.shape)}")
