"""What a run leaves behind for people: metrics and a model card."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seqdyconv.files import shorten, write_text

METRICS = "metrics.json"
"""The file of a run's or an evaluation's metrics."""

LONGEST_EXAMPLE = 500
"""Characters of a text in an example."""


def write_metrics(path: str | Path, metrics: Mapping[str, float | int | str]) -> None:
    """Write metrics.json, a flat mapping of names to numbers or short texts, atomically.

    Raises:
        ValueError: A value is neither a number nor a text.
    """
    for name, value in metrics.items():
        if not isinstance(value, (int, float, str)):
            raise ValueError(f"the metric {name} must be a number or a text, got {type(value).__name__}")
    write_text(path, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")


def write_model_card(
    path: str | Path,
    *,
    name: str,
    summary: str,
    tags: Sequence[str],
    languages: Sequence[str],
    data: Mapping[str, Any],
    results: Mapping[str, float | int | str],
    usage: str,
    command: str,
    config: Mapping[str, Any],
    examples: Sequence[Mapping[str, str]] = (),
    picture: str | None = None,
) -> None:
    """Write a model card (README.md with the Hub's front matter), atomically.

    Args:
        path: The file.
        name: Title.
        summary: One paragraph: what the model does and is.
        tags: The Hub's tags.
        languages: Codes of the languages, as far as they are known.
        data: What it was trained and tested on, name → value.
        results: Rows of the table of results, signatures included.
        usage: A Python snippet.
        command: The command that repeats the run.
        config: All arguments of the run.
        examples: Outputs of the model: label → text for each example.
        picture: File name of the learning curves beside the card.
    """
    language = {"language": list(languages)} if languages else {}
    front = yaml.safe_dump({**language, "tags": list(tags), "library_name": "transformers"}, sort_keys=False)
    parts = [f"---\n{front}---\n\n# {name}\n\n{summary}\n", "## Data\n\n" + _table(("", ""), data)]
    parts.append("## Results\n\n" + _table(("metric", "value"), results))
    if examples:
        blocks = [
            "\n".join(f"- {label}: {plain_markdown(text)}" for label, text in example.items()) for example in examples
        ]
        parts.append("## Examples\n\n" + "\n\n".join(blocks) + "\n")
    parts.append("## Use\n\n" + _fenced(usage.strip(), "python"))
    parts.append("## Training\n\n" + _fenced(command))
    if picture:
        parts.append(f"![Learning curves]({picture})\n")
    listed = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    parts.append(f"<details><summary>All arguments</summary>\n\n{_fenced(listed, 'yaml')}\n</details>\n")
    write_text(path, "\n".join(parts))


def format_example(lines: Mapping[str, str]) -> str:
    """A line for each label with its text, which is cut where it is long, and an empty one."""
    return "\n".join(f"  {label:<12}{shorten(text, LONGEST_EXAMPLE)}" for label, text in lines.items()) + "\n"


def score_text(metrics: Mapping[str, Any], name: str) -> str:
    """A score with the interval that holds it in 95% of draws of its test set, where the metrics have one.

    Example:
        >>> score_text({"test_bleu": 36.1, "test_bleu_low": 34.56, "test_bleu_high": 37.5}, "test_bleu")
        '36.10 (95%: 34.56 to 37.50)'
    """
    ends = [metrics[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in metrics]
    return f"{metrics[name]:.2f}" + (f" (95%: {ends[0]:.2f} to {ends[1]:.2f})" if ends else "")


def spread_examples(
    columns: Mapping[str, Sequence[str]], number: int = 4, rows: Sequence[int] | None = None
) -> list[dict[str, str]]:
    """A few rows of columns of texts, evenly spaced, as label → text.

    Args:
        columns: Label → the texts of all rows.
        number: The most rows.
        rows: Those to choose from; None is all.

    Example:
        >>> spread_examples({"source": ["a", "b", "c", "d"], "target": ["A", "B", "C", "D"]}, number=2)
        [{'source': 'a', 'target': 'A'}, {'source': 'c', 'target': 'C'}]
    """
    rows = range(len(next(iter(columns.values())))) if rows is None else rows
    chosen = [rows[place] for place in evenly_spaced(len(rows), number)]
    return [{label: texts[row] for label, texts in columns.items()} for row in chosen]


def evenly_spaced(length: int, number: int) -> list[int]:
    """So many of the numbers below a length, or all of them if they are fewer.

    Example:
        >>> evenly_spaced(7, 4)
        [0, 1, 3, 5]
    """
    number = min(number, length)
    return [place * length // number for place in range(number)]


def plain_markdown(text: str) -> str:
    r"""A text as Markdown shows it as it is: on one line, cut where it is long.

    Example:
        >>> print(plain_markdown("a|b_c *d*"))
        a\|b_c \*d\*
    """
    return re.sub(r"([\\`*~<>|\[\]$]|(?<!\w)_|_(?!\w))", r"\\\1", shorten(text, LONGEST_EXAMPLE))


def _fenced(text: str, language: str = "") -> str:
    """A block of code, whatever quotes stand in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    def cell(value: Any) -> str:
        text = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        return plain_markdown(text)

    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {cell(name)} | {cell(value)} |" for name, value in rows.items()]) + "\n"
