"""What the trainers of all recipes share: exact resume, losses per item of a step, evaluation without duplicates."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer
from transformers.integrations.fsdp import is_fsdp_managed_module

from seqdyconv.data.batching import SetEpochCallback
from seqdyconv.errors import first_line
from seqdyconv.ranges import Number, check_options
from seqdyconv.training.arguments import ArgumentsError
from seqdyconv.training.bookkeeping import Counts, FiniteNumbers, StepWatch, diverged
from seqdyconv.training.checkpoints import (
    STATE_FILE,
    damaged,
    is_complete,
    latest_checkpoint,
    read_state,
    seal_checkpoint,
)
from seqdyconv.training.fitting import check_optimizer, check_scheduler, check_weights
from seqdyconv.training.output_dir import OutputDirError, remove_run_folder
from seqdyconv.training.trainer_arguments import RULES, CheckedTrainingArguments

logger = logging.getLogger(__name__)


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; emulated it takes many times as long as float32."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:
        return True  # an older torch can't tell
    return any(there for name, there in capabilities().items() if "bf16" in name)


@dataclass
class RunArguments(CheckedTrainingArguments):
    """The arguments of the Trainer, and those of a run: see :class:`seqdyconv.training.runs.Run`.

    Keys of the Trainer that have no effect here raise when they are set.
    """

    average_checkpoints: Number = field(
        default=0, metadata={"help": "The final model is the average of the last n checkpoints; 0 and 1 mean the last."}
    )
    early_stopping_patience: Number = field(
        default=0, metadata={"help": "Stop after n evaluations without a better metric_for_best_model; 0 is never."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the run in output_dir by a new one."})

    # Other defaults than the Trainer's.
    do_predict: bool = field(
        default=True, metadata={"help": "Evaluate on the test set at the end: not where settings are chosen."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every n steps."})
    report_to: None | str | list[str] = field(  # noqa: RUF036  # HfArgumentParser wants None first.
        default="tensorboard", metadata={"help": "Where to log to."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "True if parameters get no gradient, which costs time in each step."}
    )
    bf16: bool = field(
        default=False, metadata={"help": "Compute in bfloat16 where the device has instructions for it."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "No effect: a loss that is NaN ends the run."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Resume the patience of early stopping too."}
    )

    without_effect: ClassVar[dict[str, str]] = {
        "train_sampling_strategy": "batches are made of examples of similar length",
        "dataloader_drop_last": "all examples are used",
        "ignore_data_skip": "a resumed run goes on with the next batch",
        "resume_from_checkpoint": "use resume",
        "label_names": "the labels are known",
        "do_train": "train.py always trains",
        "do_eval": "use eval_strategy",
        "enable_jit_checkpoint": "a run that is killed goes on from its last checkpoint: use save_steps",
        "dataloader_in_order": "a run that is resumed sees the very batches of an undisturbed one",
        "length_column_name": "the lengths are known",
        **dict.fromkeys(
            (
                *("bf16_full_eval", "fp16_full_eval", "prediction_loss_only", "include_for_metrics"),
                *("batch_eval_metrics", "eval_accumulation_steps"),
                *("eval_do_concat_batches", "eval_use_gather_object"),
            ),
            "what an evaluation measures, and how, is fixed",
        ),
    }

    def __post_init__(self) -> None:
        check_options(self, RULES)
        if self.average_checkpoints > 1 and self.load_best_model_at_end:
            raise ArgumentsError("average_checkpoints and load_best_model_at_end exclude each other: choose one")
        if self.save_total_limit is not None and self.save_total_limit < max(1, self.average_checkpoints):
            raise ArgumentsError(
                f"save_total_limit must be at least max(1, average_checkpoints) = {max(1, self.average_checkpoints)}, "
                f"got {self.save_total_limit}"
            )
        if self.average_checkpoints > 1 and self.save_strategy == "no":
            raise ArgumentsError("average_checkpoints needs checkpoints: set save_strategy")
        if self.early_stopping_patience and self.metric_for_best_model is None:
            raise ArgumentsError("early_stopping_patience needs metric_for_best_model, such as loss")
        if self.early_stopping_patience and self.eval_strategy == "no":
            raise ArgumentsError("early_stopping_patience needs evaluations: set eval_strategy")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # The Trainer refuses bf16 on a machine without a GPU unless this is said.
        self.float32_instead = self.bf16 and self.use_cpu and not cpu_has_bfloat16()
        self.bf16 = self.bf16 and not self.float32_instead
        super().__post_init__()
        if self.n_gpu > 1:
            raise ArgumentsError(
                f"one process can't train on {self.n_gpu} GPUs: start one each, torchrun --nproc_per_node {self.n_gpu} "
                "..., or show it a single one, CUDA_VISIBLE_DEVICES=0"
            )

    @property
    def order_seed(self) -> int:
        """The seed of the order of the examples."""
        return self.seed if self.data_seed is None else self.data_seed


class RunTrainer(Trainer):
    """A Trainer whose batches differ in size.

    A run that is resumed goes on with the very batches and random numbers of an undisturbed one, in one process and in
    several. Evaluation counts each example once on any number of processes. A subclass says what the batches are. To be
    put before another subclass of the Trainer too: ``class MyTrainer(RunTrainer, Seq2SeqTrainer)``.
    """

    args: RunArguments
    model: PreTrainedModel

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.args.float32_instead:
            logger.warning("bf16: this processor has no instructions for it, which is slow: training in float32")
        self.trained_items: Tensor | int = 0
        """Labels of all processes, target tokens or classes, that the run has trained on."""
        self.evaluation_seconds = 0.0
        self.finite = FiniteNumbers()
        self.train_collator: Any = self.data_collator
        self._started = self._earlier_seconds = 0.0
        self._has_ended = False
        self.add_callback(SetEpochCallback())
        self.add_callback(Counts())
        self.add_callback(StepWatch(self))
        if self.args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def train_batches(self) -> Any:
        """A sampler of the training batches, with `set_epoch`."""
        raise NotImplementedError

    def eval_batches(self, dataset: Any) -> list[list[int]]:
        """The rows of each batch of an evaluation of all processes."""
        raise NotImplementedError

    # Training

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training batches, sharded over processes by accelerate."""
        dataloader = self._dataloader(self.train_dataset, self.train_batches(), self.train_collator)
        return self.accelerator.prepare(dataloader)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of one step and their number of labels, which is also added up."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if num_items is not None:
            self.trained_items += num_items
        return batches, num_items

    def mean_loss(self, loss_sum: Tensor, own_items: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
        """The loss of a batch, summed over its items, as its share of the mean over all items of a step.

        Args:
            loss_sum: the sum.
            own_items: of this batch.
            num_items_in_batch: of the step, over accumulated batches and processes; None outside of a training.
        """
        if num_items_in_batch is None:
            return loss_sum / own_items
        if self.args.average_tokens_across_devices:
            # Gradients are averaged over processes, while the items are counted over all of them.
            loss_sum = loss_sum * self.accelerator.num_processes
        return loss_sum / num_items_in_batch

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of a batch and its gradients; whether it is a finite number is noted."""
        loss = super().training_step(*args, **kwargs)
        self.finite.add_loss(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # The scaler of fp16 looks for the largest scale that works, and leaves out the steps where it did not.
        self.finite.end_step(None if self.accelerator.scaler is not None else norm)
        return norm

    # Counts of a run, over all its parts

    @property
    def counts(self) -> Counts:
        """What has been counted up to the last checkpoint; the Trainer makes it anew from the one that it resumes."""
        return next(found for found in self.callback_handler.callbacks if isinstance(found, Counts))

    def begin_counts(self) -> None:
        """Go on counting where the state, which may be that of a checkpoint, has come to."""
        counts = self.counts
        saved: Any = self.state.stateful_callbacks
        if Counts.__name__ not in saved:
            counts.first_step = counts.logged_step = self.state.global_step
            saved[Counts.__name__] = counts.state()
        elif losses := counts.unlogged_loss:
            # What the Trainer counts in attributes alone, and would start anew.
            own = losses[self.args.process_index] if len(losses) == self.args.world_size else sum(losses) / len(losses)
            self._tr_loss += own
            self._total_loss_scalar, self._globalstep_last_logged = counts.logged_loss, counts.logged_step
            self._initial_global_step = counts.first_step
        self.trained_items, self.evaluation_seconds = counts.items, counts.evaluation_seconds
        self._earlier_seconds = counts.seconds

    def note_counts(self) -> None:
        """Put the counts into the state, which is to be saved; all processes must call it."""
        counts = self.counts
        counts.items = int(self.trained_items)
        counts.seconds = self._earlier_seconds + time.perf_counter() - self._started
        counts.evaluation_seconds = self.evaluation_seconds
        counts.logged_loss, counts.logged_step = self._total_loss_scalar, self._globalstep_last_logged
        counts.unlogged_loss = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()
        saved: Any = self.state.stateful_callbacks
        saved[Counts.__name__] = counts.state()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; the time is counted."""
        self._started = time.perf_counter()
        try:
            return super().train(*args, **kwargs)
        finally:
            for callback in self.callback_handler.callbacks:
                if (bar := getattr(callback, "training_bar", None)) is not None:
                    bar.close()  # An error has its own line.

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, start_time - self._earlier_seconds)

    # Checkpoints

    @contextlib.contextmanager
    def saving(self, what: str) -> Iterator[None]:
        """A block that saves something: a full disk is one line.

        Raises:
            OutputDirError: It could not be written.
        """
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = first_line(error)
            if isinstance(error, RuntimeError):  # torch's writer tells nothing else
                if "PytorchStreamWriter" not in reason and "inline_container" not in reason:
                    raise
                reason = "a file can't be written whole (is the disk full?)"
            newest = latest_checkpoint(str(self.args.output_dir))
            kept = "" if newest is None else f"; {newest} stays: --resume goes on from it"
            raise OutputDirError(f"can't write {what} in {self.args.output_dir}: {reason}{kept}") from None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as the Trainer does, but never one whose weights are no numbers any more."""
        if not self.is_sharded() and not all(
            bool(weight.isfinite().all()) for weight in self.model.parameters() if weight.is_floating_point()
        ):
            raise diverged(self, "the weights are NaN or infinite", self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.note_counts()
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            with self.saving(folder.name):
                super()._save_checkpoint(model, trial)
                if self.is_world_process_zero():
                    seal_checkpoint(folder)
        except OutputDirError:
            remove_run_folder(folder)  # its part of a full disk
            raise

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        checkpoint = args[2]
        try:
            found = super()._init_training_state(max_steps, *args)
        except (TypeError, AttributeError, LookupError) as error:  # by what the state's callbacks are said to be
            raise damaged(checkpoint, STATE_FILE, first_line(error)) from None
        if checkpoint is not None:
            self.state.compute_steps(self.args, max_steps)  # those of now, not those of then
            if self.state.global_step > max_steps:
                raise damaged(checkpoint, STATE_FILE, f"it is of step {self.state.global_step} of {max_steps}")
            self._has_ended = self.control.should_training_stop or self.state.global_step == max_steps
            self._find_best_checkpoint(checkpoint)
        return found

    def _find_best_checkpoint(self, checkpoint: str) -> None:
        """Where it is now: the state holds the place where it was saved, from which a run may have been moved."""
        best = read_state(checkpoint).best_model_checkpoint
        if best is not None:
            folder = Path(str(self.args.output_dir)) / Path(best).name
            if not is_complete(folder) and self.args.load_best_model_at_end:
                raise damaged(checkpoint, STATE_FILE, f"the best checkpoint so far, {folder}, is missing")
            self.state.best_model_checkpoint = str(folder) if is_complete(folder) else None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._has_ended:  # The Trainer would do one more step.
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.is_fsdp_enabled:
            check_weights(self.model, resume_from_checkpoint)  # The Trainer warns where names differ, and goes on.
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            check_scheduler(self.lr_scheduler, checkpoint)
            check_optimizer(self.optimizer, checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)
        self._load_rng_state(checkpoint)  # Again at its first step, if there is one left.

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # trainer_state.json, which marks a checkpoint as complete, is written next, and old checkpoints are deleted
        # after it: no process may be behind.
        self.accelerator.wait_for_everyone()

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What :meth:`measure` finds, logged like the Trainer's; the time counts as evaluation_seconds."""
        start = time.perf_counter()
        found = self.measure(self.eval_dataset if eval_dataset is None else eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.evaluation_seconds += time.perf_counter() - start
        return metrics

    def measure(self, dataset: Any) -> dict[str, float]:
        """How well the model does on data; all processes share the work, and each gets the result."""
        raise NotImplementedError

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Any]:
        """The model to evaluate with: on its device, in evaluation mode, without gradients.

        All processes hold the same weights, so it needs no wrapper and they may take uneven shares, unless the weights
        are sharded over them.
        """
        model = self.model_wrapped if self.is_sharded() else self.model
        model.to(self.args.device)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                yield model
        finally:
            model.train(training)

    def own_batches(self, dataset: Any) -> Iterator[tuple[list[int], dict[str, Any], bool]]:
        """The rows and inputs of this process's evaluation batches, from short to long, and whether a batch counts.

        One that does not is a repetition, which keeps processes with sharded weights in step.
        """
        batches = self.eval_batches(dataset)
        share = self.own_share(batches)
        own = len(batches[self.args.process_index :: self.args.world_size])
        batches_of_share = zip(share, self._dataloader(dataset, share, self.data_collator))
        silent = self.args.disable_tqdm or not self.is_world_process_zero()
        bar = tqdm(batches_of_share, desc="Evaluating", total=len(share), leave=False, disable=silent)
        for number, (rows, inputs) in enumerate(bar):
            yield rows, self._prepare_inputs(inputs), number < own

    def own_share(self, batches: list[list[int]]) -> list[list[int]]:
        """This process's batches; sharded weights need as many on each, so that empty shares repeat a batch."""
        share = batches[self.args.process_index :: self.args.world_size]
        if self.is_sharded():
            longest = -(-len(batches) // self.args.world_size)
            share += batches[:1] * (longest - len(share))
        return share

    def is_sharded(self) -> bool:
        """Whether the weights are sharded over processes."""
        return bool(self.is_fsdp_enabled or is_fsdp_managed_module(self.model))

    def gather_rows(self, found: Sequence[tuple[int, Any]], number: int) -> list[Any]:
        """The results of all rows, of all processes, in order; `found` are this process's, each with its row."""
        results = dict(gather_object(list(found)))
        return [results[row] for row in range(number)]

    def gather_mean(self, total: float, count: float) -> float:
        """The sum of the totals of all processes, divided by that of their counts."""
        totals, counts = zip(*gather_object([(total, count)]))
        return sum(totals) / max(1, sum(counts))

    def _dataloader(self, dataset: Any, batch_sampler: Any, collator: Any) -> DataLoader[Any]:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self._remove_unused_columns(dataset),
            batch_sampler=batch_sampler,
            collate_fn=collator,
            num_workers=workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=workers > 0 and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
