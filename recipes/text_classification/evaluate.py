"""Evaluate a text classification model on any data.

    python recipes/text_classification/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any model for text classification. The data are those of
the run unless keys such as --test_file or --split say otherwise; their labels must be labels of the model.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.text_classification import DataArguments, load_classification_datasets
from seqdyconv.data.text_rows import tokenize
from seqdyconv.errors import exit_on_error
from seqdyconv.ranges import Count
from seqdyconv.scores.text_classification import write_split
from seqdyconv.training.arguments import command_line
from seqdyconv.training.classifiers import classify, label_names, load_classifier
from seqdyconv.training.evaluation import EvaluationArguments, parse_model_arguments, write_evaluation
from seqdyconv.training.reports import score_text

from datasets import DatasetDict
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar


@dataclass
class ClassificationEvaluationArguments(EvaluationArguments):
    """What to evaluate."""

    batch_size: Count = field(default=32, metadata={"help": "Texts, or windows of texts, of a batch."})


def main(argv: Sequence[str] | None = None) -> None:
    # The model brings its own tokenizer.
    of_the_run = {item.name for item in dataclasses.fields(DataArguments)} - {"tokenizer_name"}
    types = (ClassificationEvaluationArguments, DataArguments)
    args, data_args = parse_model_arguments(types, argv, of_the_run=of_the_run, description=__doc__)
    with exit_on_error():
        evaluate(args, data_args, command_line("recipes/text_classification/evaluate.py", argv))


def evaluate(args: ClassificationEvaluationArguments, data_args: DataArguments, command: str) -> None:
    disable_progress_bar()  # That of loading weights.
    model, tokenizer = load_classifier(args.model_dir)
    model.to(args.device)
    labels = label_names(model)
    texts = load_classification_datasets(data_args, (args.split,), label_names=labels)[args.split]
    rows = tokenize(DatasetDict({args.split: texts}), tokenizer, data_args)[args.split]

    start = time.perf_counter()
    with tqdm(total=len(rows), desc=f"Classifying the {args.split} set") as bar:
        probabilities = classify(model, tokenizer, rows, args.batch_size, bar.update)
    seconds = time.perf_counter() - start

    args.folder.mkdir(parents=True, exist_ok=True)
    title = f"{data_args.dataset or 'local files'}, {args.split}"
    scores = write_split(args.folder, args.split, probabilities, texts["label"][:], labels, title)
    metrics = {
        **{f"{args.split}_{name}": value for name, value in scores.items()},
        f"{args.split}_examples_per_second": len(texts) / seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    write_evaluation(args, (data_args,), command, metrics)

    print(f"{args.split} accuracy    {score_text(metrics, f'{args.split}_accuracy')}")
    print(f"{args.split} macro-F1    {scores['macro_f1']:.2f}")
    print(f"speed            {len(texts) / seconds:.0f} texts/s, {len(texts)} texts in {seconds:.0f} s")
    print(f"written to       {args.folder}")


if __name__ == "__main__":
    main()
