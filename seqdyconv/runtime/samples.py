"""Samples in arrays: what they must be, and another sampling rate for them, at once or in pieces."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seqdyconv.errors import InputError

Samples: TypeAlias = npt.NDArray[np.float32]

FULL_SCALE = 32768
"""What 16-bit integers have where samples have 1."""

_LARGEST_TERM = 1000  # the smaller one of a ratio of sampling rates
_ZERO_CROSSINGS = 64
_ROLLOFF = 0.9475937167399596  # the filter that librosa and resampy call "kaiser_best"
_BETA = 14.769656459379492
_VALUES_AT_ONCE = 2**21


class AudioError(InputError):
    """Audio that cannot be used; the message names the file and says what is wrong with it."""


def checked_samples(samples: Any, least: int = 1) -> Samples:
    """float32 samples (N,) of whatever has such numbers.

    Args:
        samples: an array, a tensor or a list.
        least: how many there must be.

    Raises:
        AudioError: they are not one channel of floating-point numbers, too few, NaN or infinite.

    Example:
        >>> checked_samples([0.0, 0.5]).dtype
        dtype('float32')
    """
    try:
        array = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"samples must be an array of numbers: {error}") from None
    if array.ndim != 1:
        raise AudioError(f"the samples of an utterance must be one channel (N,), got the shape {array.shape}")
    if array.dtype.kind != "f":
        raise AudioError(f"samples must be floating-point numbers between -1 and 1, got {array.dtype}")
    if len(array) < least:
        raise AudioError(f"an utterance must have at least {least} samples, got {len(array)}")
    found: Samples = array.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise AudioError("an utterance has samples that are NaN or infinite")
    return found


def resampling_ratio(rate: int, new_rate: int) -> Fraction:
    """``rate`` to ``new_rate``, or, where both terms are above 1000, the nearest ratio with one of at most 1000."""
    if min(rate, new_rate) < 1:
        raise ValueError(f"sampling rates must be at least 1, got {rate} and {new_rate}")
    # The filter bank grows with the product of both terms: rates without a common divisor would fill gigabytes.
    if rate > new_rate:
        return Fraction(rate, new_rate).limit_denominator(_LARGEST_TERM)
    return 1 / Fraction(new_rate, rate).limit_denominator(_LARGEST_TERM)


def resample(samples: Samples, rate: int, new_rate: int) -> Samples:
    """Change the sampling rate: what :func:`seqdyconv.speech.resample` does, without torch.

    Args:
        samples: (N,).
        rate: of ``samples``, in hertz.
        new_rate: of the result, in hertz.

    Returns:
        (ceil(N · new_rate / rate),); ``samples`` itself where the rates are equal.

    Example:
        >>> resample(np.zeros(8000, np.float32), 8000, 16000).shape
        (16000,)
    """
    ratio = resampling_ratio(rate, new_rate)
    if ratio == 1:
        return samples
    old, new = ratio.numerator, ratio.denominator
    filters, width = _filters(old, new)
    padded = np.pad(samples, (width, width + old))
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(filters))[::old]
    rows = max(1, _VALUES_AT_ONCE // len(filters))
    parts = [np.ascontiguousarray(windows[row : row + rows]) @ filters for row in range(0, len(windows), rows)]
    return np.concatenate(parts).ravel()[: math.ceil(new * len(samples) / old)]


@lru_cache(maxsize=16)
def _filters(old: int, new: int) -> tuple[npt.NDArray[np.float32], int]:
    """A column for each of ``new`` places between ``old`` samples, and how far they reach: torchaudio's
    ``sinc_interp_kaiser``."""
    base = min(old, new) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * old / base)
    places = np.arange(0, -new, -1, dtype=np.float32) / np.float32(new)
    times = (places + (np.arange(-width, width + old) / old)[:, None]) * base
    times = times.clip(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.i0(_BETA * np.sqrt(1 - (times / _ZERO_CROSSINGS) ** 2)) / np.i0(_BETA)
    return (np.sinc(times) * window * (base / old)).astype(np.float32), width


class StreamResampler:
    """Changes the sampling rate of samples that come in pieces; what comes out equals :func:`resample` of the whole.

    Args:
        rate: of what is pushed, in hertz.
        new_rate: of what comes out.

    Example:
        >>> resampler = StreamResampler(8000, 16000)
        >>> len(resampler.push(np.zeros(4000, np.float32))) + len(resampler.finish())
        8000
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self.rate, self.new_rate = rate, new_rate
        ratio = resampling_ratio(rate, new_rate)
        self.stays = ratio == 1
        # Pieces of whole periods of both rates stay in step.
        self.period, self.new_period = ratio.numerator, ratio.denominator
        reach = 0 if self.stays else _filters(self.period, self.new_period)[1]
        self.context = math.ceil(reach / self.period)  # Periods on each side of a piece.
        self.latency = 0.0 if self.stays else (self.context + 1) * self.period / rate
        """Seconds until a sample comes out, at most."""
        self.buffer: Samples = np.empty(0, np.float32)
        self.before = 0  # Periods at the start of the buffer that have come out already.

    def push(self, samples: Samples) -> Samples:
        """Take samples (N,) and return those that are due (M,)."""
        if self.stays:
            return samples
        self.buffer = np.concatenate([self.buffer, samples])
        due = len(self.buffer) // self.period - self.before - self.context
        if due < 1:
            return np.empty(0, np.float32)
        output = resample(self.buffer, self.rate, self.new_rate)
        start = self.before * self.new_period
        output = output[start : start + due * self.new_period].copy()
        keep = min(self.before + due, self.context)
        self.buffer = self.buffer[(self.before + due - keep) * self.period :].copy()
        self.before = keep
        return output

    def finish(self) -> Samples:
        """Return what is left."""
        if len(self.buffer) == 0:
            return np.empty(0, np.float32)
        output = resample(self.buffer, self.rate, self.new_rate)[self.before * self.new_period :]
        self.buffer, self.before = np.empty(0, np.float32), 0
        return output
