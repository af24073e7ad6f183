"""Evaluate a sentence encoder: nearness to a teacher, retrieval, clusters and nearest neighbours.

    python recipes/sentence_embedding/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any sentence encoder. Data, tasks and teacher are those
of the run unless keys such as --retrieval, --labelled_datasets or --teacher_name_or_path say otherwise.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.sentence_embedding import DataArguments, load_texts, pairs_of
from seqdyconv.errors import exit_on_error
from seqdyconv.ranges import Count
from seqdyconv.training.arguments import command_line
from seqdyconv.training.evaluation import EvaluationArguments, parse_model_arguments, write_evaluation
from seqdyconv.training.sentence_embedding import load_teacher, nearness, teacher_of_run, write_cosines
from seqdyconv.training.sentence_encoders import load_sentence_encoder
from seqdyconv.training.sentence_evaluation import (
    TaskArguments,
    compare,
    describe,
    load_tasks,
    teacher_embedder,
    text_embedder,
)

from transformers.utils.logging import disable_progress_bar


@dataclass
class SentenceEvaluationArguments(EvaluationArguments):
    """What to evaluate."""

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "The encoder to compare with; None is the teacher of the run, if there is one."}
    )
    teacher_max_length: Count | None = field(
        default=None, metadata={"help": "What it reads at once; None is all that it has positions for."}
    )
    max_tokens: Count = field(default=8000, metadata={"help": "Tokens of a batch, padding included."})


def main(argv: Sequence[str] | None = None) -> None:
    groups = (DataArguments, TaskArguments)
    of_the_run = {item.name for group in groups for item in dataclasses.fields(group)} | {"teacher_max_length"}
    types = (SentenceEvaluationArguments, *groups)
    args, data_args, task_args = parse_model_arguments(types, argv, of_the_run=of_the_run, description=__doc__)
    with exit_on_error():
        evaluate(args, data_args, task_args, command_line("recipes/sentence_embedding/evaluate.py", argv))


def evaluate(
    args: SentenceEvaluationArguments, data_args: DataArguments, task_args: TaskArguments, command: str
) -> None:
    disable_progress_bar()  # That of loading weights.
    model, tokenizer, reading = load_sentence_encoder(args.model_dir)
    model.to(args.device)
    tasks = load_tasks(task_args, data_args.language)
    name = args.teacher_name_or_path or teacher_of_run(args.model_dir)
    teacher = None if name is None else load_teacher(name, args.teacher_max_length, reading.max_length)

    start, metrics = time.perf_counter(), {}
    args.folder.mkdir(parents=True, exist_ok=True)
    if teacher is not None:
        teacher.model.to(args.device)
        texts, pairs = pairs_of(load_texts(data_args, (args.split,))[args.split], data_args)
        given = texts["text"][:]
        own = text_embedder(model, tokenizer, reading, args.max_tokens)(given, f"the {args.split} texts")
        theirs = teacher_embedder(teacher, reading.max_length, args.max_tokens, windows=True)(
            given, "them, the teacher"
        )
        metrics |= {f"{args.split}_{score}": value for score, value in nearness(own, theirs, pairs).items()}
        metrics[f"{args.split}_pairs"] = len(pairs)
        write_cosines(args.folder, args.split, own, theirs, pairs, given)
    compared = teacher if task_args.evaluate_teacher else None
    metrics |= compare(model, tokenizer, compared, tasks, args.max_tokens) | describe(tasks)
    metrics |= {
        f"{args.split}_seconds": time.perf_counter() - start,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    write_evaluation(args, (data_args, task_args), command, metrics)
    for score, value in metrics.items():
        if not score.endswith(("_low", "_high")):
            print(f"{score:<40}{value:.4f}" if isinstance(value, float) else f"{score:<40}{value:,}")
    print(f"written to {args.folder}")


if __name__ == "__main__":
    main()
