"""Training, validation and test data: the same keys in every recipe; what is missing is held out of train."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated, Any

from datasets import Dataset

from seqdyconv.data.tables import DataError, load_hub_splits
from seqdyconv.ranges import Count, Options, Range, Seed

SPLITS = ("train", "validation", "test")
HELD_OUT = ("validation", "test")

HeldOutShare = Annotated[float, Range(0, 0.5)]


def file_help(split: str) -> dict[str, Any]:
    """The help of a key that names a file."""
    return {"help": f"The {split} data in one file: tsv or csv (with a header), json, jsonl or parquet."}


def split_help(split: str) -> dict[str, Any]:
    """The help of a key that names a split."""
    return {"help": f"Name of the {split} split in the data set; null if it must not be used."}


@dataclass
class SourceArguments(Options):
    """Where the data come from. A local file takes the place of the data set's split of that name."""

    dataset: str | None = field(default=None, metadata={"help": "A data set: a name on the Hub."})
    dataset_config: str | None = field(default=None, metadata={"help": "The configuration of the Hub data set."})
    dataset_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of the Hub data set; refs/convert/parquet avoids a loading script."},
    )
    train_file: str | None = field(default=None, metadata=file_help("training"))
    validation_file: str | None = field(default=None, metadata=file_help("validation"))
    test_file: str | None = field(default=None, metadata=file_help("test"))
    max_train_samples: Count | None = field(default=None, metadata={"help": "Use only N training examples."})
    max_validation_samples: Count | None = field(default=None, metadata={"help": "Use only N validation examples."})
    max_test_samples: Count | None = field(default=None, metadata={"help": "Use only N test examples."})

    @property
    def source(self) -> str:
        """The data set and its configuration, for titles."""
        name = self.dataset or "local files"
        return f"{name} ({self.dataset_config})" if self.dataset_config else name

    def max_samples(self, split: str) -> int | None:
        """The most examples of a split."""
        return getattr(self, f"max_{split}_samples")

    def hub_splits(
        self, name: str, splits: Sequence[str], instead: str, required: Sequence[str] = (), streaming: bool = False
    ) -> dict[str, Any]:
        """Those of the splits that a data set has on the Hub, see :func:`seqdyconv.data.tables.load_hub_splits`."""
        return load_hub_splits(
            name,
            splits,
            config=self.dataset_config,
            revision=self.dataset_revision,
            instead=instead,
            required=required,
            streaming=streaming,
        )

    def refuse_hub_options(self, name: str) -> None:
        """Raise a ``DataError`` where a data set that is not of the Hub is given what only these have."""
        if self.dataset_config is not None or self.dataset_revision is not None:
            raise DataError(f"the data set {name} has no dataset_config or dataset_revision")


@dataclass
class HeldOutArguments(SourceArguments):
    """Where the data come from, and what is held out of train.

    A validation_file or test_file takes the place of that split of the data set. A split that is then still missing is
    taken out of train if validation_fraction or test_fraction says so.
    """

    train_split: str = field(default="train", metadata={"help": "Name of the training split in the data set."})
    validation_split: str | None = field(default="validation", metadata=split_help("validation"))
    test_split: str | None = field(default="test", metadata=split_help("test"))
    validation_fraction: HeldOutShare = field(
        default=0.1, metadata={"help": "Part of train to validate on if there is no validation data; 0 for none."}
    )
    test_fraction: HeldOutShare = field(
        default=0.0, metadata={"help": "Part of train to test on if there is no test data; 0 for none."}
    )
    split_seed: Seed = field(default=0, metadata={"help": "Seed of these splits and of the choice of max_..._samples."})

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.split_names(SPLITS)
        for (one, name), (other, other_name) in combinations(names.items(), 2):
            if common := set(name.split("+")).intersection(other_name.split("+")):
                raise DataError(
                    f"{one}_split and {other}_split {'are' if name == other_name else 'have'} both {min(common)!r}; "
                    "set validation_split to null to take the validation data out of train"
                )

    def fraction(self, split: str) -> float:
        """The part of train that a held-out split gets where there are no data for it."""
        return 0.0 if split == "train" else getattr(self, f"{split}_fraction")

    def split_names(self, splits: Sequence[str]) -> dict[str, str]:
        """What those of the splits that come from the data set are called there: no file is given, nor null."""
        names = {split: getattr(self, f"{split}_split") for split in splits if getattr(self, f"{split}_file") is None}
        return {split: name for split, name in names.items() if name is not None}

    def required_names(self, splits: Sequence[str]) -> list[str]:
        """Those of :meth:`split_names` that must exist; validation and test may be missing under their usual ones."""
        return [name for split, name in self.split_names(splits).items() if name != split]


def split_files(args: SourceArguments, splits: Sequence[str]) -> dict[str, str]:
    """The files that are named for some of the splits.

    Raises:
        DataError: a data set and a file are both to train on.
    """
    files = {split: file for split in splits if (file := getattr(args, f"{split}_file")) is not None}
    if "train" in files and args.dataset is not None:
        raise DataError(f"both dataset ({args.dataset}) and train_file ({args.train_file}) are given: give one of them")
    return files


def load_splits(
    args: HeldOutArguments,
    splits: Sequence[str],
    load: Callable[[Sequence[str]], dict[str, Dataset]],
    groups: Callable[[Dataset], Sequence[Sequence[int]]],
    strata: str | None = None,
) -> dict[str, Dataset]:
    """Load splits, and hold out of train what is missing, so that an evaluation of one split finds the same rows.

    Args:
        args: the fractions and their seed.
        splits: what to load; the first one must exist. An evaluation asks for ``("test",)`` alone.
        load: what loads those that exist.
        groups: the rows of train that must stay together, such as those with the same text; see `rows_by`.
        strata: a column each of whose values gives the same share.

    Returns:
        The tables by split; perhaps also splits that were not asked for.

    Raises:
        DataError: the first split does not exist, or a fraction gives no rows.
    """
    tables = load(SPLITS if "train" in splits else splits)
    if "train" not in splits and any(split not in tables and args.fraction(split) > 0 for split in splits):
        tables = load(SPLITS)  # that split is a part of train
    if "train" in tables:
        for split in ("test", "validation"):
            if split not in tables and args.fraction(split) > 0:
                tables["train"], tables[split] = _hold_out(tables["train"], split, args, groups, strata)
    check_first(args, splits, tables)
    return tables


def check_first(args: SourceArguments, splits: Sequence[str], tables: Container[str]) -> None:
    """Raise a ``DataError`` if there are no data for the first of the splits."""
    if splits[0] not in tables:
        source = f"the data set {args.dataset} has none" if args.dataset is not None else "no data set is named either"
        raise DataError(f"there is no {splits[0]} data: give {splits[0]}_file, as {source}")


def rows_by(keys: Iterable[Hashable]) -> dict[Any, list[int]]:
    """The numbers of the rows with each key, in the order in which the keys first occur.

    Example:
        >>> rows_by(["yes", "no", "yes"])
        {'yes': [0, 2], 'no': [1]}
    """
    rows: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return rows


def sample(table: Dataset, number: int | None, seed: int) -> Dataset:
    """That many rows of a table, chosen by the seed, in their order; all of them if it has no more, or for None."""
    if number is None or number >= len(table):
        return table
    return table.select(sorted(random.Random(seed).sample(range(len(table)), number)))


def _hold_out(
    train: Dataset,
    split: str,
    args: HeldOutArguments,
    groups: Callable[[Dataset], Sequence[Sequence[int]]],
    strata: str | None,
) -> tuple[Dataset, Dataset]:
    """The rest of train, and what is held out of it. Of each group the first row says to which stratum it belongs."""
    fraction = args.fraction(split)
    values = [""] * len(train) if strata is None else train[strata][:]
    groups_of: dict[str, list[Sequence[int]]] = {}
    for rows in groups(train):
        groups_of.setdefault(values[rows[0]], []).append(rows)
    generator = random.Random(args.split_seed)
    held_out: set[int] = set()
    for value in sorted(groups_of):
        candidates = groups_of[value]
        generator.shuffle(candidates)
        held_out.update(*candidates[: round(fraction * len(candidates))])
    if not held_out:
        raise DataError(
            f"{split}_fraction {fraction} of the {len(train)} training texts is none: give {split}_file, "
            f"raise {split}_fraction, or set it to 0 for no {split} data"
        )
    rest = [row for row in range(len(train)) if row not in held_out]
    return train.select(rest), train.select(sorted(held_out))
