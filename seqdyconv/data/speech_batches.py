"""From recordings to batches: augmentation that a resumed run repeats, features, padding."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.data.speech_recognition import SAMPLING_RATE, Samples
from seqdyconv.data.tables import DataError
from seqdyconv.models.losses import IGNORED_LABEL
from seqdyconv.ranges import Number, Options, Range, Share
from seqdyconv.runtime.samples import AudioError
from seqdyconv.speech.audio import read_audio
from seqdyconv.speech.augmentation import AdditiveNoise, SpecAugment, SpeedPerturbation
from seqdyconv.speech.recogniser import model_inputs

Masks = Annotated[int, Range(0, 1000)]


@dataclass
class AugmentationArguments(Options):
    """How training utterances are changed, each epoch anew; nothing of it is done in evaluation."""

    speed_factors: list[Annotated[float, Range(0.1, 10)]] = field(
        default_factory=lambda: [0.9, 1.0, 1.1],
        metadata={"help": "Play each training utterance at one of these speeds; 1.0 alone is none."},
    )
    noise_probability: Share = field(default=0.0, metadata={"help": "How often noise is added."})
    noise_snr: list[Annotated[float, Range(-200, 200)]] = field(
        default_factory=lambda: [5.0, 30.0],
        metadata={"help": "The lowest and the highest signal-to-noise ratio, in decibels."},
    )
    noise_folder: str | None = field(
        default=None, metadata={"help": "Recordings of noise, all kept in memory; None is white noise."}
    )
    num_time_masks: Masks = field(default=2, metadata={"help": "SpecAugment: spans of frames that are hidden."})
    time_mask_width: Number = field(default=40, metadata={"help": "SpecAugment: the most frames (10 ms) of one span."})
    time_mask_ratio: Share = field(default=0.2, metadata={"help": "SpecAugment: the most of an utterance in one span."})
    num_frequency_masks: Masks = field(default=2, metadata={"help": "SpecAugment: spans of mel bins that are hidden."})
    frequency_mask_width: Number = field(default=27, metadata={"help": "SpecAugment: the most mel bins of one span."})
    time_warp: Number = field(default=0, metadata={"help": "SpecAugment: frames by which a point moves; 0 is no warp."})

    def __post_init__(self) -> None:
        super().__post_init__()
        # Other limits are those of the package's own classes.
        SpeedPerturbation(tuple(self.speed_factors))
        AdditiveNoise(tuple(self.noise_snr), self.noise_probability)  # type: ignore[arg-type]
        self.spec_augment()

    def spec_augment(self) -> SpecAugment | None:
        """SpecAugment, or None where it would hide nothing."""
        names = ("num_time_masks", "time_mask_width", "time_mask_ratio", "num_frequency_masks", "frequency_mask_width")
        augment = SpecAugment(**{name: getattr(self, name) for name in (*names, "time_warp")})
        return augment if augment.num_time_masks or augment.num_frequency_masks or augment.time_warp else None


class WaveformAugmentation:
    """Speed and noise on samples, as the arguments say.

    Raises:
        DataError: noise_folder holds no audio, or something else.
    """

    def __init__(self, args: AugmentationArguments) -> None:
        self.speed = SpeedPerturbation(tuple(args.speed_factors)) if list(args.speed_factors) != [1.0] else None
        self.noise = None
        if args.noise_probability:
            recordings = () if args.noise_folder is None else _read_noises(Path(args.noise_folder))
            lowest, highest = args.noise_snr
            self.noise = AdditiveNoise((lowest, highest), args.noise_probability, recordings)

    def __call__(self, samples: Tensor, generator: Generator) -> Tensor:
        """Samples (N,) in, changed ones out."""
        if self.speed is not None:
            samples = self.speed(samples, generator)
        return samples if self.noise is None else self.noise(samples, generator)

    def recordings(self) -> Dataset:
        """A table of the recordings of noise, in their order: they are training data too."""
        noises = () if self.noise is None else self.noise.recordings
        return Dataset.from_dict({"noise": [noise.numpy() for noise in noises]})


class Utterances(TorchDataset[dict[str, Any]]):
    """The rows of a split with the ids of their texts, for a DataLoader.

    An index gives an utterance as it is, a pair (index, epoch) as it is changed in that epoch. What is drawn depends on
    (seed, epoch, index) alone: it is the same in a resumed run and in any number of processes.

    Args:
        table: columns samples, num_samples and text.
        labels: the ids of each text.
        augment: on samples; None for none.
        seed: of what is drawn.
    """

    def __init__(
        self,
        table: Dataset,
        labels: Sequence[Sequence[int]],
        augment: WaveformAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.table = table
        self.samples = Samples(table)
        self.labels = labels
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """samples (N,), labels, the epoch, and the generator for what else is drawn; None where nothing is changed."""
        epoch, generator = 0, None
        if isinstance(index, tuple):
            index, epoch = index
            # Three numbers into one, so that neighbouring seeds, epochs and utterances share no random numbers.
            state = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0]
            generator = Generator().manual_seed(int(state) >> 1)
        samples = self.samples[index]
        if generator is not None and self.augment is not None:
            samples = self.augment(samples, generator)
        return {
            "samples": samples,
            "labels": torch.tensor(self.labels[index], dtype=torch.long),
            "epoch": epoch,
            "generator": generator,
        }


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of a sampler with the epoch beside each index, so that a dataset in another process knows it too."""

    batch_size = None
    drop_last = False

    def __init__(self, batch_sampler: TokenBatchSampler) -> None:
        self.batch_sampler = batch_sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.batch_sampler.epoch
        for batch in self.batch_sampler:
            yield [(index, epoch) for index in batch]


class SpeechCollator:
    """Features of several utterances, padded, and their labels.

    Args:
        feature_extractor: of the model.
        spec_augment: on the features of those that come with a generator; None where the model does it itself.
        two_views: give such a batch a second time, with other masks, but warped as the first.
        growth_epochs: time masks grow from nothing in the first epoch to their width after so many.
    """

    def __init__(
        self,
        feature_extractor: Any,
        spec_augment: SpecAugment | None = None,
        two_views: bool = False,
        growth_epochs: int = 0,
    ) -> None:
        self.feature_extractor = feature_extractor
        self.spec_augment = spec_augment
        self.growth_epochs = growth_epochs
        self.two_views = two_views

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """input_features (B, T, F) or what else the model takes, attention_mask, and labels (B, L), -100 is padding.

        The second view is other_features (B, T, F).
        """
        batch = model_inputs(self.feature_extractor, [row["samples"] for row in rows])
        if self.spec_augment is not None:
            for index, row in enumerate(rows):
                if row["generator"] is not None:
                    share = min(1, row["epoch"] / self.growth_epochs) if self.growth_epochs else 1
                    self._augment(batch, index, self.spec_augment.with_time_masks(share), row["generator"])
        if "labels" in rows[0]:
            labels = [row["labels"] for row in rows]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL)
        return batch

    def _augment(self, batch: dict[str, Tensor], index: int, augment: SpecAugment, generator: Generator) -> None:
        """Change the features of one utterance."""
        length = int(batch["attention_mask"][index].sum())
        features = batch["input_features"][index : index + 1, :length]
        warp = replace(augment, num_time_masks=0, num_frequency_masks=0)
        masks = replace(augment, time_warp=0)
        features = warp(features, None, generator)
        if self.two_views:
            other = batch.setdefault("other_features", torch.zeros_like(batch["input_features"]))
        batch["input_features"][index, :length] = masks(features, None, generator)[0]
        if self.two_views:
            other[index, :length] = masks(features, None, generator)[0]


def batches_in_seconds(
    lengths: npt.NDArray[np.int64], seconds: float, seed: int = 0, shuffle: bool = False
) -> TokenBatchSampler:
    """Batches of utterances of similar lengths (N,) in samples, of at most so many seconds each, padding included."""
    return TokenBatchSampler(lengths, math.ceil(seconds * SAMPLING_RATE), seed, shuffle)


def _read_noises(folder: Path) -> list[Tensor]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()] if folder.is_dir() else []
    if not files:
        raise DataError(f"noise_folder is {folder}, which holds no files")
    try:
        return [read_audio(file, SAMPLING_RATE) for file in files]
    except AudioError as error:
        raise DataError(f"noise_folder: {error}") from None
