"""Give the vector of each line of standard input with an exported model: see the command ``embed``.

    seqdyconv embed EXPORTED_DIR [--key value ...] < texts > vectors

It needs neither torch nor transformers.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from seqdyconv.commands.plain_arguments import ExportedArguments, parse_plain
from seqdyconv.commands.streams import end_with_the_reader
from seqdyconv.commands.vectors import VectorOptions, write_vectors
from seqdyconv.errors import exit_on_error
from seqdyconv.runtime.embedder import Embedder


@dataclass
class ExportedEmbeddingArguments(VectorOptions, ExportedArguments):
    """What to embed with, and how it is written."""


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_plain(ExportedEmbeddingArguments, sys.argv[1:] if argv is None else argv, ("model_dir",), __doc__)
    end_with_the_reader()
    with exit_on_error():
        embedder = Embedder(args.model_dir, args.threads)
        write_vectors(lambda texts: embedder.embed(texts, args.batch_size), args.format)
