"""Arguments of the scripts that use a trained model."""

from pathlib import Path

import pytest

from seqdyconv.errors import InputError
from seqdyconv.training.evaluation import EvaluationArguments


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
