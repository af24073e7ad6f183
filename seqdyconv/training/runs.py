"""A run of a train.py: from the checks of its output directory to the model card, in one go or over several calls."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import SaveStrategy
from transformers.utils.logging import disable_progress_bar

from seqdyconv.data.splits import HELD_OUT
from seqdyconv.data.tables import DataError
from seqdyconv.errors import InputError, first_line
from seqdyconv.pictures import plot_learning_curves
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.arguments import changed_arguments, declared_defaults, resolved_arguments
from seqdyconv.training.averaging import WEIGHTS_FILE, average_checkpoints
from seqdyconv.training.bookkeeping import Counts
from seqdyconv.training.checkpoints import (
    STATE_FILE,
    check_digests,
    checkpoints,
    damaged,
    is_complete,
    latest_checkpoint,
    read_state,
    remove_incomplete_checkpoints,
    resumable_checkpoint,
)
from seqdyconv.training.fitting import check_weights
from seqdyconv.training.output_dir import (
    FINAL_MODEL,
    REPLACED,
    OutputDirError,
    begin_run,
    check_output_dir,
    check_resumed_arguments,
    remove_replaced_run,
    remove_run_folder,
)
from seqdyconv.training.records import write_record
from seqdyconv.training.reports import METRICS, format_example, write_metrics, write_model_card
from seqdyconv.training.run_trainer import RunArguments, RunTrainer
from seqdyconv.training.trained_data import check_data, data_digests, write_digests
from seqdyconv.training.trainer_arguments import FOLLOW_A_METRIC, try_trainer

logger = logging.getLogger(__name__)

LEARNING_CURVES = "learning_curves.png"

MAY_CHANGE = {
    *("output_dir", "resume", "overwrite", "run_name", "report_to", "disable_tqdm"),
    *(
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
    ),
    *("save_strategy", "save_steps", "save_total_limit", "average_checkpoints"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push"),
    *("hub_revision", "push_to_hub_token", "ddp_timeout", "preprocessing_num_workers"),
    *("do_predict", "max_test_samples", "sample_translations", "svm_baseline"),
    *(item.name for item in dataclasses.fields(DecodingArguments)),
}
"""What a resumed run may change: none of these keys alters the weights."""


class Run:
    """One call of a train.py, which begins a run in its output directory or goes on with it.

    Several processes may run it together. The first one goes ahead and writes, the others read what it wrote; and
    nothing is written, replaced or removed before all that can be checked is checked::

        run = Run(args, (model_args, data_args), command)
        with run.preparation():
            ...  # data, tokenizer, model: whatever may be wrong with them shows here
            if run.begin(data):
                tokenizer.save_pretrained(run.output_dir)
        metrics = run.train(trainer)
        ...  # evaluation
        if run.is_first:
            run.write_metrics(metrics)

    Args:
        args: The arguments of the training.
        groups: All other arguments.
        command: What repeats the run: see :func:`seqdyconv.training.arguments.command_line`.

    Raises:
        ArgumentsError: The Trainer can't work with these arguments.
    """

    def __init__(self, args: RunArguments, groups: Sequence[Any], command: str) -> None:
        disable_progress_bar()  # That of saving weights; the bar of the training stays.
        try_trainer(args)
        self.args = args
        self.command = command
        self.arguments = resolved_arguments(*groups, args)
        self.output_dir = Path(str(args.output_dir))
        self.is_first = args.process_index == 0
        self.checkpoint: Path | None = None
        """The newest complete checkpoint, from which a resumed run goes on."""
        self._groups = (*groups, args)
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def preparation(self) -> Iterator[None]:
        """The block in which everything is loaded and checked, and ends with :meth:`begin`.

        Raises:
            OutputDirError: Before the block: this run can't be in output_dir.
        """
        with self.args.main_process_first(local=False, desc="preparation"):
            if self.is_first:
                check_output_dir(self.output_dir, self.args.resume, self.args.overwrite)
                if self.args.resume:
                    known = declared_defaults(*self._groups)
                    defaults = {name: known.get(name) for name in self.arguments}
                    check_resumed_arguments(self.output_dir, self.arguments, MAY_CHANGE, defaults)
            if self.args.resume:
                self.checkpoint = self._checked_checkpoint()
            yield

    def _checked_checkpoint(self) -> Path | None:
        if self.args.resume and is_finished(self.output_dir):
            _read_finished(self.args)
        elif self.is_first:
            return resumable_checkpoint(self.output_dir, self.args.world_size)
        return latest_checkpoint(self.output_dir)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer is in output_dir: of the first process, or of the run that is resumed.

        What a process that was killed before its first checkpoint has left there may be incomplete: it is made anew.
        """
        return not self.is_first or self.goes_on

    @property
    def goes_on(self) -> bool:
        """Whether this call goes on with what is trained already."""
        return self.checkpoint is not None or (self.args.resume and is_finished(self.output_dir))

    def check_splits(self, splits: Collection[str]) -> None:
        """Raise a DataError if there is nothing to evaluate on between epochs."""
        if "validation" not in splits and (self.args.eval_strategy != "no" or self.args.eval_on_start):
            raise DataError("there is no validation data: give some, or eval_strategy: no and no eval_on_start")

    def held_out(self, splits: Collection[str]) -> list[str]:
        """Those of the splits on which the trained model is evaluated: the test set where ``do_predict`` says so."""
        return [split for split in HELD_OUT if split in splits and (split != "test" or self.args.do_predict)]

    def begin(self, *data: Mapping[str, Any]) -> bool:
        """Write run.yaml and a digest of the data, if this is the first process and nothing is trained already.

        Args:
            data: By split what is trained on, tables or plain values. The validation data belong to it where they
                decide on weights: on the best checkpoint, the end of the training, or the learning rate.

        Returns:
            Whether it did so: then this process writes what else belongs to the model, such as its tokenizer.

        Raises:
            OutputDirError: The run that is resumed has begun with other data.
        """
        if not self.is_first:
            return False
        args = self.args
        validation_decides = (
            args.load_best_model_at_end
            or args.early_stopping_patience > 0
            or args.save_strategy == SaveStrategy.BEST
            or args.lr_scheduler_type in FOLLOW_A_METRIC
        )
        digests = data_digests(["train", "validation"] if validation_decides else ["train"], *data)
        if args.resume:
            check_data(self.output_dir, digests)
        if self.goes_on:
            return False
        begin_run(self.output_dir, self.arguments, args.overwrite)
        write_digests(self.output_dir, digests)
        return True

    def train(self, trainer: RunTrainer, items: str) -> dict[str, Any]:
        """Train, or load what has been trained before: see :func:`train_or_load`.

        Args:
            trainer: The trainer.
            items: What it counts to divide a loss by: "tokens", "examples".

        Returns:
            The metrics parameters, train_steps, train_seconds, train_seconds_without_evaluation, and `items` in all and
            per second. They are those of the whole run, however often it was resumed: see
            :class:`seqdyconv.training.bookkeeping.Counts`.
        """
        train_or_load(trainer, self.checkpoint)
        self._hub_model_id: Any = trainer.hub_model_id
        counts = trainer.counts
        metrics: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "train_steps": trainer.state.global_step,
        }
        if counts.first_step == 0:
            training_seconds = counts.seconds - counts.evaluation_seconds
            metrics |= {
                "train_seconds": counts.seconds,
                "train_seconds_without_evaluation": training_seconds,
                f"train_{items}": counts.items,
                f"train_{items}_per_second": counts.items / training_seconds,
            }
        return metrics

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, with the seconds since the start of this call as wall_seconds, and record.json."""
        metrics["wall_seconds"] = time.perf_counter() - self._started
        write_metrics(self.output_dir / METRICS, metrics)
        write_record(self.output_dir, self.command, changed_arguments(self.arguments, *self._groups), metrics)

    def plot_learning_curves(
        self,
        trainer: RunTrainer,
        title: str,
        panels: Mapping[str, str],
        loss_label: str = "loss (nats per token)",
        training_label: str | None = None,
    ) -> None:
        """Draw losses and metrics over steps: see :func:`seqdyconv.pictures.plot_learning_curves`."""
        smoothed = "training (label smoothing)" if self.args.label_smoothing_factor else "training"
        path = self.output_dir / LEARNING_CURVES
        history = trainer.state.log_history
        plot_learning_curves(history, path, title, panels, training_label or smoothed, loss_label)

    def write_model_card(self, task: str, metrics: Mapping[str, Any], **parts: Any) -> None:
        """Write README.md, after which all is there that ``push_to_hub`` pushes.

        Args:
            task: What the model does.
            metrics: The results.
            parts: See :func:`seqdyconv.training.reports.write_model_card`.

        Raises:
            InputError: It can't be pushed; a run that is resumed tries once more.
        """
        write_model_card(
            self.output_dir / "README.md",
            name=f"{self.output_dir.name}: {task}",
            results=metrics,
            command=self.command,
            config=changed_arguments(self.arguments, *self._groups),
            picture=LEARNING_CURVES,
            **parts,
        )
        if self.args.push_to_hub:
            self._push()

    def _push(self) -> None:
        try:
            HfApi(token=self.args.hub_token).upload_folder(
                repo_id=self._hub_model_id,
                folder_path=self.output_dir,
                commit_message="End of training",
                revision=self.args.hub_revision,
                ignore_patterns=["_*", ".*", "checkpoint-*", "*/checkpoint-*", f"{REPLACED}/*"],
            )
        except Exception as error:  # whatever happens on the way
            raise InputError(
                f"can't push {self.output_dir} to {self._hub_model_id}: {first_line(error)}; all of it is there: "
                "--resume pushes it"
            ) from None

    def print_summary(
        self, metrics: Mapping[str, Any], examples: Sequence[Mapping[str, str]], rows: Mapping[str, str]
    ) -> None:
        """Print examples of what the model does, then `rows` of results, then how long it took."""
        print()
        for lines in examples:
            print(format_example(lines))
        rows = {**rows, "parameters": f"{metrics['parameters']:,}"}
        if "train_seconds" in metrics:
            rate = next(name for name in metrics if name.startswith("train_") and name.endswith("_per_second"))
            items = rate.removeprefix("train_").removesuffix("_per_second")
            rows[f"training, {items}/s"] = f"{metrics[rate]:.0f}"
            rows["training time"] = f"{metrics['train_seconds']:.0f} s, {metrics['train_steps']} steps"
        rows |= {"wall time": f"{metrics['wall_seconds']:.0f} s", "written to": str(self.output_dir)}
        for label, text in rows.items():
            print(f"{label:<28}{text}")


def is_finished(output_dir: str | Path) -> bool:
    """Whether the training that writes there has ended: its state is written after the final model."""
    return is_complete(output_dir)


def train_or_load(trainer: RunTrainer, checkpoint: Path | None) -> None:
    """Train, average checkpoints if asked for, and save the final model; or, where that is done, load it.

    Args:
        trainer: Its arguments say where to write, and whether to resume.
        checkpoint: The newest complete checkpoint to go on from, if any.

    Raises:
        InputError: The training has come to numbers that are none, the disk is full, or what was saved is damaged.
    """
    args: Any = trainer.args
    if args.resume and is_finished(args.output_dir):
        _load_final(trainer, Path(args.output_dir))
        return
    tidying = _Tidying(args.save_total_limit)
    trainer.add_callback(tidying)
    args.save_total_limit = None
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    # Mixed precision has wrapped the model. From here on it computes as for anybody who loads it.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    # What that leaves is a forward without the decorators of the class's own, which generate needs.
    vars(trainer.model).pop("forward", None)
    # By this mark accelerate would take the model for wrapped in a second training, which would go on in float32.
    vars(trainer.model).pop("_is_accelerate_prepared", None)
    trainer.counts.averaged_checkpoints = max(1, args.average_checkpoints)
    trainer.note_counts()
    with trainer.saving("the final model"):
        _save_final(trainer, Path(args.output_dir))
    tidying.rotate(args, trainer.state, newest_stays=False)


def _save_final(trainer: RunTrainer, output_dir: Path) -> None:
    """Save the final model and then the state, which says that it is there; each file appears as a whole."""
    args: Any = trainer.args
    folder = output_dir / FINAL_MODEL
    folder.mkdir(exist_ok=True)
    trainer.save_model(str(folder), _internal_call=True)
    if trainer.is_world_process_zero():
        if args.average_checkpoints > 1:
            parts = checkpoints(output_dir)[-args.average_checkpoints :]
            if len(parts) < args.average_checkpoints:
                logger.warning(
                    "average_checkpoints: there are %d of %d checkpoints", len(parts), args.average_checkpoints
                )
            for part in parts:
                check_digests(part)
                check_weights(trainer.model, part)
            if parts:
                average_checkpoints(parts, folder / WEIGHTS_FILE)
        for file in folder.iterdir():
            file.replace(output_dir / file.name)
        folder.rmdir()
    trainer.accelerator.wait_for_everyone()
    if args.average_checkpoints > 1:
        safetensors.torch.load_model(trainer.model, output_dir / WEIGHTS_FILE)
    trainer.save_state()


def _load_final(trainer: RunTrainer, output_dir: Path) -> None:
    """Load what a training that has ended left behind."""
    trainer.state, counts = _read_finished(trainer.args)
    vars(trainer.counts).update(vars(counts))
    try:
        safetensors.torch.load_model(trainer.model, output_dir / WEIGHTS_FILE)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise damaged(output_dir, WEIGHTS_FILE, first_line(error)) from None


def _read_finished(args: RunArguments) -> tuple[TrainerState, Counts]:
    """The state and the counts of a training that has ended, whose final model is the one that is asked for."""
    output_dir = Path(str(args.output_dir))
    state = read_state(output_dir)
    callbacks: Any = state.stateful_callbacks
    saved = callbacks.get(Counts.__name__, {"args": {"first_step": state.global_step}})
    try:
        counts = Counts(**saved["args"])
    except (TypeError, KeyError) as error:
        raise damaged(output_dir, STATE_FILE, first_line(error)) from None
    asked = max(1, args.average_checkpoints)
    if counts.averaged_checkpoints not in (0, asked):
        raise OutputDirError(
            f"the run in {output_dir} has ended with average_checkpoints: {counts.averaged_checkpoints}, got {asked}: "
            "its final model stays as it is"
        )
    return state, counts


class _Tidying(TrainerCallback):
    """Removes what is no longer needed in output_dir, but never a file that no run has written.

    That is the run that this one replaces, when the first step is done; and checkpoints beyond the newest
    ``save_total_limit`` ones. The Trainer itself would remove whole folders that are called as its checkpoints are.
    """

    def __init__(self, save_total_limit: int | None) -> None:
        self.save_total_limit = save_total_limit
        self.has_begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.resume and state.is_world_process_zero:
            for folder in remove_incomplete_checkpoints(args.output_dir):
                logger.warning("%s was not saved to its end, and is removed", folder)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and not self.has_begun:
            remove_replaced_run(args.output_dir)
        self.has_begun = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rotate(args, state, newest_stays=True)

    def rotate(self, args: Any, state: Any, newest_stays: bool) -> None:
        """Keep the limit; until the training has ended, one that is resumed goes on from the newest."""
        if not self.save_total_limit or not state.is_world_process_zero:
            return
        # An average is one of the newest: among them an old one, which is the best, has no place.
        best = "" if args.average_checkpoints > 1 else Path(state.best_model_checkpoint or "").name
        found = [folder for folder in checkpoints(args.output_dir) if folder.name != best]
        kept = self.save_total_limit - bool(best)
        if newest_stays:
            kept = max(1, kept)
        for folder in found[: max(0, len(found) - kept)]:
            remove_run_folder(folder)
