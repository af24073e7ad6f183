"""Arguments of the scripts that use a trained model."""

import json
from pathlib import Path

import pytest

from seqdyconv.errors import InputError
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.evaluation import EvaluationArguments, write_evaluation


@pytest.mark.parametrize("place", ["file", "file/below", "link", "x" * 300])
def test_where_nothing_can_be_written_is_told_before_the_evaluation(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="evaluation_dir"):
        EvaluationArguments("model", evaluation_dir=str(tmp_path / place))
    with pytest.raises(InputError, match="split must be one of train, validation, test, got 'dev'"):
        EvaluationArguments("model", split="dev")


OWN = {"of an evaluation": '{"parameters": 3}'}
OTHERS = {"of anybody": '{"loss": 1}', "a list": "[]", "no JSON": "{", "endless": "[" * 100_000, "no text": "\udcff"}


@pytest.mark.parametrize("content", (OWN | OTHERS).values(), ids=OWN | OTHERS)
def test_only_the_metrics_of_an_evaluation_are_replaced(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content, errors="surrogateescape")
    if content in OTHERS.values():
        with pytest.raises(InputError, match="that is of no evaluation"):
            EvaluationArguments("model", evaluation_dir=str(tmp_path))
    else:
        assert EvaluationArguments("model", evaluation_dir=str(tmp_path)).folder == tmp_path
        (tmp_path / "run.yaml").touch()  # the folder of a run, whose metrics.json this is
        with pytest.raises(InputError, match="is of no evaluation"):
            EvaluationArguments("model", evaluation_dir=str(tmp_path))


def test_the_folder_is_below_a_local_model_or_where_one_says(tmp_path):
    assert EvaluationArguments(str(tmp_path)).folder == tmp_path / "evaluation"
    assert EvaluationArguments("name/on_the_hub").folder == Path("evaluation")
    assert EvaluationArguments("model", evaluation_dir="~/nowhere").folder == Path.home() / "nowhere"


def test_an_evaluation_leaves_its_metrics_and_how_they_came_about(tmp_path):
    (tmp_path / "record.json").write_text('{"config": {"learning_rate": 0.5}}')
    args = EvaluationArguments(str(tmp_path), split="validation")
    args.folder.mkdir()
    write_evaluation(args, (DecodingArguments(num_beams=3),), "python evaluate.py model", {"validation_bleu": 20.5})
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == {"validation_bleu": 20.5}
    record = json.loads((tmp_path / "evaluation" / "record.json").read_text())
    assert record["config"] == {"split": "validation", "num_beams": 3}
    assert record["training"]["config"] == {"learning_rate": 0.5}
