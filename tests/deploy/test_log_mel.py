"""Log-mel features of standard operators: those of the feature extractor."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from seqdyconv.deploy.log_mel import LogMel
from seqdyconv.speech import SeqDyConvFeatureExtractor

SETTINGS = {
    "usual": {},
    "narrow": {"feature_size": 40, "sampling_rate": 8000, "high_frequency": -200.0},
    "a window of 2^n": {"feature_size": 23, "frame_length": 32.0, "frame_shift": 8.0, "low_frequency": 100.0},
    "no overlap": {"feature_size": 10, "frame_shift": 25.0, "high_frequency": 7000.0},
    "odd": {"feature_size": 64, "sampling_rate": 22050, "frame_shift": 5.0},
}


def utterances() -> list[torch.Tensor]:
    """Noise, a click, silence, a constant, and too few samples for a window."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(9000, generator=generator) / 10
    click = torch.zeros(4000).index_fill(0, torch.tensor([2000]), 0.9)
    return [noise, click, torch.zeros(3000), torch.full((2500,), 0.25), noise[:1], noise[:130], noise[:600]]


@pytest.mark.parametrize("normalize", ["utterance", "global", None])
@pytest.mark.parametrize("kind", ["kaldi", "torch"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_features_are_those_of_the_extractor(settings, kind, normalize):
    extractor = SeqDyConvFeatureExtractor(kind=kind, normalize=None, **settings)
    if normalize == "global":
        size = extractor.feature_size
        settings = {**settings, "mean": [-5.0] * size, "variance": [4.0] * size}
    extractor = SeqDyConvFeatureExtractor(kind=kind, normalize=normalize, **settings)
    batch = utterances()
    expected = extractor(batch, return_tensors="pt")
    padded = pad_sequence(batch, batch_first=True, padding_value=float("nan"))  # what is behind the end is not read
    features, mask = LogMel(extractor)(padded, torch.tensor([len(samples) for samples in batch]))
    assert torch.equal(mask, expected["attention_mask"])
    # Of a constant Fourier transforms leave what float32 rounds away, and silence is divided by almost nothing.
    exact = [row for row in range(len(batch)) if row != 3 and not (normalize and row == 2)]
    torch.testing.assert_close(features[exact], expected["input_features"][exact], atol=5e-4, rtol=0)


def test_it_is_as_near_to_the_exact_features_as_the_extractor():
    extractor = SeqDyConvFeatureExtractor(normalize=None)
    tone = torch.sin(torch.arange(16000) / 20) * 0.9  # 140 decibels between the loudest and the least bin
    exact = LogMel(extractor).double().log_mel(tone.double()[None])[0]
    ours = (LogMel(extractor).log_mel(tone[None])[0] - exact).abs()
    theirs = (extractor.log_mel(tone) - exact).abs()
    assert ours.mean() < 2 * theirs.mean()
