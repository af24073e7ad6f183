"""A comparison from its file to its table: equal searches, runs that are not run twice, honest gaps."""

import json
import os
import signal
import time
import warnings
from pathlib import Path

import pytest
import yaml

from seqdyconv.comparisons.plan import ComparisonArguments, evaluations, finals, trials
from seqdyconv.comparisons.results import (
    comparison_table,
    draw,
    mean_text,
    read_result,
    read_rows,
    write_comparison,
)
from seqdyconv.comparisons.runs import END_WITH_THE_PARENT, Runner, choose
from seqdyconv.errors import InputError
from seqdyconv.scores.translation import score
from seqdyconv.training.arguments import ArgumentsError, parse_arguments
from seqdyconv.training.records import RECORD

TOY = '''
"""A recipe in no time: its score is the rate, but for convolutions twice that, and it fails where it is told to."""
import json, pathlib, sys
words = sys.argv[2:]
given = dict(zip((word[2:] for word in words[::2]), words[1::2]))
folder = pathlib.Path(given["output_dir"])
folder.mkdir(parents=True, exist_ok=True)
rate = float(given["learning_rate"])
if rate > 1:
    sys.exit("the loss is nan")
score = rate * (2 if given["mixer"] == "conv" else 1) * 100
metrics = {"parameters": 2_000_000, "validation_accuracy": score, "wall_seconds": 3.0}
if given["do_predict"] == "True":
    metrics["test_accuracy"] = score - int(given["seed"]) / 10
    right = round(score)
    (folder / "test_references.txt").write_text("yes\\n" * 100)
    (folder / "test_predictions.txt").write_text("yes\\n" * right + "no\\n" * (100 - right))
record = {"config": given, "metrics": metrics, "machine": {"processor": "a toy", "threads": 1},
          "versions": {"torch": "2"}, "code": {"version": "1", "commit": "0123456789abcdef"}}
(folder / "record.json").write_text(json.dumps(record))
(folder / "seen.txt").open("a").write("run\\n")
'''

ASKED = {
    "recipe": "toy",
    "config": "toy.yaml",
    "title": "Toys",
    "variants": {"attention": {"mixer": "attention"}, "convolution": {"mixer": "conv"}},
    "metrics": {"test_accuracy": "accuracy"},
    "baseline": "attention",
    "search_space": {"learning_rate": [0.1, 0.2, 0.4]},
    "search_metric": "validation_accuracy",
    "seeds": [1, 2],
    "parallel": 2,
}


EVALUATION = """
import json, pathlib, sys
model, given = pathlib.Path(sys.argv[1]), dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder = pathlib.Path(given["--evaluation_dir"])
folder.mkdir()
score = json.loads((model / "record.json").read_text())["metrics"]["test_accuracy"] + int(given["--num_beams"])
(folder / "record.json").write_text(json.dumps({"config": given, "metrics": {"test_accuracy": score}}))
for name in ("references", "predictions"):
    (folder / f"test_{name}.txt").write_text((model / f"test_{name}.txt").read_text())
"""


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "recipes" / "toy"
    (folder / "configs").mkdir(parents=True)
    (folder / "train.py").write_text(TOY)
    (folder / "evaluate.py").write_text(EVALUATION)
    (folder / "configs" / "toy.yaml").write_text("learning_rate: 0.1\n")
    return folder


def arguments(tmp_path: Path, **changes) -> ComparisonArguments:
    file = tmp_path / "toys.yaml"
    file.write_text(yaml.safe_dump(ASKED | {"output_dir": str(tmp_path / "out")} | changes))
    (args,) = parse_arguments((ComparisonArguments,), [str(file)])
    return args


def compare(args: ComparisonArguments, recipe: Path) -> tuple[Runner, list[str]]:
    notes: list[str] = []
    runner = Runner(args, recipe)
    jobs = finals(args, choose(args, runner.run(trials(args)), notes.append))
    runner.run(jobs)
    evaluated = evaluations(args, jobs)
    runner.run(evaluated)
    jobs = evaluated or jobs
    ended = {name: [runner.folder_of(job) for job in jobs if job.variant == name] for name in args.variants}
    write_comparison(args, runner.results, ended)
    return runner, notes


def test_a_comparison_from_its_file_to_its_table(tmp_path, recipe):
    runner, notes = compare(arguments(tmp_path), recipe)
    whole, rows = read_rows(runner.results)
    assert whole["asked"]["search_space"] == ASKED["search_space"]
    assert [(row.variant, len(row.trials), len(row.ended)) for row in rows] == [
        ("attention", 3, 2),
        ("convolution", 3, 2),
    ]
    assert [row.values("test_accuracy") for row in rows] == [[39.9, 39.8], [79.9, 79.8]]
    assert rows[1].found["difference"]["value"] == 40
    lines = comparison_table(runner.results).splitlines()
    assert lines[0].startswith("| Toys | settings, the best of 3 trials | parameters | seeds | accuracy | − attention")
    assert lines[2].startswith("| attention | learning_rate 0.4 | 2.00 M | 2 | 39.85 ± 0.07 | |")
    assert lines[3].startswith("| convolution | learning_rate 0.4 | 2.00 M | 2 | **79.85 ± 0.07** | +40.00 (")
    assert notes == [
        f"{name}: the best learning_rate, 0.4, is at the end of what was tried" for name in ("attention", "convolution")
    ]
    draw(runner.results)
    assert (runner.results / "comparison.png").stat().st_size > 1000


def test_trials_never_see_the_test_set(tmp_path, recipe):
    compare(arguments(tmp_path), recipe)
    of_trials = list((tmp_path / "out/runs/trials").rglob("record.json"))
    assert len(of_trials) == 6
    assert all("test_accuracy" not in json.loads(file.read_text())["metrics"] for file in of_trials)


def test_what_has_run_is_not_run_again(tmp_path, recipe):
    args = arguments(tmp_path)
    compare(args, recipe)
    compare(args, recipe)
    seen = list((tmp_path / "out").rglob("seen.txt"))
    assert len(seen) == 10
    assert {file.read_text() for file in seen} == {"run\n"}
    message = r"was begun with other settings or another toy\.yaml: choose another output_dir"
    with pytest.raises(ArgumentsError, match=message):
        compare(arguments(tmp_path, settings={"dropout": 0.1}), recipe)
    elsewhere = {"output_dir": str(tmp_path / "moved"), "results_dir": str(tmp_path / "out/results")}
    moved = arguments(tmp_path, **elsewhere)
    assert len(Runner(moved, recipe).run(trials(moved))) == 6  # the results of trials are enough
    assert not (tmp_path / "moved").exists()
    for number, change in enumerate(({"search_seed": 2}, {"settings": {"dropout": 0.1}})):  # not those of other runs
        changed = arguments(tmp_path, **elsewhere | {"output_dir": str(tmp_path / f"moved {number}")}, **change)
        Runner(changed, recipe).run(trials(changed))
        assert len(list(Path(changed.output_dir).rglob("seen.txt"))) == 6


def test_where_a_configuration_would_put_its_runs_makes_no_other_runs_of_them(tmp_path, recipe):
    config = recipe / "configs" / "toy.yaml"
    config.write_text("learning_rate: 0.1\noutput_dir: outputs/here\n")
    runner, _ = compare(arguments(tmp_path), recipe)
    kept = [*(tmp_path / "out/runs").rglob("*.job.json"), *runner.results.glob("trials-*.json")]
    for file in kept:  # of before, when that was kept too
        content = json.loads(file.read_text())
        asked = content.get("asked", content)
        assert asked.setdefault("output_dir", "outputs/here") == "outputs/here"
        file.write_text(json.dumps(content))
    assert len(kept) == 16
    config.write_text("learning_rate: 0.1\noutput_dir: outputs/there\n")
    compare(arguments(tmp_path), recipe)
    moved = arguments(tmp_path, output_dir=str(tmp_path / "moved"), results_dir=str(runner.results))
    Runner(moved, recipe).run(trials(moved))
    assert not (tmp_path / "moved").exists()
    assert {file.read_text() for file in (tmp_path / "out").rglob("seen.txt")} == {"run\n"}


SLOW = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True)
(folder / "begun.tmp").write_text(str(os.getpid()))
(folder / "begun.tmp").rename(folder / "begun")
time.sleep(60)
"""


def wait_until(is_so) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it never was")


def has_ended(process: int) -> bool:
    """Whether there is no such process any more, or nobody has asked yet how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not END_WITH_THE_PARENT, reason="there is no setpriv")
def test_runs_end_with_their_comparison_be_it_killed_and_no_other_one_begins_them_meanwhile(tmp_path, recipe):
    (recipe / "train.py").write_text(SLOW)
    args = arguments(tmp_path, parallel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of this process
        other = os.fork()
    if other == 0:
        try:
            Runner(args, recipe).run(trials(args))
        finally:
            os._exit(1)
    try:
        begun = tmp_path / "out/runs/trials/attention/1/begun"
        wait_until(begun.exists)
        with pytest.raises(ArgumentsError, match=r"the run trials/attention/1 in .* is going on, begun by another"):
            Runner(args, recipe).run(trials(args))
        assert not has_ended(int(begun.read_text()))
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    wait_until(lambda: has_ended(int(begun.read_text())))


class TestARunIsThatOfItsSettings:
    @pytest.fixture
    def args(self, tmp_path, recipe):
        args = arguments(tmp_path, seeds=[1])
        compare(args, recipe)
        return args

    def test_another_configuration_under_the_same_name_is_refused(self, args, recipe):
        (recipe / "configs" / "toy.yaml").write_text("learning_rate: 0.1\nwidth: 9\n")
        with pytest.raises(ArgumentsError, match=r"was begun with other settings or another toy\.yaml"):
            Runner(args, recipe).run(trials(args))

    def test_one_that_is_let_go_runs_anew(self, tmp_path, args, recipe):
        more = arguments(tmp_path, seeds=[1], search_space={"learning_rate": [0.1, 0.2, 0.4, 0.5]})
        with pytest.raises(ArgumentsError, match=r"or remove (.*job.json), and it runs anew"):
            compare(more, recipe)
        for variant in more.variants:
            (tmp_path / f"out/runs/{variant}/1.job.json").unlink()
        runner, _ = compare(more, recipe)
        (attention, convolution) = read_rows(runner.results)[1]
        assert (attention.values("test_accuracy"), convolution.values("test_accuracy")) == ([49.9], [99.9])
        assert attention.runs[0]["asked"]["learning_rate"] == 0.5

    def test_only_what_is_asked_for_counts(self, tmp_path, args, recipe):
        less = arguments(
            tmp_path, seeds=[2], search_space={"learning_rate": [0.1, 0.2]}, output_dir=str(tmp_path / "b")
        )
        less.results_dir = str(tmp_path / "out/results")
        runner, _ = compare(less, recipe)
        row = read_rows(runner.results)[1][0]
        assert [run["seed"] for run in row.runs] == [2]
        assert [trial["point"]["learning_rate"] for trial in row.trials] == [0.1, 0.2]


def test_what_is_neither_good_nor_bad_is_not_bold(tmp_path, recipe):
    runner, _ = compare(arguments(tmp_path, metrics={"test_accuracy": "accuracy", "parameters": "size"}), recipe)
    assert comparison_table(runner.results).count("**") == 2


def test_bleu_is_drawn_anew_with_the_tokenizer_that_scored_it(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name, lines in (("predictions", "请点击这个图标。\n"), ("references", "请点击那个图标。\n")):
        (run / f"test_{name}.txt").write_text(lines * 4, encoding="utf-8")
    scores = score(["请点击这个图标。"] * 4, ["请点击那个图标。"] * 4, target_lang="zh")
    (run / RECORD).write_text(json.dumps({"metrics": {f"test_{name}": value for name, value in scores.items()}}))
    args = arguments(tmp_path, metrics={"test_bleu": "BLEU"})
    write_comparison(args, tmp_path, {"attention": [run]})
    assert scores["bleu"] > 20
    assert read_rows(tmp_path)[0]["found"]["attention"]["interval"]["low"] == pytest.approx(scores["bleu"])


def test_a_trial_that_fails_is_told_and_not_chosen(tmp_path, recipe):
    runner, _ = compare(arguments(tmp_path, search_space={"learning_rate": [0.1, 3]}), recipe)
    failed = json.loads((runner.results / "trials-attention-2.json").read_text())
    assert failed["failed"] == "the loss is nan"
    assert "learning_rate 0.1; 1 failed" in comparison_table(runner.results)
    with pytest.raises(ArgumentsError, match="attention has 0 good trials of 1: no settings can be chosen"):
        compare(arguments(tmp_path, search_space={"learning_rate": [3]}, output_dir=str(tmp_path / "other")), recipe)


def test_runs_may_be_evaluated_once_more(tmp_path, recipe):
    metrics = {"evaluation_test_accuracy": "with a beam", "test_accuracy": "greedy"}
    args = arguments(
        tmp_path,
        evaluation={"num_beams": 5},
        metrics=metrics,
        search_space={},
        settings={"learning_rate": 0.1},
        seeds=[1],
    )
    runner, _ = compare(args, recipe)
    _, (attention, convolution) = read_rows(runner.results)
    assert (attention.values("evaluation_test_accuracy"), attention.values("test_accuracy")) == ([14.9], [9.9])
    assert convolution.found["difference"]["value"] == 10
    assert "| **24.90** | **19.90** |" in comparison_table(runner.results)


def test_all_variants_try_the_same_points(tmp_path):
    space = {"learning_rate": [0.1, 0.2, 0.3], "norm": [{"norm": "pre"}, {"norm": "post", "warmup_steps": 9}]}
    args = arguments(tmp_path, search_space=space, search_trials=4, settings={"max_steps": 5})
    jobs = trials(args)
    points = [[job.point for job in jobs if job.variant == name] for name in args.variants]
    assert points[0] == points[1] and len(points[0]) == 4
    assert {job.settings["max_steps"] for job in jobs} == {5}
    post = next(job for job in jobs if job.point["norm"]["norm"] == "post")
    assert (post.settings["norm"], post.settings["warmup_steps"]) == ("post", 9)
    assert trials(arguments(tmp_path, search_space=space, search_trials=4))[0].point == points[0][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "a comparison needs variants, got none"),
        ({"variants": {"a/b": {}}}, "a variant's name becomes that of a folder, which 'a/b' can't be"),
        ({"variants": {"a": 3}}, "the variant a must be a mapping of settings to values, got 3"),
        ({"baseline": "lstm"}, "baseline must be one of attention, convolution, got 'lstm'"),
        ({"search_space": {"dropout": 0.1}}, "search_space must have a list of values for dropout, got 0.1"),
        ({"search_metric": "test_bleu"}, "search_metric must be one of the validation set (validation_...), got"),
        ({"search_metric": "validation_examples"}, "search_metric must be one whose better end is known, got"),
        ({"seeds": [1, 2, 1]}, "seeds must differ, got 1, 2, 1"),
        (
            {"variants": {"attention": {}, "low": {"learning_rate": 0.1}}},
            "the search sets learning_rate too, in which the variant low differs",
        ),
        ({"settings": {"seed": 3}}, "seed can't be set: a comparison decides on it"),
        ({"search_space": {"x": [{"output_dir": "a"}]}}, "output_dir can't be set"),
        ({"evaluation": {"evaluation_dir": "a"}}, "evaluation_dir can't be set: a comparison decides on it"),
        ({"variants": {"a b": {}, "a_b": {}}}, "the variants 'a b' and 'a_b' would have the same files: rename one"),
        ({"variants": "[1, 2]"}, "variants must be a mapping, got [1, 2]"),
        ({"settings": "3"}, "settings must be a mapping, got 3"),
        (
            {"metrics": {"evaluation_test_bleu": "BLEU"}},
            "metrics has evaluation_test_bleu, which needs evaluation: the settings of evaluate.py",
        ),
    ],
)
def test_what_can_be_no_comparison_is_refused(tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit):
        arguments(tmp_path, **changes)
    assert message in capsys.readouterr().err


def test_a_missing_recipe_is_refused(tmp_path, recipe):
    with pytest.raises(ArgumentsError, match=r"there is no .*other.yaml, which recipe and config name"):
        Runner(arguments(tmp_path, config="other.yaml"), recipe)

    with pytest.raises(ArgumentsError, match=r"config must name one of .*configs, which .*mine/toy.yaml is not"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "toy.yaml").write_text("learning_rate: 0.3\n")
        Runner(arguments(tmp_path, config=str(tmp_path / "mine" / "toy.yaml")), recipe)
    assert Runner(arguments(tmp_path, config=str(recipe / "configs" / "toy.yaml")), recipe).base == {
        "learning_rate": 0.1
    }


def write_run(folder: Path, predictions: str, references: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "test_predictions.txt").write_text("\n".join([*predictions, ""]))
    (folder / "test_references.txt").write_text("\n".join([*references, ""]))
    (folder / RECORD).write_text(json.dumps({"metrics": {"test_accuracy": 50}}))
    return folder


@pytest.mark.parametrize("references", ["yyny", "yyy"])
def test_no_difference_is_told_of_other_test_sets(tmp_path, references):
    runs = {
        "attention": [write_run(tmp_path / "a", "yyyn", "yyyy")],
        "convolution": [write_run(tmp_path / "b", "yyyn"[: len(references)], references)],
    }
    write_comparison(arguments(tmp_path, search_space={}), tmp_path, runs)
    _, (attention, convolution) = read_rows(tmp_path)
    assert attention.found["interval"]["value"] == 75 and "interval" in convolution.found
    assert "difference" not in convolution.found
    assert "| another test set |" in comparison_table(tmp_path).splitlines()[3]


def test_no_interval_is_told_of_runs_with_several_test_sets(tmp_path):
    runs = {"attention": [write_run(tmp_path / "1", "yy", "yy"), write_run(tmp_path / "2", "yyy", "yyn")]}
    write_comparison(arguments(tmp_path, search_space={}), tmp_path, runs)
    assert "interval" not in read_rows(tmp_path)[1][0].found
    draw(tmp_path)


def test_the_settings_that_were_chosen_are_told(tmp_path):
    space = {"regularisation": [{}, {"dropout": 0.3}, {"dropout": 0.3, "weight_decay": 0.1}]}
    write_comparison(arguments(tmp_path, search_space=space), tmp_path, {})
    for variant, asked in (("attention", {"dropout": 0.3}), ("convolution", {"dropout": 0.3, "weight_decay": 0.1})):
        run = {"variant": variant, "seed": 1, "asked": asked, "metrics": {"test_accuracy": 1}}
        (tmp_path / f"{variant}-1.json").write_text(json.dumps(run))
    lines = comparison_table(tmp_path).splitlines()
    assert lines[2].startswith("| attention | dropout 0.3 |")
    assert lines[3].startswith("| convolution | dropout 0.3, weight_decay 0.1 |")


def test_other_files_beside_the_results_are_none_of_them(tmp_path):
    write_comparison(arguments(tmp_path, search_space={}), tmp_path, {})
    (tmp_path / "package.json").write_text('{"name": "of something else"}')
    assert [row.runs for row in read_rows(tmp_path)[1]] == [[], []]


@pytest.mark.parametrize("content", ['{"variant": ', "[1]", "\xff"])
def test_a_damaged_result_is_one_line(tmp_path, content):
    (tmp_path / "attention-1.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"attention-1.json is no result: .*"):
        read_result(tmp_path / "attention-1.json")


def test_each_file_of_references_is_read_once(tmp_path, monkeypatch):
    runs = {name: [write_run(tmp_path / name, "yyyn", "yyyy")] for name in ("attention", "convolution")}
    read, read_text = [], Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *args, **more: read.append(path.name) or read_text(path, **more)
    )
    write_comparison(arguments(tmp_path, search_space={}), tmp_path, runs)
    assert read.count("test_references.txt") == read.count("test_predictions.txt") == 2


def test_bars_in_titles_and_names_end_no_cell(tmp_path):
    args = arguments(tmp_path, title="de|en", metrics={"test_accuracy": "a | b"}, search_space={"x|y": [1]})
    write_comparison(args, tmp_path, {})
    run = {"variant": "attention", "seed": 1, "asked": {"x|y": 1}, "metrics": {"test_accuracy": 1}}
    (tmp_path / "attention-1.json").write_text(json.dumps(run))
    head, line, row, _ = comparison_table(tmp_path).splitlines()
    assert head.startswith(r"| de\|en | settings") and r" a \| b |" in head and r"| x\|y 1 |" in row
    assert head.replace(r"\|", "").count("|") == line.count("|") == row.replace(r"\|", "").count("|")


def test_small_numbers_keep_their_digits():
    assert mean_text([0.0035, 0.0037], "test_real_time_factor") == "0.0036 ± 0.0001"
    assert mean_text([1.2345], "test_bits_per_byte") == "1.234"
    assert mean_text([0.46, 0.5], "test_latency_seconds") == "0.48 s"
    assert mean_text([1.2345], "test_bits_per_byte", ".1f") == "1.2"
