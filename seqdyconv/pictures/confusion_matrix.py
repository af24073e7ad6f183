"""Which labels a classifier takes for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from seqdyconv.files import shorten
from seqdyconv.pictures.figures import LONGEST_NAME, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_confusion_matrix(
    counts: npt.ArrayLike, labels: Sequence[str], path: str | Path | None = None, title: str = ""
) -> "Figure":
    """Draw how often each label was predicted where another was right: rows are right, colours shares of the row.

    Args:
        counts: (L, L), how often the label of the row was taken for that of the column, as
            ``sklearn.metrics.confusion_matrix`` counts.
        labels: (L,) their names, drawn as they are; long ones are cut.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        title: above the picture.

    Returns:
        A ``matplotlib.figure.Figure``. The counts are written into it for up to 20 labels.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: counts of another shape.
        InputError: a path that cannot be written.

    Example:
        >>> from seqdyconv.pictures import plot_confusion_matrix
        >>> figure = plot_confusion_matrix([[8, 2], [0, 5]], ["ham", "spam"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['8', '2', '5']
    """
    counts = np.asarray(counts)
    if counts.shape != (len(labels), len(labels)) or not len(labels):
        raise ValueError(f"counts must be (L, L) of L labels, got {counts.shape} of {len(labels)}")
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = min(3 + 0.5 * len(labels), 14)
    figure = new_figure(path, figsize=(size + 1, size), layout="compressed")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title, parse_math=False)
    axes.set(xlabel="predicted", ylabel="right label (number of texts)")
    names = [shorten(label, LONGEST_NAME) for label in labels]
    upright = len(names) > 3 or max(map(len, names)) > 12
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, parse_math=False)
    rows = [f"{name} ({number})" for name, number in zip(names, counts.sum(axis=1))]
    axes.set_yticks(range(len(names)), rows, parse_math=False)
    if len(labels) <= 20:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="share of the right label's texts", shrink=0.8, aspect=30)
    save(figure, path)
    return figure
