"""What the trainers of all recipes share: batches bounded in tokens, exact resume, evaluation without duplicates."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations.fsdp import is_fsdp_managed_module

from seqdyconv.data.batching import SetEpochCallback, TokenBatchSampler
from seqdyconv.data.packing import PackingCollator
from seqdyconv.models.loading import check_packing

IGNORED_LABEL = -100


@dataclass
class TokenBatchArguments(TrainingArguments):
    """The arguments of the Trainer, and those of :class:`TokenBatches`.

    Keys of the Trainer that have no effect here raise when they are set.
    """

    max_tokens: int = field(
        default=4000,
        metadata={"help": "Bound of a training batch per process: examples * longest one, padding included."},
    )
    eval_max_tokens: int | None = field(default=None, metadata={"help": "The same for evaluation; None is max_tokens."})
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
    average_checkpoints: int = field(
        default=0, metadata={"help": "The final model is the average of the last n checkpoints; 0 and 1 mean the last."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after n evaluations without a better metric_for_best_model; 0 is never."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Delete the run in output_dir and start anew."})

    # Other defaults than the Trainer's.
    logging_steps: float = field(default=50, metadata={"help": "Log every n steps."})
    report_to: None | str | list[str] = field(  # noqa: RUF036  # HfArgumentParser wants None first.
        default="tensorboard", metadata={"help": "Where to log to."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "True if parameters get no gradient, which costs time in each step."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Resume the patience of early stopping too."}
    )

    without_effect: ClassVar[dict[str, str]] = {
        "per_device_train_batch_size": "max_tokens bounds the batches",
        "per_device_eval_batch_size": "eval_max_tokens bounds the batches",
        "auto_find_batch_size": "max_tokens bounds the batches",
        "train_sampling_strategy": "batches are made of examples of similar length",
        "dataloader_drop_last": "all examples are used",
        "ignore_data_skip": "a resumed run goes on with the next batch",
        "resume_from_checkpoint": "use resume",
        "do_train": "train.py always trains",
        "do_eval": "use eval_strategy",
        "do_predict": "train.py always evaluates on the test set",
    }

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing: say where the run is written to")
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        for name, instead in self.without_effect.items():
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no effect here: {instead}")
        for name, value in (("max_tokens", self.max_tokens), ("eval_max_tokens", self.eval_max_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"label_smoothing_factor must be in [0, 1), got {self.label_smoothing_factor}")
        for name in ("average_checkpoints", "early_stopping_patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.average_checkpoints > 1 and self.load_best_model_at_end:
            raise ValueError("average_checkpoints and load_best_model_at_end exclude each other: choose one")
        if self.save_total_limit is not None and self.save_total_limit < max(1, self.average_checkpoints):
            raise ValueError(
                f"save_total_limit must be at least max(1, average_checkpoints) = {max(1, self.average_checkpoints)}, "
                f"got {self.save_total_limit}"
            )
        if self.early_stopping_patience and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs metric_for_best_model, such as loss")
        if self.mix_lengths and not self.packing:
            raise ValueError("mix_lengths needs packing: in padded batches it would be mostly padding")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # The Trainer refuses bf16 on a machine without a GPU unless this is said.
        super().__post_init__()
        if self.packing and self.n_gpu > 1:
            raise ValueError(
                "packing can't split a row over the GPUs of one process: start one process each, by torchrun"
            )


class TokenBatches(Trainer):
    """A Trainer whose batches hold examples of similar length and a bounded number of tokens.

    A run that is resumed goes on with the very batches and random numbers of an undisturbed one, in one process and in
    several. To be put before another subclass of the Trainer too: ``class MyTrainer(TokenBatches, Seq2SeqTrainer)``.
    """

    length_columns: ClassVar[tuple[str, ...]] = ("input_ids",)
    """The columns whose lists of tokens make an example's length."""

    args: TokenBatchArguments
    model: PreTrainedModel

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trained_items: torch.Tensor | int = 0
        """Labels of all processes, target tokens or classes, that this call of train() has trained on."""
        self.evaluation_seconds = 0.0
        self.add_callback(SetEpochCallback())
        if self.args.packing:
            check_packing(self.model)
        self.train_collator: Any = PackingCollator(self.model) if self.args.packing else self.data_collator

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Training batches from :class:`TokenBatchSampler`, sharded over processes by accelerate."""
        lengths = example_lengths(self.train_dataset, self.length_columns)
        seed = self.args.data_seed or self.args.seed
        sampler = TokenBatchSampler(lengths, self.args.max_tokens, seed, mix_lengths=self.args.mix_lengths)
        return self.accelerator.prepare(self._dataloader(self.train_dataset, sampler, self.train_collator))

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of one step and their number of labels, which is also added up."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if num_items is not None:
            self.trained_items += num_items
        return batches, num_items

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Evaluation batches of this process: every n-th one, from short to long."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._dataloader(dataset, self._own_share(self._eval_batches(dataset)))

    def _eval_batches(self, dataset: Dataset) -> list[list[int]]:
        bound = self.args.eval_max_tokens or self.args.max_tokens
        return list(TokenBatchSampler(example_lengths(dataset, self.length_columns), bound, shuffle=False))

    def _dataloader(self, dataset: Any, batch_sampler: Any, collator: Any = None) -> DataLoader[Any]:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self._remove_unused_columns(dataset),
            batch_sampler=batch_sampler,
            collate_fn=collator or self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=workers > 0 and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _own_share(self, batches: list[list[int]]) -> list[list[int]]:
        """This process's batches; sharded weights need as many on each, so that empty shares repeat a batch."""
        share = batches[self.args.process_index :: self.args.world_size]
        if self._is_sharded():
            longest = -(-len(batches) // self.args.world_size)
            share += batches[:1] * (longest - len(share))
        return share

    def _is_sharded(self) -> bool:
        return bool(self.is_fsdp_enabled or is_fsdp_managed_module(self.model))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the Trainer does; the time counts as evaluation_seconds."""
        start = time.perf_counter()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.evaluation_seconds += time.perf_counter() - start

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # trainer_state.json, which marks a checkpoint as complete, is written next, and old checkpoints are deleted
        # after it: no process may be behind.
        self.accelerator.wait_for_everyone()


def example_lengths(dataset: Dataset, columns: Sequence[str] = ("input_ids", "labels")) -> npt.NDArray[np.int64]:
    """(N, number of columns) numbers of tokens in those columns."""
    table = dataset.with_format("arrow")[:]
    lengths = [pyarrow.compute.list_value_length(table[name]).to_numpy() for name in columns]
    return np.stack(lengths, axis=1).astype(np.int64)
