"""Speech while it is spoken, whatever recognises it: from a file or a pipe, word by word. Needs no torch."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO, Protocol

import numpy as np

from seqdyconv.commands.streams import standard_input
from seqdyconv.ranges import FileName, Options, Range
from seqdyconv.runtime.audio import audio_info, read_blocks
from seqdyconv.runtime.samples import FULL_SCALE, AudioError, Samples
from seqdyconv.scores.stability import PartialStability


class WordStream(Protocol):
    """What recognises samples that come in pieces."""

    latency: float
    """Seconds between a sound and the output about it, beside chunks and computing."""

    def push(self, samples: Any) -> list[str]:
        """The words that samples (N,) complete."""

    def partial(self) -> list[str]:
        """The words after those that are complete, which may still change."""

    def finish(self) -> list[str]:
        """The words that are left."""


@dataclass
class StreamOptions(Options):
    """What to recognise."""

    file: Annotated[str, FileName()] = field(
        default="", metadata={"help": "The audio file, or - for raw samples; also the second word."}
    )
    sampling_rate: Annotated[int, Range(1000, 1_000_000)] = field(
        default=16000, metadata={"help": "Of raw samples, in hertz."}
    )
    channels: Annotated[int, Range(1, 256)] = field(default=1, metadata={"help": "Of raw samples, interleaved."})
    chunk_seconds: Annotated[float, Range(0.001, 60)] = field(
        default=0.32, metadata={"help": "Seconds of audio that are recognised at once."}
    )
    times: bool = field(default=False, metadata={"help": "A line per word: the second at which it was known, a TAB."})
    partials: bool = field(
        default=False,
        metadata={
            "help": "A line per chunk: the second, a TAB, the words that are complete, a TAB, those that may change."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partials and self.times:
            raise ValueError("times is of complete words, a line each: leave it out, or partials")
        if not self.file:
            raise ValueError("the audio file is missing: give it, or -, after the model")


def print_words(args: StreamOptions, load: Callable[[int], WordStream]) -> None:
    """Print words as they come, and in the end to standard error how long they took.

    Args:
        args: what to recognise, and how to print it.
        load: gives the stream for samples at a rate, in hertz.

    Raises:
        AudioError: nothing can be recognised.
    """
    if args.file == "-":
        standard_input()  # Is there one?
        rate, pieces = args.sampling_rate, read_raw(sys.stdin.buffer, args)
    else:
        rate, pieces = audio_info(args.file).sampling_rate, read_blocks(args.file, args.chunk_seconds)
    stream = load(rate)

    stability = PartialStability()
    heard = busy = longest = 0.0
    first = True
    for piece in _and_end(pieces):
        start = time.perf_counter()
        if piece is None:
            words = stream.finish()
        else:
            heard += len(piece) / rate
            words = stream.push(piece)
        shown = stream.partial() if args.partials else None
        seconds = time.perf_counter() - start
        busy, longest = busy + seconds, max(longest, seconds)
        if shown is not None:
            stability.show(shown, words)
            print(f"{heard:.2f}\t{' '.join(words)}\t{' '.join(shown)}", flush=True)
            continue
        for word in words:
            print(f"{heard:.2f}\t{word}\n" if args.times else (word if first else f" {word}"), end="", flush=True)
            first = False
    if not args.times and not args.partials:
        print(flush=True)
    if not heard:
        raise AudioError("there are no samples in standard input")
    ahead = stream.latency
    changes = f"; {stability.changed} words changed of {stability.words} in the end ({stability.ratio:.3f})"
    print(
        f"latency {ahead + args.chunk_seconds:.2f} s ({args.chunk_seconds:g} s chunk, {ahead:.2f} s ahead) and at most "
        f"{longest:.3f} s of computing; real-time factor {busy / heard:.4f} of {heard:.1f} s"
        + (changes if args.partials else ""),
        file=sys.stderr,
    )


def read_raw(stream: BinaryIO, args: StreamOptions) -> Iterator[Samples]:
    """Samples (N,) of a pipe, as soon as a chunk is complete; channels are averaged."""
    size = 2 * args.channels
    chunk = size * max(1, round(args.chunk_seconds * args.sampling_rate))
    while data := _read(stream, chunk):
        samples = np.frombuffer(data[: len(data) // size * size], "<i2").reshape(-1, args.channels)
        yield samples.mean(axis=1, dtype=np.float32) / FULL_SCALE


def _read(stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except OSError as error:
        raise AudioError(f"standard input can't be read ({error.strerror})") from None


def _and_end(pieces: Iterator[Samples]) -> Iterator[Samples | None]:
    yield from pieces
    yield None
