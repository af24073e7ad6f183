"""Results as pages show them: comparisons, and tables whose rows are written down or taken from records."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdyconv.comparisons.results import (
    COMPARISON,
    best_variant,
    comparison_table,
    difference_text,
    mean_text,
    read_result,
    read_rows,
    settings_text,
    table_row,
)
from seqdyconv.errors import InputError
from seqdyconv.training.reports import score_text

_CELL = re.compile(r"\{(?P<files>[^{}:]+):\s*(?P<metric>\w+)(?::\s*(?P<form>[^{}]+))?\}")


@dataclass
class Entry:
    """A result."""

    title: str
    table: str
    """In Markdown."""
    note: str
    """A line below the table."""
    headline: str
    """What is told of it in a line; empty if there is nothing to tell."""
    facts: dict[str, str]
    """What is known of how it came about."""
    files: list[Path]
    picture: Path | None = None


def entries(results: Path, pattern: str) -> list[Entry]:
    """The results whose names match a pattern, in the order of their names."""
    names = {path.with_suffix("") for path in results.glob(f"{pattern}.json") if path.name != COMPARISON}
    names |= {path.parent for path in results.glob(f"{pattern}/{COMPARISON}")}
    return [entry(results, str(name.relative_to(results))) for name in sorted(names)]


def entry(results: Path, name: str) -> Entry:
    """A result by its name.

    Args:
        results: The folder of results.
        name: In it, a folder of a comparison, or a JSON file without its suffix, of these keys:

            * title, columns, alignment (as Markdown has it, ``---`` or ``--:``) and rows, lists of texts; in a cell
              ``{FILES: METRIC}`` stands for a metric of a record, or for the mean and the deviation of several records
              (``{czech_*.json: test_cer: .1f}``, or with ``interval`` for ``.1f``; files are in the table's folder);
            * headline, the numbers of a column and of rows to tell in a line; failed, what missed its aim;
            * old, a mapping of what is known of results that came before runs left records.

    Raises:
        InputError: There is no such result, or a record or a metric that it names is missing.
    """
    if (results / name / COMPARISON).is_file():
        return _of_comparison(results / name)
    file = results / f"{name}.json"
    if not file.is_file():
        raise InputError(f"there are no results {name} in {results}")
    return _of_table(file)


def _of_table(file: Path) -> Entry:
    content = read_result(file)
    used: dict[Path, dict[str, Any]] = {}

    def number(match: re.Match[str]) -> str:
        found = {path: read_result(path) for path in sorted(file.parent.glob(match["files"]))}
        values = [one["metrics"][match["metric"]] for one in found.values() if match["metric"] in one["metrics"]]
        if not values or len(values) < len(found):
            raise InputError(f"{file} asks for {match[0]}, which the records do not have")
        used.update(found)
        if match["form"] == "interval":
            return ", ".join(score_text(one["metrics"], match["metric"]) for one in found.values())
        return mean_text(values, match["metric"], match["form"])

    rows = [[_CELL.sub(number, cell) for cell in row] for row in content["rows"]]
    headline = ""
    if "headline" in content:
        column, chosen = content["headline"]["column"], content["headline"]["rows"]
        told = [(cell.replace("**", "") for cell in (rows[index][0], rows[index][column])) for index in chosen]
        headline = _headline(content["columns"][column], told)
    facts, note = {"What failed": content.get("failed", "")}, ""
    if "old" in content:
        facts |= content["old"]
        note = f"Old, of {content['old']['Date']}: made before runs left records; no file of a run stands behind it.\n"
    elif used:
        records = _with_trainings(used.values())
        seeds = (str(record["config"]["seed"]) for record in records if "seed" in record["config"])
        commands = _joined(f"`{record['command']}`" for record in records)
        facts |= {"Commands": commands, "Seeds": _joined(seeds), **_facts(records)}
        note = _note(facts)
    table = (
        "\n".join([table_row(content["columns"]), f"|{'|'.join(content['alignment'])}|", *map(table_row, rows)]) + "\n"
    )
    return Entry(content["title"], table, note, headline, facts, [file, *used])


def _of_comparison(folder: Path) -> Entry:
    whole, rows = read_rows(folder)
    asked = whole["asked"]
    metric, label = next(iter(asked["metrics"].items()))
    results = [result for row in rows for result in (*row.trials, *row.runs, *row.evaluations)]
    records = [result for result in results if "metrics" in result]
    trials, runs, evaluations = (
        sum(len(getattr(row, kind)) for row in rows) for kind in ("trials", "runs", "evaluations")
    )
    failed = [
        f"{result['variant']}, {settings_text(result.get('point') or {'seed': result['seed']})}: {result['failed']}"
        for result in results
        if "failed" in result
    ]
    facts = {
        "Command": f"`{whole['command']}`" if whole.get("command") else "",
        "Seeds": ", ".join(map(str, asked["seeds"])) + f"; of the trials {asked['search_seed']}" * bool(trials),
        **_facts(records),
        "Runs": f"{trials} trials, {runs} with the settings that were chosen"
        + f", {evaluations} evaluations of these" * bool(evaluations),
        "Failed": "; ".join(failed) or "none",
    }
    told = []
    for row in rows:
        is_told = asked["baseline"] is None or row.variant in (best_variant(metric, rows), asked["baseline"])
        if is_told and row.values(metric):
            told.append((row.variant, mean_text(row.values(metric), metric)))
            if difference := row.found.get("difference"):
                told.append((f"− {asked['baseline']}", difference_text(difference)))
    headline = _headline(label, told) if told else ""
    note = _note(facts)
    if any("difference" in row.found for row in rows):
        note = f"Means ± deviations over seeds; intervals and p by paired bootstrap of the test set. {note}"
    picture = folder / "comparison.png"
    title = folder.name.replace("_", " ").capitalize()
    drawn = picture if picture.is_file() else None
    return Entry(title, comparison_table(folder), note, headline, facts, [folder], drawn)


def _facts(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What records say of how they came about."""
    # The wall time is that of the last call of a run, the training that of all.
    seconds = sum(max(record["metrics"].get(f"{kind}_seconds", 0) for kind in ("wall", "train")) for record in records)
    days = sorted(record["ended"][:10] for record in records if "ended" in record)
    codes, machines, versions = ([record.get(key, {}) for record in records] for key in ("code", "machine", "versions"))
    return {
        "Code": _joined(
            f"commit {code['commit'][:10]}{' and changes' * code.get('changed', False)}"
            for code in codes
            if "commit" in code
        ),
        "Machine": _joined(
            ", ".join([machine["processor"], f"{machine['threads']} thread(s) each", *machine.get("accelerators", ())])
            for machine in machines
            if machine
        ),
        "Versions": _joined(f"{name} {version}" for one in versions for name, version in one.items()),
        "Machine time": f"{seconds / 3600:.1f} hours in all",
        "Days": " to ".join(dict.fromkeys(days[:1] + days[-1:])),
    }


def _headline(label: str, told: Iterable[Iterable[str]]) -> str:
    return f"{label}: " + "; ".join("{} **{}**".format(*pair) for pair in told)


def _with_trainings(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Records of evaluations with those of the trainings of their models, each once."""
    found: list[Mapping[str, Any]] = []
    for record in records:
        found += [one for one in (record.get("training"), record) if one and one not in found]
    return found


def _note(facts: Mapping[str, str]) -> str:
    """A line on what numbers were made with."""
    return "; ".join(facts[label] for label in ("Machine", "Versions", "Code") if facts[label]) + ".\n"


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))
