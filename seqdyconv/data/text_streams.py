"""Documents that are read while a model is trained on them, and their tokens in rows, from any place on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from datasets import IterableDataset
from torch.utils.data import Dataset as TorchDataset

from seqdyconv.data.language_modeling import DataArguments, document_tokens, open_stream
from seqdyconv.data.tables import READING_ERRORS, DataError
from seqdyconv.errors import first_line
from seqdyconv.files import strip_text

_AT_ONCE = 32
_KNOWN = 2**16  # batches: far more than are read ahead of the step that is trained


class StreamPosition(NamedTuple):
    """Where the next row of a stream begins."""

    epoch: int = 0
    """How often all documents were read."""
    document: int = 0
    """The number of the document, in the order of that epoch."""
    token: int = 0
    """The number of the token in the document; 0 is the end token before it."""


class TextStream:
    """The training documents of a data set, without end, in an order that is another one in each epoch.

    Args:
        args: the data set, ``shuffle_buffer`` and ``split_seed``.

    Raises:
        DataError: the data set can't be read.
    """

    def __init__(self, args: DataArguments) -> None:
        self.args = args
        self.column, streams = open_stream(args, ("train",))
        dataset: IterableDataset = streams["train"]
        if args.shuffle_buffer > 1:
            dataset = dataset.shuffle(seed=args.split_seed, buffer_size=args.shuffle_buffer)
        self.dataset = dataset

    def documents(self, epoch: int, first: int) -> Iterator[str]:
        """The documents of an epoch from the one with number `first` on.

        Raises:
            DataError: reading fails, as where the network does.
        """
        dataset = self.dataset.skip(first)
        dataset.set_epoch(epoch)
        try:
            for row in dataset:
                yield strip_text(row[self.column] or "")
        except READING_ERRORS as error:
            raise DataError(f"the data set {self.args.dataset} can't be read on: {first_line(error)}") from error


class StreamedBatches(TorchDataset[list[dict[str, Any]]]):
    """Batches of rows of tokens by their numbers, which are asked for from low to high.

    Rows run on over the ends of documents and share one token with the row before, as those of
    :func:`seqdyconv.data.language_modeling.tokenize`.

    Args:
        stream: the documents.
        tokenizer: it has an end token.
        block_size: tokens of a row.
        rows: of a batch.
        number: of batches.
    """

    def __init__(self, stream: TextStream, tokenizer: Any, block_size: int, rows: int, number: int) -> None:
        self.stream = stream
        self.tokenizer = tokenizer
        self.block_size, self.rows, self.number = block_size, rows, number
        self.start_at(0, StreamPosition())

    def start_at(self, batch: int, position: StreamPosition) -> None:
        """Begin with a batch at a position, where an earlier reading has come to."""
        self.positions = {batch: position}
        self._next = batch
        self._rows = self._read(position)

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, batch: int) -> list[dict[str, Any]]:
        """The rows of a batch, with the columns input_ids and labels; the stream has not gone beyond it."""
        examples: list[dict[str, Any]] = []
        while self._next <= batch:
            examples = []
            position = self.positions[self._next]
            for row, following in islice(self._rows, self.rows):
                examples.append({"input_ids": row, "labels": list(row)})
                position = following
            self._next += 1
            self.positions[self._next] = position
            self.positions.pop(self._next - _KNOWN, None)
        return examples

    def position(self, batch: int) -> StreamPosition:
        """Where a batch begins that has been read a short time ago, or is the next one."""
        return self.positions[batch]

    def _read(self, start: StreamPosition) -> Iterator[tuple[list[int], StreamPosition]]:
        """Rows from a position on, each with where the one after it begins."""
        epoch, first, skipped = start
        row: list[int] = []
        while True:
            documents = enumerate(self.stream.documents(epoch, first), start=first)
            empty = True
            while part := list(islice(documents, _AT_ONCE)):
                numbers = [number for number, text in part if text]
                for number, tokens in zip(numbers, document_tokens(self.tokenizer, [text for _, text in part if text])):
                    empty = False
                    begin = skipped if number == start.document and epoch == start.epoch else 0
                    while len(tokens) - begin >= self.block_size - len(row):
                        end = begin + self.block_size - len(row)
                        yield row + tokens[begin:end], StreamPosition(epoch, number, end - 1)
                        row, begin = [tokens[end - 1]], end
                    row = row + tokens[begin:]
            if empty and first == 0:
                raise DataError(f"the data set {self.stream.args.dataset} holds no text")
            epoch, first = epoch + 1, 0
