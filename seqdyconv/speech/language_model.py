"""N-gram language models, counted on transcripts and kept in ARPA files, which KenLM and the beam search read."""

import gzip
import math
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from seqdyconv.errors import InputError
from seqdyconv.files import replacing
from seqdyconv.runtime.words import WORD_BOUNDARY
from seqdyconv.speech.tokenization import clean_text, mark_words

Ngram = tuple[str, ...]
UNITS = ("word", "character", "token")
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
MIN_ORDER, MAX_ORDER = 2, 6  # what the KenLM inside flashlight-text reads
NEVER = -99.0
"""What ARPA files write for log10 of 0."""
_LONGEST_LINE = 2**20


@dataclass
class NGramModel:
    """An n-gram model with back-off, as an ARPA file holds it.

    Attributes:
        order: length of the longest n-grams.
        log_probabilities: log10 p(last | others) by n-gram, of all orders. ``<s>`` alone has −99, never predicted.
        log_backoffs: log10 of the weight of the shorter context, by context; where none stands it is 0.
    """

    order: int
    log_probabilities: dict[Ngram, float]
    log_backoffs: dict[Ngram, float]

    @property
    def vocabulary(self) -> list[str]:
        """What can be predicted, sorted: all units, ``</s>`` and ``<unk>``, without ``<s>``."""
        return sorted(ngram[0] for ngram in self.log_probabilities if len(ngram) == 1 and ngram[0] != BOS)

    def score(self, units: Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """log10 of the probability of a text, which is split into units already.

        Args:
            units: words, characters or tokens; those that the model doesn't know count as ``<unk>``.
            bos: the text begins here.
            eos: the text ends here, so the probability of the end is in the score.
        """
        known = [unit if (unit,) in self.log_probabilities else UNKNOWN for unit in units]
        sequence = [BOS] * bos + known + [EOS] * eos
        ends = range(int(bos) + 1, len(sequence) + 1)
        return sum(self.log_probability(tuple(sequence[max(0, end - self.order) : end])) for end in ends)

    def log_probability(self, ngram: Ngram) -> float:
        """log10 of the probability of the last unit after the others, of which the model looks at ``order`` − 1.

        Args:
            ngram: of any length from 1.

        Raises:
            ValueError: the model doesn't know the last one.
        """
        backoff = 0.0
        for start in range(max(0, len(ngram) - self.order), len(ngram)):
            part = ngram[start:]
            if part in self.log_probabilities:
                return backoff + self.log_probabilities[part]
            backoff += self.log_backoffs.get(part[:-1], 0.0)
        raise ValueError(f"the model must know {ngram[-1]}, and does not")

    def perplexity(self, texts: Iterable[str], unit: str = "word", tokenizer: Any = None) -> float:
        """The perplexity of texts per unit, the end of each text counted as one.

        Args:
            texts: what :func:`train_ngram_model` takes.
            unit: of which the model is.
            tokenizer: for ``unit="token"``.
        """
        total, number = 0.0, 0
        for units in split_units(texts, unit, tokenizer):
            total, number = total + self.score(units), number + len(units) + 1
        return 10 ** (-total / number) if number else 1.0

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write an ARPA file, atomically."""
        by_order: dict[int, list[Ngram]] = defaultdict(list)
        for ngram in self.log_probabilities:
            by_order[len(ngram)].append(ngram)
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\\data\\\n")
            for length in range(1, self.order + 1):
                file.write(f"ngram {length}={len(by_order[length])}\n")
            for length in range(1, self.order + 1):
                file.write(f"\n\\{length}-grams:\n")
                for ngram in sorted(by_order[length]):
                    row = f"{self.log_probabilities[ngram]:.7g}\t{' '.join(ngram)}"
                    backoff = self.log_backoffs.get(ngram, 0.0)
                    file.write(f"{row}\t{backoff:.7g}\n" if length < self.order else f"{row}\n")
            file.write("\n\\end\\\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "NGramModel":
        """Read an ARPA file.

        Raises:
            ValueError: it is none, or has an n-gram twice, or one of a unit that is not among its 1-grams.
        """
        model = cls(0, {}, {})
        for row in _read_rows(path):
            model.order = max(model.order, len(row.ngram))
            unknown = [unit for unit in row.ngram if (unit,) not in model.log_probabilities]
            if (len(row.ngram) > 1 and unknown) or row.ngram in model.log_probabilities:
                why = f"{unknown[0]} is no 1-gram" if unknown else "it stands there twice"
                raise ValueError(f"{os.fspath(path)} must be an ARPA file: {' '.join(row.ngram)}: {why}")
            model.log_probabilities[row.ngram] = row.log_probability
            if row.log_backoff is not None:
                model.log_backoffs[row.ngram] = row.log_backoff
        return model


def train_ngram_model(
    texts: Iterable[str],
    order: int,
    path: str | os.PathLike[str] | None = None,
    unit: str = "word",
    tokenizer: Any = None,
) -> NGramModel:
    """Count an n-gram model with interpolated Kneser-Ney smoothing (Kneser and Ney 1995, Chen and Goodman 1999).

    One discount for each order, n1 / (n1 + 2·n2) of the numbers of n-grams with count one and two. The unigrams are
    interpolated with equal probabilities, from which ``<unk>`` has its own. All counts are kept in memory: for
    corpora of millions of words build the ARPA file with KenLM.

    Args:
        texts: one sentence or utterance each, normalised as the transcripts are.
        order: length of the longest n-grams, 2 to 6.
        path: an ARPA file to write.
        unit: ``"word"`` for a beam search with a word list; ``"character"``, or ``"token"`` (of ``tokenizer``), for one
            without. Characters are as in :func:`seqdyconv.speech.tokenization.train_character_tokenizer`; between words
            stands ``▁``, whatever the tokenizer writes there.
        tokenizer: for ``unit="token"``.

    Raises:
        ValueError: another order or unit, or a unit "token" without tokenizer.
        InputError: no text with anything in it, or a text with ``<s>`` or ``</s>`` as a unit.

    Example:
        >>> from seqdyconv.speech.language_model import train_ngram_model
        >>> model = train_ngram_model(["the fish sees the crab", "the crab sleeps"], order=2)
        >>> model.score(["the", "crab", "sleeps"]) > model.score(["crab", "the", "sleeps"])
        True
    """
    if not isinstance(order, int) or not MIN_ORDER <= order <= MAX_ORDER:
        raise ValueError(f"order must be from {MIN_ORDER} to {MAX_ORDER}, got {order!r}")
    raw = _count_ngrams(split_units(texts, unit, tokenizer), order)
    if raw[0].keys() <= {(EOS,)}:
        raise InputError(f"the texts must have at least one {unit}, got none")
    counts = _continuation_counts(raw)
    vocabulary = {ngram[0] for ngram in counts[0]} | {UNKNOWN}

    probabilities: dict[Ngram, float] = {(): 1 / len(vocabulary)}
    backoffs: dict[Ngram, float] = {}
    for level in counts:
        discount = _discount(level)
        totals: Counter[Ngram] = Counter()
        kinds: Counter[Ngram] = Counter()
        for ngram, count in level.items():
            totals[ngram[:-1]] += count
            kinds[ngram[:-1]] += 1
        for context in totals:
            backoffs[context] = discount * kinds[context] / totals[context]
        for ngram, count in level.items():
            context = ngram[:-1]
            shorter = probabilities[ngram[1:]]
            probabilities[ngram] = (count - discount) / totals[context] + backoffs[context] * shorter
    uniform = probabilities.pop(())
    probabilities.setdefault((UNKNOWN,), backoffs.pop(()) * uniform)
    log_probabilities = {ngram: math.log10(value) for ngram, value in probabilities.items()}
    model = NGramModel(
        order,
        {(BOS,): NEVER} | log_probabilities,
        {context: math.log10(value) for context, value in backoffs.items() if context},
    )
    if path is not None:
        model.write(path)
    return model


def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """The units of an ARPA file, sorted, without ``<s>``, ``</s>`` and ``<unk>``: the word list of a word model.

    Raises:
        ValueError: it is no ARPA file.
    """
    first = takewhile(lambda row: len(row.ngram) == 1, _read_rows(path))
    return sorted({row.ngram[0] for row in first} - {BOS, EOS, UNKNOWN})


@dataclass
class _Row:
    ngram: Ngram
    log_probability: float
    log_backoff: float | None


def _read_rows(path: str | os.PathLike[str]) -> Iterator[_Row]:
    """The rows of an ARPA file, as it may be written by SRILM, KenLM, IRSTLM or CMU's tools; gzipped too."""
    name, number = os.fspath(path), 0
    if not Path(path).is_file():
        raise ValueError(f"{name} must be an ARPA file, and is no file")
    try:
        with _open(path) as file:
            counts: Counter[int] = Counter()  # what the header promises, less what was read
            length: int | None = None  # of the n-grams of this part; 0 in the header, None before it
            for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), b""), start=1):
                if len(line) == _LONGEST_LINE:
                    raise ValueError(f"it is longer than {_LONGEST_LINE - 1} bytes")
                row = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r\n")
                if length is None:  # SRILM leaves a line empty here, and allows any text
                    length = 0 if row.lower() == "\\data\\" else None
                elif header := re.fullmatch(r"ngram +(\d+) *= *(\d+)", row, re.ASCII):
                    counts[int(header[1])] = int(header[2])
                elif part := re.fullmatch(r"\\(?:(\d+)-grams:|end\\)", row, re.ASCII | re.IGNORECASE):
                    if counts[length]:
                        wrong = f"{abs(counts[length])} {'fewer' if counts[length] > 0 else 'more'}"
                        raise ValueError(f"these are {wrong} {length}-grams than the header says")
                    if part[1] is None and length == max(counts, default=0) > 0:
                        return
                    if part[1] is None or int(part[1]) != length + 1:
                        raise ValueError(f"after the {length}-grams comes {row}")
                    length += 1
                elif row:
                    counts[length] -= 1
                    yield _parse_row(row, length)
        raise ValueError("\\data\\ is missing" if length is None else "the file ends without \\end\\")
    except UnicodeDecodeError:
        raise ValueError(f"{name} must be an ARPA file: line {number} is not UTF-8 text") from None
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name} must be an ARPA file: line {number}: {error}") from None


def _open(path: str | os.PathLike[str]) -> gzip.GzipFile | BufferedReader:
    with Path(path).open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(path) if zipped else Path(path).open("rb")


def _parse_row(row: str, length: int) -> _Row:
    fields = re.split("[ \t]+", row)
    if not length or not length + 1 <= len(fields) <= length + 2:
        raise ValueError(f"a row of {length}-grams has {len(fields)} fields" if length else f"{row:.40} in the header")
    log_probability, *log_backoff = map(float, (fields[0], *fields[1 + length :]))
    if not log_probability <= 0 or not all(map(math.isfinite, log_backoff)):
        raise ValueError(f"log10 of a probability is at most 0, and a back-off is finite, got {row:.60}")
    ngram = tuple(UNKNOWN if unit.lower() == UNKNOWN else unit for unit in fields[1 : 1 + length])
    return _Row(ngram, log_probability, log_backoff[0] if log_backoff else None)


def split_units(texts: Iterable[str], unit: str = "word", tokenizer: Any = None) -> Iterator[list[str]]:
    """The units of each text, as :func:`train_ngram_model` counts them.

    Raises:
        ValueError: another unit, or a unit "token" without tokenizer.
        InputError: a text with ``<s>`` or ``</s>`` as a unit.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if (unit == "token") != (tokenizer is not None):
        raise ValueError(f"a tokenizer goes with unit token, got unit {unit} and {type(tokenizer).__name__}")
    for text in [texts] if isinstance(texts, str) else texts:
        text = clean_text(text)
        if unit == "word":
            units = text.split()
        elif unit == "character":
            units = list(text.replace(" ", WORD_BOUNDARY))
        else:
            units = mark_words(tokenizer, tokenizer.tokenize(text))
        if BOS in units or EOS in units:
            raise InputError(f"the texts must not have {BOS} or {EOS} as a unit, got {text!r}")
        yield units


def _count_ngrams(sequences: Iterable[list[str]], order: int) -> list[Counter[Ngram]]:
    """Counts of the n-grams of each length from 1, ``<s>`` alone left out; only longer ones begin with it."""
    counts: list[Counter[Ngram]] = [Counter() for _ in range(order)]
    for units in sequences:
        sequence = (BOS, *units, EOS)
        for length in range(1, order + 1):
            ngrams = [sequence[i : i + length] for i in range(len(sequence) - length + 1)]
            counts[length - 1].update(ngrams)
    del counts[0][(BOS,)]
    return counts


def _continuation_counts(raw: list[Counter[Ngram]]) -> list[Counter[Ngram]]:
    """Of all n-grams but the longest, how many different units stand before them.

    Nothing stands before ``<s>``, so n-grams that begin with it keep their counts.
    """
    counts = []
    for shorter, longer in pairwise(raw):
        kinds = Counter(ngram[1:] for ngram in longer)
        counts.append(Counter({ngram: count if ngram[0] == BOS else kinds[ngram] for ngram, count in shorter.items()}))
    return [*counts, raw[-1]]


def _discount(counts: Counter[Ngram]) -> float:
    once, twice = (sum(count == number for count in counts.values()) for number in (1, 2))
    # Where none has count one or all have, the estimate would keep nothing for the unseen, or all.
    return once / (once + 2 * twice) if once and twice else 0.5
