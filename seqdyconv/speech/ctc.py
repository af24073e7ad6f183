"""From the logits of a CTC model to text: greedy and beam search, with frames of tokens and times of words."""

import logging
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqdyconv.runtime.quiet import quiet_libraries
from seqdyconv.runtime.words import WORD_BOUNDARY, AlignedToken, Word, collapse
from seqdyconv.speech.alignment import align, blank_of, join_words, token_strings
from seqdyconv.speech.language_model import NGramModel, read_vocabulary
from seqdyconv.speech.tokenization import clean_text

logger = logging.getLogger(__name__)


class Transcript(NamedTuple):
    """What was recognised.

    Attributes:
        text: decoded, without special tokens.
        tokens: their ids.
        score: natural logarithm. Greedy: of the best path's probability. Beam search: of the text's probability, over
            all its paths in the beam, with what language model and word score add.
        spans: the frames of each token on the most probable path.
    """

    text: str
    tokens: list[int]
    score: float
    spans: list[AlignedToken]

    @property
    def frames(self) -> list[int]:
        """The first frame of each token."""
        return [span.start for span in self.spans]


def ctc_greedy(logits: Tensor, lengths: Sequence[int] | Tensor | None = None, blank: int = 0) -> list[list[int]]:
    """The labels of the best path, that is of the best label of each frame.

    Args:
        logits: (B, T, V), or log-probabilities.
        lengths: (B,) frames of each utterance; the rest is not read. None: all.
        blank: the label of no token.

    Returns:
        The collapsed labels of each utterance, for the tokenizer to decode.

    Raises:
        ValueError: shapes that do not fit, or a blank that is no label.

    Example:
        >>> import torch
        >>> from seqdyconv.speech.ctc import ctc_greedy
        >>> ctc_greedy(torch.tensor([[[0.0, 1, 2], [0, 1, 2], [0, 3, 2]]]), torch.tensor([3]))
        [[2, 1]]
    """
    counts = _check(logits, lengths, blank)
    return [collapse(row[:count].argmax(-1).tolist(), blank) for row, count in zip(logits, counts)]


def greedy_transcripts(
    tokenizer: Any, logits: Tensor, lengths: Sequence[int] | Tensor | None = None
) -> list[Transcript]:
    """:func:`ctc_greedy` with text, score and frames. The blank is the tokenizer's padding token."""
    blank = blank_of(tokenizer)
    transcripts = []
    for row, count in zip(logits, _check(logits, lengths, blank)):
        log_probs = row[:count].detach().float().log_softmax(-1)
        scores, labels = log_probs.max(-1)
        tokens = collapse(labels.tolist(), blank)
        spans = align(log_probs, tokens, blank)
        transcripts.append(Transcript(_decode(tokenizer, tokens), tokens, scores.sum().item(), spans))
    return transcripts


def word_times(
    transcript: Transcript, tokenizer: Any, seconds_per_frame: float = 0.04, offset: float = 0.0
) -> list[Word]:
    """The words of a transcript with their times.

    A CTC model is free to say a token early or late, so the times are only as exact as the model's habit.

    Args:
        transcript: of :func:`greedy_transcripts` or :class:`CTCBeamSearch`.
        tokenizer: of the model.
        seconds_per_frame: between two logits: 0.04 for frames of 10 ms that are subsampled four times.
        offset: seconds before the first frame.
    """
    return join_words(tokenizer, transcript.spans, seconds_per_frame, offset)


class CTCBeamSearch:
    """Prefix beam search (Graves and Jaitly 2014, Hannun et al. 2014), with a word list and an n-gram model if wanted.

    The score of a text is log p_CTC(text) + ``lm_weight`` · log p_LM(text) + a score per word or token. All paths of a
    text are summed. With a word list each word of the result is on it, in whatever tokens it is spelled.

    Args:
        tokenizer: of the model; its padding token is the blank, and ``▁`` (or ``|``) stands between words.
        words: a word list.
        language_model: an ARPA file (or a binary one of KenLM), of words with a word list, else of the tokenizer's
            tokens, which for a character tokenizer are characters. The word list of a word model is what
            :func:`seqdyconv.speech.language_model.read_vocabulary` reads.
        beam_size: prefixes kept after each frame.
        lm_weight: weight of the language model's natural logarithms.
        word_score: added for each word; makes up for the language model's liking of few words. Needs a word list.
        token_score: added for each token, likewise. Without a word list only.
        beam_threshold: prefixes this much worse (natural logarithm) than the best are dropped.
        token_threshold: labels of a frame this much less probable than its best are not tried.
        n_best: texts returned for each utterance, at most.

    Raises:
        ValueError: an option outside its range; a word list that cannot be spelled; a language model of other units.
        ImportError: a language model, and flashlight-text (whose KenLM reads it) is not installed.

    Example:
        >>> import torch
        >>> from seqdyconv.speech.ctc import CTCBeamSearch
        >>> from seqdyconv.speech.tokenization import train_character_tokenizer
        >>> tokenizer = train_character_tokenizer(["ab"])  # <pad> <s> </s> <unk> ▁ a b
        >>> probabilities = torch.tensor([[[0.5, 0, 0, 0, 0, 0.3, 0.2], [0.6, 0, 0, 0, 0, 0.1, 0.3]]])
        >>> search = CTCBeamSearch(tokenizer, n_best=3)
        >>> [(best.text, round(best.score, 2)) for best in search(probabilities.log())[0]]
        [('b', -1.11), ('', -1.2), ('a', -1.35)]
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        words: Iterable[str] | None = None,
        language_model: str | os.PathLike[str] | None = None,
        beam_size: int = 32,
        lm_weight: float = 0.5,
        word_score: float = 0.0,
        token_score: float = 0.0,
        beam_threshold: float = 20.0,
        token_threshold: float = 7.0,
        n_best: int = 1,
    ) -> None:
        for name, size in (("beam_size", beam_size), ("n_best", n_best)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")
        for name, threshold in (("beam_threshold", beam_threshold), ("token_threshold", token_threshold)):
            if not threshold > 0:
                raise ValueError(f"{name} must be above 0, got {threshold}")
        if not (lm_weight >= 0 and math.isfinite(lm_weight + word_score + token_score)):
            raise ValueError(
                "lm_weight must be at least 0, and word_score and token_score finite, got "
                f"{lm_weight}, {word_score} and {token_score}"
            )
        if words is None and word_score:
            raise ValueError(f"word_score needs a word list, got {word_score} without one; token_score does not")
        if words is not None and token_score:
            raise ValueError(f"token_score goes without a word list, got {token_score} with one; use word_score")
        self.tokenizer = tokenizer
        self.blank = blank_of(tokenizer)
        self.beam_size = beam_size
        self.beam_threshold = beam_threshold
        self.token_threshold = token_threshold
        self.n_best = n_best
        self._tokens = token_strings(tokenizer)
        self._words = None if words is None else _check_words(words, self._tokens)
        self._beginnings = {word[:end] for word in self._words or () for end in range(len(word) + 1)}
        special = {index for index, text in enumerate(self._tokens) if not text}
        self._allowed = frozenset(range(len(self._tokens))) - special
        self._lm_weight = lm_weight
        self._score = token_score if words is None else word_score
        self._model: _KenLM | None = None
        if language_model is not None:
            self._model = _KenLM(language_model, self._tokens if self._words is None else self._words)

    @torch.no_grad()
    def __call__(self, logits: Tensor, lengths: Sequence[int] | Tensor | None = None) -> list[list[Transcript]]:
        """Search.

        Args:
            logits: (B, T, V), or log-probabilities.
            lengths: (B,) frames of each utterance; the rest is not read. None: all.

        Returns:
            For each utterance up to ``n_best`` transcripts, the best first; at least one, which may be empty.

        Raises:
            ValueError: shapes that do not fit, fewer labels than tokens, or logits that are NaN.
        """
        counts = _check(logits, lengths, self.blank)
        if logits.shape[2] < len(self._tokens):
            raise ValueError(f"logits must have a label for each of {len(self._tokens)} tokens, got {logits.shape[2]}")
        return [self._search(row[:count].float().log_softmax(-1).cpu()) for row, count in zip(logits, counts)]

    def _search(self, log_probs: Tensor) -> list[Transcript]:
        if log_probs.isnan().any():
            raise ValueError("logits must be numbers, got NaN")
        # Probabilities, as they are summed so often; scaled by the best of each frame and beam, or they would vanish.
        root = _Prefix(None, self.blank, "", None if self._model is None else self._model.start(), 0.0)
        beam = {root: (1.0, 0.0)}  # of the paths that end in a blank, and of those that end in the last token
        log_scale = 0.0
        tops = log_probs.max(-1, keepdim=True).values
        ratios = log_probs - tops
        probabilities = ratios.double().clamp(min=-80).exp().tolist()
        for row, kept, top in zip(probabilities, ratios >= -self.token_threshold, tops.flatten().tolist()):
            tried = [token for token in kept.nonzero().flatten().tolist() if token in self._allowed]
            reached: dict[_Prefix, list[float]] = defaultdict(lambda: [0.0, 0.0])
            for prefix, (blank_end, token_end) in beam.items():
                both = blank_end + token_end
                here = reached[prefix]
                here[0] += both * row[self.blank]
                here[1] += token_end * row[prefix.token]
                for token in tried:
                    longer = prefix.longer[token] if token in prefix.longer else self._extend(prefix, token)
                    if longer is not None:
                        reached[longer][1] += (blank_end if token == prefix.token else both) * row[token]
            scale, beam = self._prune(reached)
            log_scale += top + math.log(scale)
        return self._finish(beam, log_scale, log_probs)

    def _extend(self, prefix: "_Prefix", token: int) -> "_Prefix | None":
        """The prefix with one token more; None if the word list forbids it."""
        text, word, state, bonus = self._tokens[token], prefix.word, prefix.state, prefix.bonus
        longer = None
        if self._words is None:
            longer = _Prefix(prefix, token, word, *self._add(text, state, bonus))
        else:
            # The first word of a text may begin with a boundary, or not.
            before, boundary, after = text.rpartition(WORD_BOUNDARY)
            starts = prefix.parent is None
            if boundary and not starts:
                word += before
                if word in self._words:
                    state, bonus = self._add(word, state, bonus)
                    word, starts = "", True
            if (not boundary or starts) and word + after in self._beginnings:
                longer = _Prefix(prefix, token, word + after, state, bonus)
        prefix.longer[token] = longer
        return longer

    def _add(self, unit: str, state: Any, bonus: float) -> tuple[Any, float]:
        """The state and the sum of scores after a word, or a token."""
        if self._model is None:
            return state, bonus + self._score
        state, score = self._model.score(state, unit)
        return state, bonus + self._score + self._lm_weight * score

    def _prune(self, reached: dict["_Prefix", list[float]]) -> tuple[float, dict["_Prefix", tuple[float, float]]]:
        """The best prefixes, divided by the probability of the most probable one, and that."""
        ranked = [
            (math.log(blank_end + token_end) + prefix.bonus, prefix, blank_end, token_end)
            for prefix, (blank_end, token_end) in reached.items()
            if blank_end + token_end > 0
        ]
        ranked.sort(key=itemgetter(0), reverse=True)
        least = ranked[0][0] - self.beam_threshold
        kept = [entry for entry in ranked[: self.beam_size] if entry[0] >= least]
        scale = max(blank_end + token_end for _, _, blank_end, token_end in kept)
        return scale, {prefix: (blank_end / scale, token_end / scale) for _, prefix, blank_end, token_end in kept}

    def _finish(
        self, beam: dict["_Prefix", tuple[float, float]], log_scale: float, log_probs: Tensor
    ) -> list[Transcript]:
        found = {prefix: log_scale + math.log(sum(ends)) for prefix, ends in beam.items()}
        whole = {prefix: score for prefix, score in found.items() if self._is_whole(prefix)}
        if not whole:  # all end inside a word: take the best without that
            prefix = max(found, key=lambda one: found[one] + one.bonus)
            score = found[prefix]
            while not self._is_whole(prefix):
                prefix = prefix.parent
            whole[prefix] = score
        ranked = [(score + self._end_bonus(prefix), prefix) for prefix, score in whole.items()]
        ranked.sort(key=itemgetter(0), reverse=True)
        best: dict[str, Transcript] = {}  # one text can be spelled in several ways
        for score, prefix in ranked:
            tokens = prefix.tokens()
            text = _decode(self.tokenizer, tokens)
            if text not in best:
                best[text] = Transcript(text, tokens, score, align(log_probs, tokens, self.blank))
            if len(best) == self.n_best:
                break
        return list(best.values())

    def _is_whole(self, prefix: "_Prefix") -> bool:
        return self._words is None or not prefix.word or prefix.word in self._words

    def _end_bonus(self, prefix: "_Prefix") -> float:
        """The sum of scores at the end of the text."""
        state, bonus = prefix.state, prefix.bonus
        if prefix.word:
            state, bonus = self._add(prefix.word, state, bonus)
        return bonus if self._model is None else bonus + self._lm_weight * self._model.finish(state)


class _Prefix:
    """The tokens from the beginning, as the last of them and the prefix before it."""

    __slots__ = ("bonus", "longer", "parent", "state", "token", "word")

    def __init__(self, parent: Any, token: int, word: str, state: Any, bonus: float) -> None:
        self.parent: Any = parent  # None: the empty prefix
        self.token = token
        self.word = word  # with a word list: what there is of the last word
        self.state = state  # of the language model
        self.bonus = bonus  # sum of what language model and word score have added
        self.longer: dict[int, _Prefix | None] = {}

    def tokens(self) -> list[int]:
        tokens = []
        prefix = self
        while prefix.parent is not None:
            tokens.append(prefix.token)
            prefix = prefix.parent
        return tokens[::-1]


class _KenLM:
    """An n-gram model in natural logarithms. States are kept alive by the one that they come from."""

    def __init__(self, path: str | os.PathLike[str], units: Iterable[str]) -> None:
        try:
            from flashlight.lib.text.decoder.kenlm import KenLM
            from flashlight.lib.text.dictionary import Dictionary
        except ImportError as error:
            raise ImportError('a language model needs flashlight-text: pip install "seqdyconv[speech]"') from error
        known = sorted({unit for unit in units if unit})
        _check_model_file(Path(path), known)
        self._indices = {unit: index for index, unit in enumerate(known)}
        with quiet_libraries():  # KenLM draws its progress
            try:
                self._model = KenLM(os.fspath(path), Dictionary(known))
            except (RuntimeError, UnicodeDecodeError) as error:
                reason = str(error).strip().splitlines()[-1]
                self._model = _load_rewritten(path, partial(KenLM, usr_token_dict=Dictionary(known)), reason)

    def start(self) -> Any:
        return self._model.start(False)

    def score(self, state: Any, unit: str) -> tuple[Any, float]:
        state, score = self._model.score(state, self._indices[unit])
        return state, score * _LN_10

    def finish(self, state: Any) -> float:
        return self._model.finish(state)[1] * _LN_10


_LN_10 = math.log(10)


_KENLM_BINARY = b"mmap lm http://kheafield.com/code"


def _is_binary(path: str | os.PathLike[str]) -> bool:
    """Whether it is in KenLM's own format, from which the vocabulary cannot be read."""
    with Path(path).open("rb") as file:
        return file.read(len(_KENLM_BINARY)) == _KENLM_BINARY


def _load_rewritten(path: str | os.PathLike[str], load: Callable[[str], Any], reason: str) -> Any:
    """An ARPA file that KenLM refuses, written anew: other tools begin it with any text, or put spaces for tabs."""
    refused = f"language_model must be a file that KenLM reads, got {os.fspath(path)} ({reason})"
    if _is_binary(path):
        raise ValueError(refused)
    model = NGramModel.read(path)
    with tempfile.TemporaryDirectory(prefix="seqdyconv-") as folder:
        model.write(copy := os.path.join(folder, "language_model.arpa"))
        try:
            return load(copy)
        except RuntimeError:
            raise ValueError(refused) from None


def _check_model_file(path: Path, units: Sequence[str]) -> None:
    if not path.is_file():
        raise ValueError(f"language_model must be a file, got {path}")
    if _is_binary(path):
        return
    vocabulary = read_vocabulary(path)
    shared = len(set(units).intersection(vocabulary))
    if 2 * shared < min(len(units), len(vocabulary)):
        raise ValueError(
            f"language_model must be of the units searched for (words with a word list, else tokens), got {path}: of "
            f"its {len(vocabulary)} units only {shared} are among these {len(units)}"
        )


def _check_words(words: Iterable[str], tokens: Sequence[str]) -> frozenset[str]:
    if isinstance(words, str):
        raise ValueError("words must be a list of words, got one string")
    cleaned = {clean_text(word) for word in words}
    bad = sorted(word for word in cleaned if not word or " " in word or WORD_BOUNDARY in word)
    if bad or not cleaned:
        raise ValueError(f"words must be single words, got {bad[0]!r}" if bad else "words must have a word, got none")
    characters = set("".join(tokens))
    spelled = frozenset(word for word in cleaned if characters.issuperset(word))
    if not spelled:
        raise ValueError(f"words must have one that the tokens can spell, got {len(cleaned)} such as {min(cleaned)!r}")
    if unspelled := cleaned - spelled:
        logger.warning(
            "%d of %d words can't be spelled with the model's tokens, such as %r",
            len(unspelled),
            len(cleaned),
            min(unspelled),
        )
    return spelled


def _check(logits: Tensor, lengths: Sequence[int] | Tensor | None, blank: int) -> list[int]:
    """The numbers of frames."""
    if logits.ndim != 3:
        raise ValueError(f"logits must be (B, T, V), got the shape {tuple(logits.shape)}")
    batch, time, size = logits.shape
    if not 0 <= blank < size:
        raise ValueError(f"blank must be one of the {size} labels, got {blank}")
    counts = [time] * batch if lengths is None else [int(count) for count in lengths]
    if len(counts) != batch or not all(0 <= count <= time for count in counts):
        raise ValueError(f"lengths must be {batch} numbers from 0 to {time}, got {counts}")
    return counts


def _decode(tokenizer: Any, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, group_tokens=False).strip()
