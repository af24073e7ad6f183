"""What streams: samples at another rate, and words."""

import itertools

import numpy as np
import pytest
import torch

from seqdyconv.models.loading import ModelError
from seqdyconv.runtime.samples import resample as without_torch
from seqdyconv.scores.stability import PartialStability
from seqdyconv.speech import Decoder, RecognitionStream, StreamResampler, load_recogniser, resample
from seqdyconv.speech.features import FeatureStream


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

    @pytest.mark.parametrize("rate", [1000, 1349, 16001, 22051], ids=["slow", "slow, odd", "near", "odd"])
    def test_at_rates_where_the_filter_is_long_or_the_ratio_is_not_exact(self, rate):
        samples = torch.randn(5 * rate, generator=torch.Generator().manual_seed(0))
        resampler = StreamResampler(rate, 16000)
        pieces = [resampler.push(piece) for piece in samples.split(rate // 10)]
        found = torch.cat([*pieces, resampler.finish()])
        torch.testing.assert_close(found, resample(samples, rate, 16000), atol=1e-5, rtol=0)
        taken, given = (np.cumsum([len(piece) for piece in group]) for group in (samples.split(rate // 10), pieces))
        assert (given >= (taken / rate - resampler.latency) * 15990).all()


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

    @pytest.mark.parametrize("milliseconds", [None, 0])
    @torch.no_grad()
    def test_what_may_change_is_that_of_all_that_was_heard(self, streaming_folder, milliseconds):
        recogniser = load_recogniser(str(streaming_folder))
        recogniser.set_lookahead(milliseconds)
        stream, features = RecognitionStream(recogniser), FeatureStream(recogniser.feature_extractor)
        stability = PartialStability()
        samples = torch.randn(48000, generator=torch.Generator().manual_seed(0)) / 10
        words, heard = [], []
        assert stream.partial() == []
        for piece in samples.split(2000):
            words += (complete := stream.push(piece))
            heard.append(features.push(piece))
            logits = recogniser.model(torch.cat(heard)[None]).logits
            [whole] = recogniser.decode_logits(logits, torch.tensor([logits.shape[1]]))
            assert [*words, *stream.partial()] == whole.split()
            stability.show(stream.partial(), complete)
        stability.show([], stream.finish())
        assert stream.partial() == []
        assert stability.words > 2 and (stability.changed > 0) == (milliseconds is None)

    @pytest.mark.parametrize(("asked", "found"), [(0, 0), (39.9, 0), (40, 40), (99, 40), (None, 40)])
    def test_looks_as_far_ahead_as_asked_for_and_says_where_it_does_not(self, streaming_folder, asked, found, caplog):
        recogniser = load_recogniser(str(streaming_folder))
        own = RecognitionStream(recogniser).latency
        assert recogniser.set_lookahead(asked) == found
        assert RecognitionStream(recogniser).latency == pytest.approx(own - (40 - found) / 1000)
        said = f"looks {found} ms ahead instead of {asked}: steps have 40 ms, and the layers look 40 ms ahead at most"
        assert caplog.messages == ([] if asked in (None, found) else [said])

    def test_a_model_that_hears_all_does_not_stream(self, streaming_folder):
        recogniser = load_recogniser(str(streaming_folder))
        recogniser.model.config.encoder_lookahead = None
        with pytest.raises(ModelError, match="does not stream"):
            RecognitionStream(recogniser)
        with pytest.raises(ModelError, match="a choice needs one trained with encoder_lookahead"):
            recogniser.set_lookahead(0)
