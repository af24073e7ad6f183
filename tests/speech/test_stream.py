"""What streams: samples at another rate."""

import numpy as np
import pytest
import torch

from seqdyconv.speech import StreamResampler, resample


class TestStreamResampler:
    @pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
    def test_equals_resampling_of_the_whole(self, rate):
        samples = torch.randn(int(1.37 * rate), generator=torch.Generator().manual_seed(0))
        resampler = StreamResampler(rate, 16000)
        pieces = [resampler.push(piece) for piece in samples.split(777)]
        found = torch.cat([*pieces, resampler.finish()])
        torch.testing.assert_close(found, resample(samples, rate, 16000), atol=1e-5, rtol=0)
        assert max(map(len, pieces[5:])) < 2500
        taken, given = (np.cumsum([len(piece) for piece in group]) for group in (samples.split(777), pieces))
        assert (given >= (taken / rate - resampler.latency) * 16000 - 1e-6).all()
