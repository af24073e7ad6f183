"""Samples at another rate, whole and in pieces: what torchaudio makes of them."""

import numpy as np
import pytest
import torch

from seqdyconv.runtime.samples import StreamResampler
from seqdyconv.runtime.samples import resample as without_torch
from seqdyconv.speech import resample


class TestStreamResampler:
    @pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
    def test_equals_resampling_of_the_whole(self, rate):
        samples = torch.randn(int(1.37 * rate), generator=torch.Generator().manual_seed(0))
        resampler = StreamResampler(rate, 16000)
        pieces = [resampler.push(piece.numpy()) for piece in samples.split(777)]
        found = torch.from_numpy(np.concatenate([*pieces, resampler.finish()]))
        whole = resample(samples, rate, 16000)  # by torchaudio
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            torch.from_numpy(without_torch(samples.numpy(), rate, 16000)), whole, atol=1e-5, rtol=0
        )
        assert max(map(len, pieces[5:])) < 2500
        taken, given = (np.cumsum([len(piece) for piece in group]) for group in (samples.split(777), pieces))
        assert (given >= (taken / rate - resampler.latency) * 16000 - 1e-6).all()

    @pytest.mark.parametrize("rate", [1000, 1349, 16001, 22051], ids=["slow", "slow, odd", "near", "odd"])
    def test_at_rates_where_the_filter_is_long_or_the_ratio_is_not_exact(self, rate):
        samples = torch.randn(5 * rate, generator=torch.Generator().manual_seed(0))
        resampler = StreamResampler(rate, 16000)
        pieces = [resampler.push(piece.numpy()) for piece in samples.split(rate // 10)]
        found = torch.from_numpy(np.concatenate([*pieces, resampler.finish()]))
        torch.testing.assert_close(found, resample(samples, rate, 16000), atol=1e-5, rtol=0)
        taken, given = (np.cumsum([len(piece) for piece in group]) for group in (samples.split(rate // 10), pieces))
        assert (given >= (taken / rate - resampler.latency) * 15990).all()
