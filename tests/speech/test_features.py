"""Log-mel features: equal to torchaudio's, the same alone, in a batch and in a stream."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.compliance import kaldi
from torchaudio.transforms import MelSpectrogram
from transformers import AutoFeatureExtractor, FeatureExtractionMixin

from seqdyconv.speech import FeatureStream, SeqDyConvFeatureExtractor, global_statistics, log_mel_kaldi, log_mel_torch
from seqdyconv.speech import features as features_module
from tests.helpers import assert_close


def noise(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed)) / 10


def fbank(samples: torch.Tensor, **options: object) -> torch.Tensor:
    return kaldi.fbank(32768 * samples[None], **{"num_mel_bins": 80} | options)


EXTRACTORS = {
    "kaldi": SeqDyConvFeatureExtractor(normalize=None),
    "kaldi, global": SeqDyConvFeatureExtractor(8, normalize="global", mean=range(8), variance=range(1, 9)),
    "torch": SeqDyConvFeatureExtractor(40, kind="torch", normalize=None),
    "8 kHz": SeqDyConvFeatureExtractor(23, 8000, normalize=None, frame_length=20, frame_shift=7.5),
}


class TestKaldi:
    @pytest.mark.parametrize("length", [400, 401, 559, 560, 561, 16000])
    def test_equals_torchaudio(self, length):
        assert log_mel_kaldi(noise(length)).equal(fbank(noise(length)))

    def test_equals_torchaudio_with_other_settings(self):
        result = log_mel_kaldi(
            noise(8000),
            8000,
            23,
            frame_length=32,
            frame_shift=12.5,
            low_frequency=60,
            high_frequency=-200,
            preemphasis=0.9,
            window_type="hamming",
        )
        expected = fbank(
            noise(8000),
            sample_frequency=8000,
            num_mel_bins=23,
            frame_length=32,
            frame_shift=12.5,
            low_freq=60,
            high_freq=-200,
            preemphasis_coefficient=0.9,
            window_type="hamming",
        )
        assert result.equal(expected)

    def test_dither_is_torchaudios(self):
        torch.manual_seed(0)
        result = log_mel_kaldi(noise(800), dither=1.0)
        torch.manual_seed(0)
        assert result.equal(fbank(noise(800), dither=1.0))
        assert not result.equal(fbank(noise(800)))

    @pytest.mark.parametrize("length", [1, 2, 399])
    def test_less_than_a_window_is_filled_with_zeros(self, length):
        filled = torch.cat([noise(length), torch.zeros(400 - length)])
        assert log_mel_kaldi(noise(length)).equal(fbank(filled))

    def test_long_audio_is_done_in_blocks(self, monkeypatch):
        monkeypatch.setattr(features_module, "_FRAMES_PER_BLOCK", 7)
        assert_close(log_mel_kaldi(noise(16123)), fbank(noise(16123)), 1e-6)


class TestTorch:
    def test_equals_torchaudio(self):
        transform = MelSpectrogram(16000, 512, 400, 160, f_min=20, n_mels=40, center=False)
        # torchaudio's window of 400 stands in the middle of 512: its frame t begins at sample 160 t + 56.
        expected = transform(noise(4056)[None])[0].T.clamp(min=1e-10).log()
        assert_close(log_mel_torch(noise(4056)[56:], num_mel_bins=40)[: len(expected)], expected, 1e-5)

    @pytest.mark.parametrize("sampling_rate", [16000, 11025])  # the latter has an odd window
    def test_frames_are_those_of_kaldi(self, sampling_rate):
        for length in (1, 399, 400, 560, 3000):
            expected = log_mel_kaldi(noise(length), sampling_rate, 20).shape
            assert log_mel_torch(noise(length), sampling_rate, 20).shape == expected

    def test_a_click_is_in_the_frames_whose_window_has_it(self):
        samples = torch.zeros(2000)
        samples[1000] = 1
        loud = log_mel_torch(samples, num_mel_bins=20).amax(1) > -20
        assert loud.nonzero().flatten().tolist() == [4, 5, 6]  # windows of 400 samples from 640, 800 and 960


class TestExtractor:
    @pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=EXTRACTORS)
    def test_num_frames(self, extractor):
        for length in [1, *range(155, 165), *range(395, 405), *range(555, 565), 7777]:
            assert extractor.num_frames(length) == len(extractor.features(noise(length)))

    @pytest.mark.parametrize("padding_side", ["right", "left"])
    @pytest.mark.parametrize("normalize", ["utterance", None])
    def test_a_row_does_not_depend_on_the_batch(self, normalize, padding_side):
        extractor = SeqDyConvFeatureExtractor(normalize=normalize, padding_side=padding_side)
        utterances = [noise(length, length) for length in (1, 4000, 16000)]
        batch = extractor(utterances, sampling_rate=16000, return_tensors="pt")
        assert batch["input_features"].shape == (3, 98, 80) and batch["attention_mask"].sum(1).tolist() == [1, 23, 98]
        for utterance, features, mask in zip(utterances, batch["input_features"], batch["attention_mask"].bool()):
            alone = extractor(utterance, return_tensors="pt")["input_features"][0]
            assert features[mask].equal(alone)
            assert not features[~mask].any()

    def test_what_samples_may_be(self):
        extractor = SeqDyConvFeatureExtractor()
        expected = extractor(noise(800), return_tensors="pt")["input_features"]
        one = [noise(800).numpy(), noise(800).double(), noise(800).tolist()]
        for raw_speech in [*one, *([samples] for samples in one), noise(800)[None], tuple(one[:1])]:
            assert extractor(raw_speech, return_tensors="pt")["input_features"].equal(expected)

    @pytest.mark.filterwarnings("error")
    def test_arrays_may_be_of_any_layout(self):
        extractor, samples = SeqDyConvFeatureExtractor(), noise(1000).numpy()
        expected = extractor(samples)["input_features"][0]
        frozen = samples.copy()
        frozen.flags.writeable = False
        for same in (samples[::-1].copy()[::-1], samples.astype(">f4"), frozen, list(samples)):
            assert numpy.array_equal(extractor(same)["input_features"][0], expected)
        learned = torch.from_numpy(samples).requires_grad_()
        assert numpy.array_equal(extractor(learned)["input_features"][0], expected)

    def test_normalised_by_utterance(self):
        features = SeqDyConvFeatureExtractor().features(noise(16000))
        assert_close(features.mean(0), torch.zeros(80), 1e-5)
        assert_close(features.var(0, correction=0), torch.ones(80), 1e-5)

    @pytest.mark.parametrize("samples", [torch.zeros(16000), torch.ones(1)], ids=["silence", "one sample"])
    def test_normalised_without_variance(self, samples):
        features = SeqDyConvFeatureExtractor().features(samples)
        assert features.abs().max() < 1e-2

    def test_normalised_globally(self):
        plain = SeqDyConvFeatureExtractor(20, normalize=None)
        utterances = [noise(length, length) * length for length in (800, 4000, 16000)]
        mean, variance = global_statistics(plain, iter(utterances))
        frames = torch.cat([plain.features(samples) for samples in utterances]).double()
        assert_close(torch.tensor(mean, dtype=torch.float64), frames.mean(0))
        assert_close(torch.tensor(variance, dtype=torch.float64), frames.var(0, correction=0))
        extractor = SeqDyConvFeatureExtractor(20, normalize="global", mean=mean, variance=variance)
        frames = torch.cat([extractor.features(samples) for samples in utterances])
        assert_close(frames.mean(0), torch.zeros(20), 1e-4)
        assert_close(frames.var(0, correction=0), torch.ones(20), 1e-4)

    @pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=EXTRACTORS)
    def test_saved_and_loaded(self, extractor, tmp_path):
        extractor.save_pretrained(tmp_path)
        loaded = SeqDyConvFeatureExtractor.from_pretrained(tmp_path)
        assert loaded.to_dict() == extractor.to_dict()
        assert loaded.features(noise(2000)).equal(extractor.features(noise(2000)))

    def test_auto_class(self, tmp_path):
        SeqDyConvFeatureExtractor(23, kind="torch").save_pretrained(tmp_path)
        loaded: FeatureExtractionMixin = AutoFeatureExtractor.from_pretrained(tmp_path)
        assert isinstance(loaded, SeqDyConvFeatureExtractor) and loaded.kind == "torch"

    def test_lengths_in_frames(self):
        batch = SeqDyConvFeatureExtractor()(
            [noise(800), noise(16000)],
            max_length=10,
            padding="max_length",
            truncation=True,
            pad_to_multiple_of=4,
            return_tensors="pt",
        )
        assert batch["attention_mask"].sum(1).tolist() == [3, 12]


class TestErrors:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"kind": "mel"}, "kind must be one of"),
            ({"normalize": "batch"}, "normalize must be one of"),
            ({"feature_size": 3}, "feature_size must be at least 4, got 3"),
            ({"normalize": "global"}, "needs mean: global_statistics computes it"),
            ({"normalize": "global", "mean": [0.0] * 80, "variance": [1.0]}, "variance must be 80 numbers.*got 1"),
            ({"frame_shift": 30.0}, "are 400 and 480 samples"),
            ({"sampling_rate": 50}, "the window must have at least 2"),
            ({"low_frequency": 9000.0}, "half the sampling rate"),
            ({"kind": "torch", "dither": 1.0}, "for kind='kaldi' only"),
        ],
    )
    def test_settings(self, options, message):
        with pytest.raises(ValueError, match=message):
            SeqDyConvFeatureExtractor(**options)

    @pytest.mark.parametrize(
        "raw_speech, message",
        [
            ([], "at least one utterance"),
            (numpy.zeros((0, 800)), "at least one utterance"),
            (["audio.wav"], "samples of an utterance must be numbers"),
            ([None], "samples of an utterance must be numbers"),
            (torch.zeros(0), "no samples"),
            ([torch.ones(800), torch.zeros(0)], "no samples"),
            (torch.tensor([0.0, float("nan")]), "NaN or infinite"),
            (numpy.zeros(800, numpy.int16), r"floating-point numbers between -1 and 1, got torch\.int16"),
            (torch.zeros(1, 1, 800), "must be .* 3 dimensions"),
            ([torch.zeros(2, 800)], r"must be \(N,\), got shape \(2, 800\)"),
            ("audio.wav", "an array, a tensor or a list, got str"),
        ],
    )
    def test_samples(self, raw_speech, message):
        with pytest.raises(ValueError, match=message):
            SeqDyConvFeatureExtractor()(raw_speech)

    def test_another_sampling_rate(self):
        with pytest.raises(ValueError, match="sampling rate of 16000, got 8000: resample"):
            SeqDyConvFeatureExtractor()(torch.zeros(800), sampling_rate=8000)

    def test_statistics_of_nothing(self):
        with pytest.raises(ValueError, match="at least one utterance"):
            global_statistics(SeqDyConvFeatureExtractor(), [])

    def test_stream_normalised_by_utterance(self):
        with pytest.raises(ValueError, match="needs the whole utterance"):
            FeatureStream(SeqDyConvFeatureExtractor())


class TestStream:
    @pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=EXTRACTORS)
    @settings(deadline=None, max_examples=25)
    @given(chunks=st.lists(st.integers(0, 700), min_size=1, max_size=8).filter(any))
    def test_equals_the_whole(self, extractor, chunks):
        samples = noise(sum(chunks))
        stream = FeatureStream(extractor)
        frames = [stream.push(chunk) for chunk in samples.split(chunks)]
        result = torch.cat([*frames, stream.finish()])
        assert_close(result, extractor.features(samples), 1e-5)

    def test_sample_by_sample(self):
        stream = FeatureStream(EXTRACTORS["kaldi, global"])
        result = torch.cat([stream.push(sample) for sample in noise(900).split(1)])
        assert_close(result, EXTRACTORS["kaldi, global"].features(noise(900)), 1e-5)

    def test_serves_one_utterance_after_another(self):
        stream = FeatureStream(EXTRACTORS["kaldi"])
        for length in (100, 1000, 0, 399):
            frames = torch.cat([stream.push(noise(length)), stream.finish()])
            assert len(frames) == (EXTRACTORS["kaldi"].num_frames(length) if length else 0)

    def test_keeps_less_than_a_window(self):
        stream = FeatureStream(EXTRACTORS["kaldi"])
        for length in (16000, 1, 399, 50000):
            stream.push(noise(length))
            held = [value for value in vars(stream).values() if isinstance(value, torch.Tensor)]
            assert sum(tensor.untyped_storage().nbytes() for tensor in held) < 4 * 400
