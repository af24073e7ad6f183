"""Vocabularies of words or WordPieces, in the manner of BERT, for models that read texts."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from seqdyconv.data.long_texts import cut_words

TOKENIZER_TYPES = ("wordpiece", "word")

# Their ids are 0 to 4; that of [PAD] is the default of SeqDyConvConfig.
SPECIAL_TOKENS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


def train_word_tokenizer(
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
    ``[CLS] text [SEP]``, a pair ``[CLS] text [SEP] text_pair [SEP]``. Text is split at white space and around signs,
    and the names of the special tokens in it are text.

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
    texts = cut_words(texts)
    model: models.Model
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
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
    )
