"""Augmentation of training audio: speed and noise on samples, SpecAugment on features.

All of it draws from a ``torch.Generator`` on the CPU that the caller gives, so that a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torchaudio.functional
from torch import Generator, Tensor

from seqdyconv.speech.audio import resample


def change_speed(samples: Tensor, factor: float) -> Tensor:
    """Play samples (N,) at ``factor`` times the speed, pitch included: about N / factor samples come back.

    The factor is rounded to a thousandth.
    """
    if not 0.1 <= factor <= 10:
        raise ValueError(f"factor must be between 0.1 and 10, got {factor}")
    return resample(samples, round(1000 * factor), 1000)


@dataclass(frozen=True)
class SpeedPerturbation:
    """Plays an utterance at a speed drawn from a few (Ko et al. 2015, https://doi.org/10.21437/Interspeech.2015-711).

    Args:
        factors: the speeds, each as likely.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> SpeedPerturbation()(torch.randn(9900), generator).shape
        torch.Size([9000])
    """

    factors: Sequence[float] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        if not self.factors or not all(0.1 <= factor <= 10 for factor in self.factors):
            raise ValueError(f"factors must be numbers between 0.1 and 10, got {self.factors}")

    def __call__(self, samples: Tensor, generator: Generator) -> Tensor:
        """Samples (N,) in, about N / factor samples out."""
        return change_speed(samples, self.factors[_integer(len(self.factors), generator)])


def add_noise(samples: Tensor, noise: Tensor, snr: float) -> Tensor:
    """Add ``noise`` so that the energy of ``samples`` is ``snr`` decibels above its energy.

    Args:
        samples, noise: (N,) each. Where one of them is silent, ``samples`` come back as they are.
        snr: signal-to-noise ratio in decibels.
    """
    if not (torch.linalg.vector_norm(noise) ** 2):  # silent, or of an energy that is none in its type
        return samples
    return torchaudio.functional.add_noise(samples, noise, torch.as_tensor(snr, dtype=samples.dtype))


@dataclass(frozen=True)
class AdditiveNoise:
    """Adds white noise, or a random part of a random recording, at a random signal-to-noise ratio.

    Args:
        snr: the lowest and the highest ratio, in decibels.
        probability: of adding noise at all.
        recordings: samples (M,) of each noise, repeated where they are shorter than the utterance. None of them:
            white noise.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> AdditiveNoise(snr=(10, 10), probability=1)(torch.ones(10000), generator).std()
        tensor(0.3162)
    """

    snr: tuple[float, float] = (5.0, 30.0)
    probability: float = 0.5
    recordings: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        if len(self.snr) != 2 or self.snr[0] > self.snr[1]:
            raise ValueError(f"snr must be the lowest and the highest ratio, got {self.snr}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be between 0 and 1, got {self.probability}")
        if any(recording.dim() != 1 or len(recording) == 0 for recording in self.recordings):
            raise ValueError("recordings must be samples (M,) with M of at least 1")

    def __call__(self, samples: Tensor, generator: Generator) -> Tensor:
        """Samples (N,) in, samples (N,) out."""
        probability, position = torch.rand(2, generator=generator).tolist()
        if probability >= self.probability:
            return samples
        lowest, highest = self.snr
        return add_noise(samples, self._noise(len(samples), generator), lowest + position * (highest - lowest))

    def _noise(self, length: int, generator: Generator) -> Tensor:
        if not self.recordings:
            return torch.randn(length, generator=generator)
        recording = self.recordings[_integer(len(self.recordings), generator)]
        start = _integer(max(1, len(recording) - length + 1), generator)
        part = recording[start : start + length]
        return part.repeat(-(-length // len(part)))[:length]


@dataclass(frozen=True)
class SpecAugment:
    """SpecAugment (Park et al. 2019, https://doi.org/10.21437/Interspeech.2019-2680): hides parts of the features.

    Each utterance gets its own warp and masks; they lie on its frames, not on padding. What is hidden becomes the
    utterance's mean of each mel bin. The defaults are the paper's "LibriSpeech double" without the warp, which it found
    to matter least, and with a bound on the time masks for short utterances.

    Args:
        num_time_masks, time_mask_width: how many spans of frames are hidden, and how long one is at most.
        time_mask_ratio: ... and at most this part of the utterance.
        num_frequency_masks, frequency_mask_width: the same for spans of mel bins.
        time_warp: by how many frames at most a random point of the utterance moves, which stretches one side of it
            and shrinks the other; needs more than twice as many frames. 0: no warp.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> features, attention_mask = torch.randn(2, 300, 80), torch.ones(2, 300, dtype=torch.long)
        >>> SpecAugment()(features, attention_mask, generator).shape
        torch.Size([2, 300, 80])
    """

    num_time_masks: int = 2
    time_mask_width: int = 100
    time_mask_ratio: float = 0.2
    num_frequency_masks: int = 2
    frequency_mask_width: int = 27
    time_warp: int = 0

    def __post_init__(self) -> None:
        for name in ("num_time_masks", "time_mask_width", "num_frequency_masks", "frequency_mask_width", "time_warp"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.time_mask_ratio <= 1:
            raise ValueError(f"time_mask_ratio must be between 0 and 1, got {self.time_mask_ratio}")

    def __call__(self, input_features: Tensor, attention_mask: Tensor | None, generator: Generator) -> Tensor:
        """Hide parts of a batch.

        Args:
            input_features: (B, T, F).
            attention_mask: (B, T), 1 = frame, 0 = padding on either side; None: no padding.
            generator: on the CPU, where all random numbers are drawn whatever the device of the features.

        Returns:
            (B, T, F), a new tensor; padding comes back as it was.
        """
        batch_size, num_frames, num_bins = input_features.shape
        keep = input_features.new_ones(batch_size, num_frames, dtype=torch.bool)
        if attention_mask is not None:
            keep = attention_mask.bool()
        lengths = keep.sum(1)
        positions = keep.cumsum(1) - 1  # of each frame in its utterance
        if self.time_warp:
            input_features = self._warp(input_features, keep, positions, lengths, generator)

        widest = (lengths * self.time_mask_ratio).long().clamp(max=self.time_mask_width)
        hidden = _masks(self.num_time_masks, widest, lengths, positions, generator)[:, :, None]
        bins = torch.arange(num_bins, device=keep.device).expand(batch_size, -1)
        sizes = torch.full_like(lengths, num_bins)
        widest = sizes.clamp(max=self.frequency_mask_width)
        hidden = hidden | _masks(self.num_frequency_masks, widest, sizes, bins, generator)[:, None, :]

        frames = input_features.masked_fill(~keep[:, :, None], 0)
        means = frames.sum(1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
        return torch.where(hidden & keep[:, :, None], means.to(input_features.dtype), input_features)

    def with_time_masks(self, share: float) -> SpecAugment:
        """The same with time masks that are at most this part as wide."""
        width, ratio = round(share * self.time_mask_width), share * self.time_mask_ratio
        return replace(self, time_mask_width=width, time_mask_ratio=ratio)

    def _warp(self, features: Tensor, keep: Tensor, positions: Tensor, lengths: Tensor, generator: Generator) -> Tensor:
        """Move one random frame of each utterance, and interpolate linearly on both sides of it."""
        room = lengths - 2 * self.time_warp
        point = self.time_warp + _uniform(room.clamp(min=1)[:, None], generator)
        moved = point + _uniform(torch.full_like(point, 2 * self.time_warp - 1), generator) - self.time_warp + 1
        last = (lengths - 1)[:, None]
        before = positions * point / moved
        after = last - (last - positions) * (last - point) / (last - moved).clamp(min=1)
        source = torch.where(positions <= moved, before, after).clamp(min=0).minimum(last)
        start = keep.int().argmax(1)[:, None]  # of the utterance, behind padding on the left
        lower = source.floor().long()
        weight = (source - lower)[:, :, None].to(features.dtype)
        lower_frames, upper_frames = (
            features.gather(1, (start + index)[:, :, None].expand_as(features))
            for index in (lower.clamp(min=0), (lower + 1).minimum(last).clamp(min=0))
        )
        warped = torch.lerp(lower_frames, upper_frames, weight)
        return torch.where((keep & (room > 0)[:, None])[:, :, None], warped, features)


def _masks(number: int, widest: Tensor, lengths: Tensor, positions: Tensor, generator: Generator) -> Tensor:
    """Whether each position (B, P) lies in one of ``number`` random spans within ``lengths`` (B,)."""
    widths = _uniform(widest[:, None].expand(-1, number) + 1, generator)
    starts = _uniform(lengths[:, None] - widths + 1, generator)
    distance = positions[:, :, None] - starts[:, None, :]
    return ((distance >= 0) & (distance < widths[:, None, :])).any(2)


def _uniform(bounds: Tensor, generator: Generator) -> Tensor:
    """An integer from 0 to below each bound."""
    return (torch.rand(bounds.shape, generator=generator, dtype=torch.float64).to(bounds.device) * bounds).long()


def _integer(bound: int, generator: Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
