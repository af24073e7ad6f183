"""Audio files as tensors, and another sampling rate for these."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchaudio.transforms import Resample

from seqdyconv.runtime import audio
from seqdyconv.runtime.samples import AudioError, resampling_ratio


def read_audio(source: audio.AudioSource, sampling_rate: int = 16000, *, allow_truncated: bool = False) -> Tensor:
    """Read an audio file as one channel: :func:`seqdyconv.runtime.audio.read_audio` as a tensor.

    Example:
        >>> import io, soundfile, torch
        >>> file = io.BytesIO()
        >>> soundfile.write(file, torch.zeros(800, 2).numpy(), 8000, format="flac")
        >>> read_audio(file.getvalue()).shape
        torch.Size([1600])
    """
    return torch.from_numpy(audio.read_audio(source, sampling_rate, allow_truncated=allow_truncated))


def read_parts(*args: Any, **options: Any) -> Iterator[Tensor | AudioError]:
    """Read parts of one audio file: :func:`seqdyconv.runtime.audio.read_parts` as tensors."""
    for part in audio.read_parts(*args, **options):
        yield part if isinstance(part, AudioError) else torch.from_numpy(part)


def read_blocks(source: audio.AudioSource, seconds: float) -> Iterator[Tensor]:
    """Read an audio file piece by piece: :func:`seqdyconv.runtime.audio.read_blocks` as tensors."""
    return map(torch.from_numpy, audio.read_blocks(source, seconds))


def resample(samples: Tensor, rate: int, new_rate: int) -> Tensor:
    """Change the sampling rate with a windowed sinc filter (Kaiser window, 64 zero crossings: inaudible loss).

    All rates in use (8, 11.025, 22.05, 44.1, 48, 96 kHz ...) are exact. Where both terms of the reduced ratio are above
    1000, the nearest ratio with a smaller term of at most 1000 takes its place, some millionths beside it.

    Args:
        samples: (..., N).
        rate: of ``samples``, in hertz.
        new_rate: of the result, in hertz.

    Returns:
        (..., ceil(N · new_rate / rate)); ``samples`` itself where the rates are equal.
    """
    ratio = resampling_ratio(rate, new_rate)
    if ratio == 1:
        return samples
    if samples.numel() == 0:  # of which torchaudio makes nothing
        return samples.new_empty(*samples.shape[:-1], math.ceil(samples.shape[-1] / ratio))
    return _resampler(ratio.numerator, ratio.denominator)(samples)


@lru_cache(maxsize=16)
def _resampler(rate: int, new_rate: int) -> Resample:
    # The filter that librosa and resampy call "kaiser_best".
    return Resample(
        rate,
        new_rate,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )
