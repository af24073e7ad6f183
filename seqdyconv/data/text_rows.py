"""From texts to the rows of token ids that a model reads: one row each, or windows of a long text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from seqdyconv.data.tables import DataError, map_batches
from seqdyconv.ranges import Count, Number, OneOf, Options
from seqdyconv.runtime.long_texts import cut_text, tokens_read

LONG_TEXTS = ("truncate", "windows")


@dataclass
class LengthArguments(Options):
    """How much of a text a model reads."""

    max_length: Count = field(default=256, metadata={"help": "The most tokens of a row, special tokens included."})
    long_texts: Annotated[str, OneOf(*LONG_TEXTS)] = field(
        default="truncate",
        metadata={"help": "What to do with longer texts: truncate, or split into windows (rows of the same text)."},
    )
    window_stride: Number = field(default=32, metadata={"help": "Tokens that neighbouring windows share."})
    max_windows: Count | None = field(default=None, metadata={"help": "Use only the first N windows of a text."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_stride >= self.max_length and self.long_texts == "windows":
            raise DataError(
                f"window_stride is {self.window_stride}, but must be from 0 to below max_length {self.max_length}"
            )


def tokenize(datasets: DatasetDict, tokenizer: PreTrainedTokenizerBase, args: LengthArguments) -> DatasetDict:
    """Turn texts into the columns input_ids, token_type_ids (of pairs, if the tokenizer gives them), labels, example.

    ``example`` is the row of the text in its split. With ``long_texts: truncate`` there is one row per text; of a pair
    the longer text is shortened first. With ``windows`` a long text gives several rows in order, each with the label
    and the special tokens; neighbours share ``window_stride`` tokens. No row is empty, and none needs a padding mask.
    Splits without labels (unlabelled texts) are tokenised just so.

    Raises:
        DataError: the tokenizer or ``max_length`` does not fit the data.
    """
    _check_lengths(datasets, tokenizer, args)
    windows = args.long_texts == "windows"
    most = tokens_read(args.max_length, windows, args.max_windows)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = {
            name: [cut_text(text, most, tokenizer.truncation_side) for text in batch[name]]
            for name in ("text", "text_pair")
            if name in batch
        }
        encoded = tokenizer(
            texts["text"],
            texts.get("text_pair"),
            truncation=True,
            max_length=args.max_length,
            return_attention_mask=False,
            return_overflowing_tokens=windows,
            **({"stride": args.window_stride} if windows else {}),
        )
        text_of = encoded["overflow_to_sample_mapping"] if windows else range(len(batch["text"]))
        keep = _first_windows(text_of, args.max_windows)
        names = ("input_ids", "token_type_ids") if "text_pair" in batch else ("input_ids",)
        rows = {name: [encoded[name][row] for row in keep] for name in names if name in encoded}
        for old, new in (("label", "labels"), ("example", "example")):
            if old in batch:
                rows[new] = [batch[old][text_of[row]] for row in keep]
        if not all(rows["input_ids"]):  # a tokenizer without special tokens makes nothing of an empty text
            rows["input_ids"] = [ids or [filler] for ids in rows["input_ids"]]
            if "token_type_ids" in rows:
                rows["token_type_ids"] = [ids or [0] for ids in rows["token_type_ids"]]
        return rows

    filler = tokenizer.unk_token_id or tokenizer.eos_token_id or 0
    return DatasetDict(
        {
            split: map_batches(dataset.add_column("example", list(range(len(dataset)))), encode, f"Tokenising {split}")
            for split, dataset in datasets.items()
        }
    )


def _first_windows(text_of: Sequence[int], most: int | None) -> list[int]:
    """The rows to keep: of each text the first windows."""
    counts: Counter[int] = Counter()
    keep = []
    for row, text in enumerate(text_of):
        counts[text] += 1
        if most is None or counts[text] <= most:
            keep.append(row)
    return keep


def _check_lengths(datasets: DatasetDict, tokenizer: PreTrainedTokenizerBase, args: LengthArguments) -> None:
    is_pairs = any("text_pair" in dataset.column_names for dataset in datasets.values())
    special = tokenizer.num_special_tokens_to_add(pair=is_pairs)
    if args.max_length <= special:
        raise DataError(f"max_length is {args.max_length}, but the special tokens alone are {special}")
    if args.max_length > tokenizer.model_max_length:
        raise DataError(
            f"max_length is {args.max_length}, but the tokenizer's model takes at most {tokenizer.model_max_length}"
        )
    if args.long_texts == "windows":
        if is_pairs:
            raise DataError("long_texts: windows is for single texts; use truncate for pairs")
        if not tokenizer.is_fast:
            raise DataError(f"long_texts: windows needs a fast tokenizer, got {type(tokenizer).__name__}")
        if args.window_stride >= args.max_length - special:
            raise DataError(
                f"window_stride is {args.window_stride}, but must be below max_length {args.max_length} less the "
                f"{special} special tokens"
            )
