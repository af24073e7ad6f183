"""Random mistakes in options, configurations and data: a training begins, or one line says what is wrong."""

from tests.recipes.fuzz import Fuzzer

TRIALS = 250


def test_mistakes_are_one_line_before_anything_is_written(tmp_path):
    fuzzer = Fuzzer(tmp_path, seed=0)
    ends = set()
    for _ in range(TRIALS):
        tried, problem = fuzzer.trial()
        assert problem is None, f"{tried}\n{problem}"
        ends.add(fuzzer.ended)
    assert {path: path.read_bytes() for path in fuzzer.data.iterdir()} == fuzzer.contents
    assert "the training began" in ends and len(ends) > TRIALS / 4
