"""Augmentation: what is drawn is repeatable, stays within its bounds and on the frames of each utterance."""

import pytest
import torch

from seqdyconv.speech import AdditiveNoise, SpecAugment, SpeedPerturbation, add_noise, change_speed
from tests.helpers import assert_close


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(len(shape)))


def batch(*lengths: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose frames are numbered from 1, with 999 as padding."""
    longest = max(lengths)
    features = torch.full((len(lengths), longest, 20), 999.0)
    attention_mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        frames = slice(longest - length, None) if left else slice(length)
        features[row, frames] = torch.arange(1.0, length + 1)[:, None]
        attention_mask[row, frames] = 1
    return features, attention_mask


AUGMENTATIONS = {
    "speed": lambda draw: SpeedPerturbation()(noise(3000), draw),
    "white noise": lambda draw: AdditiveNoise(probability=1)(noise(3000), draw),
    "recorded noise": lambda draw: AdditiveNoise(probability=1, recordings=[noise(9000)])(noise(3000), draw),
    "masks and warp": lambda draw: SpecAugment(time_warp=20)(noise(2, 300, 80), None, draw),
}


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_the_generator_decides(augment):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, *others = [augment(generator(seed)) for seed in (0, 1, 2, 3, 4)]
    assert first.equal(augment(generator(0)))
    assert any(first.shape != other.shape or not first.equal(other) for other in others)
    assert torch.get_rng_state().equal(before)


class TestSpeed:
    @pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
    def test_changes_length_and_pitch(self, factor):
        tone = torch.sin(0.2 * torch.arange(9900.0))
        changed = change_speed(tone, factor)
        assert len(changed) == round(9900 / factor)
        expected = torch.sin(0.2 * factor * torch.arange(float(len(changed))))
        assert (changed - expected)[500:-500].abs().max() < 1e-3

    def test_each_factor_is_as_likely(self):
        draw = generator()
        lengths = [len(SpeedPerturbation()(torch.zeros(990), draw)) for _ in range(300)]
        assert {length: lengths.count(length) > 70 for length in set(lengths)} == {1100: True, 990: True, 900: True}

    @pytest.mark.parametrize("factors", [(), (0.0,), (1.0, -1.1)])
    def test_bad_factors(self, factors):
        with pytest.raises(ValueError, match=r"factors must be numbers between 0\.1 and 10"):
            SpeedPerturbation(factors)


class TestNoise:
    @pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
    def test_has_the_energy_asked_for(self, snr):
        samples, added = noise(5000), 7 * noise(5000, 1).flatten()
        difference = add_noise(samples, added, snr) - samples
        ratio = 10 * (samples.square().sum() / difference.square().sum()).log10()
        assert ratio.item() == pytest.approx(snr, abs=1e-3)
        assert_close(difference / difference.norm(), added / added.norm(), 1e-5)

    def test_beside_silence_changes_nothing(self):
        assert add_noise(torch.zeros(100), noise(100), 10).equal(torch.zeros(100))
        assert add_noise(noise(100), torch.zeros(100), 10).equal(noise(100))
        assert add_noise(noise(100), noise(100, 1) * 1e-30, 10).equal(noise(100))  # its square is zero

    @pytest.mark.parametrize("length", [1, 7, 100])
    def test_of_a_recording_is_a_part_of_it_or_a_repetition(self, length):
        recording = torch.arange(1.0, 41.0)
        augment = AdditiveNoise(snr=(0, 0), probability=1, recordings=[recording])
        samples = torch.ones(length)
        added = augment(samples, generator()) - samples
        steps = (added / added.norm()).diff()
        assert added.norm().item() == pytest.approx(length**0.5, rel=1e-4)
        assert (steps > 0).sum() >= len(steps) - length // len(recording)

    def test_probability(self):
        draw = generator()
        changed = [not AdditiveNoise(probability=0.3)(noise(10), draw).equal(noise(10)) for _ in range(300)]
        assert 60 < sum(changed) < 120

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"snr": (20, 5)}, r"snr must be the lowest and the highest ratio, got \(20, 5\)"),
            ({"probability": 1.5}, r"between 0 and 1, got 1\.5"),
            ({"recordings": [torch.zeros(0)]}, "M of at least 1"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            AdditiveNoise(**options)


class TestSpecAugment:
    @pytest.mark.parametrize("left", [False, True], ids=["right padding", "left padding"])
    def test_leaves_padding_and_the_input_alone(self, left):
        features, attention_mask = batch(1, 40, 100, left=left)
        given = features.clone()
        for seed in range(10):
            result = SpecAugment(time_warp=10)(features, attention_mask, generator(seed))
            assert (result[attention_mask == 0] == 999).all()
            assert (result[attention_mask == 1] <= 100).all()
        assert features.equal(given)

    def test_an_utterance_without_frames(self):
        features, attention_mask = batch(0, 40)
        assert SpecAugment(time_warp=5)(features, attention_mask, generator())[0].equal(features[0])

    @pytest.mark.parametrize("left", [False, True], ids=["right padding", "left padding"])
    def test_hides_spans_of_frames(self, left):
        features, attention_mask = batch(30, 100, left=left)
        augment = SpecAugment(1, 15, 0.2, num_frequency_masks=0)
        widths = {30: set(), 100: set()}
        for seed in range(200):
            result = augment(features, attention_mask, generator(seed))
            for row, length in enumerate((30, 100)):
                frames = attention_mask[row] == 1
                hidden = (result[row] != features[row])[frames]
                assert hidden.all(1).equal(hidden.any(1))  # whole frames
                # The mean of the numbers from 1 to the length is none of them, since the length is even.
                assert (result[row][frames][hidden] == (length + 1) / 2).all()
                positions = hidden[:, 0].nonzero().flatten()
                assert len(positions) == 0 or positions.equal(torch.arange(positions[0], positions[-1] + 1))
                widths[length].add(len(positions))
        assert widths == {30: set(range(7)), 100: set(range(16))}

    def test_hides_as_many_spans_as_it_is_told(self):
        features, _ = batch(100)
        augment = SpecAugment(4, 10, 1.0, num_frequency_masks=0)
        changes = [(augment(features, None, generator(seed)) != features)[0, :, 0].int().diff() for seed in range(100)]
        assert max((change == 1).sum().item() for change in changes) == 4

    def test_hides_spans_of_mel_bins(self):
        features = noise(1, 50, 20)
        widths = set()
        for seed in range(100):
            result = SpecAugment(0, num_frequency_masks=1, frequency_mask_width=6)(features, None, generator(seed))
            hidden = (result != features)[0]
            assert hidden.all(0).equal(hidden.any(0))
            assert_close(result.mean(1), features.mean(1), 1e-5)
            bins = hidden.any(0).nonzero().flatten()
            assert bins.equal(torch.arange(bins[0], bins[-1] + 1)) if len(bins) else True
            widths.add(len(bins))
        assert widths == set(range(7))

    def test_utterances_are_hidden_apart(self):
        features = noise(1, 100, 20).expand(8, -1, -1)
        result = SpecAugment()(features, None, generator())
        assert len({tuple(row.flatten().tolist()) for row in result}) == 8

    @pytest.mark.parametrize("left", [False, True], ids=["right padding", "left padding"])
    def test_warp_moves_one_point_and_keeps_the_ends(self, left):
        features, attention_mask = batch(50, 100, left=left)
        moved = set()
        for seed in range(100):
            warped = SpecAugment(0, num_frequency_masks=0, time_warp=8)(features, attention_mask, generator(seed))
            for row, length in enumerate((50, 100)):
                frames = warped[row, attention_mask[row] == 1, 0]
                assert frames[0] == 1 and frames[-1] == length and (frames.diff() > 0).all()
                shift = frames - torch.arange(1.0, length + 1)
                moved.add(round(shift[shift.abs().argmax()].item()))
        assert moved == set(range(-7, 8))

    def test_warp_leaves_short_utterances_alone(self):
        features, attention_mask = batch(16, 17)
        augment = SpecAugment(0, num_frequency_masks=0, time_warp=8)
        results = torch.stack([augment(features, attention_mask, generator(seed)) for seed in range(20)])
        assert (results[:, 0] == features[0]).all() and (results[:, 1] != features[1]).any()

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"num_time_masks": -1}, "num_time_masks must be at least 0, got -1"),
            ({"time_warp": -5}, "time_warp must be at least 0, got -5"),
            ({"time_mask_ratio": 2.0}, r"time_mask_ratio must be between 0 and 1, got 2\.0"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            SpecAugment(**options)
