"""Random mistakes in what recipes and commands take: the work is done, or one line says what is wrong."""

import pytest

from tests.recipes.fuzz import TrainTrials
from tests.recipes.fuzz_use import UseTrials


@pytest.mark.parametrize(
    "kind, number, end",
    [(TrainTrials, 250, "the training began"), (UseTrials, 80, "the work was done")],
    ids=["training", "use"],
)
def test_mistakes_are_one_line_and_nothing_is_written(kind, number, end, tmp_path):
    trials = kind(tmp_path, seed=0)
    ends = set()
    for _ in range(number):
        tried, problem = trials.trial()
        assert problem is None, f"{tried}\n{problem}"
        ends.add(trials.ended)
    assert {path: path.read_bytes() for path in trials.data.iterdir()} == trials.contents
    assert end in ends and len(ends) > number / 4
