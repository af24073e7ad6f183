"""A run of a train.py: from the checks of its output directory to the model card, in one go or over several calls."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from transformers import TrainerCallback
from transformers.utils.logging import disable_progress_bar

from seqdyconv.data.tables import DataError
from seqdyconv.pictures import plot_learning_curves
from seqdyconv.training.arguments import changed_arguments, declared_defaults, resolved_arguments
from seqdyconv.training.averaging import WEIGHTS_FILE, average_checkpoints
from seqdyconv.training.checkpoints import checkpoints, latest_checkpoint, remove_incomplete_checkpoints
from seqdyconv.training.decoding import DecodingArguments
from seqdyconv.training.output_dir import (
    begin_run,
    check_output_dir,
    check_resumed_arguments,
    remove_replaced_run,
    remove_run_folder,
)
from seqdyconv.training.reports import format_example, write_metrics, write_model_card
from seqdyconv.training.run_trainer import RunArguments, RunTrainer
from seqdyconv.training.trainer_arguments import try_trainer

STATE_FILE = "trainer_state.json"
LEARNING_CURVES = "learning_curves.png"

MAY_CHANGE = {
    *("output_dir", "resume", "overwrite", "run_name", "report_to", "disable_tqdm"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_level", "log_level_replica", "log_on_each_node"),
    *("save_strategy", "save_steps", "save_total_limit", "average_checkpoints"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("hub_token", "push_to_hub_token", "ddp_timeout", "preprocessing_num_workers"),
    *("max_test_samples", "sample_translations", "svm_baseline"),
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
            if run.begin():
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
                self.checkpoint = latest_checkpoint(self.output_dir)
            yield

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer is in output_dir: of the first process, or of the run that is resumed."""
        return not self.is_first or (self.args.resume and (self.output_dir / "tokenizer_config.json").is_file())

    def check_splits(self, splits: Collection[str]) -> None:
        """Raise a DataError if there is nothing to evaluate on between epochs."""
        if "validation" not in splits and self.args.eval_strategy != "no":
            raise DataError("there is no validation data: give some, or eval_strategy: no")

    def begin(self) -> bool:
        """Write run.yaml, if this is the first process and no checkpoint to go on with is there.

        Returns:
            Whether it did so: then this process writes what else belongs to the model, such as its tokenizer.
        """
        if not self.is_first or self.checkpoint is not None:
            return False
        begin_run(self.output_dir, self.arguments, self.args.overwrite)
        return True

    def train(self, trainer: RunTrainer, items: str) -> dict[str, Any]:
        """Train, or load what has been trained before: see :func:`train_or_load`.

        Args:
            trainer: The trainer.
            items: What it counts to divide a loss by: "tokens", "examples".

        Returns:
            The metrics parameters, train_steps, resumed_from_step (of a resumed training), and of a training that this
            call has done: train_seconds, train_seconds_without_evaluation, and `items` in all and per second.
        """
        seconds = train_or_load(trainer, self.checkpoint)
        metrics: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "train_steps": trainer.state.global_step,
        }
        if seconds is not None:
            training_seconds = seconds - trainer.evaluation_seconds
            metrics |= {
                "train_seconds": seconds,
                "train_seconds_without_evaluation": training_seconds,
                f"train_{items}": int(trainer.trained_items),
                f"train_{items}_per_second": int(trainer.trained_items) / training_seconds,
            }
        if self.checkpoint is not None:
            metrics["resumed_from_step"] = int(self.checkpoint.name.split("-")[1])
        return metrics

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, with the seconds since the start as one more, wall_seconds."""
        metrics["wall_seconds"] = time.perf_counter() - self._started
        write_metrics(self.output_dir / "metrics.json", metrics)

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
        """Write README.md: see :func:`seqdyconv.training.reports.write_model_card` for its other `parts`."""
        write_model_card(
            self.output_dir / "README.md",
            name=f"{self.output_dir.name}: {task}",
            results=metrics,
            command=self.command,
            config=changed_arguments(self.arguments, *self._groups),
            picture=LEARNING_CURVES,
            **parts,
        )

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
    try:
        json.loads((Path(output_dir) / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or one that was cut off
        return False
    return True


def train_or_load(trainer: RunTrainer, checkpoint: Path | None) -> float | None:
    """Train, average checkpoints if asked for, and save the final model; or, where that is done, load it.

    Args:
        trainer: Its arguments say where to write, and whether to resume.
        checkpoint: The newest complete checkpoint to go on from, if any.

    Returns:
        The seconds of the training, evaluations included; None if it had ended before.
    """
    args: Any = trainer.args
    weights = Path(args.output_dir) / WEIGHTS_FILE
    if args.resume and is_finished(args.output_dir):
        trainer.state = trainer.state.load_from_json(str(Path(args.output_dir) / STATE_FILE))
        safetensors.torch.load_model(trainer.model, weights)
        return None
    if args.resume and trainer.is_world_process_zero():
        remove_incomplete_checkpoints(args.output_dir)
    trainer.add_callback(_Tidying(args.save_total_limit))
    args.save_total_limit = None
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - start
    # Mixed precision has wrapped the model. From here on it computes as for anybody who loads it.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    # What that leaves is a forward without the decorators of the class's own, which generate needs.
    vars(trainer.model).pop("forward", None)
    # By this mark accelerate would take the model for wrapped in a second training, which would go on in float32.
    vars(trainer.model).pop("_is_accelerate_prepared", None)

    trainer.save_model()
    if args.average_checkpoints > 1:
        if trainer.is_world_process_zero():
            average_checkpoints(checkpoints(args.output_dir)[-args.average_checkpoints :], weights)
        trainer.accelerator.wait_for_everyone()
        safetensors.torch.load_model(trainer.model, weights)
    trainer.save_state()
    return seconds


class _Tidying(TrainerCallback):
    """Removes what is no longer needed in output_dir, but never a file that no run has written.

    That is the run that this one replaces, when the first step is done; and checkpoints beyond the newest
    ``save_total_limit`` ones. The Trainer itself would remove whole folders that are called as its checkpoints are.
    """

    def __init__(self, save_total_limit: int | None) -> None:
        self.save_total_limit = save_total_limit
        self.has_begun = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and not self.has_begun:
            remove_replaced_run(args.output_dir)
        self.has_begun = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rotate(args, state, newest_stays=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rotate(args, state, newest_stays=False)

    def _rotate(self, args: Any, state: Any, newest_stays: bool) -> None:
        if not self.save_total_limit or not state.is_world_process_zero:
            return
        best = Path(state.best_model_checkpoint or "").name
        found = [folder for folder in checkpoints(args.output_dir) if folder.name != best]
        kept = self.save_total_limit - bool(best)
        if newest_stays:
            kept = max(1, kept)  # a resumed training goes on from it
        for folder in found[: max(0, len(found) - kept)]:
            remove_run_folder(folder)
