"""Scores of predicted labels: what they are of, and what is written about a split."""

import numpy as np
import pytest
from datasets import Dataset
from matplotlib.image import imread

from seqdyconv.scores.text_classification import baselines, majority_accuracy, score, svm_accuracy, write_split


def test_scores_are_those_of_texts():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0]])
    found = score(probabilities, [0, 1, 1, 1])
    assert found["accuracy"] == 75
    assert found["macro_f1"] == pytest.approx(100 * (2 / 3 + 4 / 5) / 2)  # of the two labels that occur
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.6, 0.2, 0.9]).mean())


@pytest.mark.parametrize(("texts", "labels"), [(["好", "坏"], [0, 1]), (["a good one", "a bad one"], [0, 0])])
def test_a_baseline_that_can_learn_nothing_costs_no_run(texts, labels, caplog):
    rows = Dataset.from_dict({"text": texts, "label": labels})
    assert baselines(rows, rows, svm=True).keys() == {"majority_accuracy"}
    assert "there is no SVM to compare with" in caplog.text


def test_baselines_learn_from_the_training_texts_alone():
    assert majority_accuracy([1, 1, 0], [0, 1, 1, 2]) == 50
    train = ["an apple", "a pear", "the owl", "the crow"] * 3
    found = svm_accuracy(train, [0, 0, 1, 1] * 3, ["one apple", "the owl", "a crow", "a pear"], [0, 1, 1, 1])
    assert found["accuracy"] == 75
    assert found["macro_f1"] == pytest.approx(100 * (2 / 3 + 4 / 5) / 2)


def test_what_is_written_about_a_split(tmp_path):
    probabilities = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.8, 0.2, 0.0]])
    found = write_split(tmp_path, "test", probabilities, [0, 1, 1], ["no", "yes", "a\u2028b"], "title")
    bounds = {"accuracy_low": 0, "accuracy_high": 100}  # two of three are right
    assert found == {**score(probabilities, [0, 1, 1]), **bounds, "examples": 3}
    assert (tmp_path / "test_predictions.txt").read_text() == "no\nyes\nno\n"
    assert (tmp_path / "test_references.txt").read_text() == "no\nyes\nyes\n"
    report = (tmp_path / "test_report.txt").read_text()
    assert all(part in report for part in ("no", "yes", "0.6667", "macro avg"))
    assert imread(tmp_path / "test_confusion_matrix.png").ndim == 3
