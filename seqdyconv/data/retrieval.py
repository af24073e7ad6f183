"""Queries, each with the texts that answer it, to compare encoders on without labels of people.

``libreoffice_help``
    A query is a heading of the help, its text the section below it, among the sections of all pages; or, with
    ``whole_pages``, the title of a page and all the rest of it. Queries are those of the pages of validation and test,
    see :func:`seqdyconv.data.libreoffice_help.split_of`. A heading, or a text, that stands more than once asks nothing.
"""

from collections import Counter
from dataclasses import dataclass

from datasets import Dataset

from seqdyconv.data.labelled_texts import normalise
from seqdyconv.data.libreoffice_help import load_help_sections
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.splits import HELD_OUT
from seqdyconv.data.tables import DataError, load_table
from seqdyconv.data.text_columns import check_texts, clean_texts

FEWEST_WORDS = 5
"""Of a section of the help."""


@dataclass(frozen=True)
class Retrieval:
    """Queries, and texts among which they look.

    Args:
        queries: N of them.
        texts: M of them.
        right: of each query the numbers of the texts that answer it.
    """

    queries: list[str]
    texts: list[str]
    right: list[list[int]]


def help_retrieval(language: str, *, whole_pages: bool = False) -> Retrieval:
    """Headings of the LibreOffice help and their sections, or titles and pages.

    Args:
        language: as in :func:`load_help_sections`.
        whole_pages: titles and pages.

    Raises:
        DataError: there is no such language, or its package can't be fetched.
    """
    try:
        sections = load_help_sections(language)
    except (PackageUnavailableError, ValueError) as error:
        raise DataError(str(error)) from error
    return retrieval_of(_pages(sections) if whole_pages else sections)


def retrieval_of(sections: Dataset) -> Retrieval:
    """What the headings of the held-out pages ask, among the texts of all.

    Args:
        sections: with the columns heading, text and split.

    Example:
        >>> rows = {"heading": ["Fish", "Birds"], "text": ["They live in water as they do.", "They fly as they do."]}
        >>> retrieval_of(Dataset.from_dict({**rows, "split": ["train", "test"]}))
        Retrieval(queries=['Birds'], texts=['They live in water as they do.', 'They fly as they do.'], right=[[1]])
    """
    rows = [(row["heading"], row["text"], row["split"]) for row in sections if len(row["text"].split()) >= FEWEST_WORDS]
    texts = list(dict.fromkeys(text for _, text, _ in rows))
    number = {text: index for index, text in enumerate(texts)}
    headings = Counter(normalise(heading) for heading, *_ in rows)
    times = Counter(text for _, text, _ in rows)
    asked = [
        (heading, number[text])
        for heading, text, where in rows
        if where in HELD_OUT and headings[normalise(heading)] == times[text] == 1
    ]
    return Retrieval([heading for heading, _ in asked], texts, [[row] for _, row in asked])


def read_retrieval(file: str) -> Retrieval:
    """A table with the columns query and text, each row a query and a text that answers it; there may be several.

    Raises:
        DataError: the file is missing or malformed, or a row lacks one of them.
    """
    table = load_table(file, "retrieval_file")
    for column in ("query", "text"):
        if column not in table.column_names:
            raise DataError(f"{file} has no column {column}: it must have query and text")
        check_texts(table, column, file)
    rows = clean_texts(table.to_dict(), {"query": "query", "text": "text"})
    for column, values in rows.items():
        if "" in values:
            raise DataError(f"row {values.index('') + 1} of {file} must have a query and a text, got no {column}")
    texts = list(dict.fromkeys(rows["text"]))
    number = {text: index for index, text in enumerate(texts)}
    right: dict[str, list[int]] = {}
    for query, text in dict.fromkeys(zip(rows["query"], rows["text"])):
        right.setdefault(query, []).append(number[text])
    return Retrieval(list(right), texts, list(right.values()))


def _pages(sections: Dataset) -> Dataset:
    """A row for each page: its title, and all that stands below it, the other headings too."""
    columns: dict[str, list[str]] = {"heading": [], "text": [], "split": []}
    last = None
    for row in sections:
        if row["page"] != last:
            for name, values in columns.items():
                values.append(row[name])
            last = row["page"]
        else:
            columns["text"][-1] += f"\n{row['heading']}\n{row['text']}"
    return Dataset.from_dict(columns)
