"""Tables of results in pages: made of files alone, between two marks, so that nobody edits them by hand."""

import json
import re
from pathlib import Path
from typing import Any

from seqdyconv.comparisons.results import COMPARISON, comparison_table, provenance
from seqdyconv.errors import InputError

_MARKED = re.compile(r"<!-- table: (?P<name>\S+) -->\n(?P<table>.*?)<!-- end of table -->", re.DOTALL)


def with_tables(page: str, results: Path) -> str:
    """A page with each of its marked tables as its files say.

    Args:
        page: Markdown, in which ``<!-- table: NAME -->`` and ``<!-- end of table -->`` stand around each table.
        results: The folder in which NAME is: a folder of a comparison, or a JSON file.

    Raises:
        InputError: There is nothing of that name.
    """

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- table: {name} -->\n{table_of(results / name)}<!-- end of table -->"

    return _MARKED.sub(made, page)


def table_of(path: Path) -> str:
    """The table of a comparison's folder or of a file.

    Raises:
        InputError: There is no such table.
    """
    if (path / COMPARISON).is_file():
        return f"{comparison_table(path)}\n{provenance(path)}\n"
    file = path.with_suffix(".json")
    if not file.is_file():
        raise InputError(f"there are no results {path.name} in {path.parent}")
    return plain_table(json.loads(file.read_text(encoding="utf-8")))


def plain_table(content: dict[str, Any]) -> str:
    """A table that was written down: columns, rows and, where there is one, a note of what it is."""
    lines = ["| " + " | ".join(row) + " |" for row in [content["columns"], content["alignment"], *content["rows"]]]
    note = f"\n{content['note']}\n" if content.get("note") else ""
    return "\n".join(lines) + "\n" + note
