"""What a comparison has found, kept in files: a record for each run, what was asked, how sure the differences are."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seqdyconv.comparisons.plan import EVALUATION, ComparisonArguments, flat
from seqdyconv.errors import InputError, first_line
from seqdyconv.files import write_text
from seqdyconv.pictures import plot_comparison
from seqdyconv.scores.bootstrap import Counts, Score, interval, paired_difference
from seqdyconv.scores.directions import is_lower_better
from seqdyconv.scores.speech_recognition import error_counts
from seqdyconv.scores.text_classification import accuracy_counts
from seqdyconv.scores.translation import bleu_counts, tokenizer_of_signature
from seqdyconv.training.records import RECORD

COMPARISON = "comparison.json"
"""What was asked, and the differences: beside the results of the runs."""

COUNTS: dict[str, Callable[..., tuple[Counts, Score]]] = {
    "test_bleu": bleu_counts,
    "test_accuracy": accuracy_counts,
    "test_wer": partial(error_counts, unit="word"),
    "test_cer": partial(error_counts, unit="character"),
}
"""The metrics of which the test set can be drawn anew."""


UNESCAPED_BAR = re.compile(r"(?<!\\)\|")
"""What ends a cell of a table in Markdown."""

_FORMS = {"bits_per_byte": ".3f", "real_time_factor": ".4f"}
"""How metrics are told whose differences two digits would hide."""


def write_comparison(
    args: ComparisonArguments, folder: Path, runs: Mapping[str, Sequence[Path]], command: str = ""
) -> None:
    """Write comparison.json.

    Args:
        args: The comparison.
        folder: Of the results.
        runs: By variant the folders of its runs that have ended, or of their evaluations if the first metric is one of
            these.
        command: What repeats it.
    """
    asked = {name: value for name, value in dataclasses.asdict(args).items() if not name.endswith("_dir")}
    metric = next(iter(args.metrics))
    found: dict[str, Any] = {}
    if metric.removeprefix(EVALUATION) in COUNTS:
        references = {variant: [_lines(run, "references") for run in folders] for variant, folders in runs.items()}
        tests = {variant: set(several) for variant, several in references.items()}
        scored = {
            variant: [_counts(metric, run, right) for run, right in zip(folders, references[variant])]
            for variant, folders in runs.items()
            if folders
        }
        for variant, several in scored.items():
            found[variant] = {}
            if len(tests[variant]) > 1:  # such as of files that have changed since
                continue
            counts, score = [counts for counts, _ in several], several[0][1]
            found[variant]["interval"] = interval(counts, score)._asdict()
            if args.baseline not in scored or variant == args.baseline:
                continue
            if tests[variant] == tests[args.baseline]:
                others = [counts for counts, _ in scored[args.baseline]]
                found[variant]["difference"] = paired_difference(counts, others, score)._asdict()
            else:
                found[variant]["no_difference"] = "another test set"
    whole = {"command": command, "asked": asked, "metric": metric, "found": found}
    write_text(folder / COMPARISON, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def read_result(file: Path) -> dict[str, Any]:
    """What a JSON file of results holds: a record, a comparison, or a table.

    Raises:
        InputError: It is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no result: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is no result: it holds {content!r:.60}, no object")
    return content


def _lines(run: Path, name: str) -> tuple[str, ...]:
    return tuple((run / f"test_{name}.txt").read_text(encoding="utf-8").split("\n")[:-1])


def _counts(metric: str, run: Path, references: Sequence[str]) -> tuple[Counts, Score]:
    name = metric.removeprefix(EVALUATION)
    signature = read_result(run / RECORD)["metrics"].get(f"{name}_signature")
    options = {} if signature is None else {"tokenizer": tokenizer_of_signature(signature)}
    return COUNTS[name](_lines(run, "predictions"), references, **options)


@dataclass
class Row:
    """A variant, as its files say."""

    variant: str
    trials: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    found: dict[str, Any]

    @property
    def ended(self) -> list[dict[str, Any]]:
        """The runs that ended well."""
        return [run for run in self.runs if "metrics" in run]

    def tried(self, metric: str) -> list[float]:
        """A metric of each trial that ended well."""
        return [trial["metrics"][metric] for trial in self.trials if metric in trial.get("metrics", ())]

    def values(self, metric: str) -> list[float]:
        """A metric of each run, or one of evaluations (evaluation_...) of each of these."""
        runs = self.evaluations if metric.startswith(EVALUATION) else self.runs
        name = metric.removeprefix(EVALUATION)
        return [run["metrics"][name] for run in runs if name in run.get("metrics", ())]


def read_rows(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """What comparison.json says, and a row for each variant, of what was asked for there alone."""
    whole = read_result(folder / COMPARISON)
    args = ComparisonArguments(**whole["asked"])
    points = args.points()
    results = [read_result(file) for file in sorted(folder.glob("*.json")) if file.name != COMPARISON]
    rows = []
    for variant in args.variants:
        own = [result for result in results if result.get("variant") == variant]
        finals = [result for result in own if "point" not in result and result["seed"] in args.seeds]
        rows.append(
            Row(
                variant,
                trials=[result for result in own if result.get("point") in points],
                runs=[result for result in finals if "evaluated" not in result],
                evaluations=[result for result in finals if "evaluated" in result],
                found=whole["found"].get(variant, {}),
            )
        )
    return whole, rows


def comparison_table(folder: Path) -> str:
    """The table of a comparison, in Markdown, made of its files."""
    whole, rows = read_rows(folder)
    asked = whole["asked"]
    metrics, space, baseline = asked["metrics"], asked["search_space"], asked["baseline"]
    heads = [asked["title"] or "variant"]
    heads += [f"settings, the best of {max(len(row.trials) for row in rows)} trials"] if space else []
    heads += ["parameters", "seeds", *metrics.values()]
    with_differences = any({"difference", "no_difference"} & row.found.keys() for row in rows)
    heads += [f"− {baseline} (95%), p"] if with_differences else []
    lines = [table_row(heads), "|---|" + "---|" * bool(space) + "--:|" * (len(heads) - 1 - bool(space))]
    best = {metric: best_variant(metric, rows) for metric in metrics}
    for row in rows:
        cells = [row.variant]
        cells += [_settings(row, asked)] if space else []
        cells += [mean_text(row.values("parameters"), "parameters")]
        failed = len(row.runs) - len(row.ended)
        cells += [f"{len(row.ended)}" + f" ({failed} failed)" * bool(failed)]
        for metric in metrics:
            text = mean_text(row.values(metric), metric)
            cells.append(f"**{text}**" if row.variant == best[metric] else text)
        if with_differences:
            difference = row.found.get("difference")
            cells.append(difference_text(difference) if difference else row.found.get("no_difference", ""))
        lines.append(table_row(cells))
    return "\n".join(lines) + "\n"


def draw(folder: Path) -> None:
    """Draw comparison.png: the runs, the interval of their mean, and the trials."""
    whole, rows = read_rows(folder)
    asked = whole["asked"]
    metric, label = next(iter(asked["metrics"].items()))
    plot_comparison(
        {row.variant: row.values(metric) for row in rows},
        folder / "comparison.png",
        asked["title"],
        label,
        {
            row.variant: tuple(row.found["interval"][end] for end in ("low", "high"))
            for row in rows
            if "interval" in row.found
        },
        {row.variant: row.tried(asked["search_metric"]) for row in rows},
        f"trials, {asked['search_metric'].replace('_', ' ')}",
    )


def _settings(row: Row, asked: Mapping[str, Any]) -> str:
    if not row.ended:
        return ""
    settings, space = row.ended[0]["asked"], asked["search_space"]
    found: dict[str, Any] = {}
    for name, values in space.items():
        fitting = [one for one in values if isinstance(one, dict) and one.items() <= settings.items()]
        value = max(fitting, key=len, default=settings.get(name))  # one may be a part of another
        found |= value if isinstance(value, dict) else {name: value}
    failed = sum("failed" in trial for trial in row.trials)
    return settings_text(found) + f"; {failed} failed" * bool(failed)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in a line.

    Example:
        >>> settings_text({"learning_rate": 0.001, "norm": {"normalize_before": True, "dropout": 0.1}})
        'learning_rate 0.001, normalize_before True, dropout 0.1'
    """
    return ", ".join(f"{name} {value}" for name, value in flat(settings).items())


def best_variant(metric: str, rows: Sequence[Row]) -> str | None:
    """The variant whose mean of a metric is the best of at least two; None where it is not known what is better."""
    means = {row.variant: float(np.mean(row.values(metric))) for row in rows if row.values(metric)}
    lower = is_lower_better(metric)
    if len(means) < 2 or lower is None:
        return None
    return (min if lower else max)(means, key=lambda name: means[name])


def mean_text(values: Sequence[float], metric: str, form: str | None = None) -> str:
    """The mean of a metric's values, and their standard deviation where there are several.

    Args:
        values: Of some runs.
        metric: Its name; a minute of seconds and more is told in minutes, parameters in millions.
        form: Of the other numbers; None: as many digits as the metric asks for.

    Example:
        >>> mean_text([40, 41.5], "test_bleu"), mean_text([6_722_048], "parameters"), mean_text([90], "train_seconds")
        ('40.75 ± 1.06', '6.72 M', '1.5 min')
    """
    if not values:
        return ""
    if metric.endswith("_seconds"):
        return f"{np.mean(values) / 60:.1f} min" if np.mean(values) >= 60 else f"{np.mean(values):.3g} s"
    if metric == "parameters":
        return f"{np.mean(values) / 1e6:.2f} M"
    form = form or next((form for name, form in _FORMS.items() if metric.endswith(name)), ".2f")
    deviation = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{deviation}"


def difference_text(found: Mapping[str, float]) -> str:
    """A difference with its interval and the probability of one as large by chance alone."""
    p = f"p = {found['p']:.3f}" if found["p"] >= 0.0015 else "p ≤ .001"
    return f"{found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f}), {p}"


def table_row(cells: Sequence[str]) -> str:
    r"""A row of a table in Markdown, of whatever is in its cells.

    Example:
        >>> print(table_row(["", "BLEU", "de|en"]))
        | | BLEU | de\|en |
    """
    plain = (UNESCAPED_BAR.sub(r"\|", " ".join(cell.splitlines())) for cell in cells)
    return f"|{''.join(f' {cell} |' if cell else ' |' for cell in plain)}"
