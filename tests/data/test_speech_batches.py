"""From recordings to batches: augmentation by seed, epoch and index alone, features, padding."""

import pytest
import torch

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.data.speech_batches import (
    AugmentationArguments,
    EpochBatches,
    SpeechCollator,
    Utterances,
    WaveformAugmentation,
)
from seqdyconv.data.speech_recognition import DataArguments, load_speech
from seqdyconv.speech import SeqDyConvFeatureExtractor, resample
from seqdyconv.training.trained_data import data_digests
from tests.data.recordings import RATE, write_audio, write_manifest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDYCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")


def utterances(tmp_path, **options):
    rows = [("a.wav", 0.5, "jedna"), ("b.wav", 0.8, "dva"), ("c.wav", 0.6, "tři")]
    data, _ = load_speech(DataArguments(train_file=write_manifest(tmp_path, rows), validation_fraction=0))
    augment = WaveformAugmentation(AugmentationArguments(noise_probability=1.0, **options))
    return Utterances(data["train"], [[5], [6, 7], [8, 9, 5]], augment, seed=3)


class TestBatches:
    def test_samples_are_those_of_the_file(self, tmp_path):
        data = utterances(tmp_path)
        expected = resample(torch.tensor(write_audio(tmp_path / "a.wav", 0.5, 0), dtype=torch.float32), RATE, 16000)
        torch.testing.assert_close(data[0]["samples"], expected, atol=1e-4, rtol=0)
        assert data[0]["generator"] is None and data.samples.lengths.tolist() == [8000, 12800, 9600]

    def test_augmentation_depends_on_seed_epoch_and_index_alone(self, tmp_path):
        data = utterances(tmp_path)
        first = [data[index, 1]["samples"] for index in range(3)]
        again = [data[index, 1]["samples"] for index in (2, 1, 0)][::-1]
        assert all(torch.equal(one, other) for one, other in zip(first, again))
        other = data[0, 2]["samples"]
        assert other.shape != first[0].shape or not torch.equal(other, first[0])
        lengths = {len(data[0, epoch]["samples"]) for epoch in range(20)}
        assert lengths == {8889, 8000, 7273}  # 8000 samples at speeds 0.9, 1 and 1.1

    def test_recordings_of_noise_are_told_apart(self, tmp_path):
        write_audio(tmp_path / "noise" / "a.wav", 0.1, 0)
        noises = utterances(tmp_path, noise_folder=str(tmp_path / "noise")).augment.recordings()
        assert [len(noise) for noise in noises["noise"]] == [1600]
        write_audio(tmp_path / "noise" / "a.wav", 0.1, 1)
        others = utterances(tmp_path, noise_folder=str(tmp_path / "noise")).augment.recordings()
        white = utterances(tmp_path).augment.recordings()
        found = [data_digests(["train"], {"train": table})["train"] for table in (noises, noises, others, white)]
        assert found[0] == found[1] and len(set(found)) == 3

    def test_features_are_hidden_by_epoch_and_padding_is_not(self, tmp_path):
        data = utterances(tmp_path, speed_factors=[1.0])
        args = AugmentationArguments(time_mask_width=20, frequency_mask_width=10)
        extractor = SeqDyConvFeatureExtractor(normalize=None)
        collate = SpeechCollator(extractor, args.spec_augment())
        plain = SpeechCollator(extractor)([data[index, 4] for index in range(3)])
        batch, again = (collate([data[index, 4] for index in range(3)]) for _ in range(2))
        assert torch.equal(batch["input_features"], again["input_features"])
        assert not torch.equal(batch["input_features"], plain["input_features"])
        assert batch["attention_mask"].sum(1).tolist() == [48, 78, 58]
        assert (batch["input_features"][0, 48:] == 0).all()
        assert batch["labels"].tolist() == [[5, -100, -100], [6, 7, -100], [8, 9, 5]]
        # Evaluation changes nothing.
        whole = collate([data[index] for index in range(3)])
        torch.testing.assert_close(whole["input_features"][0, :48], extractor.features(data[0]["samples"]))

    def test_the_epoch_stands_beside_each_index(self):
        sampler = TokenBatchSampler([5, 2, 2, 3], max_tokens=6, shuffle=False)
        batches = EpochBatches(sampler)
        sampler.set_epoch(7)
        assert list(batches) == [[(1, 7), (2, 7)], [(3, 7)], [(0, 7)]] and len(batches) == 3

    @pytest.mark.parametrize(
        "options, said",
        [
            ({"speed_factors": [0.0]}, r"speed_factors must be in \[0.1, 10\], got 0.0"),
            ({"noise_probability": 1.5}, r"noise_probability must be in \[0, 1\], got 1.5"),
            ({"time_mask_ratio": 2.0}, r"time_mask_ratio must be in \[0, 1\], got 2.0"),
        ],
    )
    def test_bad_arguments(self, options, said):
        with pytest.raises(ValueError, match=said):
            AugmentationArguments(**options)


def test_labels_are_whole_numbers_also_of_a_text_without_units(tmp_path):
    data, _ = load_speech(
        DataArguments(train_file=write_manifest(tmp_path, [("a.wav", 0.5, "x")]), validation_fraction=0)
    )
    assert Utterances(data["train"], [[]])[0]["labels"].dtype == torch.int64
