"""Batches bounded in tokens, padded or packed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute
from datasets import Dataset

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.data.packing import PackingCollator
from seqdyconv.models.loading import check_packing
from seqdyconv.ranges import Count
from seqdyconv.training.run_trainer import RunArguments, RunTrainer


@dataclass
class TokenBatchArguments(RunArguments):
    """The arguments of a run, and those of :class:`TokenBatches`."""

    max_tokens: Count = field(
        default=4000,
        metadata={"help": "Bound of a training batch per process: examples * longest one, padding included."},
    )
    eval_max_tokens: Count | None = field(
        default=None, metadata={"help": "The same for evaluation; None is max_tokens."}
    )
    packing: bool = field(
        default=False,
        metadata={"help": "A training batch is one row of its examples, one behind the other, without padding."},
    )
    mix_lengths: bool = field(
        default=False,
        metadata={
            "help": "With packing: batches of examples of all lengths, not of similar ones; max_tokens then bounds "
            "their tokens."
        },
    )

    without_effect: ClassVar[dict[str, str]] = RunArguments.without_effect | {
        "per_device_train_batch_size": "max_tokens bounds the batches",
        "per_device_eval_batch_size": "eval_max_tokens bounds the batches",
        "auto_find_batch_size": "max_tokens bounds the batches",
        "remove_unused_columns": "the columns are known",
    }

    def __post_init__(self) -> None:
        if self.mix_lengths and not self.packing:
            raise ValueError("mix_lengths needs packing: in padded batches it would be mostly padding")
        super().__post_init__()


class TokenBatches(RunTrainer):
    """A Trainer whose batches hold examples of similar length and a bounded number of tokens."""

    length_columns: ClassVar[tuple[str, ...]] = ("input_ids",)
    """The columns whose lists of tokens make an example's length."""

    args: TokenBatchArguments

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.args.packing:
            check_packing(self.model)
            self.train_collator = PackingCollator(self.model)

    def train_batches(self) -> TokenBatchSampler:
        """Of at most max_tokens tokens, dealt out anew in each epoch."""
        lengths = example_lengths(self.train_dataset, self.length_columns)
        seed = self.args.order_seed
        return TokenBatchSampler(lengths, self.args.max_tokens, seed, mix_lengths=self.args.mix_lengths)

    def eval_batches(self, dataset: Dataset) -> list[list[int]]:
        """Of at most eval_max_tokens tokens, from short to long."""
        bound = self.args.eval_max_tokens or self.args.max_tokens
        return list(TokenBatchSampler(example_lengths(dataset, self.length_columns), bound, shuffle=False))


def example_lengths(dataset: Dataset, columns: Sequence[str] = ("input_ids", "labels")) -> npt.NDArray[np.int64]:
    """(N, number of columns) numbers of tokens in those columns."""
    table = dataset.with_format("arrow")[:]
    lengths = [pyarrow.compute.list_value_length(table[name]).to_numpy() for name in columns]
    return np.stack(lengths, axis=1).astype(np.int64)
