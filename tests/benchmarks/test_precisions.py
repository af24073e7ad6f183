"""The benchmark of precisions knows every task of the runtime."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

from benchmarks import precisions
from seqdyconv.runtime import __all__ as classes


def test_every_task_is_scored_and_starts():
    calls = [call.split("(")[0] for _, _, call in precisions.TASKS.values()]
    assert sorted(calls) == sorted(classes)


def test_both_texts_of_pairs_are_read(monkeypatch):
    features = Features({"text": Value("string"), "text_pair": Value("string"), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"text": ["one"], "text_pair": ["two"], "label": [1]}, features=features)

    class Pairs:
        labels = ("b", "a")

        def probabilities(self, texts):
            return np.array([[0.9, 0.1] if text == ("one", "two") else [0.1, 0.9] for text in texts])

    monkeypatch.setattr(precisions, "run_data", lambda *asked: data)
    monkeypatch.setattr(precisions, "Classifier", lambda folder: Pairs())
    assert precisions.labels(None, "a run") == 100


def test_bleu_counts_the_words_of_the_target_language(monkeypatch, tmp_path):
    (tmp_path / "run.yaml").write_text("target_lang: zh\n")
    monkeypatch.setattr(precisions, "run_data", lambda *asked: {"source": ["one"], "target": ["我们今天去学校"]})

    class Translates:
        def translate(self, texts, num_beams):
            return ["我们今天去学院"]

    monkeypatch.setattr(precisions, "Translator", lambda folder: Translates())
    assert 0 < precisions.translations(None, str(tmp_path)) < 100  # as one word each it would be 0
