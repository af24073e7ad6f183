"""Batches of similar lengths that hold a bounded number of tokens."""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TokenBatchSampler(Sampler[list[int]]):
    """Groups examples of similar length into batches of at most `max_tokens` tokens, padding included.

    A batch of n examples, the longest of which has L tokens, counts n · L. An example longer than `max_tokens` is a
    batch of its own.

    The number of batches is the same in every epoch, and the batches depend on nothing but (seed, epoch): a run that
    is resumed in the middle of an epoch finds the same ones. In each epoch the examples of equal length are dealt out
    anew and the batches come in a new order.

    Args:
        lengths: (N,) tokens per example, or (N, 2) for source and target; the longer side counts then, and examples
            whose other side is about as long as well come together.
        max_tokens: The bound, for one process: several processes make one batch each per step.
        seed: Seed of the order.
        shuffle: False gives the batches from short to long, the same ones in every epoch.
        mix_lengths: Batches of examples of all lengths, for packed rows: a batch counts the tokens of its examples (the
            longer side of each), without padding. Each gets one example of every stretch of the lengths in order, so
            that all batches have about as many examples and tokens; examples of more than half of `max_tokens` are
            batches of their own.

    Raises:
        ValueError: `max_tokens` is below 1, or `lengths` is empty, of another shape, or has a length below 1.

    Example:
        >>> list(TokenBatchSampler([5, 2, 2, 3], max_tokens=6, shuffle=False))
        [[1, 2], [3], [0]]
    """

    # accelerate shards batches over processes; None tells it that their sizes differ, and none is dropped then.
    batch_size = None
    drop_last = False

    def __init__(
        self,
        lengths: Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[np.integer[Any]],
        max_tokens: int,
        seed: int = 0,
        shuffle: bool = True,
        mix_lengths: bool = False,
    ) -> None:
        table = np.asarray(lengths, dtype=np.int64)
        if table.ndim == 1:
            table = table[:, None]
        if table.ndim != 2 or table.shape[1] not in (1, 2) or len(table) == 0:
            raise ValueError(f"lengths must be (N,) or (N, 2) with N >= 1, got {np.shape(lengths)}")
        if table.min() < 1:
            raise ValueError(f"lengths must be at least 1, got {table.min()}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._longer = table.max(axis=1)
        self._shorter = table.min(axis=1)
        self.mix_lengths = mix_lengths
        if mix_lengths:
            # One example that hardly leaves room for others would make all batches as small.
            self._alone = np.flatnonzero(2 * self._longer > max_tokens)
            self._mixed = _number_of_mixed_batches(self._longer[2 * self._longer <= max_tokens], max_tokens)
        else:
            self._starts = _batch_starts(np.sort(self._longer), max_tokens)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._alone) + self._mixed if self.mix_lengths else len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        # Sorting by the longer side first keeps the sorted lengths, and with them the bounds of the batches, the same
        # whatever the order among equals. That order is by the other side, with enough noise to mix neighbours.
        rng = np.random.default_rng((self.seed, self.epoch))
        noise = rng.uniform(-2, 2, len(self._longer)) if self.shuffle else 0
        order = np.lexsort((self._shorter + noise, self._longer))
        batches = self._mix(order, rng) if self.mix_lengths else np.split(order, self._starts[1:])
        for index in rng.permutation(len(batches)) if self.shuffle else range(len(batches)):
            yield batches[index].tolist()

    def _mix(self, order: npt.NDArray[np.int64], rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        """Batches of all lengths; `order` is from short to long."""
        dealt = order[: len(order) - len(self._alone)][::-1]
        rounds = [dealt[start : start + self._mixed] for start in range(0, len(dealt), self._mixed or 1)]
        batches: list[list[int]] = [[] for _ in range(self._mixed)]
        for examples in rounds:
            places = rng.permutation(self._mixed) if self.shuffle else range(self._mixed)
            for example, place in zip(examples, places):
                batches[place].append(example)
        return [np.array(batch) for batch in [*batches, *self._alone[:, None]]]


def _number_of_mixed_batches(lengths: npt.NDArray[np.int64], max_tokens: int) -> int:
    """The least n with at most `max_tokens` in each batch, when every one gets one of each n next longest examples."""
    descending = np.sort(lengths)[::-1]
    # No batch has more than the longest example of every n.
    return bisect.bisect_left(
        range(len(lengths)), -max_tokens, lo=min(1, len(lengths)), key=lambda n: -int(descending[::n].sum())
    )


def _batch_starts(lengths: npt.NDArray[np.int64], max_tokens: int) -> list[int]:
    """Where batches start in ascending `lengths` when each takes as many examples as fit."""
    starts = []
    start = 0
    while start < len(lengths):
        starts.append(start)
        window = lengths[start : start + max(1, max_tokens // int(lengths[start]))]
        tokens = window * np.arange(1, len(window) + 1)
        start += max(1, int(np.searchsorted(tokens, max_tokens, side="right")))
    return starts


class SetEpochCallback(TrainerCallback):
    """Tells the sampler its epoch at the start of each.

    The Trainer passes the epoch on to the outermost sampler only, and several processes wrap ours; a resumed epoch
    would be replayed in the order of epoch 0 then.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        sampler = getattr(train_dataloader, "batch_sampler", None)
        while sampler is not None and not isinstance(sampler, TokenBatchSampler):
            sampler = getattr(sampler, "batch_sampler", None)
        if sampler is not None:
            # The state counts epochs in fractions: 1.4 in the middle of the epoch of index 1. Rounding removes the
            # error of an end of an epoch such as 0.9999.
            sampler.set_epoch(int((state.epoch or 0) + 1e-6))
