"""Recordings of any length, in pieces: cut at pauses, or as they arrive."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from seqdyconv.speech.audio import AudioError, audio_info, read_audio, resample

WHOLE_SECONDS = 600.0
"""Files up to here are read at once, with all the checks of read_audio."""
BLOCK_SECONDS = 30.0
_RESAMPLING_CONTEXT = 0.05  # Seconds on each side of a piece, more than the filter's length.


def read_segments(path: str, sampling_rate: int, longest: float) -> Iterator[tuple[float, Tensor]]:
    """Read a file of any length in segments of at most `longest` seconds, in constant memory.

    A segment ends at the quietest tenth of a second in its second half, so that few words are cut in two.

    Yields:
        The second where a segment starts, and its samples (N,).

    Raises:
        AudioError: The file can't be used, see :func:`seqdyconv.speech.audio.read_audio`.
    """
    info = audio_info(path)
    if info.duration <= WHOLE_SECONDS:
        yield from _cut([read_audio(path, sampling_rate)], sampling_rate, longest)
        return
    for start, samples in _cut(_read_blocks(path), info.sampling_rate, longest):
        yield start, resample(samples, info.sampling_rate, sampling_rate)


def _cut(blocks: list[Tensor] | Iterator[Tensor], rate: int, longest: float) -> Iterator[tuple[float, Tensor]]:
    limit = math.floor(longest * rate)
    waiting, position = torch.empty(0), 0
    for block in blocks:
        waiting = torch.cat([waiting, block])
        while len(waiting) > limit:
            end = quietest(waiting[:limit], rate)
            yield position / rate, waiting[:end]
            waiting, position = waiting[end:], position + end
    if len(waiting):
        yield position / rate, waiting


def quietest(samples: Tensor, rate: int) -> int:
    """The middle of the quietest tenth of a second in the second half of samples (N,)."""
    size = max(1, rate // 10)
    start = len(samples) // 2
    energy = samples[start:].square()[None, None]
    means = torch.nn.functional.avg_pool1d(energy, min(size, energy.shape[2]), stride=max(1, size // 4))[0, 0]
    return min(len(samples), start + int(means.argmin()) * max(1, size // 4) + size // 2)


def _read_blocks(path: str) -> Iterator[Tensor]:
    """The samples of a long file as one channel at its own rate, in blocks."""
    try:
        with soundfile.SoundFile(path) as sound:
            read, frames = 0, sound.frames
            for block in sound.blocks(int(BLOCK_SECONDS * sound.samplerate), dtype="float32", always_2d=True):
                if not np.isfinite(block).all():
                    raise AudioError(f"{path} has samples that are NaN or infinite")
                read += len(block)
                yield torch.from_numpy(block.mean(axis=1))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is truncated or damaged: {error.error_string.rstrip('.')}") from None
    if read < frames and Path(path).suffix.lower() != ".mp3":  # Of an mp3 file the header gives an estimate.
        raise AudioError(f"{path} is truncated or damaged: its data end after {read} samples of {frames}")


class StreamResampler:
    """Changes the sampling rate of samples that come in pieces; what comes out equals :func:`resample` of the whole.

    Args:
        rate: of what is pushed, in hertz.
        new_rate: of what comes out.

    Example:
        >>> resampler = StreamResampler(8000, 16000)
        >>> len(resampler.push(torch.zeros(4000))) + len(resampler.finish())
        8000
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self.rate, self.new_rate = rate, new_rate
        # Pieces of whole periods of both rates stay in step.
        self.period = rate // math.gcd(rate, new_rate)
        self.new_period = new_rate // math.gcd(rate, new_rate)
        self.context = math.ceil(_RESAMPLING_CONTEXT * rate / self.period)  # In periods.
        self.latency = 0.0 if rate == new_rate else (self.context + 1) * self.period / rate
        """Seconds until a sample comes out, at most."""
        self.buffer = torch.empty(0)
        self.before = 0  # Periods at the start of the buffer that have come out already.

    def push(self, samples: Tensor) -> Tensor:
        """Take samples (N,) and return those that are due (M,)."""
        if self.rate == self.new_rate:
            return samples
        self.buffer = torch.cat([self.buffer, samples])
        due = len(self.buffer) // self.period - self.before - self.context
        if due < 1:
            return torch.empty(0)
        output = resample(self.buffer, self.rate, self.new_rate)
        start = self.before * self.new_period
        output = output[start : start + due * self.new_period].clone()
        keep = min(self.before + due, self.context)
        self.buffer = self.buffer[(self.before + due - keep) * self.period :].clone()
        self.before = keep
        return output

    def finish(self) -> Tensor:
        """Return what is left."""
        if self.rate == self.new_rate or len(self.buffer) == 0:
            return torch.empty(0)
        output = resample(self.buffer, self.rate, self.new_rate)[self.before * self.new_period :]
        self.buffer, self.before = torch.empty(0), 0
        return output
