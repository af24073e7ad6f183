"""Tokenizers that others made, checked and completed before anything is trained with them."""

import json
import logging
from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from typing import Any

from tokenizers import decoders, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from seqdyconv.data.tables import DataError, list_names
from seqdyconv.models.control_tokens import control_names
from seqdyconv.models.loading import vocabulary_size

logger = logging.getLogger(__name__)

# Names that are taken for the role where a tokenizer names no token for it; the first one is added where it has none.
_NAMES = {
    "pad_token": ("<pad>", "[PAD]", "<PAD>", "<|pad|>"),
    "eos_token": ("</s>", "<eos>", "[EOS]", "<EOS>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "[SEP]"),
}
_DECODERS = {"ByteLevel": decoders.ByteLevel, "Metaspace": decoders.Metaspace}
SAMPLE = 1000
"""So many texts show what a tokenizer makes of them."""


def complete_tokenizer(
    tokenizer: PreTrainedTokenizerBase, name: str, *, new_model: bool, writes: bool = False
) -> PreTrainedTokenizerBase:
    """A tokenizer with all that training needs; what was added is told.

    Where it has no padding token, a new model gets one of its own (also where that of the tokenizer is the end's or
    the unknown token), a pretrained one pads with a token that it has. Padding is on the right. For models that write
    texts every text ends with an end token, so that they learn to stop, and what is decoded is text.

    Args:
        tokenizer: As it was loaded.
        name: Of the tokenizer, for messages.
        new_model: The model has no embeddings yet, so that tokens can be added.
        writes: The model writes texts with it.

    Raises:
        DataError: It has no entries, or numbers that go far beyond their number, or can't be made to end its texts.
    """
    if not len(tokenizer):
        raise DataError(f"the tokenizer {name} has no entries")
    if vocabulary_size(tokenizer) > 2 * len(tokenizer) + 1000:
        raise DataError(
            f"the ids of the tokenizer {name} go up to {vocabulary_size(tokenizer) - 1}, but it has only "
            f"{len(tokenizer)} entries"
        )
    if writes and tokenizer.eos_token_id is None:
        _name_token(tokenizer, name, "eos_token", tokenizer.sep_token)
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    if tokenizer.pad_token_id is None or (new_model and tokenizer.pad_token_id in others):
        reused = None if new_model else tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        _name_token(tokenizer, name, "pad_token", reused, others)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
    return _for_writing(tokenizer, name) if writes else tokenizer


def try_tokenizer(tokenizer: Any, name: str, texts: Iterable[str], *, writes: bool = False) -> None:
    """Look at what a tokenizer makes of training texts, and tell where much of them is lost.

    Raises:
        DataError: It knows nothing of the texts.
    """
    sample = list(islice((text for text in texts if text.strip()), SAMPLE))
    side = "text_target" if writes else "text"
    rows = tokenizer(**{side: sample}, add_special_tokens=False)["input_ids"] if sample else []
    ids = [number for row in rows for number in row]
    known = set(ids) - {tokenizer.unk_token_id}
    if sample and not any(tokenizer.decode([number]).strip() for number in known):  # but spaces
        raise DataError(f"the tokenizer {name} knows nothing of the training texts, such as {sample[0][:60]!r}")
    unknown = sum(number not in known for number in ids)
    if unknown > 0.1 * len(ids):
        logger.warning("To the tokenizer %s %.0f%% of the training texts are unknown", name, 100 * unknown / len(ids))
    if not writes:
        return
    back = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    changed = [(text, found) for text, found in zip(sample, back) if text.split() != found.split()]
    if len(changed) > 0.01 * len(sample):
        logger.warning(
            "The tokenizer %s changes %.0f%% of the texts, which no model can then write as they are: %r becomes %r",
            *(name, 100 * len(changed) / len(sample), changed[0][0][:80], changed[0][1][:80]),
        )


def set_languages(tokenizer: Any, name: str, source_lang: str | None, target_lang: str | None) -> None:
    """Have a tokenizer of many languages mark source and target with theirs; others stay as they are.

    mBART, M2M100, NLLB and PLBart put a token of the language beside each text. It is saved with the tokenizer.

    Args:
        tokenizer: As it was loaded.
        name: Of the tokenizer, for messages.
        source_lang: A code of the tokenizer, or what is before its first ``_``, where one code alone begins so: ``de``
            is ``de_DE`` of mBART. None: as it is.
        target_lang: Likewise.

    Raises:
        DataError: It has no such language.
    """
    if not of_many_languages(tokenizer):
        return
    others = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
    tokens = getattr(tokenizer, "lang_code_to_id", set(control_names(tokenizer)) - others)  # NLLB has but the tokens
    codes = sorted(token.strip("_") for token in tokens)
    for key, attribute, language in (
        ("source_lang", "src_lang", source_lang),
        ("target_lang", "tgt_lang", target_lang),
    ):
        if language is None:
            continue
        alike = [code for code in codes if code == language or code.split("_")[0] == language]
        if len(alike) != 1 and language not in alike:
            known = list_names(codes if len(alike) < 2 else alike)
            raise DataError(f"{key} is {language!r}, and the tokenizer {name} has the languages {known}")
        code = language if language in alike else alike[0]
        setattr(tokenizer, attribute, code)
        tokenizer.init_kwargs[attribute] = code


def of_many_languages(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a token of the language beside each text."""
    return hasattr(tokenizer, "set_tgt_lang_special_tokens")


def _name_token(tokenizer: Any, name: str, role: str, chosen: str | None, taken: Sequence[int | None] = ()) -> None:
    """Give a role to a token: the chosen one, else one with a usual name for it, else a new one."""
    vocabulary = tokenizer.get_vocab()
    known = (token for token in _NAMES[role] if vocabulary.get(token) not in (None, *taken))
    token = chosen or next(known, _NAMES[role][0])
    tokenizer.add_special_tokens({role: token})
    new = "the new token " if token not in vocabulary else ""
    logger.warning("The tokenizer %s has no %s of its own: it is %s%s now", name, role, new, token)


def _for_writing(tokenizer: Any, name: str) -> Any:
    """The tokenizer with an end after each text, and with a decoder."""
    ended = _ends_texts(tokenizer)
    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    decoder = None if backend is None or backend.decoder is not None else _decoder_for(backend)
    if ended and decoder is None:
        return tokenizer
    if backend is None:
        raise DataError(
            f"the tokenizer {name} does not put its end token {tokenizer.eos_token} after a text, so that a model "
            "would never learn to stop: use one that does, or a fast tokenizer, to which it can be added"
        )
    if decoder is not None:
        backend.decoder = decoder
    if not ended:
        backend.post_processor = _with_end(tokenizer)
        logger.warning("The tokenizer %s does not end a text with %s: it does now", name, tokenizer.eos_token)
    # Of no other class: those of models build their own post-processor anew when they are loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **tokenizer.special_tokens_map,
        model_max_length=tokenizer.model_max_length,
        padding_side="right",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _ends_texts(tokenizer: Any) -> bool:
    """Whether the end token is after a target; it need not be the very last, where a language follows it."""
    ids = tokenizer(text_target="a")["input_ids"]
    control = set(tokenizer.convert_tokens_to_ids(control_names(tokenizer)))
    return tokenizer.eos_token_id in takewhile(control.__contains__, reversed(ids))


def _with_end(tokenizer: Any) -> Any:
    """What puts the same tokens around a text as before, and the end token after them."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    tokens, mask = tokenizer.convert_ids_to_tokens(encoded["input_ids"]), encoded["special_tokens_mask"]
    before = len(list(takewhile(bool, mask)))
    after = min(len(list(takewhile(bool, reversed(mask)))), len(mask) - before)
    prefix, suffix = tokens[:before], [*tokens[len(tokens) - after :], tokenizer.eos_token]
    return processors.TemplateProcessing(
        single=[*prefix, "$A", *suffix],
        pair=[*prefix, "$A", *suffix, "$B", *suffix],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in {*prefix, *suffix}],
    )


def _decoder_for(backend: Any) -> Any:
    """What undoes the pre-tokenizer of a tokenizer that was made without a decoder, if that is known."""
    state = json.loads(backend.to_str())
    if state["model"]["type"] == "WordPiece":
        return decoders.WordPiece(cleanup=False)
    steps = state["pre_tokenizer"] or {}
    kinds = [step["type"] for step in steps.get("pretokenizers", [steps]) if step]
    return next((_DECODERS[kind]() for kind in kinds if kind in _DECODERS), None)
