"""Results in pages are those of files: a table that somebody edits by hand is found."""

import json
import re
import shutil

import pytest

from seqdyconv.comparisons.pages import tables_by_hand, with_results
from seqdyconv.errors import InputError
from tests.recipes.commands import script

tables = script(".", "tables")

OLD = {
    "title": "A table",
    "headline": {"column": 1, "rows": [0]},
    "failed": "the aim was 2",
    "columns": ["", "BLEU"],
    "alignment": ["---", "--:"],
    "rows": [["a", "**1.5**"], ["b", ""]],
    "old": {"Date": "1 May 2026", "Seeds": "1"},
}


def record(score: float, **more) -> dict:
    return {
        "command": f"python train.py --score {score}",
        "config": {"seed": 7},
        "ended": "2026-11-28T10:00:00+00:00",
        "code": {"version": "1", "commit": "0123456789abcdef", "changed": True},
        "versions": {"torch": "2"},
        "machine": {"processor": "a toy", "threads": 1, "cores": 2, "accelerators": []},
        "metrics": {
            "test_bleu": score,
            "test_bleu_low": 1,
            "test_bleu_high": 2,
            "parameters": 2_000_000,
            "wall_seconds": 1800,
        },
    } | more


def comparison(folder, title="Toys"):
    asked = {
        "recipe": "toy",
        "config": "toy.yaml",
        "title": title,
        "variants": {"attention": {}, "conv": {}},
        "metrics": {"test_bleu": "BLEU"},
        "search_space": {"rate": [1, 2]},
        "search_metric": "validation_bleu",
        "baseline": "attention",
        "seeds": [7],
        "search_seed": 1,
    }
    difference = {"value": 5, "low": 4, "high": 6, "p": 0.001}
    interval = {"value": 0, "low": 0, "high": 0}
    found = {"attention": {"interval": interval}, "conv": {"interval": interval, "difference": difference}}
    files = {"comparison": {"command": "python compare.py toys.yaml", "asked": asked, "found": found}}
    for variant, score in (("attention", 30), ("conv", 35)):
        about = {"variant": variant, "seed": 7, "asked": {"rate": 1}}
        files[f"{variant}-7"] = record(score) | about
        files[f"trials-{variant}-1"] = record(9, metrics={"validation_bleu": 9, "wall_seconds": 1800}) | about
        files[f"trials-{variant}-1"]["point"] = {"rate": 1}
        files[f"trials-{variant}-2"] = about | {"point": {"rate": 2}, "failed": "the loss is nan"}
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "comparison.png").touch()


@pytest.fixture
def made(tmp_path):
    """Of a page's text what its files make of it."""
    page, results = tmp_path / "page.md", tmp_path / "results"
    (results / "old").mkdir(parents=True)
    (results / "old/one.json").write_text(json.dumps(OLD))

    def make(text: str) -> str:
        page.write_text(text)
        new = with_results(page, results)
        page.write_text(new)
        assert with_results(page, results) == new
        return new

    return make


def checked(capsys) -> str:
    """What ``python recipes/tables.py --check`` has to say."""
    try:
        tables.main(["--check"])
    except SystemExit as end:
        assert end.code == 1
    return capsys.readouterr().out


MARKS = ("<!-- table:", "<!-- results: old/")
PAGES = [page for page in tables.PAGES if any(mark in page.read_text() for mark in MARKS)]


class TestThePagesOfTheRepository:
    def test_say_what_their_files_say(self, capsys):
        assert checked(capsys) == ""

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.name}")
    def test_are_found_out_when_somebody_edits_a_digit(self, page, tmp_path, monkeypatch, capsys):
        copy = tmp_path / page.name
        text = page.read_text()
        shutil.copytree(tables.RECIPES / "results", tmp_path / "results")
        monkeypatch.setattr(tables, "RECIPES", tmp_path)
        monkeypatch.setattr(tables, "PAGES", [copy])
        copy.write_text(text)
        assert checked(capsys) == ""
        table = text.index("\n|", min(text.index(mark) for mark in MARKS if mark in text))
        digit = re.compile(r"\d").search(text, text.index("\n|--", table))
        copy.write_text(text[: digit.start()] + str(9 - int(digit[0])) + text[digit.end() :])
        assert checked(capsys) == f"{copy} differs from its files\n"

    def test_have_no_table_of_numbers_without_files(self, tmp_path, monkeypatch, capsys):
        page = tmp_path / "README.md"
        page.write_text("| mixer | BLEU |\n|---|--:|\n| ours | 99.9 |\n")
        monkeypatch.setattr(tables, "PAGES", [page])
        assert checked(capsys) == f"{page} has a table without files: | mixer | BLEU |\n"


def test_unknown_options_of_the_script_are_refused(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text("<!-- headlines: nothing -->\nold\n<!-- end of headlines -->\n")
    monkeypatch.setattr(tables, "PAGES", [page])
    for option in ("--chekc", "--help"):
        with pytest.raises(SystemExit) as end:
            tables.main([option])
        assert end.value.code == (0 if option == "--help" else 2)
        assert "old" in page.read_text()


def test_an_old_table_is_told_to_be_old(made):
    page = made("# A page\n\n<!-- table: old/one -->\nanything\n<!-- end of table -->\n\nText.\n")
    assert page == (
        "# A page\n\n<!-- table: old/one -->\n| | BLEU |\n|---|--:|\n| a | **1.5** |\n| b | |\n\nOld, of 1 May 2026: "
        "made before runs left records; no file of a run stands behind it.\n<!-- end of table -->\n\nText.\n"
    )


def test_all_results_that_match_with_all_that_is_known(made, tmp_path):
    comparison(tmp_path / "results/toys")
    page = made(
        "<!-- headlines: * -->\n<!-- end of headlines -->\n<!-- headlines: old/* -->\n<!-- end of headlines -->\n"
        "<!-- results: * -->\n<!-- end of results -->\n<!-- results: old/* -->\n<!-- end of results -->\n"
    )
    assert "- Toys. BLEU: attention **30.00**; conv **35.00**; − attention **+5.00 (+4.00 to +6.00), p ≤ .001**" in page
    assert "- A table. BLEU: a **1.5**" in page
    assert "| conv | rate 1; 1 failed | 2.00 M | 1 | **35.00** | +5.00 (+4.00 to +6.00), p ≤ .001 |" in page
    assert "![Toys](results/toys/comparison.png)" in page
    for fact in (
        "Command: `python compare.py toys.yaml`",
        "Seeds: 7; of the trials 1",
        "Code: commit 0123456789 and changes",
        "Machine: a toy, 1 thread(s) each",
        "Versions: torch 2",
        "Machine time: 2.0 hours in all",
        "Days: 2026-11-28",
        "Runs: 4 trials, 2 with the settings that were chosen",
        "Failed: attention, rate 2: the loss is nan; conv, rate 2: the loss is nan",
        "Files: [results/toys](results/toys)",
        "What failed: the aim was 2",
        "Files: [results/old/one.json](results/old/one.json)",
    ):
        assert f"\n- {fact}\n" in page


def test_without_a_baseline_all_variants_are_told_in_a_line(made, tmp_path):
    comparison(tmp_path / "results/toys")
    file = tmp_path / "results/toys/comparison.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole | {"asked": whole["asked"] | {"baseline": None}, "found": {}}))
    page = made("<!-- headlines: toys -->\n<!-- end of headlines -->\n")
    assert "- Toys. BLEU: attention **30.00**; conv **35.00**\n" in page


def test_cells_take_metrics_from_records(made, tmp_path):
    results = tmp_path / "results"
    (results / "runs").mkdir()
    (results / "runs/1.json").write_text(json.dumps(record(20, training=record(3, command="python first.py"))))
    (results / "runs/2.json").write_text(json.dumps(record(30)))
    new = {key: value for key, value in OLD.items() if key != "old"}
    rows = [
        ["a", "{runs/1.json: test_bleu: .1f}"],
        ["both", "{runs/*.json: test_bleu}"],
        ["size", "{runs/1.json: parameters} {runs/1.json: test_bleu: interval}"],
    ]
    (results / "new.json").write_text(json.dumps(new | {"rows": rows}))
    page = made("<!-- table: new -->\n<!-- end of table -->\n<!-- results: new -->\n<!-- end of results -->\n")
    assert "| a | 20.0 |\n| both | 25.00 ± 7.07 |\n| size | 2.00 M 20.00 (95%: 1.00 to 2.00) |\n\n" in page
    assert "\n\na toy, 1 thread(s) each; torch 2; commit 0123456789 and changes.\n" in page
    assert (
        "- Commands: `python first.py`, `python train.py --score 20`, `python train.py --score 30`\n- Seeds: 7\n"
        in page
    )
    (results / "new.json").write_text(json.dumps(new | {"rows": [["a", "{runs/*.json: test_wer}"]]}))
    with pytest.raises(
        InputError, match=r"new.json asks for \{runs/\*.json: test_wer\}, which the records do not have"
    ):
        made("<!-- table: new -->\n<!-- end of table -->")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: new -->\n<!-- end of table -->", "there are no results new in"),
        ("\n<!-- table: old/one -->\n| 1 |", "has no <!-- end of table --> after <!-- table: old/one -->"),
        ("<!-- table: old/one -->\n<!-- table: old/one -->", "line 2 of .* the end of <!-- table: old/one --> was exp"),
        ("<!-- table: old/one -->\n<!-- end of tables -->", "has no <!-- end of table --> after"),
        ("<!-- table: old/one -->\n<!-- end of results -->", "line 2 of .* has <!-- end of results -->, where the end"),
        (
            "<!-- table old/one -->\n<!-- end of table -->",
            "line 1 of .* has <!-- table old/one -->, where <!-- table: NA",
        ),
        ("text\n\n<!-- end of table -->", "line 3 of .* has <!-- end of table -->, where <!-- table: NAME --> was exp"),
    ],
)
def test_a_broken_mark_is_told(made, text, message):
    with pytest.raises(InputError, match=message):
        made(text)


@pytest.mark.parametrize(
    ("table", "is_found"),
    [
        ("| mixer | BLEU |\n|---|--:|\n| a | **1.5** |\n| b | |", True),
        ("| mixer | BLEU | |\n|---|--:|---|\n| a | ≈ 1.5 ± 2 | text |", True),
        ("| file | what | set-up |\n|---|---|---|\n| 1 | of 3 | ten |\n| 2 | it | 8 kernels |", False),
        ("| file | what |\n|---|---|", False),
    ],
)
def test_a_table_of_numbers_outside_of_marks(tmp_path, table, is_found):
    page = tmp_path / "page.md"
    page.write_text(f"text\n\n{table}\n\n<!-- table: x -->\n| a | 1 |\n|---|---|\n| b | 2 |\n<!-- end of table -->\n")
    assert tables_by_hand(page) == ([table.split("\n")[0]] if is_found else [])
