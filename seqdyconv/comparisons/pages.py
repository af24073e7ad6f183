"""Results in pages: made of files alone, between two marks, so that nobody edits them by hand."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from seqdyconv.comparisons.entries import Entry, entries, entry
from seqdyconv.comparisons.results import UNESCAPED_BAR
from seqdyconv.errors import InputError

_MARK = re.compile(r"\s*<!--\s*(?:end of\s+)?(?:table|headlines|results)\b.*")
_BEGIN = re.compile(r"<!-- (?P<kind>table|headlines|results): (?P<name>\S+) -->")
_NUMBER = re.compile(r"[*`~≈<>≤≥+−\-±(\s]*\d")


def with_results(page: Path, results: Path) -> str:
    """A page with what its files say between its marks.

    `<!-- table: NAME -->` begins a table, `<!-- headlines: PATTERN -->` a list with a line for each of several results,
    `<!-- results: PATTERN -->` their sections, with all that is known; `<!-- end of table -->` and so on end them. NAME
    and PATTERN are those of files and folders in `results`: see :func:`seqdyconv.comparisons.entries.entry`.

    Args:
        page: Of Markdown.
        results: The folder of results.

    Raises:
        InputError: A mark can't be read, has no end or no beginning, or there is nothing of that name.
    """
    lines = []
    for begin, own in _parts(page):
        if begin is None:
            lines += own
        else:
            made = _KINDS[begin["kind"]](results, begin["name"], page.parent)
            lines += [begin.string, *made.strip("\n").splitlines(), f"<!-- end of {begin['kind']} -->"]
    return "\n".join(lines)


def tables_by_hand(page: Path) -> list[str]:
    """The heads of the tables of numbers that stand outside of marks.

    That is a table of which half of the cells begin with a number, the first column and empty cells aside.

    Raises:
        InputError: As of :func:`with_results`.
    """
    found = []
    for begin, lines in _parts(page):
        for table in re.findall(r"^\|.*(?:\n\|.*)*", "\n".join(lines), re.MULTILINE) if begin is None else []:
            head, *rows = table.split("\n")
            cells = [
                cell for row in rows[1:] for cell in UNESCAPED_BAR.split(row.strip().strip("|"))[1:] if cell.strip()
            ]
            if cells and 2 * sum(_NUMBER.match(cell) is not None for cell in cells) >= len(cells):
                found.append(head)
    return found


def _parts(page: Path) -> Iterator[tuple[re.Match[str] | None, list[str]]]:
    """The lines of a page, those between two marks with the first mark."""
    begin, lines = None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), start=1):
        if not _MARK.fullmatch(line):
            lines.append(line)
            continue
        is_end = begin is not None and line == f"<!-- end of {begin['kind']} -->"
        is_begin = begin is None and _BEGIN.fullmatch(line) is not None
        if not is_end and not is_begin:
            expected = "<!-- table: NAME -->" if begin is None else f"the end of {begin.string}"
            raise InputError(f"line {number} of {page} has {line.strip()}, where {expected} was expected")
        yield begin, lines
        begin, lines = (None if is_end else _BEGIN.fullmatch(line)), []
    if begin is not None:
        raise InputError(f"{page} has no <!-- end of {begin['kind']} --> after {begin.string}")
    yield None, lines


def _table(results: Path, name: str, _: Path) -> str:
    found = entry(results, name)
    return "\n".join([found.table, *([found.note] if found.note else [])])


def _headlines(results: Path, pattern: str, _: Path) -> str:
    return "\n".join(f"- {one.title}. {one.headline}" for one in entries(results, pattern) if one.headline)


def _sections(results: Path, pattern: str, folder: Path) -> str:
    return "\n".join(_section(one, folder) for one in entries(results, pattern))


def _section(one: Entry, folder: Path) -> str:
    def link(path: Path) -> str:
        return Path(os.path.relpath(path, folder)).as_posix()

    picture = f"\n![{one.title}]({link(one.picture)})\n" if one.picture else ""
    facts = [f"- {label}: {text}\n" for label, text in one.facts.items() if text]
    files = ", ".join(f"[{link(path)}]({link(path)})" for path in one.files)
    return f"### {one.title}\n\n{one.table}{picture}\n{''.join(facts)}- Files: {files}\n"


_KINDS: dict[str, Callable[[Path, str, Path], str]] = {"table": _table, "headlines": _headlines, "results": _sections}
