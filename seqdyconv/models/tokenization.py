"""A tokenizer of finished tokens: text that is already split, looked up in one or two vocabularies."""

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_FILES = {"vocab_file": "vocab.json", "target_vocab_file": "target_vocab.json"}


class _TargetMode(threading.local):
    """The tokenizer that encodes targets now, in each thread: others may encode sources with it meanwhile."""

    tokenizer: Any = None


_target_mode = _TargetMode()


class SeqDyConvTokenizer(PreTrainedTokenizer):
    """Looks up tokens that white space separates, with a vocabulary of its own for each side where they differ.

    For models from toolkits where words are split into subwords (``new@@ est``) before the model sees them: the text
    must be prepared in the same way. ``tokenizer(source, text_target=target)`` encodes both sides, each ended by
    ``</s>``; ``decode`` and ``batch_decode`` read the target's ids and join subwords.

    Args:
        vocab_file: the source's tokens by id, as a list or a JSON file of one; ``<s> <pad> </s> <unk>`` come first.
            A token that is listed twice has the later id.
        target_vocab_file: the target's; None: one vocabulary for both.
        subword_marker: ends a token that the next one continues. None: every token is a word.

    ``decode`` takes two keywords besides Hugging Face's: ``use_source_tokenizer=True`` for ids of the source, and
    ``join_subwords=False`` to leave the subwords as they are.

    Raises:
        ValueError: a vocabulary that does not begin with the special tokens.

    Example:
        >>> from seqdyconv.models import SeqDyConvTokenizer
        >>> special = ["<s>", "<pad>", "</s>", "<unk>"]
        >>> tokenizer = SeqDyConvTokenizer(special + ["das", "neu@@", "este"], special + ["new@@", "est", "the"])
        >>> batch = tokenizer("das neu@@ este Buch", text_target="the new@@ est")
        >>> batch["input_ids"], batch["labels"]
        ([4, 5, 6, 3, 2], [6, 4, 5, 2])
        >>> tokenizer.decode(batch["labels"], skip_special_tokens=True)
        'the newest'
    """

    vocab_files_names = _FILES
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | Sequence[str],
        target_vocab_file: str | os.PathLike[str] | Sequence[str] | None = None,
        subword_marker: str | None = "@@",
        **kwargs: Any,
    ) -> None:
        self._source = _read_tokens(vocab_file)
        self._target = None if target_vocab_file is None else _read_tokens(target_vocab_file)
        self._source_ids = {token: index for index, token in enumerate(self._source)}
        self._target_ids = {token: index for index, token in enumerate(self._target or self._source)}
        self.subword_marker = subword_marker
        bos, pad, eos, unk = SPECIAL_TOKENS
        defaults = {
            "bos_token": bos,
            "pad_token": pad,
            "eos_token": eos,
            "unk_token": unk,
            "special_tokens_pattern": "eos",
            "clean_up_tokenization_spaces": False,
        }
        super().__init__(subword_marker=subword_marker, **(defaults | kwargs))

    @property
    def vocab_size(self) -> int:
        """The number of ids of the source."""
        return len(self._source)

    @property
    def target_vocab_size(self) -> int:
        """The number of ids of the target."""
        return len(self._target or self._source)

    def get_vocab(self) -> dict[str, int]:
        """The source's tokens and their ids."""
        return self._source_ids | self._added_tokens_encoder

    def get_target_vocab(self) -> dict[str, int]:
        """The target's tokens and their ids."""
        return dict(self._target_ids)

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> list[str]:
        """The tokens of a text, which white space separates; a word that looks like a special token is unknown."""
        return [word if self._ids.get(word, 4) >= len(SPECIAL_TOKENS) else SPECIAL_TOKENS[-1] for word in text.split()]

    def convert_tokens_to_string(self, tokens: list[str], join_subwords: bool = True) -> str:
        text = " ".join(tokens)
        if self.subword_marker and join_subwords:
            text = f"{text} ".replace(f"{self.subword_marker} ", "").rstrip()
        return text

    @property
    def _ids(self) -> dict[str, int]:
        return self._target_ids if _target_mode.tokenizer is self else self._source_ids

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids[SPECIAL_TOKENS[-1]])

    def _convert_id_to_token(self, index: int) -> str:
        return self._token(index, self._target or self._source)

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        use_source_tokenizer: bool = False,
        join_subwords: bool = True,
        **kwargs: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        special = set(self.all_special_ids) if skip_special_tokens else set()
        vocabulary = self._source if use_source_tokenizer else self._target or self._source
        tokens = [self._token(int(index), vocabulary) for index in ids if int(index) not in special]
        return self.convert_tokens_to_string(tokens, join_subwords)

    def _token(self, index: int, vocabulary: list[str]) -> str:
        if 0 <= index < len(vocabulary):
            return vocabulary[index]
        added = self._added_tokens_decoder.get(index)
        # The model may be padded to more rows than there are tokens.
        return SPECIAL_TOKENS[-1] if added is None else str(added)

    def _switch_to_input_mode(self) -> None:
        _target_mode.tokenizer = None

    def _switch_to_target_mode(self) -> None:
        _target_mode.tokenizer = self

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabularies; returns the paths."""
        written = []
        for key, tokens in (("vocab_file", self._source), ("target_vocab_file", self._target)):
            path = Path(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + _FILES[key])
            if tokens is None:
                path.unlink(missing_ok=True)  # of another tokenizer saved here before: it would be read with ours
                continue
            path.write_text(json.dumps(tokens, ensure_ascii=False, indent=0), encoding="utf-8")
            written.append(str(path))
        return tuple(written)


def _read_tokens(source: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """The tokens by id, of a list or a JSON file of one."""
    name = "the vocabulary"
    tokens: Any = source
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            tokens = json.loads(Path(source).read_text(encoding="utf-8"))
        except ValueError as error:  # of JSON or of UTF-8
            raise ValueError(f"{name} must be a JSON list of tokens: {error}") from None
    tokens = list(tokens)
    if not all(isinstance(token, str) for token in tokens) or tuple(tokens[:4]) != SPECIAL_TOKENS:
        raise ValueError(f"{name} must be tokens that begin with {' '.join(SPECIAL_TOKENS)}, got {tokens[:4]}")
    return tokens
