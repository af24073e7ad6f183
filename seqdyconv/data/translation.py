"""Data for translation: parallel text from the Hub, local files or a Debian package; tokenizer; token ids.

Everything that is wrong with the data raises ``DataError`` with one line; the scripts print it and exit with status 2.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import Annotated, Any

from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from seqdyconv.data.external_tokenizers import complete_tokenizer, set_languages, try_tokenizer
from seqdyconv.data.libreoffice_help import load_libreoffice_help
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.sentencepiece_tokenizers import TOKENIZER_TYPES, train_sentencepiece_tokenizer
from seqdyconv.data.splits import SPLITS, SourceArguments
from seqdyconv.data.tables import DataError, list_names, load_lines, load_table, map_batches
from seqdyconv.data.text_columns import check_texts, clean_texts
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.ranges import Count, OneOf, VocabSize
from seqdyconv.runtime.long_texts import cut_text

logger = logging.getLogger(__name__)

LONGEST_TEXT = 10_000
"""Tokens of a text of validation or test; more would fill the memory."""

_SIDES = ("source", "target")
_TEXTS = Features({side: Value("string") for side in _SIDES})


def _side_help(split: str, side: str) -> dict[str, Any]:
    return {"help": f"The {side} side of the {split} data: a text file with a sentence per line."}


@dataclass
class DataArguments(SourceArguments):
    """Which data to use and how to tokenise it. Local files take the place of the data set's split of that name."""

    dataset: str | None = field(
        default=None,
        metadata={"help": 'A data set: "libreoffice_help" (fetched from Debian packages) or a name on the Hub.'},
    )
    source_lang: str = field(
        default="de", metadata={"help": "Language to translate from; of models of many languages one of their codes."}
    )
    target_lang: str = field(default="en", metadata={"help": "Language to translate to, likewise."})
    bleu_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "The words that BLEU counts: a tokenizer of sacreBLEU (13a, char, ...); None: target_lang's."
        },
    )
    source_column: str | None = field(
        default=None, metadata={"help": 'Column of the source text; by default "source", or the source_lang.'}
    )
    target_column: str | None = field(
        default=None, metadata={"help": 'Column of the target text; by default "target", or the target_lang.'}
    )
    translation_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with both texts, keyed by language, as in many Hub data sets; by default "
            '"translation" if there is one and source_column and target_column are not given.'
        },
    )
    train_source_file: str | None = field(default=None, metadata=_side_help("training", "source"))
    train_target_file: str | None = field(default=None, metadata=_side_help("training", "target"))
    validation_source_file: str | None = field(default=None, metadata=_side_help("validation", "source"))
    validation_target_file: str | None = field(default=None, metadata=_side_help("validation", "target"))
    test_source_file: str | None = field(default=None, metadata=_side_help("test", "source"))
    test_target_file: str | None = field(default=None, metadata=_side_help("test", "target"))
    max_train_samples: Count | None = field(default=None, metadata={"help": "Use only the first N training pairs."})
    max_validation_samples: Count | None = field(default=None, metadata={"help": "Use only the first N."})
    max_test_samples: Count | None = field(default=None, metadata={"help": "Use only the first N test pairs."})
    max_source_length: Count = field(
        default=256,
        metadata={"help": "Training pairs whose source has more tokens are dropped; validation and test never are."},
    )
    max_target_length: Count = field(
        default=256,
        metadata={"help": "Training pairs whose target has more tokens are dropped; validation and test never are."},
    )
    vocab_size: VocabSize = field(
        default=8000,
        metadata={"help": "Size of the joint vocabulary to train, the 260 special and byte tokens included."},
    )
    tokenizer_type: Annotated[str, OneOf(*TOKENIZER_TYPES)] = field(
        default="unigram", metadata={"help": "The vocabulary to train: unigram or bpe, which is the same every time."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Use this tokenizer (a folder or a Hub name) instead of training one."}
    )
    lowercase: bool = field(
        default=False, metadata={"help": "Lower-case everything, references too (the custom for IWSLT14)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source_column is None) != (self.target_column is None):
            raise DataError("source_column and target_column must be given together")
        if self.translation_column is not None and self.source_column is not None:
            raise DataError("give either translation_column or source_column and target_column, not both")


# Loading


def load_translation_datasets(args: DataArguments, splits: Sequence[str] = SPLITS) -> DatasetDict:
    """Load the named splits that exist, each with exactly the columns source and target.

    Texts lose the white space of ASCII at their ends; a missing one is empty. Pairs with an empty side are dropped from
    train, and counted in the log; other splits keep every line.

    Args:
        args: where the data is.
        splits: what to load; the first one must exist. An evaluation asks for ``("test",)`` alone.

    Raises:
        DataError: the data is missing or malformed; the message says what, where and what to do.
    """
    loaded = {split: _load_files(split, args) for split in splits}
    missing = [split for split in splits if loaded[split] is None]
    if args.dataset is not None and missing:
        loaded.update(_load_named(args.dataset, args, missing))
    if loaded[splits[0]] is None:
        if args.dataset is not None:
            raise DataError(f"the data set {args.dataset} has no {splits[0]} split, and no {splits[0]}_file is given")
        raise DataError(
            f"no {splits[0]} data is named: give dataset, {splits[0]}_file, "
            f"or {splits[0]}_source_file and {splits[0]}_target_file"
        )

    result = DatasetDict()
    for split in splits:
        if (dataset := loaded[split]) is not None:
            dataset = _clean(dataset, args.lowercase, split)
            if len(dataset) == 0:
                raise DataError(f"the {split} data holds no sentence pairs")
            samples = args.max_samples(split)
            result[split] = dataset if samples is None else dataset.select(range(min(samples, len(dataset))))
    return result


def _load_named(name: str, args: DataArguments, splits: list[str]) -> dict[str, Dataset]:
    """Load those of the splits that the data set has."""
    if name == "libreoffice_help":
        args.refuse_hub_options(name)
        try:
            prepared = load_libreoffice_help(args.source_lang, args.target_lang)
        except PackageUnavailableError as error:
            raise DataError(f"{error} The config iwslt14_de_en.yaml names one.") from error
        except ValueError as error:
            raise DataError(str(error)) from error
        return {split: prepared[split].select_columns(["source", "target"]) for split in splits}

    loaded = args.hub_splits(name, splits, "local files (train_file) or dataset: libreoffice_help")
    where = f"the data set {name}"
    return {split: _select_columns(dataset, args, f"{where}, {split},") for split, dataset in loaded.items()}


def _load_files(split: str, args: DataArguments) -> Dataset | None:
    """Load a split from the local files named for it; None if there are none."""
    names = {kind: f"{split}_{kind}" for kind in ("file", "source_file", "target_file")}
    file, source, target = (getattr(args, name) for name in names.values())
    if (source is None) != (target is None):
        raise DataError(f"{names['source_file']} and {names['target_file']} must be given together")
    if file is not None and source is not None:
        raise DataError(f"give either {names['file']} or {names['source_file']} and {names['target_file']}, not both")
    if file is not None:
        return _select_columns(load_table(file, names["file"]), args, file)
    if source is not None:
        sides = []
        for side, path in (("source", source), ("target", target)):
            sides.append(load_lines(path, names[f"{side}_file"]).rename_column("text", side))
        if len(sides[0]) != len(sides[1]):
            raise DataError(f"{source} has {len(sides[0])} lines but {target} has {len(sides[1])}: they must be equal")
        return concatenate_datasets(sides, axis=1)
    return None


def _select_columns(dataset: Dataset, args: DataArguments, where: str) -> Dataset:
    """Reduce a data set to the columns source and target, found as the help texts of ``DataArguments`` say.

    Where no columns are named, they are source and target if both are there, else those named as the languages.
    """
    existing = dataset.column_names
    languages = [args.source_lang, args.target_lang]
    columns = [args.source_column or "source", args.target_column or "target"]
    if args.source_column is None:
        if (name := args.translation_column or "translation") in existing or args.translation_column is not None:
            return _select_languages(dataset, name, languages, where)
        if not set(columns) <= set(existing):
            columns = languages
    for column in columns:
        if column not in existing:
            raise DataError(
                f"{where} has no column {column!r}; it has {list_names(existing)} (set source_column and target_column)"
            )
        check_texts(dataset, column, where)
    if columns[0] == columns[1]:
        raise DataError(f"{where} has one column {columns[0]!r} for both sides (set source_column and target_column)")
    return map_batches(
        dataset, lambda batch: {side: batch[column] for side, column in zip(_SIDES, columns)}, "Reading pairs", _TEXTS
    )


def _select_languages(dataset: Dataset, name: str, languages: Sequence[str], where: str) -> Dataset:
    """The columns source and target from a column of texts by language."""
    if name not in dataset.column_names:
        raise DataError(f"{where} has no column {name!r}; it has {list_names(dataset.column_names)}")

    def read(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        for row, pair in zip(rows, batch[name]):
            found = pair if isinstance(pair, dict) else {}
            for language in languages:
                if language not in found:
                    raise DataError(
                        f"{where} has no language {language!r} in the column {name!r}; row {row + 1} has "
                        f"{list_names(found) or 'none'}"
                    )
                if not isinstance(found[language], str | None):
                    raise DataError(
                        f"row {row + 1} of {where} has {found[language]!r:.60} as {language!r} in the column "
                        f"{name!r}, but a text must be a string"
                    )
        return {side: [pair[language] for pair in batch[name]] for side, language in zip(_SIDES, languages)}

    return map_batches(dataset, read, "Reading pairs", _TEXTS, with_indices=True)


def _clean(dataset: Dataset, lowercase: bool, split: str) -> Dataset:
    """Strip every text, lower-case it if asked, turn missing ones into "", and drop half-empty pairs from train."""

    def clean(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
        sides = list(clean_texts(batch, {side: side for side in _SIDES}).values())
        if lowercase:
            sides = [[text.lower() for text in side] for side in sides]
        pairs = [pair for pair in zip(*sides) if split != "train" or all(pair)]
        return {side: [pair[index] for pair in pairs] for index, side in enumerate(_SIDES)}

    cleaned = map_batches(dataset, clean, "Cleaning", _TEXTS)
    if split == "train":
        if len(cleaned) < len(dataset):
            logger.warning("Dropped %d training pairs with an empty side", len(dataset) - len(cleaned))
    elif empty := sum(not all(pair) for pair in zip(*(cleaned[side] for side in _SIDES))):
        logger.warning("Kept %d %s pairs with an empty side", empty, split)
    return cleaned


# Tokenizer


def make_tokenizer(args: DataArguments, train: Dataset, *, new_model: bool = True) -> PreTrainedTokenizerBase:
    """Load ``args.tokenizer_name``, or train a joint vocabulary on both sides of ``train``.

    A loaded one is completed as :func:`seqdyconv.data.external_tokenizers.complete_tokenizer` says.

    Args:
        args: the tokenizer.
        train: the pairs.
        new_model: it is for a new model, not for a pretrained one.

    Raises:
        DataError: ``vocab_size`` does not fit the data, or the tokenizer can't be used to train, or lacks a language.
        ModelError: the tokenizer cannot be loaded.
    """
    if args.tokenizer_name is None:
        texts = (text for batch in train.iter(1000) for side in ("source", "target") for text in batch[side])
        try:
            return train_sentencepiece_tokenizer(texts, args.vocab_size, args.tokenizer_type, lowercase=args.lowercase)
        except ValueError as error:
            raise DataError(str(error)) from error
    name = args.tokenizer_name
    tokenizer = complete_tokenizer(load_tokenizer(name), name, new_model=new_model, writes=True)
    set_languages(tokenizer, name, args.source_lang, args.target_lang)
    for side in ("source", "target"):
        try_tokenizer(tokenizer, name, train[side], writes=side == "target")
    return tokenizer


# Token ids


def tokenize(datasets: DatasetDict, tokenizer: PreTrainedTokenizerBase, args: DataArguments) -> DatasetDict:
    """Turn source and target into the columns input_ids, labels and length.

    ``length`` is the larger one of the two token counts: a padded batch costs rows × longest source in the encoder and
    rows × longest target in the decoder, so batches bounded by rows × longest ``length`` bound both, and pairs sorted
    by it have little padding on either side.

    Pairs of train over ``max_source_length`` or ``max_target_length`` tokens are dropped, and counted in the log; other
    splits keep all of theirs in full.

    Raises:
        DataError: no training pair is short enough, or a text of another split has more than ``LONGEST_TEXT`` tokens.
    """

    def encode(batch: dict[str, list[str]], rows: list[int], split: str) -> dict[str, list[Any]]:
        most = (args.max_source_length, args.max_target_length) if split == "train" else (LONGEST_TEXT, LONGEST_TEXT)
        limits = dict(zip(_SIDES, most))
        read = {side: [cut_text(text, limit) for text in batch[side]] for side, limit in limits.items()}
        encoded = tokenizer(read["source"], text_target=read["target"], return_attention_mask=False)
        ids = {"source": encoded["input_ids"], "target": encoded["labels"]}
        short = [
            all(len(ids[side][row]) <= limits[side] and read[side][row] == batch[side][row] for side in _SIDES)
            for row in range(len(rows))
        ]
        if split != "train" and not all(short):
            raise DataError(f"pair {rows[short.index(False)] + 1} of {split} has more than {LONGEST_TEXT:,} tokens")
        lengths = [max(map(len, pair)) for pair in zip(*ids.values())]
        columns = {"input_ids": ids["source"], "labels": ids["target"], "length": lengths}
        return {name: list(compress(column, short)) for name, column in columns.items()}

    result = DatasetDict()
    for split, dataset in datasets.items():
        description = f"Tokenising {split}"
        result[split] = map_batches(dataset, partial(encode, split=split), description, with_indices=True)
        if dropped := len(dataset) - len(result[split]):
            limits = f"{args.max_source_length} source or {args.max_target_length} target tokens"
            if dropped == len(dataset):
                raise DataError(f"every training pair has more than {limits} (max_source_length, max_target_length)")
            logger.warning("Dropped %d of %d training pairs with more than %s", dropped, len(dataset), limits)
    return result
