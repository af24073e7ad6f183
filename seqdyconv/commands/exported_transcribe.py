"""Write down what is said in audio files, with an exported model: see ``seqdyconv.commands.transcribe``.

    seqdyconv transcribe EXPORTED_DIR FILE... [--format text|json|srt] [--key value ...]

It needs neither torch nor transformers.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqdyconv.commands.plain_arguments import ExportedArguments, parse_plain
from seqdyconv.commands.streams import end_with_the_reader
from seqdyconv.commands.transcripts import TranscriptOptions, with_file_names, write_transcripts
from seqdyconv.errors import exit_on_error
from seqdyconv.runtime.recogniser import Recogniser
from seqdyconv.runtime.words import Word


@dataclass
class ExportedTranscriptionArguments(TranscriptOptions, ExportedArguments):
    """What to transcribe with, and how to write it."""


def main(argv: Sequence[str] | None = None) -> None:
    words = with_file_names(sys.argv[1:] if argv is None else argv)
    args = parse_plain(ExportedTranscriptionArguments, words, ("model_dir", "files"), __doc__)
    end_with_the_reader()

    def load() -> Callable[[str], list[Word]]:
        recogniser = Recogniser(args.model_dir, args.threads)
        return lambda file: recogniser.words(file, segment_seconds=args.segment_seconds)

    with exit_on_error():
        failed = write_transcripts(args, load)
    if failed:
        raise SystemExit(1)
