"""Recordings of any length as segments that a recogniser takes at once."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from seqdyconv.runtime import segments


def read_segments(path: str | Path, sampling_rate: int, longest: float) -> Iterator[tuple[float, Tensor]]:
    """The second where each segment starts and its samples: :func:`seqdyconv.runtime.segments.read_segments`."""
    for start, samples in segments.read_segments(path, sampling_rate, longest):
        yield start, torch.from_numpy(samples)
