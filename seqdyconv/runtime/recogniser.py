"""Recognition of speech with an exported model: files, arrays and streams."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seqdyconv.runtime.batches import batches_of_similar_lengths
from seqdyconv.runtime.folder import Exported, FolderError, Graph, open_folder
from seqdyconv.runtime.samples import AudioError, Samples, StreamResampler, checked_samples, resample
from seqdyconv.runtime.words import WORD_BOUNDARY, AlignedToken, Word, WordCollector, collapse, words_of

if TYPE_CHECKING:
    from seqdyconv.runtime.audio import AudioSource

SAMPLING_RATES = range(1000, 768_001)
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
_LARGEST_STATE = 2**24


class Recogniser:
    """Writes down what is said, with a folder that ``seqdyconv export`` has written; torch is not needed.

    It may be used by several threads at once.

    Args:
        folder: of an exported recogniser.
        threads: that a computation may use; 0: as many as there are cores.

    Raises:
        FolderError: the folder or a graph can't be used.

    Example:
        >>> from seqdyconv.runtime import Recogniser
        >>> recogniser = Recogniser("exported/speech")  # doctest: +SKIP
        >>> recogniser.transcribe(["recording.ogg", samples])  # doctest: +SKIP
        ['a co když má pravdu', 'dobrý den']
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        self.exported = open_folder(folder, "recognition")
        self.threads = threads
        self.sampling_rate = self.exported.number("sampling_rate", SAMPLING_RATES[0], SAMPLING_RATES[-1])
        self.least_samples = self.exported.number("least_samples", 1, 2**20)
        self.vocab_size = self.exported.number("vocab_size", 1, 2**24)
        self.blank = self.exported.number("blank", 0, self.vocab_size - 1)
        self.seconds_per_step = self._seconds("seconds_per_step")
        longest = self.exported.settings.get("max_seconds")
        self.max_seconds = float("inf") if longest is None else self._seconds("max_seconds")
        """The longest piece that the model takes."""
        self.tokens = _read_tokens(self.exported.folder / "tokens.txt", self.vocab_size)
        special = self.exported.settings.get("special")
        if not isinstance(special, list) or not all(isinstance(token, int) for token in special):
            raise FolderError(f"special in the settings of {folder} must be a list of tokens, got {special!r:.60}")
        self._special = {self.blank, *special}
        # Words are told with the unknown token, texts without it.
        unknown = self.exported.settings.get("unknown")
        hidden = self._special - {unknown}
        self._strings = ["" if number in hidden else token for number, token in enumerate(self.tokens)]
        self.graph = self.exported.graph("offline", threads)
        self.graph.check(
            {"samples": [None, None], "lengths": [None]},
            {"logits": [None, None, self.vocab_size], "output_lengths": [None]},
        )

    @property
    def streams(self) -> bool:
        """Whether :meth:`stream` works."""
        return "streaming" in self.exported.graphs

    def transcribe(
        self,
        recordings: Sequence[AudioSource | Any],
        *,
        sampling_rate: int | None = None,
        segment_seconds: float = 20.0,
        batch_seconds: float = 120.0,
    ) -> list[str]:
        """What is said in each of several recordings, in their order.

        Args:
            recordings: file names, contents of files as bytes, binary file objects, or samples (N,) between -1 and 1 as
                arrays of floats.
            sampling_rate: of the arrays, in hertz; None: that of the model.
            segment_seconds: longer recordings are cut at pauses into pieces of at most that length.
            batch_seconds: of audio that is computed at once, with its padding.

        Raises:
            AudioError: one of them can't be used, see :func:`seqdyconv.runtime.audio.read_audio`.
        """
        if isinstance(recordings, (str, bytes, os.PathLike)) or not isinstance(recordings, Iterable):
            raise AudioError("recordings must be a list, got one thing: put it in brackets")
        pieces: list[tuple[int, Samples]] = []
        texts: list[list[str]] = []
        for number, recording in enumerate(recordings):
            found = [samples for _, samples in self._segments(recording, sampling_rate, segment_seconds)]
            pieces += [(number, samples) for samples in found]
            texts.append([""] * len(found))
        places = [(number, index) for number, group in enumerate(texts) for index in range(len(group))]
        lengths = [len(samples) for _, samples in pieces]
        for batch in batches_of_similar_lengths(lengths, int(batch_seconds * self.sampling_rate)):
            for index, logits in zip(batch, self.logits([pieces[index][1] for index in batch])):
                number, place = places[index]
                texts[number][place] = self.text(collapse(logits.argmax(-1), self.blank))
        return [" ".join(part for part in parts if part) for parts in texts]

    def words(
        self, recording: AudioSource | Any, *, sampling_rate: int | None = None, segment_seconds: float = 20.0
    ) -> list[Word]:
        """The words of one recording of any length with their times, in memory that does not grow with a file's length.

        Args:
            recording, sampling_rate, segment_seconds: as in :meth:`transcribe`.

        Raises:
            AudioError: it can't be used.
        """
        found = []
        for start, samples in self._segments(recording, sampling_rate, segment_seconds):
            spans = greedy_spans(self.logits([samples])[0], self.blank)
            found += words_of(self._strings, spans, self.seconds_per_step, start)
        return found

    def stream(self, sampling_rate: int | None = None) -> Stream:
        """A stream of speech, whose words come as they are spoken.

        Args:
            sampling_rate: of what is fed, in hertz; None: that of the model.

        Raises:
            FolderError: the model does not stream.
            AudioError: there is no such sampling rate.
        """
        if not self.streams:
            raise FolderError(
                f"{self.exported.folder} does not stream: export a CTC model that is trained with encoder_lookahead"
            )
        return Stream(self, self._rate(sampling_rate))

    def logits(self, utterances: Sequence[Samples]) -> list[npt.NDArray[np.float32]]:
        """The logits (T, V) of each of several utterances (N,), computed at once."""
        lengths = np.array([len(samples) for samples in utterances], np.int64)
        padded = np.zeros((len(utterances), max(self.least_samples, *lengths)), np.float32)
        for row, samples in zip(padded, utterances):
            row[: len(samples)] = samples
        found = self.graph.run({"samples": padded, "lengths": lengths})
        return [_checked(row[:count]) for row, count in zip(found["logits"], found["output_lengths"])]

    def text(self, labels: Iterable[int]) -> str:
        """What collapsed labels stand for, without special tokens."""
        spelled = "".join(self.tokens[label] for label in labels if label not in self._special)
        return " ".join(spelled.replace(WORD_BOUNDARY, " ").split())

    def _segments(self, recording: Any, sampling_rate: int | None, longest: float) -> Iterator[tuple[float, Samples]]:
        from seqdyconv.runtime import audio, segments  # need soundfile

        longest = min(longest, self.max_seconds)
        if not longest * self.sampling_rate >= self.least_samples:
            raise AudioError(f"segment_seconds must be at least {self.least_samples / self.sampling_rate:g}")
        if isinstance(recording, (str, os.PathLike)):
            yield from segments.read_segments(Path(recording), self.sampling_rate, longest)
            return
        if isinstance(recording, bytes) or hasattr(recording, "read"):
            samples = audio.read_audio(recording, self.sampling_rate)
        else:
            samples = resample(checked_samples(recording), self._rate(sampling_rate), self.sampling_rate)
        yield from segments.cut([samples], self.sampling_rate, longest)

    def _rate(self, sampling_rate: int | None) -> int:
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        if not isinstance(rate, int) or rate not in SAMPLING_RATES:
            raise AudioError(
                f"sampling_rate must be a whole number from {SAMPLING_RATES[0]} to {SAMPLING_RATES[-1]}, got {rate!r}"
            )
        return rate

    def _seconds(self, name: str) -> float:
        value = self.exported.settings.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e6:
            raise FolderError(f"{name} in the settings of {self.exported.folder} must be above 0, got {value!r:.60}")
        return float(value)


class Stream:
    """Words as they come, in constant memory; they are those of the whole. One thread at a time feeds it.

    Args:
        recogniser: whose model streams.
        sampling_rate: of what is fed.

    Raises:
        FolderError: its graph is not one of streams.

    Example:
        >>> stream = recogniser.stream(44100)  # doctest: +SKIP
        >>> stream.push(samples)  # doctest: +SKIP
        ['dobrý']
        >>> stream.finish()  # doctest: +SKIP
        ['den']
    """

    def __init__(self, recogniser: Recogniser, sampling_rate: int) -> None:
        exported: Exported = recogniser.exported
        self.recogniser = recogniser
        self.graph = exported.graph("streaming", recogniser.threads)
        self.step = exported.number("step_samples", 1, 2**24)
        """Samples of a step."""
        self.padding = exported.number("padding_samples", 0, 2**24)
        """Zeros before the first sample."""
        self.late = exported.number("late_steps", 0, 2**20)
        """How many steps late the output comes."""
        self._sizes = _checked_states(self.graph)
        self.graph.check(
            {"samples": [None, None, self.step], "lengths": [None]},
            {"logits": [None, None, recogniser.vocab_size]},
            more_inputs=["state_"],
            more_outputs=["next_"],
        )
        self._words = WordCollector(recogniser.blank, recogniser.tokens.__getitem__, recogniser.text)
        self._resampler = StreamResampler(sampling_rate, recogniser.sampling_rate)
        self.latency = (
            self.late * recogniser.seconds_per_step
            + recogniser.least_samples / recogniser.sampling_rate
            + self._resampler.latency
        )
        """Seconds between a sound and the output about it, beside chunks and computing."""
        self._restart()

    def push(self, samples: Any) -> list[str]:
        """Take the next samples (N,), N of 0 or more, and return the words that they complete.

        Raises:
            AudioError: they are not one channel of finite floating-point numbers.
        """
        return self._hear(self._resampler.push(checked_samples(samples, 0)))

    def partial(self) -> list[str]:
        """The words that are not complete, as they would be if nothing came any more; what comes may change them."""
        return [] if self._heard < self.recogniser.least_samples else self._words.partial(self._rest()[0])

    def finish(self) -> list[str]:
        """Return the words that are left; then the stream begins anew."""
        words = self._hear(self._resampler.finish())
        if self._heard:
            words += self._words.push(self._rest()[0])
        words += self._words.finish()
        self._restart()
        return words

    def _restart(self) -> None:
        self.states = {name: np.zeros(shape, kind) for name, (shape, kind) in self._sizes.items()}
        self.waiting = np.zeros(self.padding, np.float32)  # samples that make no step yet
        self._heard = 0  # samples

    def _hear(self, samples: Samples) -> list[str]:
        if len(samples) == 0:
            return []
        self._heard += len(samples)
        heard = np.concatenate([self.waiting, samples])
        steps = len(heard) // self.step
        self.waiting = heard[steps * self.step :].copy()  # a view would keep all of it
        if steps == 0:
            return []
        labels, self.states = self._compute(heard[: steps * self.step], steps)
        return self._words.push(labels)

    def _rest(self) -> tuple[list[int], dict[str, Any]]:
        """What would come if the stream ended now: see :meth:`_compute`."""
        return self._compute(self.waiting, self.late + (len(self.waiting) + self.step - 1) // self.step)

    def _compute(self, samples: Samples, steps: int) -> tuple[list[int], dict[str, Any]]:
        """The labels of so many steps, which the samples fill as far as they go, and the states after them."""
        chunk = np.zeros((1, steps, self.step), np.float32)
        chunk.ravel()[: len(samples)] = samples
        states = {f"state_{name}": value for name, value in self.states.items()}
        found = self.graph.run({"samples": chunk, "lengths": np.array([len(samples)], np.int64), **states})
        labels = _checked(found["logits"][0]).argmax(-1).tolist()
        return labels, {name: found[f"next_{name}"] for name in self.states}


def greedy_spans(logits: npt.NDArray[np.float32], blank: int) -> list[AlignedToken]:
    """The tokens of the best path of logits (T, V), with the frames where each was said and how sure that is.

    Example:
        >>> greedy_spans(np.array([[0, 99], [0, 99], [99, 0]], np.float32), blank=0)
        [AlignedToken(token=1, start=0, end=2, score=0.0)]
    """
    top = logits.max(-1, keepdims=True)
    scores = 0 - np.log(np.exp((logits - top).astype(np.float64)).sum(-1))  # of the best label of each frame
    spans, start = [], 0
    for label, group in groupby(logits.argmax(-1).tolist()):
        end = start + len(list(group))
        if label != blank:
            spans.append(AlignedToken(label, start, end, float(scores[start:end].mean())))
        start = end
    return spans


def _checked(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if np.isnan(logits).any():
        raise FolderError("the model gives NaN: its weights are damaged")
    return logits


def _read_tokens(file: Path, size: int) -> list[str]:
    """The token of each id from lines of tokens and ids."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"can't read {file}: {error}") from None
    pairs = [line.rpartition(" ")[::2] for line in lines]
    if [number for _, number in pairs] != [str(number) for number in range(size)]:
        raise FolderError(f"{file} must have a line for each of the {size} tokens, with its number, from 0 on")
    return [token for token, _ in pairs]


def _checked_states(graph: Graph) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of each state for one stream, which must come out as it goes in."""
    states = {}
    for name, shape in graph.inputs.items():
        if not name.startswith("state_"):
            continue
        following = "next_" + name.removeprefix("state_")
        sizes = tuple(shape[1:])
        kind = graph.types[name]
        fits = kind in _TYPES and graph.types.get(following) == kind and len(shape) > 0
        fits = fits and all(isinstance(size, int) and size >= 0 for size in sizes) and np.prod(sizes) <= _LARGEST_STATE
        if not fits or tuple(graph.outputs[following][1:]) != sizes:
            raise FolderError(f"{graph.file} must give {following} as it takes {name}, of fixed sizes, got {shape}")
        states[name.removeprefix("state_")] = ((1, *sizes), _TYPES[kind])
    return states
