"""Recognise speech while it is spoken: words are printed as they come.

    seqdyconv stream MODEL_DIR FILE [--key value ...]
    arecord -f S16_LE -r 16000 -c 1 -t raw | seqdyconv stream MODEL_DIR -

FILE is an audio file, which is read chunk by chunk; with - raw 16-bit samples (little-endian) come from standard input.
The model must be a CTC model that streams, trained with encoder_lookahead; with --lookahead_ms it looks less far ahead.
Latency and real-time factor go to standard error at the end. Memory does not grow with the length of the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from transformers.utils.logging import disable_progress_bar

from seqdyconv.commands.streams import end_with_the_reader
from seqdyconv.commands.word_streams import StreamOptions, print_words
from seqdyconv.errors import exit_on_error
from seqdyconv.ranges import Weight
from seqdyconv.speech.recogniser import load_recogniser
from seqdyconv.speech.stream import RecognitionStream
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.evaluation import ModelDirArguments


@dataclass
class StreamArguments(StreamOptions, ModelDirArguments):
    """What to recognise with, and what."""

    lookahead_ms: Weight | None = field(
        default=None,
        metadata={"help": "Look at most so many milliseconds ahead, all layers together; None: as far as it can."},
    )


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse_arguments((StreamArguments,), argv, first=("model_dir", "file"), description=__doc__)
    end_with_the_reader()
    with exit_on_error():
        disable_progress_bar()  # That of loading weights.
        recogniser = load_recogniser(args.model_dir).to(args.device)
        if args.lookahead_ms is not None:
            recogniser.set_lookahead(args.lookahead_ms)
        print_words(args, partial(RecognitionStream, recogniser))
