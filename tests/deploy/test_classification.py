"""Text classification out of torch: the folder, and that the runtime gives what torch gives."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from seqdyconv.data.text_rows import LengthArguments, tokenize
from seqdyconv.deploy import ExportError, checking, export_model
from seqdyconv.runtime import Classifier
from seqdyconv.runtime.folder import FolderError, open_folder
from seqdyconv.training.classifiers import classify, load_classifier

TEXTS = ["the old word", "", "a", "word </s> [SEP] a b " * 20, "b the\tword"]


@pytest.fixture(scope="module", params=["classifier", "swapped"])
def exported(request, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / request.param
    export_model(models / request.param, folder)
    return models / request.param, folder


def in_torch(folder, texts, **lengths):
    model, tokenizer = load_classifier(str(folder))
    data = DatasetDict({"texts": Dataset.from_dict({"text": texts})})
    return classify(model, tokenizer, tokenize(data, tokenizer, LengthArguments(**lengths))["texts"], 2)


def test_the_probabilities_are_those_of_torch(exported):
    folder, out = exported
    classifier = Classifier(out)
    assert classifier.labels == ["a", "b"]
    np.testing.assert_allclose(classifier.probabilities(TEXTS, batch_size=2), in_torch(folder, TEXTS), atol=1e-5)
    assert classifier.probabilities([]).shape == (0, 2)
    best, other = classifier.classify(["the old word"], top_k=2)[0]
    assert best.probability >= other.probability and {best.label, other.label} == {"a", "b"}


def test_long_texts_are_read_in_windows_where_the_training_did(exported, tmp_path):
    folder, out = exported
    lengths = {"max_length": 8, "long_texts": "windows", "window_stride": 2, "max_windows": 3}
    manifest = json.loads((out / "export.json").read_text())
    manifest["settings"] |= {"max_length": 8, "windows": True, "window_stride": 2, "max_windows": 3}
    for file in out.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    got = Classifier(tmp_path).probabilities(TEXTS)
    np.testing.assert_allclose(got, in_torch(folder, TEXTS, **lengths), atol=1e-5)


def test_very_long_texts_are_cut_as_in_training(exported):
    folder, out = exported
    text = "the" + " " * 30_000 + "old word"  # whose last words are behind the longest 256 tokens that are expected
    np.testing.assert_allclose(Classifier(out).probabilities([text]), in_torch(folder, [text]), atol=1e-5)


def test_a_check_reads_both_texts_of_pairs(exported, tmp_path, monkeypatch):
    folder, out = exported
    data = Dataset.from_dict({"text": ["the old", "a"], "text_pair": ["word b", "old word"], "label": [0, 1]})
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    read = []

    class Reading(Classifier):
        def probabilities(self, texts, batch_size=32):
            read.extend(texts)
            return super().probabilities(texts, batch_size)

    monkeypatch.setattr(checking, "run_data", lambda *_: data)
    monkeypatch.setattr(checking, "Classifier", Reading)
    (line,) = checking.check_export(folder, open_folder(copy))
    assert line.startswith("100.00% of the labels of 2 texts are equal")
    assert read == [("the old", "word b"), ("a", "old word")]


def test_a_check_by_files_without_a_text_is_told(exported, tmp_path, monkeypatch):
    folder, out = exported
    monkeypatch.setattr(checking, "run_data", lambda *_: pytest.fail("other texts were taken"))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ExportError, match=r"no text to check by in .*empty\.txt"):
        checking.check_export(folder, open_folder(out), [str(tmp_path / "empty.txt")])


def test_the_folder_says_what_it_is(exported):
    _, out = exported
    card = (out / "README.md").read_text()
    assert "classification" in card and "Classifier" in card and "`logits` (batch, 2)" in card
    assert {"export.json", "model.onnx", "tokenizer.json", "config.json"} <= {file.name for file in out.iterdir()}


def change(key, value):
    def damage(out):
        manifest = json.loads((out / "export.json").read_text())
        target = manifest if key in manifest else manifest["settings"]
        target[key] = value
        (out / "export.json").write_text(json.dumps(manifest))

    return damage


DAMAGES = {
    "newer": (change("format", 2), "was exported by a newer seqdyconv"),
    "another task": (change("task", "translation"), "is for translation, and classification is asked for"),
    "no format": (change("format", "x"), "has no format"),
    "no settings": (change("settings", []), "must have a task, a precision and settings"),
    "a path out of the folder": (change("graphs", {"model": "../model.onnx"}), "must name files of its folder"),
    "no graph": (change("graphs", {"model": "none.onnx"}), "none.onnx is missing"),
    "another graph": (change("graphs", {"other": "model.onnx"}), "has no graph model"),
    "more labels": (change("labels", ["a", "b", "c"]), r"output logits of .* must be \['any', 3\], got \['batch', 2\]"),
    "no labels": (change("labels", None), "must have labels"),
    "a padding that is no token": (change("pad_token_id", 60000), "pad_token_id in the settings of"),
    "a length of nothing": (change("max_length", 0), "max_length in the settings of"),
    "a stride as long as a row": (change("window_stride", 256), None),
    "no JSON": (lambda out: (out / "export.json").write_text("{"), "is no JSON"),
    "no manifest": (lambda out: (out / "export.json").unlink(), "is no exported model: it has no export.json"),
    "half a graph": (lambda out: (out / "model.onnx").write_bytes((out / "model.onnx").read_bytes()[:999]), "no graph"),
    "no tokenizer": (lambda out: (out / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "half a tokenizer": (lambda out: (out / "tokenizer.json").write_text('{"a": 1}'), "is no tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_foreign_or_newer_folder_is_told_in_a_line(name, exported, tmp_path):
    _, out = exported
    for file in out.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage, message = DAMAGES[name]
    damage(tmp_path)
    if message is None:
        assert Classifier(tmp_path).probabilities(["a"]).shape == (1, 2)
        return
    with pytest.raises(FolderError, match=message) as error:
        Classifier(tmp_path)
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_model_is_told(exported, tmp_path):
    _, out = exported
    for file in out.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change("vocab_size", 6)(tmp_path)
    with pytest.raises(FolderError, match="it is another model's"):
        Classifier(tmp_path).probabilities(["word"])


def test_nothing_is_overwritten_unless_asked(exported, models, tmp_path):
    folder, out = exported
    with pytest.raises(ExportError, match="is there already: set overwrite to replace it"):
        export_model(folder, out)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="is no exported folder: choose another name"):
        export_model(folder, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
