"""Words as they come."""

import itertools

import pytest
import torch

from seqdyconv.models.loading import ModelError
from seqdyconv.scores.stability import PartialStability
from seqdyconv.speech import Decoder, RecognitionStream, load_recogniser, resample
from seqdyconv.speech.features import FeatureStream


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

    def test_samples_at_another_rate_give_the_words_of_the_resampled_whole(self, streaming_folder):
        recogniser = load_recogniser(str(streaming_folder))
        samples = torch.randn(132300, generator=torch.Generator().manual_seed(0)) / 10
        expected = Decoder(recogniser).texts([resample(samples, 44100, 16000)])[0].split()
        stream = RecognitionStream(recogniser, 44100)
        words = [stream.push(piece.numpy()) for piece in samples.split(3000)]
        assert [*itertools.chain(*words), *stream.finish()] == expected
        assert stream.latency > RecognitionStream(recogniser).latency

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
