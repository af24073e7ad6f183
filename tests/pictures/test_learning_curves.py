"""plot_learning_curves."""

import pytest
from matplotlib.image import imread

from seqdyconv.pictures import plot_learning_curves


@pytest.mark.parametrize("log", [[], [{"step": 1, "loss": 2.0, "learning_rate": 0.1}]])
def test_curves_of_any_log_become_a_picture(tmp_path, log):
    plot_learning_curves(log, tmp_path / "curves.png", "title", {"eval_bleu": "BLEU"})
    assert imread(tmp_path / "curves.png").ndim == 3


def test_a_metric_that_is_logged_gets_a_panel(tmp_path):
    log = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 1, "eval_loss": 2.0, "eval_bleu": 3.0}]
    plot_learning_curves(log, tmp_path / "two.png", "title")
    plot_learning_curves(log, tmp_path / "three.png", "title", {"eval_bleu": "BLEU"})
    assert imread(tmp_path / "three.png").shape[0] > imread(tmp_path / "two.png").shape[0]
