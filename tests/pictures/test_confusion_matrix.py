"""plot_confusion_matrix."""

import numpy as np
import pytest
from matplotlib.image import imread

from seqdyconv.pictures import plot_confusion_matrix


@pytest.mark.parametrize("number", [2, 21])
def test_matrices_of_few_and_many_labels(tmp_path, number):
    labels = [f"label {index}" for index in range(number)]
    plot_confusion_matrix(np.eye(number, dtype=int)[::-1], labels, tmp_path / "matrix.png", "title")
    assert imread(tmp_path / "matrix.png").ndim == 3


def test_colours_are_shares_of_the_right_label():
    axes = plot_confusion_matrix([[3, 1], [0, 0]], ["a", "b"]).axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (4)", "b (0)"]


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "b", "c"]], ids=len)
def test_other_numbers_of_labels_raise(labels):
    with pytest.raises(ValueError, match=rf"counts must be \(L, L\) of L labels, got \(2, 2\) of {len(labels)}"):
        plot_confusion_matrix([[3, 1], [0, 0]], labels)


@pytest.mark.parametrize("title", ["$", r"$\x", "_^%&~{}#\\"])
@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_names_are_drawn_as_they_are(tmp_path, title):
    names = ["$", "$a_b$", r"$\x", "_^%&~{}#", "\\", "a\nb\tc", "😀", "语", "<b>|`", "x" * 300, ""]
    shown = [name.replace("\n", " ") if len(name) < 40 else "x" * 39 + "…" for name in names]
    for path in (tmp_path / "matrix.png", tmp_path / "matrix.svg"):
        axes = plot_confusion_matrix(np.eye(len(names), dtype=int), names, path, title=f"{title} (r8)").axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == shown
        assert [label.get_text() for label in axes.get_yticklabels()] == [f"{name} (1)" for name in shown]
    assert imread(tmp_path / "matrix.png").ndim == 3
