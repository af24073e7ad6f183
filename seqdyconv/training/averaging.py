"""Average of the weights of several checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from seqdyconv.files import replacing

WEIGHTS_FILE = "model.safetensors"


def average_checkpoints(folders: Sequence[str | Path], output: str | Path) -> None:
    """Write the mean of the weights in model.safetensors of each folder to the file `output`, atomically.

    Averaging the last checkpoints of a run smooths the noise of its last steps (Vaswani et al. 2017, section 6.1).
    Sums are taken in float64; integer and boolean tensors are taken from the last folder.

    Raises:
        ValueError: No folders, or folders whose tensors differ in name or shape.
        OSError: A folder has no model.safetensors.
    """
    if not folders:
        raise ValueError("no checkpoints to average")
    total: dict[str, torch.Tensor] = {}
    last: dict[str, torch.Tensor] = {}
    for folder in folders:
        last = load_file(Path(folder) / WEIGHTS_FILE)
        if total and {name: tensor.shape for name, tensor in total.items()} != {
            name: tensor.shape for name, tensor in last.items()
        }:
            raise ValueError(f"the checkpoints {folders[0]} and {folder} hold other tensors: can't average them")
        for name, tensor in last.items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    mean = {
        name: (total[name] / len(folders)).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in last.items()
    }
    with replacing(output) as temporary:
        save_file(mean, temporary, metadata={"format": "pt"})
