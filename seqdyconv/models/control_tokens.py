"""The names of a tokenizer's control tokens where they stand in a text: ``</s>`` in HTML is text, and ends nothing."""

import re
from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def read_as_text(tokenizer: Any) -> None:
    """Have a loaded tokenizer read the names of its control tokens as text; that is saved with it, too.

    ``split_special_tokens`` of transformers does it where the model of the tokenizer does not have the names for words:
    those of fast tokenizers are then split after their first character. Slow tokenizers with added words of the user
    stay as they are, since they would lose the words.
    """
    if not tokenizer.is_fast and not all(token.special for token in tokenizer.added_tokens_decoder.values()):
        tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = False
        return
    names = control_names(tokenizer)
    if not tokenizer.is_fast or not names or not _found(tokenizer, names):
        return
    within = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names if len(name) > 1)
    split = pre_tokenizers.Split(Regex(within), "isolated")
    backend = tokenizer.backend_tokenizer
    steps = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, split])


def control_names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The names of the special tokens, and of bytes, but for that of a token which is for unknown words alone."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    bytes_ = {name for name in tokenizer.get_vocab() if _BYTE_TOKEN.fullmatch(name)}
    unknown = {tokenizer.unk_token} - {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    return sorted({*special, *tokenizer.all_special_tokens, *bytes_} - unknown)


def _found(tokenizer: Any, names: list[str]) -> bool:
    """Whether a text with these names, alone or inside words, has control tokens; bytes of one character are none."""
    texts = [text for name in names for text in (f"a {name} b", f"a{name}b", f"{name}b")]
    control = set(tokenizer.convert_tokens_to_ids(names))
    read = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return any(
        number in control and end - start > 1
        for ids, offsets in zip(read["input_ids"], read["offset_mapping"])
        for number, (start, end) in zip(ids, offsets)
    )
