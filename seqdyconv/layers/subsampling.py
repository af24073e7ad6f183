"""From feature frames to a quarter as many steps: the front of a speech encoder."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.layers.checks import check_input, check_positive, check_state_kind, layer_dtype
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.kernel_attention import KernelAttentionConv2d
from seqdyconv.layers.mixed_conv import MixedConvState


class SubsamplingState(NamedTuple):
    """The states of both convolutions."""

    conv1: MixedConvState
    conv2: MixedConvState


class ConvSubsampling(nn.Module):
    """Two 3×3 convolutions of stride 2 over time and frequency, as in Dong et al. 2018 (Speech-Transformer,
    https://doi.org/10.1109/ICASSP.2018.8462506), each followed by ReLU, and a linear layer, (batch, time, channels).

    Step t of the output reads the frames 4t−3 … 4t+3; a causal layer reads 4t−6 … 4t.

    Args:
        num_mel_bins: F, the width of a frame.
        dim: D, the width of the output.
        channels: C, of the convolutions.
        causal: read the current and earlier frames alone, so that the layer streams.
        num_kernels: N. More than one makes the convolutions :class:`seqdyconv.KernelAttentionConv2d`: their kernels
            are mixed by attention to the frames, in a causal layer to those so far.
        device, dtype: of the parameters.

    Shapes:
        input (B, T, F) → output (B, T', D) with T' = ⌈⌈T/2⌉/2⌉ = ⌈T/4⌉, so at least 1. Parameters: ``conv1``,
        ``conv2``, ``out_proj``.

    Raises:
        ValueError: options or input that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv.layers import ConvSubsampling
        >>> layer = ConvSubsampling(num_mel_bins=80, dim=256, channels=32)
        >>> padding_mask = torch.arange(100) >= torch.tensor([[100], [41]])
        >>> output, output_padding_mask = layer(torch.randn(2, 100, 80), padding_mask)
        >>> output.shape, (~output_padding_mask).sum(1)
        (torch.Size([2, 25, 256]), tensor([25, 11]))
    """

    def __init__(
        self,
        num_mel_bins: int,
        dim: int,
        channels: int,
        *,
        causal: bool = False,
        num_kernels: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(num_mel_bins=num_mel_bins, dim=dim, channels=channels, num_kernels=num_kernels)
        self.num_mel_bins = num_mel_bins
        self.causal = causal
        self.conv1, self.conv2 = (
            KernelAttentionConv2d(
                inner,
                channels,
                kernel_size=3,
                stride=2,
                padding=("causal" if causal else 1, 1),
                num_kernels=num_kernels,
                reduction=max(0.25, 4 / inner),  # one channel squeezed through one unit may see nothing
                device=device,
                dtype=dtype,
            )
            for inner in (1, channels)
        )
        self.out_proj = xavier_linear(channels * quarter(num_mel_bins), dim, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        reset_children(self)

    def forward(self, input: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Subsample whole utterances.

        Args:
            input: (B, T, F), T ≥ 1.
            padding_mask: (B, T) bool, True at padded frames. Padding is read as zeros, and never before a frame: where
                it stands on the left the frames are moved there, for the stride would count from the padding.

        Returns:
            The output (B, T', D), and its mask (B, T'), True at padded steps, which are on the right; None without
            ``padding_mask``.
        """
        check_input(input, self.num_mel_bins, layer_dtype(self.out_proj), padding_mask)
        if padding_mask is not None:
            steps = torch.arange(input.shape[1], device=input.device)
            order = (padding_mask * input.shape[1] + steps).argsort(dim=1)  # no sort of ONNX is stable, no key is twice
            input, padding_mask = input.gather(1, order[..., None].expand_as(input)), padding_mask.gather(1, order)
        hidden = input[:, None]
        for conv in (self.conv1, self.conv2):
            hidden = F.relu(conv(hidden, padding_mask=padding_mask))
            if padding_mask is not None:  # step t is there if frame 2t, at its kernel's middle, is
                lengths = ((~padding_mask).sum(1) + 1) // 2
                padding_mask = torch.arange(hidden.shape[2], device=input.device) >= lengths[:, None]
        return self._project(hidden), padding_mask

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """How many steps come of ``lengths`` (any shape, int) frames: ⌈length/4⌉."""
        return quarter(lengths)

    def initial_state(self, batch_size: int) -> SubsamplingState:
        """The state before the first chunk."""
        return SubsamplingState(
            self.conv1.initial_state(batch_size, self.num_mel_bins),
            self.conv2.initial_state(batch_size, (self.num_mel_bins + 1) // 2),
        )

    def stream(self, input: Tensor, state: SubsamplingState) -> tuple[Tensor, SubsamplingState]:
        """Subsample the next chunk of a causal layer; any chunking of an utterance gives what ``forward`` gives.

        Args:
            input: (B, T, F), T ≥ 1.
            state: of :meth:`initial_state` or the last call.

        Returns:
            The steps that this chunk completes (B, T', D), one for each fourth frame from the first one on, so T' may
            be 0; and the next state.
        """
        check_input(input, self.num_mel_bins, layer_dtype(self.out_proj), None)
        if not self.causal:
            raise ValueError("only a causal layer streams, got causal=False")
        check_state_kind(state, SubsamplingState)
        first, second = state
        hidden, first = self.conv1.stream(input[:, None], first)
        hidden = F.relu(hidden)
        if hidden.shape[2] > 0:
            hidden, second = self.conv2.stream(hidden, second)
            hidden = F.relu(hidden)
        else:
            hidden = hidden.new_zeros(*hidden.shape[:3], quarter(self.num_mel_bins))
        return self._project(hidden), SubsamplingState(first, second)

    def stream_in_step(
        self, input: Tensor, state: SubsamplingState, padding_mask: Tensor
    ) -> tuple[Tensor, SubsamplingState]:
        """The same of chunks that end with the frame of a step and have four for each: for graphs, whose sizes can't
        depend on a state.

        Args:
            input: (B, 4·n, F), n ≥ 1.
            state: of :meth:`initial_state` or the last call.
            padding_mask: (B, 4·n) bool, True at the frames before the first one, of which the first chunk has at least
                three.

        Returns:
            n steps (B, n, D), and the next state.
        """
        hidden, first = self.conv1.stream(input[:, None], state.conv1, padding_mask, skipped=1)
        hidden, second = self.conv2.stream(F.relu(hidden), state.conv2, padding_mask[:, 1::2], skipped=1)
        return self._project(F.relu(hidden)), SubsamplingState(first, second)

    def _project(self, hidden: Tensor) -> Tensor:
        """(B, C, T', F') → (B, T', D)."""
        return self.out_proj(hidden.transpose(1, 2).flatten(2))


def quarter(number: Any) -> Any:
    """⌈number/4⌉ of an int or a tensor."""
    return (number + 3) // 4
