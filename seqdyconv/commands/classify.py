"""Classify standard input, line by line, to standard output.

    seqdyconv classify MODEL_DIR [--key value ...] < texts > predictions

Every line gives one line, empty ones too, in the same order: the label, a TAB, its probability. A TAB in a line
separates the two texts of a pair. Lines are classified as they arrive, so that a pipe that delivers slowly gets its
answers at once. Long texts are read as in the model's training where nothing else is said.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from datasets import Dataset, DatasetDict
from transformers.utils.logging import disable_progress_bar

from seqdyconv.commands.predictions import WINDOW, PredictionOptions, format_line, split_line
from seqdyconv.commands.streams import end_with_the_reader, read_windows, standard_input
from seqdyconv.data.text_rows import LengthArguments, tokenize
from seqdyconv.errors import exit_on_error
from seqdyconv.training.classifiers import classify, label_names, load_classifier
from seqdyconv.training.evaluation import ModelDirArguments, parse_model_arguments

LENGTHS = tuple(item.name for item in dataclasses.fields(LengthArguments))


@dataclass
class PredictionArguments(PredictionOptions, ModelDirArguments):
    """What to classify with, and what to write."""


def main(argv: Sequence[str] | None = None) -> None:
    types = (PredictionArguments, LengthArguments)
    args, length_args = parse_model_arguments(types, argv, of_the_run=LENGTHS, description=__doc__)
    end_with_the_reader()
    with exit_on_error():
        run(args, length_args)


def run(args: PredictionArguments, length_args: LengthArguments) -> None:
    disable_progress_bar()  # That of loading weights.
    datasets.disable_progress_bars()
    model, tokenizer = load_classifier(args.model_dir)
    model.to(args.device)
    labels = label_names(model)
    number = 0
    for lines in read_windows(standard_input(), WINDOW):
        texts = [split_line(line, number + index) for index, line in enumerate(lines, start=1)]
        found = np.empty((len(texts), len(labels)))
        for columns in (["text"], ["text", "text_pair"]):
            chosen = [index for index, parts in enumerate(texts) if len(parts) == len(columns)]
            if chosen:
                table = {name: [texts[index][side] for index in chosen] for side, name in enumerate(columns)}
                data = DatasetDict({"input": Dataset.from_dict(table)})
                rows = tokenize(data, tokenizer, length_args)["input"]
                found[chosen] = classify(model, tokenizer, rows, args.batch_size)
        for probabilities in found:
            best = probabilities.argsort()[::-1][: args.top_k]
            line = format_line([(labels[index], float(probabilities[index])) for index in best], args.format)
            sys.stdout.buffer.write(f"{line}\n".encode())
        sys.stdout.buffer.flush()
        number += len(lines)


if __name__ == "__main__":
    main()
