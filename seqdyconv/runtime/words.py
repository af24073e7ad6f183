"""What tokens of a CTC model are as words, with times, and these as JSON and subtitles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

WORD_BOUNDARY = "▁"


class AlignedToken(NamedTuple):
    """A token and the frames where it was said.

    Attributes:
        token: its id.
        start: the first frame.
        end: the frame after the last.
        score: mean of the log-probabilities of its frames.
    """

    token: int
    start: int
    end: int
    score: float


class Word(NamedTuple):
    """A word and the time when it was said.

    Attributes:
        text: the word.
        start: in seconds.
        end: in seconds.
        score: from 0 to 1, the geometric mean of the probabilities of its frames.
    """

    text: str
    start: float
    end: float
    score: float = 1.0


def collapse(ids: Iterable[int], blank: int = 0, last: int | None = None) -> list[int]:
    """Remove repeats, then blanks (Graves et al. 2006): the labels that a CTC path stands for.

    Args:
        ids: one label per frame.
        blank: the label of no token.
        last: the label of the frame before; None: there is none.

    Example:
        >>> from seqdyconv.runtime.words import collapse
        >>> collapse([0, 5, 5, 0, 5, 6, 6])
        [5, 5, 6]
    """
    labels = [int(label) for label in ids]
    before = [blank if last is None else last, *labels]
    return [label for label, previous in zip(labels, before) if label not in (blank, previous)]


class WordCollector:
    """Words of the labels of a CTC path that comes in pieces, each as soon as the next one begins.

    Args:
        blank: the label of no token.
        token: what a label stands for; ``▁`` begins a word, or stands between two.
        text: what labels are as text, without special tokens.

    Example:
        >>> from seqdyconv.runtime.words import WordCollector
        >>> strings = ["", "▁a", "b"]
        >>> words = WordCollector(0, strings.__getitem__, lambda ids: "".join(map(strings.__getitem__, ids)).strip("▁"))
        >>> words.push([1, 0, 2, 2]), words.push([2, 1]), words.finish()
        ([], ['ab'], ['a'])
    """

    def __init__(self, blank: int, token: Callable[[int], str], text: Callable[[list[int]], str]) -> None:
        self.blank, self.token, self.text = blank, token, text
        self._open: list[int] = []  # the labels of the words that are not complete
        self._last = blank  # the label of the last frame

    def push(self, labels: Iterable[int]) -> list[str]:
        """Take a label for each of the next frames, and return the words that they complete."""
        self._open, self._last = self._with(labels)
        starts = [at for at, label in enumerate(self._open) if at and self.token(label).startswith(WORD_BOUNDARY)]
        complete = [self._open[start:end] for start, end in zip([0, *starts], starts)]
        self._open = self._open[starts[-1] :] if starts else self._open
        return [word for ids in complete for word in self.text(ids).split()]

    def partial(self, labels: Iterable[int] = ()) -> list[str]:
        """The words that are not complete, as they would be if the stream ended with these labels."""
        return self.text(self._with(labels)[0]).split()

    def finish(self) -> list[str]:
        """Return the words that are left; then the next path can come."""
        words = self.partial()
        self._open, self._last = [], self.blank
        return words

    def _with(self, labels: Iterable[int]) -> tuple[list[int], int]:
        """The open labels after those of more frames, and the label of the last of them."""
        path = [self._last, *labels]
        return self._open + collapse(path[1:], self.blank, path[0]), path[-1]


def group_words(tokens: Iterable[str], boundary: str = WORD_BOUNDARY) -> list[list[int]]:
    """The indices of the tokens of each word; ``boundary`` begins a word, or stands alone between two.

    Example:
        >>> from seqdyconv.runtime.words import group_words
        >>> group_words(["▁", "a", "b", "▁c", "d"])
        [[1, 2], [3, 4]]
    """
    words: list[list[int]] = []
    begins = True
    for index, token in enumerate(tokens):
        begins = begins or token.startswith(boundary)
        if not token.replace(boundary, ""):
            continue
        if begins:
            words.append([])
        words[-1].append(index)
        begins = False
    return words


def words_of(
    strings: Sequence[str], tokens: Sequence[AlignedToken], seconds_per_frame: float = 0.04, offset: float = 0.0
) -> list[Word]:
    """The words that aligned tokens make, with their times.

    Args:
        strings: what each token stands for, by id; ``▁`` begins a word or stands between two.
        tokens: with the frames where each was said.
        seconds_per_frame: of these frames.
        offset: seconds before the first frame.

    Example:
        >>> words_of(["", "▁a", "b"], [AlignedToken(1, 0, 2, 0.0), AlignedToken(2, 3, 4, 0.0)])
        [Word(text='ab', start=0.0, end=0.16, score=1.0)]
    """
    words = []
    for indices in group_words(strings[one.token] for one in tokens):
        group = [tokens[index] for index in indices]
        frames = sum(one.end - one.start for one in group)
        score = math.exp(sum((one.end - one.start) * one.score for one in group) / frames)
        text = "".join(strings[one.token] for one in group).replace(WORD_BOUNDARY, "")
        start, end = (offset + frame * seconds_per_frame for frame in (group[0].start, group[-1].end))
        words.append(Word(text, start, end, score))
    return words


def to_rows(words: Sequence[Word]) -> list[dict[str, Any]]:
    """The words as JSON takes them: text, start and end in seconds, score."""
    return [
        {"text": word.text, "start": round(word.start, 3), "end": round(word.end, 3), "score": round(word.score, 4)}
        for word in words
    ]


def to_srt(words: Sequence[Word], max_characters: int = 40, max_seconds: float = 5.0, max_pause: float = 1.0) -> str:
    """The words as SubRip subtitles of one line each.

    Args:
        words: in the order of time.
        max_characters: of a line; a longer word stands alone.
        max_seconds: that a line stays, unless a single word is longer.
        max_pause: seconds of silence that begin a new line.

    Example:
        >>> from seqdyconv.runtime.words import Word, to_srt
        >>> print(to_srt([Word("dobrý", 0.52, 0.8), Word("den", 0.92, 1.2)]))
        1
        00:00:00,520 --> 00:00:01,200
        dobrý den
        <BLANKLINE>
    """
    lines: list[list[Word]] = []
    for word in words:
        if (
            not lines
            or len(" ".join(one.text for one in [*lines[-1], word])) > max_characters
            or word.end - lines[-1][0].start > max_seconds
            or word.start - lines[-1][-1].end > max_pause
        ):
            lines.append([])
        lines[-1].append(word)
    blocks = [
        f"{number}\n{_srt_time(line[0].start)} --> {_srt_time(line[-1].end)}\n{' '.join(word.text for word in line)}\n"
        for number, line in enumerate(lines, 1)
    ]
    return "\n".join(blocks)


def _srt_time(seconds: float) -> str:
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"
