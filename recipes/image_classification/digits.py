"""The digits that scikit-learn ships: 1,797 real handwritten ones, 8×8 pixels, no download.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" in its order, page by page of the 13
people who wrote them. The split takes them in that order, train, validation, test, so that what is tested was mostly
written by other people than what is trained on; shuffled, the same people would be on all sides.
"""

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

from seqdyconv.errors import InputError

CLASSES = 10


class Images(Dataset[dict[str, Tensor]]):
    """Images (n, 1, 8, 8) in [0, 1] and labels (n,), which a loader takes batch by batch, already put together."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        chosen = torch.as_tensor(indices)
        return {"images": self.images[chosen], "labels": self.labels[chosen]}


def load_images(train_size: int, validation_size: int) -> dict[str, Images]:
    """The digits as train, validation and test, the last being what the first two leave.

    Raises:
        InputError: sizes below 1, or nothing left to test.
    """
    digits: Any = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    if min(train_size, validation_size) < 1 or train_size + validation_size >= len(labels):
        raise InputError(
            f"train_size and validation_size must be at least 1 and leave some of the {len(labels)} images to test, "
            f"got {train_size} and {validation_size}"
        )
    ends = {"train": train_size, "validation": train_size + validation_size, "test": len(labels)}
    starts = [0, *ends.values()]
    return {name: Images(images[start:end], labels[start:end]) for start, (name, end) in zip(starts, ends.items())}
