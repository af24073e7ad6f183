"""Recognise speech while it is spoken, with an exported model: see ``seqdyconv.commands.stream``.

    seqdyconv stream EXPORTED_DIR FILE [--key value ...]

It needs neither torch nor transformers.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from seqdyconv.commands.plain_arguments import ExportedArguments, parse_plain
from seqdyconv.commands.streams import end_with_the_reader
from seqdyconv.commands.word_streams import StreamOptions, print_words
from seqdyconv.errors import exit_on_error
from seqdyconv.runtime.recogniser import Recogniser


@dataclass
class ExportedStreamArguments(StreamOptions, ExportedArguments):
    """What to recognise with, and what."""


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    args = parse_plain(ExportedStreamArguments, words, ("model_dir", "file"), __doc__)
    end_with_the_reader()
    with exit_on_error():
        print_words(args, Recogniser(args.model_dir, args.threads).stream)
