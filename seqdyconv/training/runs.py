"""From the first step of a training to its final model, in one go or over several calls."""

import time
from pathlib import Path
from typing import Any

import safetensors.torch
from transformers import TrainerCallback

from seqdyconv.training.averaging import WEIGHTS_FILE, average_checkpoints
from seqdyconv.training.checkpoints import checkpoints
from seqdyconv.training.output_dir import remove_replaced_run, remove_run_folder
from seqdyconv.training.token_batches import TokenBatches

STATE_FILE = "trainer_state.json"


def is_finished(output_dir: str | Path) -> bool:
    """Whether the training that writes there has ended: its state is written after the final model."""
    return (Path(output_dir) / STATE_FILE).is_file()


def train_or_load(trainer: TokenBatches, checkpoint: Path | None) -> float | None:
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

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            remove_replaced_run(args.output_dir)

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
