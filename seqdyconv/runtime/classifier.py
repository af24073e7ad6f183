"""Text classification with an exported model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqdyconv.runtime.folder import Array, FolderError, open_folder
from seqdyconv.runtime.tokenizer import Text, TextReader
from seqdyconv.runtime.windows import mean_of_windows

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Prediction:
    """A label and its probability."""

    label: str
    probability: float


class Classifier:
    """Labels of texts. Several threads may use one.

    Args:
        folder: that ``seqdyconv export`` has written of a text classification model.
        threads: that compute one batch; 0: as many as there are cores.

    Attributes:
        labels: their names by number.

    Raises:
        FolderError: the folder is damaged, newer than this version, or for another task.

    Example:
        >>> from seqdyconv.runtime import Classifier
        >>> classifier = Classifier("outputs/reviews_int8")  # doctest: +SKIP
        >>> classifier.classify(["A fine film.", "Two lost hours."])  # doctest: +SKIP
        [[Prediction(label='positive', probability=0.98)], [Prediction(label='negative', probability=0.97)]]
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        exported = open_folder(folder, "classification")
        labels = exported.settings.get("labels")
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise FolderError(f"the settings of {folder} must have labels, got {str(labels)[:80]}")
        self.labels: list[str] = labels
        self.reader = TextReader(exported)
        self.graph = exported.graph("model", threads)
        inputs = {name: (None, None) for name in _INPUTS if name in self.graph.inputs}
        self.graph.check({"input_ids": (None, None), **inputs}, {"logits": (None, len(labels))})

    def classify(self, texts: Sequence[Text], top_k: int = 1, batch_size: int = 32) -> list[list[Prediction]]:
        """The most probable labels of each text, the best first.

        Args:
            texts: or pairs of texts, as tuples.
            top_k: that many labels.
            batch_size: see :meth:`probabilities`.
        """
        found = self.probabilities(texts, batch_size)
        best = np.argsort(-found, axis=1, kind="stable")[:, :top_k]
        return [
            [Prediction(self.labels[label], float(row[label])) for label in labels] for row, labels in zip(found, best)
        ]

    def probabilities(self, texts: Sequence[Text], batch_size: int = 32) -> Array:
        """The probability of each label, (N, L) float64, for N texts or pairs of texts in their order.

        Args:
            texts: or pairs of texts, as tuples. Of a text in several windows it is their mean.
            batch_size: rows of a batch; they are sorted by length.

        Raises:
            InputError: texts are one text, or batch_size is not at least 1.
            FolderError: the model gives numbers that are none: it is damaged.
        """
        rows = self.reader.read(texts)
        found = np.empty((len(rows.ids), len(self.labels)))
        for batch, inputs in self.reader.batches(rows, batch_size):
            logits = self.graph.run({name: inputs[name] for name in self.graph.inputs})["logits"]
            if logits.shape != (len(batch), len(self.labels)) or not np.isfinite(logits).all():
                raise FolderError(f"{self.graph.file} gives no probabilities: it is damaged")
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            found[batch] = odds / odds.sum(axis=1, keepdims=True)
        return mean_of_windows(found, rows.texts)
