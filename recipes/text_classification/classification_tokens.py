"""From texts to token ids: a tokenizer, trained or loaded, and the rows that a model reads."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset, DatasetDict
from text_classification_data import TOKENIZER_TYPES, DataArguments, DataError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from seqdyconv.data.tables import map_batches
from seqdyconv.errors import first_line

# Their ids are 0 to 4; that of [PAD] is the default of SeqDyConvConfig.
SPECIAL_TOKENS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


def make_tokenizer(args: DataArguments, train: Dataset) -> PreTrainedTokenizerBase:
    """Load ``args.tokenizer_name``, or train a vocabulary on the texts of ``train``.

    Raises:
        DataError: the tokenizer cannot be loaded, or ``vocab_size`` is too small.
    """
    if args.tokenizer_name is None:
        columns = [name for name in ("text", "text_pair") if name in train.column_names]
        texts = (text for batch in train.iter(1000) for name in columns for text in batch[name])
        try:
            return train_tokenizer(
                texts,
                args.vocab_size,
                args.tokenizer_type,
                lowercase=args.lowercase,
                min_frequency=args.min_frequency,
                pairs="text_pair" in columns,
            )
        except ValueError as error:
            raise DataError(str(error)) from error
    try:
        return AutoTokenizer.from_pretrained(args.tokenizer_name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"the tokenizer {args.tokenizer_name} cannot be loaded ({first_line(error)})") from error


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    tokenizer_type: str = "wordpiece",
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    pairs: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a vocabulary of words, or of WordPiece subwords (Schuster and Nakajima 2012).

    The ids are ``[CLS]`` 0, ``[PAD]`` 1, ``[SEP]`` 2, ``[UNK]`` 3, ``[MASK]`` 4, then the words. A text becomes
    ``[CLS] text [SEP]``, a pair ``[CLS] text [SEP] text_pair [SEP]``. Text is split at white space and around signs.

    Args:
        texts: the training texts.
        vocab_size: the most entries, special tokens included; fewer if the texts have no more.
        tokenizer_type: ``"wordpiece"`` or ``"word"``.
        lowercase: lower-case what is encoded. Accents stay.
        min_frequency: how often a word or subword must occur.
        pairs: give token_type_ids, which are 1 for the second text of a pair and its ``[SEP]``.

    Raises:
        ValueError: ``tokenizer_type`` is unknown, or ``vocab_size`` leaves no place for words (or, with subwords, for
            the characters of the texts).
    """
    if tokenizer_type not in TOKENIZER_TYPES:
        raise ValueError(f"tokenizer_type is {tokenizer_type!r}, allowed are {', '.join(TOKENIZER_TYPES)}")
    words = Tokenizer(models.WordPiece() if tokenizer_type == "wordpiece" else models.WordLevel())
    words.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options: dict[str, Any] = {"vocab_size": vocab_size, "min_frequency": min_frequency, "show_progress": False}
    first = list(SPECIAL_TOKENS)
    if tokenizer_type == "wordpiece":
        # The trainer numbers the pieces of one character inside a word (##a) in an order that differs from run to run,
        # and breaks ties by these numbers, unless it gets them as its first tokens.
        texts = list(texts)
        words.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=1, show_progress=False))
        first += sorted(piece for piece in words.get_vocab() if piece.startswith("##") and len(piece) == 3)
        words.train_from_iterator(texts, trainers.WordPieceTrainer(special_tokens=first, **options))
        model = models.WordPiece(words.get_vocab(), unk_token="[UNK]")
    else:
        words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=first, **options))
        model = models.WordLevel(words.get_vocab(), unk_token="[UNK]")
    tokenizer = Tokenizer(model)  # a new one: in the other, all of `first` are special
    tokenizer.normalizer, tokenizer.pre_tokenizer = words.normalizer, words.pre_tokenizer
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    if tokenizer_type == "wordpiece":
        tokenizer.decoder = decoders.WordPiece()
    size = tokenizer.get_vocab_size()
    if size > vocab_size or size <= len(SPECIAL_TOKENS):
        needed = size if size > vocab_size else len(SPECIAL_TOKENS) + 1
        raise ValueError(
            f"vocab_size {vocab_size} is too small: the special tokens and the words or characters of the texts need "
            f"at least {needed}"
        )
    cls, pad, sep, unk, mask = SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=cls,
        pad_token=pad,
        sep_token=sep,
        unk_token=unk,
        mask_token=mask,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
    )


# Token ids


def tokenize(datasets: DatasetDict, tokenizer: PreTrainedTokenizerBase, args: DataArguments) -> DatasetDict:
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

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            batch["text"],
            batch.get("text_pair"),
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


def _check_lengths(datasets: DatasetDict, tokenizer: PreTrainedTokenizerBase, args: DataArguments) -> None:
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
