"""Scores of predicted labels, and the baselines beside them."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from seqdyconv.errors import first_line
from seqdyconv.files import shorten, write_lines, write_text
from seqdyconv.pictures import plot_confusion_matrix
from seqdyconv.scores.bootstrap import Counts, Score, bounds, percentage

logger = logging.getLogger(__name__)


def score(probabilities: npt.NDArray[np.float64], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy and macro-F1 in percent, and the mean negative log-probability of the right label, in nats.

    Macro-F1 is the mean over the labels that occur among the references.

    Args:
        probabilities: (M, L) of M texts.
        labels: (M,) numbers of the right labels.

    Returns:
        accuracy, macro_f1 and loss.

    Example:
        >>> score(np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 1])["accuracy"]
        100.0
    """
    references = np.asarray(labels)
    right = probabilities[np.arange(len(references)), references]
    return {
        **_accuracy_and_f1(probabilities.argmax(axis=1), references),
        "loss": float(-np.log(right.clip(min=1e-12)).mean()),
    }


def majority_accuracy(train_labels: Sequence[int], labels: Sequence[int]) -> float:
    """Accuracy, in percent, of always predicting the most frequent training label.

    Example:
        >>> majority_accuracy([2, 2, 0], [2, 0, 1, 2])
        50.0
    """
    return 100 * float(np.mean(np.asarray(labels) == np.bincount(train_labels).argmax()))


def svm_accuracy(
    train_texts: Sequence[str], train_labels: Sequence[int], texts: Sequence[str], labels: Sequence[int]
) -> dict[str, float]:
    """Accuracy and macro-F1, in percent, of a linear SVM on TF-IDF of words and pairs of words.

    Nothing is tuned: scikit-learn's C = 1.

    Args:
        train_texts, train_labels: what it is trained on; labels by number.
        texts, labels: what it is measured on.

    Returns:
        accuracy and macro_f1.

    Raises:
        ValueError: the texts to train on have no words of two letters, or one label.
    """
    classifier = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LinearSVC(C=1.0, random_state=0))
    classifier.fit(train_texts, train_labels)
    return _accuracy_and_f1(classifier.predict(texts), np.asarray(labels))


def baselines(train: Dataset, test: Dataset, *, svm: bool) -> dict[str, float]:
    """Test accuracy of the majority label, and of a linear SVM if asked for.

    Args:
        train, test: Texts with the columns text, text_pair (of pairs) and label.
        svm: Whether to train one, which takes a while.

    Returns:
        majority_accuracy, and with `svm` svm_test_accuracy, svm_test_macro_f1 and svm_seconds, unless there is nothing
        that it could learn from, which a warning tells.
    """
    metrics = {"majority_accuracy": majority_accuracy(train["label"][:], test["label"][:])}
    if svm:
        start = time.perf_counter()
        try:
            found = svm_accuracy(_whole_texts(train), train["label"][:], _whole_texts(test), test["label"][:])
        except ValueError as error:
            logger.warning("there is no SVM to compare with: %s", first_line(error))
            return metrics
        metrics |= {f"svm_test_{name}": value for name, value in found.items()}
        metrics["svm_seconds"] = time.perf_counter() - start
    return metrics


def accuracy_counts(predictions: Sequence[str], references: Sequence[str]) -> tuple[Counts, Score]:
    """Of accuracy, in percent: right ones and all."""
    rows = [[prediction == reference, 1] for prediction, reference in zip(predictions, references, strict=True)]
    return np.array(rows, dtype=np.float64), percentage


def write_split(
    folder: Path,
    split: str,
    probabilities: npt.NDArray[np.float64],
    references: Sequence[int],
    labels: Sequence[str],
    title: str,
) -> dict[str, Any]:
    """Write predictions, references, a report of each label and the confusion matrix of a split; returns its scores.

    Args:
        folder: Where to write to.
        split: Its name, with which the files' names begin.
        probabilities: (M, L) of its texts.
        references: (M,) the numbers of the right labels.
        labels: The names of the L labels by number.
        title: Title of the picture.

    Returns:
        Those of :func:`score`, accuracy_low and accuracy_high, where the accuracy is in 95% of draws of the split, and
        examples, the number of texts.
    """
    predicted = [labels[number] for number in probabilities.argmax(axis=1)]
    right = [labels[number] for number in references]
    names = list(labels)
    write_lines(folder / f"{split}_predictions.txt", predicted)
    write_lines(folder / f"{split}_references.txt", right)
    shown = [shorten(name, 60) for name in names]
    table = classification_report(right, predicted, labels=names, target_names=shown, digits=4, zero_division=0)
    write_text(folder / f"{split}_report.txt", table)
    counts = confusion_matrix(right, predicted, labels=names)
    plot_confusion_matrix(counts, labels, folder / f"{split}_confusion_matrix.png", title)
    scores = score(probabilities, references) | bounds("accuracy", *accuracy_counts(predicted, right))
    return {**scores, "examples": len(right)}


def _accuracy_and_f1(predicted: npt.NDArray[Any], references: npt.NDArray[Any]) -> dict[str, float]:
    macro_f1 = f1_score(references, predicted, labels=np.unique(references), average="macro", zero_division=0)
    return {"accuracy": 100 * float(accuracy_score(references, predicted)), "macro_f1": 100 * float(macro_f1)}


def _whole_texts(texts: Dataset) -> list[str]:
    columns = [texts[name] for name in ("text", "text_pair") if name in texts.column_names]
    return [" ".join(row) for row in zip(*columns)]
