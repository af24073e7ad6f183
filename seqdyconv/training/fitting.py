"""Whether a checkpoint fits the training that is to be resumed from it: one of another model does not."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from seqdyconv.errors import first_line
from seqdyconv.models.loading import read_header
from seqdyconv.training.checkpoints import damaged


def check_weights(model: nn.Module, checkpoint: str | Path) -> None:
    """Refuse weights of other names or shapes than those of the model.

    Raises:
        OutputDirError: They are of another model, or can't be read.
    """
    expected = model.state_dict()
    found: dict[str, list[int]] = {}
    for file in sorted(Path(checkpoint).glob("model*.safetensors")):
        try:
            found |= {name: shape for name, (_, shape) in read_header(file).items()}
        except (OSError, SafetensorError) as error:
            raise damaged(checkpoint, file.name, first_line(error)) from None
    shared = {expected[name].data_ptr() for name in found if name in expected}
    ignored = getattr(model, "_keys_to_ignore_on_save", None) or ()
    missing = [
        name
        for name, tensor in expected.items()
        if name not in found and name not in ignored and tensor.numel() and tensor.data_ptr() not in shared
    ]
    other = [name for name in found if name not in expected or list(expected[name].shape) != found[name]]
    if missing or other:
        raise damaged(checkpoint, "model.safetensors", f"it is of another model (its {(other or missing)[0]} differs)")


def check_optimizer(optimizer: Any, checkpoint: str | Path) -> None:
    """Refuse an optimizer's state that is for other parameters.

    Raises:
        OutputDirError: It is of another model.
    """
    file = Path(checkpoint) / "optimizer.pt"
    if not file.is_file():  # sharded over processes
        return
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        sizes = [len(group["params"]) for group in state["param_groups"]]
        fits = sizes == [len(group["params"]) for group in optimizer.param_groups] and all(
            values[name].shape == own[index].shape
            for index, values in state["state"].items()
            for name in ("exp_avg", "exp_avg_sq", "momentum_buffer")
            if isinstance(values.get(name), torch.Tensor)
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise damaged(checkpoint, file.name, "it is not the optimizer's state of this model")


def check_scheduler(scheduler: Any, checkpoint: str | Path) -> None:
    """Refuse a learning rate's state that is of another schedule.

    Raises:
        OutputDirError: It is of another training.
    """
    state = torch.load(Path(checkpoint) / "scheduler.pt", map_location="cpu", weights_only=True)
    expected = scheduler.state_dict()
    rates = "base_lrs" in expected and state.get("base_lrs") != expected["base_lrs"]
    if rates or not isinstance(state.get("last_epoch"), type(expected.get("last_epoch"))):
        raise damaged(checkpoint, "scheduler.pt", "it is of another learning rate's schedule")
