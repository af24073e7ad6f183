"""What streams: samples at another rate, and words."""

import itertools

import numpy as np
import pytest
import torch

from seqdyconv.models.loading import ModelError
from seqdyconv.runtime.samples import resample as without_torch
from seqdyconv.speech import Decoder, RecognitionStream, StreamResampler, load_recogniser, resample


class TestStreamResampler:
    @pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
    def test_equals_resampling_of_the_whole(self, rate):
        samples = torch.randn(int(1.37 * rate), generator=torch.Generator().manual_seed(0))
        resampler = StreamResampler(rate, 16000)
        pieces = [resampler.push(piece) for piece in samples.split(777)]
        found = torch.cat([*pieces, resampler.finish()])
        whole = resample(samples, rate, 16000)  # by torchaudio
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            torch.from_numpy(without_torch(samples.numpy(), rate, 16000)), whole, atol=1e-5, rtol=0
        )
        assert max(map(len, pieces[5:])) < 2500
        taken, given = (np.cumsum([len(piece) for piece in group]) for group in (samples.split(777), pieces))
        assert (given >= (taken / rate - resampler.latency) * 16000 - 1e-6).all()


class TestRecognitionStream:
    def test_words_are_those_of_the_whole_and_come_early(self, streaming_folder):
        recogniser = load_recogniser(str(streaming_folder))
        samples = torch.randn(48000, generator=torch.Generator().manual_seed(0)) / 10
        expected = Decoder(recogniser).texts([samples])[0].split()
        stream = RecognitionStream(recogniser)
        for _ in range(2):  # The stream begins anew.
            words = [stream.push(piece) for piece in samples.split(1000)]
            assert [*itertools.chain(*words), *stream.finish()] == expected
        assert len(expected) > 2 and any(words[: len(words) // 2])
        assert 0 < stream.latency < 1

    def test_a_model_that_hears_all_does_not_stream(self, streaming_folder):
        recogniser = load_recogniser(str(streaming_folder))
        recogniser.model.config.encoder_lookahead = None
        with pytest.raises(ModelError, match="does not stream"):
            RecognitionStream(recogniser)
