"""Recordings of any length as segments that a recogniser takes at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from seqdyconv.runtime.audio import audio_info, read_audio, read_blocks
from seqdyconv.runtime.samples import Samples, resample

WHOLE_SECONDS = 600.0
"""Files up to here are read at once; longer ones block by block."""
BLOCK_SECONDS = 30.0


def read_segments(path: str | Path, sampling_rate: int, longest: float) -> Iterator[tuple[float, Samples]]:
    """Read a file of any length in segments of at most ``longest`` seconds: memory does not grow with its length.

    A segment ends at the quietest tenth of a second in its second half, so that few words are cut in two.

    Args:
        path: the audio file.
        sampling_rate: of the result, in hertz.
        longest: seconds of a segment, at most.

    Yields:
        The second where a segment starts, and its float32 samples (N,).

    Raises:
        AudioError: the file can't be used, see :func:`seqdyconv.runtime.audio.read_audio`.
    """
    info = audio_info(path)
    if info.duration <= WHOLE_SECONDS:
        yield from cut([read_audio(path, sampling_rate)], sampling_rate, longest)
        return
    for start, samples in cut(read_blocks(path, BLOCK_SECONDS), info.sampling_rate, longest):
        yield start, resample(samples, info.sampling_rate, sampling_rate)


def quietest(samples: Samples, sampling_rate: int) -> int:
    """The middle of the quietest tenth of a second in the second half of samples (N,)."""
    size = max(1, sampling_rate // 10)
    start = len(samples) // 2
    energy = np.square(samples[start:])
    sums = np.concatenate([[0.0], np.cumsum(energy, dtype=np.float64)])
    width = min(size, len(energy))
    means = (sums[width:] - sums[:-width])[:: max(1, size // 4)]
    return min(len(samples), start + int(means.argmin()) * max(1, size // 4) + size // 2)


def cut(blocks: Iterable[Samples], sampling_rate: int, longest: float) -> Iterator[tuple[float, Samples]]:
    """Cut samples that come in blocks (N,) as :func:`read_segments` does.

    Example:
        >>> [(start, len(samples)) for start, samples in cut([np.zeros(2500, np.float32)], 1000, 2.0)]
        [(0.0, 1050), (1.05, 1450)]
    """
    limit = math.floor(longest * sampling_rate)
    waiting, position = np.empty(0, np.float32), 0
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) > limit:
            end = quietest(waiting[:limit], sampling_rate)
            yield position / sampling_rate, waiting[:end]
            waiting, position = waiting[end:], position + end
    if len(waiting):
        yield position / sampling_rate, waiting
