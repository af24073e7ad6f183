"""What a training keeps an eye on from step to step: its counts, whether its numbers are finite, when to save."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from seqdyconv.errors import InputError
from seqdyconv.training.checkpoints import latest_checkpoint


class DivergedError(InputError):
    """A training has come to numbers that are none; the message is one line for the user."""


@dataclass(eq=False)
class Counts(TrainerCallback, ExportableState):
    """What a training has counted; its checkpoints hold it, so that a resumed run reports what an undisturbed one does.

    Times are those of all parts of a run up to their last checkpoints; what a kill has undone doesn't count.
    """

    first_step: int = 0
    """The steps that were done before anything was counted: by a version that did not count."""
    items: int = 0
    """Labels of all processes: target tokens, examples."""
    seconds: float = 0.0
    """Of the training, with its evaluations."""
    evaluation_seconds: float = 0.0
    logged_step: int = 0
    """The step of the last loss in the log."""
    logged_loss: float = 0.0
    """The sum of the losses of the steps up to that one."""
    averaged_checkpoints: int = 0
    """How many the final model is the average of; 0 before the end, and in runs of versions that did not count."""
    unlogged_loss: list[float] = field(default_factory=list)
    """The sum of the losses since, of each process."""

    def __post_init__(self) -> None:
        *numbers, losses = vars(self).values()
        if not isinstance(losses, list) or not all(isinstance(number, (int, float)) for number in [*numbers, *losses]):
            raise TypeError(f"counts must be numbers, got {vars(self)}")

    def state(self) -> dict[str, Any]:
        """The counts, as a checkpoint holds them."""
        return {"args": asdict(self), "attributes": {}}


class FiniteNumbers:
    """Finds the first step whose loss or gradient is NaN or infinite, without waiting for the device at each step."""

    def __init__(self) -> None:
        self._losses: Any = True
        self._gradients: Any = True
        self._good_steps: Any = 0

    def add_loss(self, loss: Tensor) -> None:
        """Note the loss of a batch."""
        self._losses = torch.isfinite(loss.detach()) & self._losses

    def end_step(self, gradient_norm: Any) -> None:
        """Note the norm of a step's gradient, None where it may be infinite, and that the step is done."""
        if gradient_norm is not None:
            self._gradients = torch.isfinite(torch.as_tensor(gradient_norm)) & self._gradients
        self._good_steps = self._good_steps + (self._losses & self._gradients)

    def fault(self) -> tuple[int, str] | None:
        """How many steps were good before the first one that was not, and what is wrong with that one, if any was."""
        if bool(self._losses & self._gradients):
            return None
        return int(self._good_steps), "gradient" if bool(self._losses) else "loss"


class StepWatch(TrainerCallback):
    """Stops a training whose numbers are none any more before anything of it is saved; chooses the moment of a save.

    A checkpoint at the end of an epoch waits until the epoch's evaluation and log are done, which a run that is resumed
    from it would miss.

    Args:
        trainer: A :class:`seqdyconv.training.run_trainer.RunTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._save_is_due = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on counting."""
        self.trainer.begin_counts()
        self._first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check where a number is about to be used, and at each step where that costs nothing."""
        self._check(args, control, every_step=args.device.type == "cpu" and args.world_size == 1)
        ends = control.should_training_stop or state.epoch == int(state.epoch)
        if control.should_save and ends:
            control.should_save, self._save_is_due = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The save that has waited."""
        self._check(args, control)
        control.should_save, self._save_is_due = control.should_save or self._save_is_due, False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check what decides on the best checkpoint."""
        best = (args.metric_for_best_model or "loss").removeprefix("eval_")
        for name, value in kwargs["metrics"].items():
            if (name.endswith("_loss") or name == f"eval_{best}") and not math.isfinite(value):
                raise diverged(self.trainer, f"the validation's {name} is {value}", state.global_step)

    def _check(self, args: Any, control: Any, every_step: bool = False) -> None:
        uses = control.should_log or control.should_evaluate or control.should_save or control.should_training_stop
        if every_step or uses:
            faults = [self.trainer.finite.fault()]
            if args.world_size > 1:  # all processes stop together
                faults = gather_object(faults)
            if any(faults):
                good, what = min(fault for fault in faults if fault is not None)
                raise diverged(self.trainer, f"the {what} is NaN or infinite", self._first_step + good + 1)


def diverged(trainer: Any, what: str, step: int) -> DivergedError:
    """The error of a training whose numbers are none any more: what is wrong since which step, and what to do."""
    args = trainer.args
    causes = ["the data (an infinite feature, an example without labels)"]
    if args.fp16 or args.bf16:
        causes.insert(0, f"{'fp16' if args.fp16 else 'bf16'} (try without)")
    if step > 1:  # before it, nothing was learnt yet
        causes.insert(0, f"too high a learning_rate (it is {args.learning_rate:g}) or too few warmup_steps")
    newest = latest_checkpoint(str(args.output_dir))
    kept = "no checkpoint was saved before" if newest is None else f"{newest} is the last good checkpoint and stays"
    return DivergedError(
        f"{what} at step {step}, the likely cause is {' or '.join(causes)}; {kept}. A resumed run would come to "
        "the same: train anew with other values (--overwrite, or another output_dir)"
    )
