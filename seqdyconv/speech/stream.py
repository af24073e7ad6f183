"""Speech while it is spoken: other sampling rates, and words as they come."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seqdyconv.speech.audio import resample

_RESAMPLING_CONTEXT = 0.05  # seconds on each side of a piece, more than the filter's length


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
