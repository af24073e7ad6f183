"""Evaluate a text classification model on any data.

    python recipes/text_classification/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any model for text classification. The data are those of
the run unless keys such as --test_file or --split say otherwise; their labels must be labels of the model.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import DatasetDict
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar

from seqdyconv.data.text_classification import SPLITS, DataArguments, load_classification_datasets
from seqdyconv.data.text_rows import tokenize
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.scores.text_classification import write_split
from seqdyconv.training.arguments import exit_on_error, parse_arguments
from seqdyconv.training.classifiers import classify, label_names, load_model, resolve_name
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.reports import write_metrics


@dataclass
class EvaluationArguments:
    """What to evaluate."""

    model_dir: str = field(metadata={"help": "The model: a folder, or a name on the Hub."})
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    batch_size: int = field(default=32, metadata={"help": "Texts, or windows of texts, of a batch."})
    evaluation_dir: str | None = field(
        default=None, metadata={"help": "Where to write to; by default MODEL_DIR/evaluation."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Don't use a GPU."})

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    # The model brings its own tokenizer.
    names = {item.name for item in dataclasses.fields(DataArguments)} - {"tokenizer_name"}
    with exit_on_error():
        defaults = run_arguments(words[0], names) if words else {}
    args, data_args = parse_arguments(
        (EvaluationArguments, DataArguments), argv, first="model_dir", defaults=defaults, description=__doc__
    )
    with exit_on_error():
        run(args, data_args)


def run(args: EvaluationArguments, data_args: DataArguments) -> None:
    disable_progress_bar()  # That of loading weights.
    tokenizer = load_tokenizer(resolve_name(args.model_dir))
    model = load_model(args.model_dir)
    if torch.cuda.is_available() and not args.use_cpu:
        model.to("cuda")
    labels = label_names(model)
    texts = load_classification_datasets(data_args, (args.split,), label_names=labels)[args.split]
    rows = tokenize(DatasetDict({args.split: texts}), tokenizer, data_args)[args.split]

    start = time.perf_counter()
    with tqdm(total=len(rows), desc=f"Classifying the {args.split} set") as bar:
        probabilities = classify(model, tokenizer, rows, args.batch_size, bar.update)
    seconds = time.perf_counter() - start

    local = Path(args.model_dir)
    folder = Path(args.evaluation_dir) if args.evaluation_dir else (local if local.is_dir() else Path()) / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{data_args.dataset or 'local files'}, {args.split}"
    scores = write_split(folder, args.split, probabilities, texts["label"][:], labels, title)
    metrics = {
        **{f"{args.split}_{name}": value for name, value in scores.items()},
        f"{args.split}_examples_per_second": len(texts) / seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    write_metrics(folder / "metrics.json", metrics)

    print(f"{args.split} accuracy    {scores['accuracy']:.2f}")
    print(f"{args.split} macro-F1    {scores['macro_f1']:.2f}")
    print(f"speed            {len(texts) / seconds:.0f} texts/s, {len(texts)} texts in {seconds:.0f} s")
    print(f"written to       {folder}")


if __name__ == "__main__":
    main()
