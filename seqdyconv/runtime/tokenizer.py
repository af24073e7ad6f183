"""Texts to the rows of token ids that a model reads, by the ``tokenizer.json`` of an exported folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from seqdyconv.errors import InputError, first_line
from seqdyconv.runtime.folder import Array, Exported, FolderError, checked_ids
from seqdyconv.runtime.long_texts import cut_text, tokens_read

TOKENIZER = "tokenizer.json"

Text = str | tuple[str, str]
"""A text, or the two of a pair."""


def check_list(texts: Sequence[Text]) -> None:
    """Refuse one text in the place of several, which would be read letter by letter.

    Raises:
        InputError: it is one.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a list, got one text: put it in brackets")


def load_tokenizer(folder: Path, *, special_tokens_are_text: bool = True, name: str = TOKENIZER) -> Tokenizer:
    """The tokenizer of a folder, without a limit of the length and without padding.

    Args:
        folder: with the file.
        special_tokens_are_text: the names of special tokens in a text are text like any other.
        name: of the file.

    Raises:
        FolderError: it is missing or damaged.
    """
    file = folder / name
    if not file.is_file():
        raise FolderError(f"{folder} has no {name}")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain ones
        raise FolderError(f"{file} is no tokenizer: {first_line(error)[:300]}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = special_tokens_are_text
    return tokenizer


@dataclass(frozen=True)
class Rows:
    """What a model reads of some texts: a row each, or several of a long one.

    Args:
        ids: the tokens of each row.
        types: which text of a pair each token is of.
        texts: the number of the text that each row is of.
    """

    ids: list[list[int]]
    types: list[list[int]]
    texts: list[int]

    def batch(self, rows: Sequence[int], pad: int, side: str) -> dict[str, Array]:
        """Some of the rows, filled to the longest: input_ids, attention_mask, token_type_ids, (B, T) int64 each."""
        longest = max(len(self.ids[row]) for row in rows)
        filled = {
            "input_ids": np.full((len(rows), longest), pad),
            **{name: np.zeros((len(rows), longest), np.int64) for name in ("attention_mask", "token_type_ids")},
        }
        for number, row in enumerate(rows):
            size = len(self.ids[row])
            place = slice(longest - size, longest) if side == "left" else slice(size)
            filled["input_ids"][number, place] = self.ids[row]
            filled["attention_mask"][number, place] = 1
            filled["token_type_ids"][number, place] = self.types[row]
        return filled


class TextReader:
    """Reads texts as a model was trained to.

    Args:
        exported: its settings have ``max_length`` (the most tokens of a row), ``windows`` (whether a longer text gives
            several rows, else it is cut), ``window_stride``, ``max_windows`` (or None), ``padding_side``,
            ``truncation_side``, ``pad_token_id``, ``filler_token_id`` and ``vocab_size``.

    Raises:
        FolderError: the tokenizer or the settings are damaged.
    """

    def __init__(self, exported: Exported) -> None:
        settings = exported.settings
        self.folder = exported.folder
        self.vocab_size = exported.number("vocab_size", 1)
        self.pad = exported.number("pad_token_id", 0, self.vocab_size - 1)
        self.filler = exported.number("filler_token_id", 0, self.vocab_size - 1)
        self.max_length = exported.number("max_length", 1)
        self.windows = settings.get("windows") is True
        self.max_windows = None if settings.get("max_windows") is None else exported.number("max_windows", 1)
        self.padding_side, self.truncation_side = (
            "left" if settings.get(name) == "left" else "right" for name in ("padding_side", "truncation_side")
        )
        self.tokenizer = load_tokenizer(exported.folder)
        stride = exported.number("window_stride") if self.windows else 0
        try:
            self.tokenizer.enable_truncation(self.max_length, stride=stride, direction=self.truncation_side)
        except Exception as error:  # as above
            raise FolderError(f"{exported.folder} has lengths that can't be: {first_line(error)}") from None

    def read(self, texts: Sequence[Text]) -> Rows:
        """The rows of texts or pairs.

        Raises:
            InputError: it is one text, and no list of them.
            FolderError: the tokenizer is that of another model.
        """
        check_list(texts)
        most = tokens_read(self.max_length, self.windows, self.max_windows)
        cut = partial(cut_text, max_tokens=most, side=self.truncation_side)  # as in the training
        given: Any = [cut(one) if isinstance(one, str) else tuple(map(cut, one)) for one in texts]
        rows = Rows([], [], [])
        for number, encoding in enumerate(self.tokenizer.encode_batch(given)):
            windows = [encoding, *encoding.overflowing] if self.windows else [encoding]
            for window in windows[: self.max_windows]:
                ids = window.ids or [self.filler]
                checked_ids(np.array(ids), self.vocab_size, f"{self.folder / TOKENIZER}")
                rows.ids.append(ids)
                rows.types.append(window.type_ids or [0])
                rows.texts.append(number)
        return rows

    def batches(self, rows: Rows, size: int) -> Iterator[tuple[list[int], dict[str, Array]]]:
        """The rows in batches of similar lengths, long ones first: their numbers, and what :meth:`Rows.batch` gives.

        Raises:
            InputError: ``size``, a caller's batch_size, is not at least 1.
        """
        if size < 1:
            raise InputError(f"batch_size must be at least 1, got {size}")
        order = sorted(range(len(rows.ids)), key=lambda row: len(rows.ids[row]), reverse=True)
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            yield numbers, rows.batch(numbers, self.pad, self.padding_side)
