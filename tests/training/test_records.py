"""What a number comes from: the record beside the metrics of a run."""

import json
import subprocess

import pytest

import seqdyconv
from seqdyconv.training.records import code, write_record


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder in which the package seems to be."""
    folder = tmp_path / "checkout"
    (folder / "seqdyconv").mkdir(parents=True)
    (folder / "seqdyconv/__init__.py").write_text("one = 1\n")
    monkeypatch.setattr(seqdyconv, "__file__", str(folder / "seqdyconv/__init__.py"))
    return folder


def git(folder, *words):
    command = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_commit_of_a_checkout_and_whether_it_was_changed(package):
    git(package, "init", "-q")
    git(package, "add", ".")
    git(package, "commit", "-qm", "one")
    found = {"version": seqdyconv.__version__, "commit": git(package, "rev-parse", "HEAD").strip(), "changed": False}
    (package / "outputs").mkdir()
    (package / "outputs/model").touch()
    assert code() == found
    (package / "seqdyconv/__init__.py").write_text("one = 2\n")
    assert code() == found | {"changed": True}


@pytest.mark.parametrize("broken", [True, False], ids=["no repository", "installed"])
def test_elsewhere_the_version_alone(package, broken):
    if broken:
        (package / ".git").mkdir()
    assert code() == {"version": seqdyconv.__version__}


def test_the_record_of_an_evaluation_holds_that_of_the_training(tmp_path):
    model, evaluation = tmp_path / "model", tmp_path / "evaluation"
    for folder in (model, evaluation):
        folder.mkdir()
    write_record(model, "train", {"seed": 3, "output_dir": str(model)}, {"test_bleu": 1.0})
    write_record(evaluation, "evaluate", {"num_beams": 4, "model_dir": str(model)}, {"test_bleu": 2.0}, model)
    record = json.loads((evaluation / "record.json").read_text())
    assert (record["command"], record["config"], record["metrics"]) == (
        "evaluate",
        {"num_beams": 4},
        {"test_bleu": 2.0},
    )
    assert (record["training"]["command"], record["training"]["config"]) == ("train", {"seed": 3})
    assert record["versions"]["torch"] and record["machine"]["processor"] and record["ended"].endswith("+00:00")
    assert str(tmp_path) not in json.dumps(record)
