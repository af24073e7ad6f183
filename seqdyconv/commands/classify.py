"""Classify standard input, line by line, to standard output.

    seqdyconv classify MODEL_DIR [--key value ...] < texts > predictions

Every line gives one line, empty ones too, in the same order: the label, a TAB, its probability. A TAB in a line
separates the two texts of a pair. Lines are classified as they arrive, so that a pipe that delivers slowly gets its
answers at once. Long texts are read as in the model's training where nothing else is said.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import datasets
import numpy as np
from datasets import Dataset, DatasetDict
from transformers.utils.logging import disable_progress_bar

from seqdyconv.commands.streams import end_with_the_reader, read_windows, standard_input
from seqdyconv.data.text_rows import LengthArguments, tokenize
from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.files import strip_text
from seqdyconv.ranges import Count, OneOf
from seqdyconv.training.classifiers import classify, label_names, load_classifier
from seqdyconv.training.evaluation import ModelDirArguments, parse_model_arguments

LENGTHS = tuple(item.name for item in dataclasses.fields(LengthArguments))
WINDOW = 1000


@dataclass
class PredictionArguments(ModelDirArguments):
    """What to classify with, and what to write."""

    top_k: Count = field(default=1, metadata={"help": "Write that many labels of each text, the most probable first."})
    format: Annotated[str, OneOf("text", "jsonl")] = field(
        default="text", metadata={"help": "text (label, TAB, probability) or jsonl."}
    )
    batch_size: Count = field(default=32, metadata={"help": "Texts, or windows of texts, of a batch."})


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


def split_line(line: str, number: int) -> list[str]:
    """The text of a line, or the two of a pair."""
    parts = [strip_text(part) for part in line.split("\t")]
    if len(parts) > 2:
        raise InputError(
            f"line {number} of standard input has {len(parts) - 1} TABs, but only one, between the texts of a pair, "
            "is allowed"
        )
    return parts


def format_line(found: Sequence[tuple[str, float]], kind: str) -> str:
    """The line of one text, whose labels and probabilities are sorted."""
    if kind == "text":
        return "\t".join(f"{' '.join(label.split())}\t{probability:.4f}" for label, probability in found)
    top = [{"label": label, "probability": round(probability, 6)} for label, probability in found]
    return json.dumps(top[0] if len(top) == 1 else {**top[0], "top": top}, ensure_ascii=False)


if __name__ == "__main__":
    main()
