"""Tokenizers for CTC models and attention decoders, trained on transcripts: characters or subwords."""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.generic import ModelOutput

from seqdyconv.runtime.words import WORD_BOUNDARY, group_words

# The blank of CTC is <pad>, 0, which is what torch.nn.CTCLoss takes unless told otherwise.
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")


@dataclass
class CTCText(ModelOutput):
    """Text and the frames of its parts, what ``SeqDyConvCTCTokenizer.decode`` returns if asked for offsets.

    Attributes:
        text: the text.
        char_offsets: ``{"char", "start_offset", "end_offset"}`` of each token (a character, or a subword), the frames
            from the first to the one after the last where it was said; a space for ``▁``.
        word_offsets: ``{"word", "start_offset", "end_offset"}`` of each word.
    """

    text: str | None = None
    char_offsets: list[dict[str, Any]] | None = None
    word_offsets: list[dict[str, Any]] | None = None


class SeqDyConvCTCTokenizer(PreTrainedTokenizerFast):
    """A tokenizer whose ``decode`` takes the labels of frames, as a CTC model gives them, and knows when each was said.

    :func:`train_character_tokenizer` and :func:`train_subword_tokenizer` make it, ``AutoTokenizer`` loads it.
    ``decode`` and ``batch_decode`` remove repeats, then blanks (the padding token), and have the options of
    ``Wav2Vec2CTCTokenizer``:

    - ``group_tokens=False`` keeps repeats, for labels that are collapsed already.
    - ``output_char_offsets=True``, ``output_word_offsets=True`` return a :class:`CTCText`. Offsets are frames of the
      logits; times ``config.inputs_to_logits_ratio`` they are samples. ``pipeline("automatic-speech-recognition",
      return_timestamps="word")`` (or ``"char"``) gives seconds.

    Example:
        >>> from seqdyconv.speech.tokenization import train_character_tokenizer
        >>> tokenizer = train_character_tokenizer(["ahoj"])  # ▁ 4, a 5, h 6, j 7, o 8
        >>> frames = [0, 5, 5, 0, 5, 4, 0, 6]
        >>> tokenizer.decode(frames)
        'aa h'
        >>> tokenizer.decode(frames, output_word_offsets=True).word_offsets[1]
        {'word': 'h', 'start_offset': 7, 'end_offset': 8}
    """

    replace_word_delimiter_char = " "  # What the pipeline asks _get_word_offsets to split at.

    def _decode(  # type: ignore[override]  # Offsets make it more than a text, as in Wav2Vec2CTCTokenizer.
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **kwargs: Any,
    ) -> str | CTCText:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        runs = [list(run) for _, run in itertools.groupby(ids)] if group_tokens else [[token] for token in ids]
        skipped = {self.pad_token_id, *(self.all_special_ids if skip_special_tokens else ())}
        ends = list(itertools.accumulate(map(len, runs)))
        tokens = self.convert_ids_to_tokens([run[0] for run in runs])
        offsets = [
            {
                "char": token.replace(WORD_BOUNDARY, self.replace_word_delimiter_char),
                "start_offset": end - len(run),
                "end_offset": end,
            }
            for run, token, end in zip(runs, tokens, ends)
            if run[0] not in skipped
        ]
        text = "".join(str(one["char"]) for one in offsets).strip()
        if not output_char_offsets and not output_word_offsets:
            return text
        words = self._get_word_offsets(offsets) if output_word_offsets else None
        return CTCText(text=text, char_offsets=offsets if output_char_offsets else None, word_offsets=words)

    @staticmethod
    def _get_word_offsets(offsets: Sequence[dict[str, Any]], word_delimiter_char: str = " ") -> list[dict[str, Any]]:
        """The words that characters or subwords make; the pipeline calls it by this name."""
        words = []
        for group in group_words([one["char"] for one in offsets], word_delimiter_char):
            text = "".join(offsets[index]["char"] for index in group).replace(word_delimiter_char, "")
            start, end = offsets[group[0]]["start_offset"], offsets[group[-1]]["end_offset"]
            words.append({"word": text, "start_offset": start, "end_offset": end})
        return words


def train_character_tokenizer(
    texts: Iterable[str], *, min_frequency: int = 1, add_eos: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the characters of the texts, with ``▁`` between words.

    The ids are ``<pad>`` 0, which is the blank of CTC, ``<s>`` 1, ``</s>`` 2, ``<unk>`` 3, ``▁`` 4, then the characters
    in the order of Unicode. Text is composed (NFC), and its white space becomes single spaces, as does ``▁``. Case and
    punctuation stay: what shall not be told apart must be removed from the texts. The names of the special tokens are
    characters like others where they stand in a text.

    Args:
        texts: the training transcripts.
        min_frequency: how often a character must occur; rarer ones become ``<unk>``.
        add_eos: end each encoded text with ``</s>``, as attention decoders need it. ``decode`` then needs
            ``skip_special_tokens=True``.

    Returns:
        Without ``add_eos`` a :class:`SeqDyConvCTCTokenizer`: ``decode`` takes the labels of frames, whose repeats and
        blanks it removes; of labels that are collapsed already, ``decode(..., group_tokens=False)`` keeps double
        letters. It lies in ``tokenizer.json``, which decodes frames without this package, too.

    Raises:
        ValueError: no text has a character that occurs ``min_frequency`` times, or a text is not a string.

    Example:
        >>> from seqdyconv.speech.tokenization import train_character_tokenizer
        >>> tokenizer = train_character_tokenizer(["ahoj světe", "ale ne"])
        >>> tokenizer("ahoj ne")["input_ids"]
        [5, 7, 11, 8, 4, 10, 6]
        >>> tokenizer.decode([5, 7, 11, 8, 4, 10, 6])
        'ahoj ne'
    """
    counts: Counter[str] = Counter()
    for text in _checked(texts):
        counts.update(clean_text(text))
    del counts[" "]
    characters = sorted(character for character, count in counts.items() if count >= min_frequency)
    if not characters:
        raise ValueError(f"the texts must have characters that occur at least {min_frequency} times, got none")
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, WORD_BOUNDARY, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(WORD_BOUNDARY, prepend_scheme="never", split=False),
            pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(WORD_BOUNDARY, prepend_scheme="never")
    return _finish(tokenizer, add_eos)


def train_subword_tokenizer(texts: Iterable[str], vocab_size: int, *, add_eos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of subwords by byte-pair encoding (Sennrich et al. 2016).

    The ids are ``<pad>`` 0, which is the blank of CTC, ``<s>`` 1, ``</s>`` 2, ``<unk>`` 3, then the subwords; those
    that begin a word begin with ``▁``. For the rest see :func:`train_character_tokenizer`.

    Args:
        texts: the training transcripts.
        vocab_size: the most entries, special tokens included; fewer if the texts have no more.
        add_eos: end each encoded text with ``</s>``.

    Raises:
        ValueError: no texts, a text that is not a string, or a ``vocab_size`` that leaves no place for the characters
            of the texts.

    Example:
        >>> from seqdyconv.speech.tokenization import train_subword_tokenizer
        >>> tokenizer = train_subword_tokenizer(["the other", "then there"], vocab_size=20)
        >>> tokenizer.tokenize("the rot")
        ['▁the', '▁', 'r', 'o', 't']
    """
    texts = [clean_text(text) for text in _checked(texts)]
    alphabet = sorted(set("".join(texts)) - {" "} | {WORD_BOUNDARY})
    if len(alphabet) == 1:
        raise ValueError("the texts must have characters, got none")
    needed = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < needed:
        raise ValueError(
            f"vocab_size must be at least {needed}, the special tokens and characters of the texts, got {vocab_size}"
        )
    # Not a unigram model: that trainer's result differs from run to run.
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(WORD_BOUNDARY, prepend_scheme="always"),
            pre_tokenizers.Split("<", "isolated"),  # so that no merges lead to a special token
        ]
    )
    tokenizer.decoder = decoders.Metaspace(WORD_BOUNDARY, prepend_scheme="always")
    tokenizer.train_from_iterator(texts, trainer)
    return _finish(tokenizer, add_eos)


def clean_text(text: str) -> str:
    """The text as the tokenizers see it: composed (NFC), with single spaces and none around it; ``▁`` is a space."""
    return " ".join(unicodedata.normalize("NFC", text).replace(WORD_BOUNDARY, " ").split())


def mark_words(tokenizer: Any, tokens: Iterable[str]) -> list[str]:
    """Tokens of a tokenizer with ``▁`` between words, also where it has another ``word_delimiter_token``."""
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    return [WORD_BOUNDARY if token == delimiter else token for token in tokens]


def _checked(texts: Iterable[str]) -> Iterable[str]:
    if isinstance(texts, str):
        raise ValueError("texts must be a list of texts, got one string")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"texts must be strings, got {text!r}")
        yield text


def _finish(tokenizer: Tokenizer, add_eos: bool) -> PreTrainedTokenizerFast:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(rf"[\s\x1c-\x1f{WORD_BOUNDARY}]+"), " "), normalizers.Strip()]
    )
    pad, bos, eos, unk = SPECIAL_TOKENS
    if add_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", special_tokens=[(eos, SPECIAL_TOKENS.index(eos))]
        )
    else:  # So that tokenizer.json alone decodes frames, where AutoTokenizer doesn't know the class.
        tokenizer.decoder = decoders.Sequence([decoders.CTC(pad, WORD_BOUNDARY, cleanup=False), tokenizer.decoder])
    build = PreTrainedTokenizerFast if add_eos else SeqDyConvCTCTokenizer
    return build(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        padding_side="right",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
