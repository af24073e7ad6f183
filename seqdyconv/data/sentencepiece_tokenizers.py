"""Vocabularies of subwords in SentencePiece's manner, for models that write texts: nothing is unknown to them."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from seqdyconv.data.long_texts import cut_words

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")  # their ids are 0, 1, 2, 3
TOKENIZER_TYPES = ("unigram", "bpe")
# Characters that make up the rarest 0.01% of the training text get no piece of their own: they are written as bytes.
CHARACTER_COVERAGE = 0.9999

# Pieces never mix letters, digits and signs ("end" + ".", not "end."); "▁" stands for the space before a word.
_WORDS = Regex(r"▁?[\p{L}\p{M}]+|▁?\p{N}+|▁?[^\p{L}\p{M}\p{N}▁]+|▁")
_BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
# A "▁" of the text itself is written as an escape character and a second one, and so is that escape character.
_ESCAPES = {"\ue000": "\ue000\ue001", "▁": "\ue000\ue002"}


def train_sentencepiece_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    model_type: str = "unigram",
    *,
    lowercase: bool = False,
    prefix_space: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a vocabulary of subwords (Kudo 2018, unigram; Sennrich et al. 2016, BPE) in SentencePiece's manner.

    The ids are ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, then the 256 bytes, then the pieces. Characters without
    a piece are written as UTF-8 bytes, so nothing becomes ``<unk>`` and ``decode(encode(text))`` is the text, but for
    white space at its start (and case, with ``lowercase``). The names of tokens, and ``▁``, are letters like others
    where they stand in a text. ``</s>`` ends every sequence. The same texts give the same tokenizer with ``"bpe"``;
    with ``"unigram"`` a few of the rarest pieces may differ each time, as its trainer adds up in a random order.

    Args:
        texts: the sentences of all languages of the joint vocabulary.
        vocab_size: number of ids, special and byte tokens included.
        model_type: ``"unigram"`` or ``"bpe"``.
        lowercase: lower-case what is encoded.
        prefix_space: the first word of a text has the same pieces as inside of it, and a space at the start is lost.
            False, for texts that are written piece by piece: a text and what follows it decode to both together.

    Raises:
        ValueError: ``model_type`` is unknown, or ``vocab_size`` is more than the data gives or less than it needs.
    """
    if model_type not in TOKENIZER_TYPES:
        raise ValueError(f"model_type is {model_type!r}, allowed are {', '.join(TOKENIZER_TYPES)}")
    texts = [text.lower() if lowercase else text for text in cut_words(texts)]
    alphabet, rare = _alphabet(texts)
    reserved = len(SPECIAL_TOKENS) + len(_BYTE_TOKENS)
    if vocab_size <= reserved + len(alphabet):
        raise ValueError(
            f"vocab_size {vocab_size} is too small: {reserved} special and byte tokens and the {len(alphabet)} "
            f"characters of the data need more than {reserved + len(alphabet)}"
        )

    options: dict[str, Any] = {
        "vocab_size": vocab_size - len(_BYTE_TOKENS),
        "special_tokens": list(SPECIAL_TOKENS),
        "show_progress": False,
    }
    trainer: Any
    scheme = "always" if prefix_space else "never"
    if model_type == "unigram":
        tokenizer, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(unk_token="<unk>", **options)
    else:
        tokenizer, trainer = Tokenizer(models.BPE(unk_token="<unk>")), trainers.BpeTrainer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme=scheme), pre_tokenizers.Split(_WORDS, "isolated")]
    )
    tokenizer.train_from_iterator((text.translate(rare) for text in texts), trainer)
    pieces = tokenizer.get_vocab_size() + len(_BYTE_TOKENS)
    if pieces < vocab_size:
        raise ValueError(f"vocab_size {vocab_size} is larger than the data allows: it gives {pieces} pieces")

    tokenizer = _with_byte_tokens(tokenizer)
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Lowercase()] if lowercase else []),
            *(normalizers.Replace(character, escape) for character, escape in _ESCAPES.items()),
        ]
    )
    unescape = [decoders.Replace(escape, character) for character, escape in reversed(_ESCAPES.items())]
    spaces = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), spaces, decoders.Fuse(), *unescape])
    end = SPECIAL_TOKENS[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, SPECIAL_TOKENS.index(end))]
    )
    bos, pad, eos, unk = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        pad_token=pad,
        eos_token=eos,
        unk_token=unk,
        padding_side="right",
        split_special_tokens=True,  # in a text they are text
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _alphabet(texts: list[str]) -> tuple[set[str], dict[int, str]]:
    """The characters that get pieces of their own, and a table for ``str.translate`` that blanks the rare others."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for space in [character for character in counts if character.isspace() or character == "▁"]:
        del counts[space]
    uncovered = math.floor((1 - CHARACTER_COVERAGE) * counts.total())
    rare = {ord("▁"): " "}
    for character, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        uncovered -= count
        if uncovered < 0:
            break
        rare[ord(character)] = " "
    return {character for character in counts if ord(character) not in rare}, rare


def _with_byte_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Insert the 256 bytes after the special tokens of a trained model, for characters without a piece."""
    state = json.loads(tokenizer.to_str())
    model, first = state["model"], len(SPECIAL_TOKENS)
    model["byte_fallback"] = True
    if model["type"] == "Unigram":
        special, scored = model["vocab"][:first], _without_chance(model["vocab"][first:])
        # Far below every path of pieces, so that the letters "<0x41>" in a text are never read as that byte.
        lowest = 10 * scored[-1][1]
        model["vocab"] = special + [(token, lowest) for token in _BYTE_TOKENS] + scored
    else:
        pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
        pieces[first:first] = _BYTE_TOKENS
        model["vocab"] = {piece: index for index, piece in enumerate(pieces)}
    return Tokenizer.from_str(json.dumps(state))


def _without_chance(vocab: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Take out of the unigram trainer's pieces and scores what need not differ between two runs on the same texts.

    That is noise of 1e-11 in the scores, the order of equal ones, and which of the characters that no longer are pieces
    gets which of the lowest scores: they all get the lowest.
    """

    def order(item: tuple[str, float]) -> tuple[float, str]:
        return -item[1], item[0]

    pieces = sorted(((piece, round(score, 6)) for piece, score in vocab), key=order)
    tail = len(pieces)
    while tail > 0 and len(pieces[tail - 1][0]) == 1:
        tail -= 1
    lowest = pieces[-1][1]
    return pieces[:tail] + sorted(((piece, lowest) for piece, _ in pieces[tail:]), key=order)
