"""Recognise speech while it is spoken: words are printed as they come.

    seqdyconv stream MODEL_DIR FILE [--key value ...]
    arecord -f S16_LE -r 16000 -c 1 -t raw | seqdyconv stream MODEL_DIR -

FILE is an audio file, which is read chunk by chunk; with - raw 16-bit samples (little-endian) come from standard input.
The model must be a CTC model that streams, trained with encoder_lookahead. Latency and real-time factor go to standard
error at the end. Memory does not grow with the length of the stream.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, BinaryIO

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from seqdyconv.commands.streams import end_with_the_reader, standard_input
from seqdyconv.errors import exit_on_error
from seqdyconv.ranges import FileName, Range
from seqdyconv.runtime.audio import audio_info
from seqdyconv.runtime.samples import AudioError
from seqdyconv.speech.audio import read_blocks
from seqdyconv.speech.recogniser import load_recogniser
from seqdyconv.speech.stream import RecognitionStream, StreamResampler
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.evaluation import ModelDirArguments


@dataclass
class StreamArguments(ModelDirArguments):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.file:
            raise ValueError("the audio file is missing: give it, or -, after the model")


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse_arguments((StreamArguments,), argv, first=("model_dir", "file"), description=__doc__)
    end_with_the_reader()
    with exit_on_error():
        run(args)


def run(args: StreamArguments) -> None:
    disable_progress_bar()  # That of loading weights.
    recogniser = load_recogniser(args.model_dir).to(args.device)
    stream = RecognitionStream(recogniser)
    if args.file == "-":
        standard_input()  # Is there one?
        rate, pieces = args.sampling_rate, read_raw(sys.stdin.buffer, args)
    else:
        rate, pieces = audio_info(args.file).sampling_rate, read_blocks(args.file, args.chunk_seconds)
    resampler = StreamResampler(rate, recogniser.feature_extractor.sampling_rate)

    heard = busy = longest = 0.0
    first = True
    for piece in _and_end(pieces):
        start = time.perf_counter()
        if piece is None:
            words = stream.push(resampler.finish()) + stream.finish()
        else:
            heard += len(piece) / rate
            words = stream.push(resampler.push(piece))
        seconds = time.perf_counter() - start
        busy, longest = busy + seconds, max(longest, seconds)
        for word in words:
            print(f"{heard:.2f}\t{word}\n" if args.times else (word if first else f" {word}"), end="", flush=True)
            first = False
    if not args.times:
        print(flush=True)
    if not heard:
        raise AudioError("there are no samples in standard input")
    ahead = stream.latency + resampler.latency
    print(
        f"latency {ahead + args.chunk_seconds:.2f} s ({args.chunk_seconds:g} s chunk, {ahead:.2f} s ahead) and at most "
        f"{longest:.3f} s of computing; real-time factor {busy / heard:.4f} of {heard:.1f} s",
        file=sys.stderr,
    )


def read_raw(stream: BinaryIO, args: StreamArguments) -> Iterator[Tensor]:
    """Samples (N,) of a pipe, as soon as a chunk is complete; channels are averaged."""
    size = 2 * args.channels
    chunk = size * max(1, round(args.chunk_seconds * args.sampling_rate))
    while data := _read(stream, chunk):
        samples = np.frombuffer(data[: len(data) // size * size], "<i2").reshape(-1, args.channels)
        yield torch.from_numpy(samples.mean(axis=1, dtype=np.float32) / 32768)


def _read(stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except OSError as error:
        raise AudioError(f"standard input can't be read ({error.strerror})") from None


def _and_end(pieces: Iterator[Tensor]) -> Iterator[Tensor | None]:
    yield from pieces
    yield None
