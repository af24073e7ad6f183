"""Classify standard input, line by line, to standard output, with an exported model: see the command ``classify``.

    seqdyconv classify EXPORTED_DIR [--key value ...] < texts > predictions

It needs neither torch nor transformers. Long texts are read as in the model's training.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqdyconv.commands.plain_arguments import ExportedArguments, parse_plain
from seqdyconv.commands.predictions import WINDOW, PredictionOptions, format_line, split_line
from seqdyconv.commands.streams import end_with_the_reader, read_windows, standard_input
from seqdyconv.errors import exit_on_error
from seqdyconv.runtime.classifier import Classifier


@dataclass
class ExportedPredictionArguments(PredictionOptions, ExportedArguments):
    """What to classify with, and what to write."""


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_plain(ExportedPredictionArguments, sys.argv[1:] if argv is None else argv, ("model_dir",), __doc__)
    end_with_the_reader()
    with exit_on_error():
        classifier = Classifier(args.model_dir, args.threads)
        number = 0
        for lines in read_windows(standard_input(), WINDOW):
            parts = [split_line(line, number + index) for index, line in enumerate(lines, start=1)]
            texts: list[Any] = [each[0] if len(each) == 1 else tuple(each) for each in parts]
            for predictions in classifier.classify(texts, args.top_k, args.batch_size):
                found = [(prediction.label, prediction.probability) for prediction in predictions]
                sys.stdout.buffer.write(f"{format_line(found, args.format)}\n".encode())
            sys.stdout.buffer.flush()
            number += len(lines)
