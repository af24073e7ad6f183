"""Beam search, and greedy search as one beam: what ``generate()`` of transformers finds, step by step.

The model is a callable that continues beams by one token and chooses the best candidates itself, so that a search
neither sees logits nor needs more than NumPy. Sentences that are finished leave the batch, and the steps shrink.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_NO_BEAM = -1e9
"""The log-probability of a beam that there is not yet: none has a lower one."""


class Step(Protocol):
    """What continues B sentences of K beams by one token each."""

    def __call__(self, tokens: Array, rows: Array, scores: Array, kept: Array | None) -> tuple[Array, Array, Array]:
        """Decode one token.

        Args:
            tokens: (B, K) int64, the last token of each beam.
            rows: (B, K) int64, which row of the last call's beams, B'·K in a row, each continues; zeros at first.
            scores: (B, K) float32, the log-probability of each so far.
            kept: (B,) int64, which sentences of the last call these are; None: all of them, or the first call.

        Returns:
            The M best candidates of each sentence from the best on: their scores (B, M) and the candidates themselves
            (B, M), a beam's number times the size of the vocabulary plus a token; M is K times one more than there are
            end tokens. And the scores (B, K) of ending each beam now.
        """
        ...


class Found(NamedTuple):
    """An output of a search."""

    tokens: list[int]
    """With its end token."""
    score: float | None
    """The log-probability divided by length ** length_penalty; None of greedy search."""


@dataclass(frozen=True)
class Hypothesis:
    """One output: its text, its number of tokens (end of sentence included), and its score.

    The score is the log-probability divided by length ** length_penalty, None for greedy search.
    """

    text: str
    tokens: int
    score: float | None = None


def output_limits(inputs: Sequence[Sequence[int]], factor: float, constant: int, most: float) -> list[int]:
    """The most tokens of the output of each input: ``factor`` for each of its tokens, and a constant, at most ``most``.

    It is one at least, the output's end.

    Example:
        >>> output_limits([[5, 6, 7]], 1.5, 10, float("inf"))
        [15]
    """
    return [int(max(1, min(math.ceil(factor * len(ids)) + constant, most))) for ids in inputs]


class _Token(NamedTuple):
    """A token and those before it."""

    token: int
    before: "_Token | None"


class _Sentence:
    """The beams of one sentence."""

    def __init__(self, number: int, limit: int, num_beams: int, start: int) -> None:
        self.number = number
        self.limit = limit
        self.beams: list[_Token | None] = [None] * num_beams
        self.tokens = [start] * num_beams
        self.parents = [0] * num_beams
        self.scores = [0.0] + [_NO_BEAM] * (num_beams - 1)  # all begin alike: the first alone is continued
        self.finished: list[tuple[float, _Token | None]] = [(-math.inf, None)] * num_beams


class _Rules(NamedTuple):
    """When a beam is finished, and what it is worth then."""

    ends: Collection[int]
    last: int  # the end token that is written at the limit
    vocabulary: int
    length_penalty: float

    def advance(
        self, sentence: _Sentence, length: int, scores: list[float], candidates: list[int], ending: list[float]
    ) -> bool:
        """Give the beams of a sentence their token number ``length``; returns whether it goes on."""
        old, num_beams = sentence.beams, len(sentence.beams)
        finished: list[tuple[float, _Token | None]] = []
        if length == sentence.limit:  # they can do no more than end
            finished = [(score, _Token(self.last, beam)) for score, beam in zip(ending, old)]
        else:
            sentence.beams, sentence.tokens, sentence.parents, sentence.scores = [], [], [], []
            for rank, (score, candidate) in enumerate(zip(scores, candidates)):
                parent, token = divmod(candidate, self.vocabulary)
                if token not in self.ends:
                    sentence.beams.append(_Token(token, old[parent]))
                    sentence.tokens.append(token)
                    sentence.parents.append(parent)
                    sentence.scores.append(score)
                    if len(sentence.beams) == num_beams:
                        break
                elif rank < num_beams:
                    finished.append((score, _Token(token, old[parent])))
        if num_beams == 1:
            sentence.finished = finished or sentence.finished
            return not finished
        if finished:
            worth = length**self.length_penalty
            ranked = sentence.finished + [(score / worth, beam) for score, beam in finished]
            sentence.finished = sorted(ranked, key=_descending)[:num_beams]
        # The best running beam, were it to end as long as it is, against the worst that is finished.
        best = sentence.scores[0] / length**self.length_penalty
        return length < sentence.limit and best > sentence.finished[-1][0]


def _descending(scored: tuple[float, _Token | None]) -> float:
    return -scored[0]


def search(
    step: Step,
    limits: Sequence[int],
    *,
    num_beams: int,
    start: int,
    ends: Sequence[int],
    vocabulary: int,
    length_penalty: float = 1.0,
    nbest: int = 1,
) -> list[list[Found]]:
    """Search for the outputs of B sentences.

    Args:
        step: the model, see :class:`Step`.
        limits: (B,) the most tokens of each output; the last one is an end token then.
        num_beams: K; 1 is greedy search.
        start: the token that stands before the first one.
        ends: the tokens that end an output; at its limit the first of them is written.
        vocabulary: V, how many tokens there are.
        length_penalty: a finished beam's log-probability is divided by its length to this power.
        nbest: outputs of each sentence, at most K.

    Returns:
        For each sentence ``nbest`` outputs from the best on. Where fewer were found, the rest have no tokens.

    Example:
        >>> import numpy as np
        >>> from seqdyconv.runtime.search import search
        >>> def step(tokens, rows, scores, kept):  # writes 5, then ends with 2
        ...     best = np.where(tokens == 5, 2, 5)
        ...     return scores + np.zeros((len(tokens), 2)), np.concatenate([best, best * 0], 1), scores
        >>> search(step, [4], num_beams=1, start=0, ends=[2], vocabulary=6)
        [[Found(tokens=[5, 2], score=None)]]
    """
    rules = _Rules(frozenset(ends), ends[0], vocabulary, length_penalty)
    results: list[list[Found]] = [[] for _ in limits]
    running = [_Sentence(number, limit, num_beams, start) for number, limit in enumerate(limits)]
    firsts = [0] * len(limits)  # of each sentence's beams, among the rows of the last call
    kept = None
    for length in itertools.count(1):
        if not running:
            break
        output = step(
            np.array([sentence.tokens for sentence in running], np.int64),
            np.array([[first + beam for beam in each.parents] for first, each in zip(firsts, running)], np.int64),
            np.array([sentence.scores for sentence in running], np.float32),
            kept,
        )
        going = []
        for row, (sentence, *best) in enumerate(zip(running, *(values.tolist() for values in output))):
            if rules.advance(sentence, length, *best):
                going.append(row)
            else:
                results[sentence.number] = _outputs(sentence, nbest)
        firsts = [row * num_beams for row in going]
        kept = np.array(going, np.int64) if len(going) < len(running) else None
        running = [running[row] for row in going]
    return results


def _outputs(sentence: _Sentence, nbest: int) -> list[Found]:
    found = []
    for score, beam in sentence.finished[:nbest]:
        tokens = []
        while beam is not None:
            tokens.append(beam.token)
            beam = beam.before
        found.append(Found(tokens[::-1], score if len(sentence.finished) > 1 else None))
    return found
