"""Recognisers: what is loaded, what the model is given, and what can't be trained on."""

import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from seqdyconv.models.loading import ModelError
from seqdyconv.speech import SeqDyConvFeatureExtractor, load_recogniser
from seqdyconv.speech.recogniser import check_sampling_rate, model_inputs


def noise(length):
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) / 10


class TestLoading:
    def test_a_checkpoint_has_its_processor_in_the_folder_above(self, streaming_folder, tmp_path):
        here = load_recogniser(str(streaming_folder))
        assert here.is_ctc and here.own_features and not here.model.training
        here.save(tmp_path)
        here.model.save_pretrained(tmp_path / "checkpoint-5")
        checkpoint = load_recogniser(str(tmp_path / "checkpoint-5"))
        assert checkpoint.tokenizer.get_vocab() == here.tokenizer.get_vocab()
        assert checkpoint.feature_extractor.to_dict() == here.feature_extractor.to_dict()

    def test_what_is_no_recogniser_is_one_line(self, tmp_path):
        with pytest.raises(ModelError, match="holds no model"):
            load_recogniser(str(tmp_path))


class TestInputs:
    def test_samples_reach_our_features_as_they_are(self):
        extractor = SeqDyConvFeatureExtractor(normalize=None)
        samples = [noise(8000), noise(16000)]
        inputs = model_inputs(extractor, samples)
        assert inputs["attention_mask"].sum(1).tolist() == [48, 98]
        for utterance, features in zip(samples, inputs["input_features"]):
            expected = extractor.features(utterance)
            assert torch.equal(features[: len(expected)], expected)

    def test_of_other_models(self):
        samples = [noise(8000), noise(16000)]
        inputs = model_inputs(Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False), samples)
        assert torch.equal(inputs["input_values"][1], samples[1]) and inputs["attention_mask"].sum(1)[0] == 8000
        # Whisper hears 30 seconds, always.
        assert model_inputs(WhisperFeatureExtractor(feature_size=8), samples)["input_features"].shape == (2, 8, 3000)

    def test_data_of_another_rate(self):
        check_sampling_rate(SeqDyConvFeatureExtractor(), 16000)
        with pytest.raises(ModelError, match="hears audio at 8000 Hz, and the data are at 16000 Hz"):
            check_sampling_rate(SeqDyConvFeatureExtractor(20, 8000), 16000)


def test_ctc_needs_a_frame_for_each_unit_and_one_between_equal_ones(streaming_folder):
    recogniser = load_recogniser(str(streaming_folder))
    frames = recogniser.frames(16000)
    assert frames == recogniser.model(**recogniser.inputs([noise(16000)])).logits.shape[1]
    assert recogniser.too_long([5, 6] * (frames // 2), 16000) is None
    said = recogniser.too_long([5] * frames, 16000)
    assert said == f"its text needs {2 * frames - 1} frames, more than the {frames} of its audio"


def test_an_utterance_ends_where_the_learned_positions_do(streaming_folder):
    recogniser = load_recogniser(str(streaming_folder))
    recogniser.model.config.update({"encoder_position_type": "learned", "max_position_embeddings": 26})
    assert recogniser.max_seconds == 25 * recogniser.seconds_per_frame == 1.0
    assert recogniser.frames(16000) <= 26
    recogniser.inputs([torch.zeros(16000)])
    with pytest.raises(ModelError, match=r"an utterance has 1\.1 s, and the model has positions for 1\.0"):
        recogniser.inputs([torch.zeros(17600)])
