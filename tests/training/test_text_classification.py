"""The trainer of text classification: what counts in its loss."""

import pytest

from seqdyconv.training.text_classification import balanced_weights


def test_balanced_weights_let_every_label_count_alike():
    labels = [0, 0, 0, 2]
    weights = balanced_weights(labels, 3)
    assert weights.tolist() == pytest.approx([4 / 6, 0, 2])
    assert weights[labels].mean() == 1
