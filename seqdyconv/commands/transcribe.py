"""Write down what is said in audio files.

    seqdyconv transcribe MODEL_DIR FILE... [--format text|json|srt] [--key value ...]

Text is one line per file, with the file's name and a TAB before it where there are several. json is a line per file
with its words and their times in seconds, srt are subtitles (with --output_dir a file each; else on standard output,
of one file only). A transcript that is there already is replaced with --overwrite alone. Files of any length are read
in segments that end at pauses, so memory does not grow with them. A file that can't be used is one line on standard
error; the others are transcribed, and the exit status is 1.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers.utils.logging import disable_progress_bar

from seqdyconv.commands.streams import end_with_the_reader
from seqdyconv.commands.transcripts import TranscriptOptions, with_file_names, write_transcripts
from seqdyconv.errors import exit_on_error
from seqdyconv.runtime.words import Word
from seqdyconv.speech.decoding import Decoder, SpeechDecodingArguments
from seqdyconv.speech.recogniser import load_recogniser
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.evaluation import ModelDirArguments


@dataclass
class TranscriptionArguments(TranscriptOptions, ModelDirArguments):
    """What to transcribe with, and how to write it."""


def main(argv: Sequence[str] | None = None) -> None:
    words = with_file_names(sys.argv[1:] if argv is None else argv)
    args, decoding_args = parse_arguments(
        (TranscriptionArguments, SpeechDecodingArguments), words, first=("model_dir", "files"), description=__doc__
    )
    end_with_the_reader()

    def load() -> Callable[[str], list[Word]]:
        disable_progress_bar()  # That of loading weights.
        decoder = Decoder(load_recogniser(args.model_dir).to(args.device), decoding_args, args.model_dir)
        return lambda file: decoder.transcribe(file, args.segment_seconds)

    with exit_on_error():
        failed = write_transcripts(args, load)
    if failed:
        raise SystemExit(1)
