"""Which columns of a table hold texts and labels, and what stands in them, as strings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Json

from seqdyconv.data.tables import DataError, list_names
from seqdyconv.files import strip_text

_TEXT_COLUMNS = ("text", "sentence", "content", "review")
_PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("text1", "text2"),
)
_LABEL_COLUMNS = ("label", "labels", "category", "class")


def text_columns(dataset: Dataset, text: str | None, text_pair: str | None, where: str) -> dict[str, str]:
    """Find the column of the text and, for pairs, of the second text.

    Args:
        dataset: the table.
        text, text_pair: the columns that were named; without names the usual ones are looked for.
        where: what the table is, for messages.

    Returns:
        text (and text_pair) → the column.

    Raises:
        DataError: there is no such column, more than one that it may be, or no plain text in it.

    Example:
        >>> text_columns(Dataset.from_dict({"Review": ["Fine"], "stars": [4]}), None, None, "reviews.csv")
        {'text': 'Review'}
    """
    existing = _by_lower_name(dataset)
    if text is not None:
        names = [name for name in (text, text_pair) if name is not None]
    else:
        pairs = [pair for pair in _PAIR_COLUMNS if set(pair) <= existing.keys()]
        in_pairs = {name for pair in pairs for name in pair}
        found = pairs + [(name,) for name in _TEXT_COLUMNS if name in existing and name not in in_pairs]
        if len(found) != 1:
            raise DataError(
                f"{where} has {'more than one' if found else 'no'} column that can be taken for the text; it has "
                f"{list_names(dataset.column_names)} (set text_column, and text_pair_column for pairs)"
            )
        names = [existing[name] for name in found[0]]
    for name in names:
        _check_column(dataset, name, "text_column", where)
        check_texts(dataset, name, where)
    return dict(zip(("text", "text_pair"), names))


def label_column(dataset: Dataset, label: str | None, where: str) -> str:
    """Find the column of the label: that named ``label``, or a usual one; errors are those of :func:`text_columns`."""
    if label is None:
        existing = _by_lower_name(dataset)
        found = [existing[name] for name in _LABEL_COLUMNS if name in existing]
        if len(found) != 1:
            raise DataError(
                f"{where} has {'more than one' if found else 'no'} column that can be taken for the label; it has "
                f"{list_names(dataset.column_names)} (set label_column)"
            )
        label = found[0]
    _check_column(dataset, label, "label_column", where)
    if isinstance(dataset.features[label], Json):
        rows = {type(value): (row, value) for row, value in enumerate(dataset[label], start=1) if value is not None}
        if len(rows) > 1:
            mixed = " and ".join(f"{value!r:.60} in row {row}" for row, value in rows.values())
            raise DataError(f"{where} has labels of several types: {mixed}, but all must be of one")
    return label


def _check_column(dataset: Dataset, column: str, argument: str, where: str) -> None:
    if column not in dataset.column_names:
        raise DataError(f"{where} has no column {column!r}; it has {list_names(dataset.column_names)} (set {argument})")


def _by_lower_name(dataset: Dataset) -> dict[str, str]:
    return {name.lower(): name for name in dataset.column_names} | {name: name for name in dataset.column_names}


def check_texts(dataset: Dataset, column: str, where: str) -> None:
    """Check that every row of a column has a text, or nothing.

    Raises:
        DataError: a row has something else, such as a number or a list.

    Example:
        >>> check_texts(Dataset.from_dict({"text": ["12", None]}), "text", "reviews.jsonl")
    """
    if getattr(dataset.features[column], "dtype", None) not in ("string", "large_string"):
        for row, value in enumerate(dataset[column], start=1):
            if value is not None and not isinstance(value, str):
                raise DataError(
                    f"row {row} of {where} has {value!r:.60} in the column {column!r}, but a text must be a string"
                )


def clean_texts(batch: Mapping[str, list[Any]], columns: Mapping[str, str]) -> dict[str, list[str]]:
    """The texts of a batch under their new names: as :func:`strip_text` makes them, and empty for a missing one.

    Example:
        >>> clean_texts({"review": [" Fine ", None]}, {"text": "review"})
        {'text': ['Fine', '']}
    """
    return {
        name: ["" if text is None else strip_text(text) for text in batch[column]] for name, column in columns.items()
    }


def label_name(label: Any, order: list[str] | None, where: str) -> str | None:
    """A label as a string; None if it is missing.

    Args:
        label: a string, an integer, a truth value, or the number of a name.
        order: these names, where the data set has them.
        where: what the table is, for messages.

    Raises:
        DataError: it is of another type.

    Example:
        >>> label_name(1, ["neg", "pos"], "reviews.csv"), label_name(4.0, None, "reviews.csv")
        ('pos', '4')
    """
    if label is None or label != label:  # NaN is not equal to itself
        return None
    if order is not None:
        return order[label] if label >= 0 else None
    if isinstance(label, str):
        return strip_text(label) or None
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    if isinstance(label, (bool, int)):
        return str(label)
    raise DataError(f"{where} has the label {label!r:.60}, but a label must be one string, integer or truth value")
