"""Lightweight and dynamic convolutions as layers: parameters, softmax, DropConnect, padding and streaming."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.functional import dynamic_conv1d, lightweight_conv1d
from seqdyconv.functional.conv import OpPadding, Padding
from seqdyconv.functional.softmax import softmax_over_taps
from seqdyconv.layers.checks import check_dropout
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.kernel_sizes import KernelSize, first_taps, kernel_sizes_of
from seqdyconv.layers.masking import last_inputs, zero_padding
from seqdyconv.layers.options import changed_options
from seqdyconv.layers.states import RealInputs
from seqdyconv.layers.window import WindowConv


class _HeadConv1d(WindowConv):
    """What both layers share: all but where the logits of their kernels come from."""

    bias: Tensor | None

    def __init__(
        self,
        channels: int,
        kernel_size: KernelSize,
        num_heads: int,
        *,
        padding: Padding,
        dilation: int,
        bias: bool,
        weight_softmax: bool,
        weight_dropout: float,
        renormalize: bool,
        query_dim: int | None = None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        sizes = kernel_sizes_of(kernel_size)
        super().__init__(channels, sizes[-1], num_heads, padding, dilation, query_dim)
        if num_heads % len(sizes):
            raise ValueError(
                f"num_heads must be a multiple of the number of kernel sizes, got {num_heads} heads for {sizes}"
            )
        self.kernel_sizes = sizes
        self.first_taps = first_taps(sizes, self.left // dilation)
        check_dropout(weight_dropout=weight_dropout)
        if renormalize and not weight_softmax:
            raise ValueError("renormalize is a softmax over the taps inside the sequence: it needs weight_softmax=True")
        self.weight_softmax = weight_softmax
        self.weight_dropout = weight_dropout
        self.renormalize = renormalize
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        )

    def extra_repr(self) -> str:
        size = self.kernel_size if len(self.kernel_sizes) == 1 else self.kernel_sizes
        text = f"{self.channels}, kernel_size={size}, num_heads={self.num_heads}, padding={self.padding!r}"
        defaults = {"dilation": 1, "weight_softmax": True, "weight_dropout": 0.0, "renormalize": False}
        return text + changed_options(self, defaults) + (", bias=True" if self.bias is not None else "")

    def initial_state(self, batch_size: int) -> Tensor | RealInputs:
        """The state before the first chunk: (B, (K−1)·dilation, C) zeros on the layer's device, in its dtype.

        With ``renormalize`` these, and that none of them is an input.
        """
        inputs: Tensor = super().initial_state(batch_size)
        return RealInputs(inputs, torch.zeros_like(inputs[..., 0], dtype=torch.bool)) if self.renormalize else inputs

    def past_inputs(self, state: Tensor | RealInputs) -> Tensor:
        """The inputs before a chunk, (B, (K−1)·dilation, C)."""
        return state.inputs if isinstance(state, RealInputs) else state

    @property
    def heads_by_size(self) -> tuple[tuple[int, int], ...]:
        """How many heads have kernels of a size, and the size, in the order of the heads."""
        heads = self.num_heads // len(self.kernel_sizes)
        return tuple((heads, size) for size in self.kernel_sizes)

    @property
    def own_numbers(self) -> list[int]:
        """How many logits the heads of each size have, in all the Σ H_i·K_i of the parameters."""
        return [heads * size for heads, size in self.heads_by_size]

    def own_taps(self) -> Tensor:
        """(H, K) bool: the taps that each head has, in the order in which parameters have them, row by row."""
        return self._on_all_taps(torch.ones(sum(self.own_numbers), dtype=torch.bool), False)

    def _on_all_taps(self, own: Tensor, filler: float) -> Tensor:
        """(..., H, K) from what each head has for its own taps, (..., Σ of their numbers)."""
        if len(self.kernel_sizes) == 1:
            return own.unflatten(-1, (self.num_heads, self.kernel_size))
        parts = own.split(self.own_numbers, dim=-1)
        rows = [
            F.pad(part.unflatten(-1, shape), (first, self.kernel_size - shape[1] - first), value=filler)
            for part, shape, first in zip(parts, self.heads_by_size, self.first_taps)
        ]
        return torch.cat(rows, dim=-2)

    def _on_taken_taps(self, own: Tensor) -> Tensor:
        """The logits of the taps that are read; of those that a head lacks they are what leaves no weight to them."""
        return self.taken(self._on_all_taps(own, -torch.inf if self.weight_softmax else 0.0))

    def _logits(self, query: Tensor) -> Tensor:
        """(H, K), or (B, T, H, K) from the steps (B, T, Q) that predict kernels: what softmax makes kernels of."""
        raise NotImplementedError

    def _forward(self, input: Tensor, padding_mask: Tensor | None, query: Tensor | None = None) -> Tensor:
        query = input if query is None else query
        return self._convolve(input, query, self._real(input, padding_mask), self.left)

    def _stream(self, window: Tensor, query: Tensor | None = None) -> Tensor:
        return self._convolve(window, self.current_inputs(window) if query is None else query, None, "valid")

    def _advance(
        self, input: Tensor, state: Tensor | RealInputs, padding_mask: Tensor | None, *queries: Tensor
    ) -> tuple[Tensor, Tensor | RealInputs]:
        if not self.renormalize:
            if not queries and self.lookahead == 0:  # else the output is of steps before
                queries = (input,)
            return super()._advance(input, state, padding_mask, *queries)
        if not isinstance(state, RealInputs):
            raise ValueError(f"state must be RealInputs where the layer renormalizes, got {type(state).__name__}")
        window, inputs = self.chunk_window(input, state.inputs, padding_mask)
        now = torch.ones_like(input[..., 0], dtype=torch.bool) if padding_mask is None else ~padding_mask
        real = torch.cat([state.is_real, now], dim=1)
        query = queries[0] if queries else self.current_inputs(window)
        following = RealInputs(inputs, last_inputs(real[..., None], padding_mask, self.reach)[..., 0])
        return self._convolve(window, query, real, "valid"), following

    def _convolve(self, input: Tensor, query: Tensor, real: Tensor | None, padding: OpPadding) -> Tensor:
        logits = self._logits(query)
        dropped = self.training and self.weight_dropout > 0
        # A plain softmax is the operation's own, which some backends do on the way.
        softmax = self.weight_softmax and real is None and not dropped and logits.dtype == input.dtype
        kernels = logits if softmax else self._kernels(logits, real).to(input.dtype)
        convolve = lightweight_conv1d if kernels.dim() == 2 else dynamic_conv1d
        return convolve(input, kernels, self.bias, padding=padding, dilation=self.dilation, softmax=softmax)

    def _real(self, input: Tensor, padding_mask: Tensor | None) -> Tensor | None:
        """Which steps of a whole sequence, and of the zeros around it, ``renormalize`` counts: (B, T + reach)."""
        if not self.renormalize:
            return None
        if padding_mask is None:
            padding_mask = torch.zeros_like(input[..., 0], dtype=torch.bool)
        return F.pad(~padding_mask, (self.left, self.lookahead))

    def _kernels(self, logits: Tensor, real: Tensor | None) -> Tensor:
        """(..., H, K) from logits; ``real`` (B, T + reach) tells which steps the softmax counts, None: all."""
        if self.weight_softmax:
            if real is not None:
                dtype = torch.promote_types(logits.dtype, torch.float32)
                steps = torch.arange(real.shape[1] - self.reach, device=real.device)
                taps = torch.arange(self.taps, device=real.device) * self.dilation
                inside = real[:, steps[:, None] + taps][:, :, None]  # (B, T, 1, K)
                # The lowest number instead of −inf: with no tap inside, the kernel is finite and reads zeros.
                logits = logits.to(dtype).masked_fill(~inside, torch.finfo(dtype).min)
            logits = softmax_over_taps(logits)
        return F.dropout(logits, self.weight_dropout, self.training)


class LightweightConv1d(_HeadConv1d):
    """Lightweight convolution (Wu et al. 2019, https://arxiv.org/abs/1901.10430), (batch, time, channels).

    A depthwise convolution whose H kernels are softmax-normalised over their K taps, each shared by the R = C // H
    neighbouring channels of its head.

    Args:
        channels: C.
        kernel_size: K ≥ 1, odd or even, also longer than the sequence; or several, such as ``(7, 31)``, each for as
            many heads, the smallest for the first ones. A smaller kernel has taps of the longest, which is what K is
            everywhere else: the last ones where the layer is causal, else those around the current step, of which no
            more are ahead than with ``padding="same"``. Kernels of several sizes in one layer are the idea of
            Multi-Convformer (Prabhu et al. 2024, https://arxiv.org/abs/2407.03718), where a fusion joins what they
            give; here they share the channels among them, and the linear layer that follows joins these.
        num_heads: H, divides C; a multiple of the number of kernel sizes.
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
        input (B, T, C) → output (B, T, C). Parameters: ``weight`` (H, K), of several sizes the heads'
        kernels one after another (Σ H_i·K_i,); ``bias`` (C,).

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
        kernel_size: KernelSize,
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
        super().__init__(
            channels,
            kernel_size,
            num_heads,
            padding=padding,
            dilation=dilation,
            bias=bias,
            weight_softmax=weight_softmax,
            weight_dropout=weight_dropout,
            renormalize=renormalize,
            device=device,
            dtype=dtype,
        )
        shape = self.heads_by_size[0] if len(self.kernel_sizes) == 1 else (sum(self.own_numbers),)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for part, shape in zip(self.weight.detach().flatten().split(self.own_numbers), self.heads_by_size):
            nn.init.xavier_uniform_(part.view(shape))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

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
        real = None if padding_mask is None else self._real(padding_mask[..., None], padding_mask)
        return self._kernels(self._logits(self.weight), real).to(self.weight.dtype)

    def _logits(self, query: Tensor) -> Tensor:
        return self._on_taken_taps(self.weight.flatten())


class DynamicConv1d(_HeadConv1d):
    """Dynamic convolution (Wu et al. 2019, https://arxiv.org/abs/1901.10430), (batch, time, channels).

    A lightweight convolution whose kernels a linear layer, the generator, predicts at every step from that step alone.

    Args:
        channels: C.
        kernel_size: K ≥ 1, odd or even, also longer than the sequence; or several, see
            :class:`seqdyconv.LightweightConv1d`.
        num_heads: H, divides C; a multiple of the number of kernel sizes.
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
        h·K + k for tap k of head h; ``generator.bias`` (H·K,); ``bias`` (C,). With several sizes there are Σ H_i·K_i
        rows, those of each head after those of the head before.

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
        kernel_size: KernelSize,
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
        super().__init__(
            channels,
            kernel_size,
            num_heads,
            padding=padding,
            dilation=dilation,
            bias=bias,
            weight_softmax=weight_softmax,
            weight_dropout=weight_dropout,
            renormalize=renormalize,
            query_dim=query_dim,
            device=device,
            dtype=dtype,
        )
        width = channels if query_dim is None else query_dim
        self.generator = xavier_linear(width, sum(self.own_numbers), bias=generator_bias, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_children(self)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def kernels(self, input: Tensor, *, padding_mask: Tensor | None = None, query: Tensor | None = None) -> Tensor:
        """The finished kernels that :meth:`forward` convolves with, after softmax and, in training, DropConnect.

        Args:
            input, padding_mask, query: as in :meth:`forward`.

        Returns:
            (B, T, H, K), of the input's dtype. Those at padded steps mean nothing.
        """
        queries = self.checked_queries(input, padding_mask, query)
        read = zero_padding(queries[0] if queries else input, padding_mask)
        return self._kernels(self._logits(read), self._real(input, padding_mask)).to(input.dtype)

    def _logits(self, query: Tensor) -> Tensor:
        return self._on_taken_taps(self.generator(query))
