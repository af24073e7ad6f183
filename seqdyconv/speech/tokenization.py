"""Tokenizers for CTC models and attention decoders, trained on transcripts: characters or subwords."""

import unicodedata
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ParakeetTokenizer, PreTrainedTokenizerFast

# The blank of CTC is <pad>, 0, which is what torch.nn.CTCLoss takes unless told otherwise.
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
WORD_BOUNDARY = "▁"


def train_character_tokenizer(
    texts: Iterable[str], *, min_frequency: int = 1, add_eos: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the characters of the texts, with ``▁`` between words.

    The ids are ``<pad>`` 0, which is the blank of CTC, ``<s>`` 1, ``</s>`` 2, ``<unk>`` 3, ``▁`` 4, then the characters
    in the order of Unicode. Text is composed (NFC), and its white space becomes single spaces. Case and punctuation
    stay: what shall not be told apart must be removed from the texts.

    Args:
        texts: the training transcripts.
        min_frequency: how often a character must occur; rarer ones become ``<unk>``.
        add_eos: end each encoded text with ``</s>``, as attention decoders need it. ``decode`` then needs
            ``skip_special_tokens=True``.

    Returns:
        A tokenizer that lies in ``tokenizer.json`` and needs no code of this package. Without ``add_eos`` it is one
        for CTC: ``decode`` takes the labels of frames, whose repeats and blanks it removes; of labels that are
        collapsed already, ``decode(..., group_tokens=False)`` keeps double letters.

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
    del counts[" "], counts[WORD_BOUNDARY]
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
        raise ValueError(f"vocab_size must be at least {needed}, the special tokens and characters of the texts, "
                         f"got {vocab_size}")  # fmt: skip
    # Not a unigram model: that trainer's result differs from run to run.
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(WORD_BOUNDARY, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(WORD_BOUNDARY, prepend_scheme="always")
    tokenizer.train_from_iterator(texts, trainer)
    return _finish(tokenizer, add_eos)


def clean_text(text: str) -> str:
    """The text as the tokenizers see it: composed (NFC), with single spaces and none around it."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _checked(texts: Iterable[str]) -> Iterable[str]:
    if isinstance(texts, str):
        raise ValueError("texts must be a list of texts, got one string")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"texts must be strings, got {text!r}")
        yield text


def _finish(tokenizer: Tokenizer, add_eos: bool) -> PreTrainedTokenizerFast:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    pad, bos, eos, unk = SPECIAL_TOKENS
    if add_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", special_tokens=[(eos, SPECIAL_TOKENS.index(eos))]
        )
    # Both are tokenizer.json and no more; the former's decode takes CTC labels of frames, as the pipeline gives them.
    build = PreTrainedTokenizerFast if add_eos else ParakeetTokenizer
    return build(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
