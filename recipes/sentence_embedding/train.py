"""Train a sentence encoder by a teacher's embeddings, compare both and write everything into output_dir.

    python recipes/sentence_embedding/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/sentence_embedding/train.py CONFIG.yaml ...
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.sentence_embedding import DataArguments, load_texts, pairs_of, tokenize
from seqdyconv.data.splits import HELD_OUT
from seqdyconv.errors import exit_on_error
from seqdyconv.training.arguments import command_line, parse_arguments
from seqdyconv.training.classifiers import check_reads
from seqdyconv.training.reports import score_text
from seqdyconv.training.runs import Run, is_finished
from seqdyconv.training.sentence_embedding import (
    ModelArguments,
    SentenceTrainer,
    SentenceTrainingArguments,
    TeachingArguments,
    build_models,
    check_together,
    nearness,
    quality,
    targets_of,
    with_targets,
    write_cosines,
)
from seqdyconv.training.sentence_encoders import write_sentence_transformer
from seqdyconv.training.sentence_evaluation import (
    TaskArguments,
    compare,
    describe,
    load_tasks,
)
from seqdyconv.training.swapping import SwapArguments, check_swap, swap_in_words, swap_layers, swapped_layers

from datasets import DatasetDict
from transformers import set_seed

ARGUMENTS = (
    ModelArguments,
    SwapArguments,
    TeachingArguments,
    DataArguments,
    TaskArguments,
    SentenceTrainingArguments,
)


def main(argv: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(ARGUMENTS, argv, description=__doc__)
    with exit_on_error():
        train(*parsed, command_line("recipes/sentence_embedding/train.py", argv))


def train(
    model_args: ModelArguments,
    swap_args: SwapArguments,
    teaching: TeachingArguments,
    data_args: DataArguments,
    task_args: TaskArguments,
    args: SentenceTrainingArguments,
    command: str,
) -> None:
    check_together(model_args, swap_args, teaching)  # what can't be stops here, before any work
    run = Run(args, (model_args, swap_args, teaching, data_args, task_args), command)
    with run.preparation():
        texts = load_texts(data_args)
        run.check_splits(texts)
        tasks = load_tasks(task_args, data_args.language)
        set_seed(args.seed)
        model, teacher = build_models(model_args, swap_args, teaching, data_args.max_length)
        tokenizer = teacher.tokenizer
        pairs = {split: pairs_of(texts[split], data_args) for split in HELD_OUT if split in texts}
        texts = DatasetDict({"train": texts["train"], **{split: chosen for split, (chosen, _) in pairs.items()}})
        data = tokenize(texts, tokenizer, data_args.max_length)
        check_reads(model, data, "the model")
        check_swap(model, tokenizer, data, swap_args, args)
        if run.begin(data):
            tokenizer.save_pretrained(run.output_dir)

    finished = args.resume and is_finished(run.output_dir)
    for split in data:
        if split != "train" or not finished:
            data[split] = with_targets(data[split], teacher, args, f"the {split} texts")
    places = {split: rows for split, (_, rows) in pairs.items()}
    measured = data.get("validation"), places.get("validation")  # of the choice of layers
    spearman = partial(quality, tokenizer, *measured, args)
    swap_layers(model, tokenizer, data["train"], swap_args, args, spearman)
    trainer = SentenceTrainer(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data.get("validation"),
        processing_class=tokenizer,
        pairs=places.get("validation"),
        teaching=teaching,
        teacher=teacher,
        dropout=model_args.model_name_or_path is None,  # that of a pretrained model is noise beside what it is taught
    )
    metrics = run.train(trainer, "examples")

    examples: list[dict[str, str]] = []
    for split in run.held_out(texts):
        vectors = trainer.vectors(data[split])
        if run.is_first:
            compared = vectors, targets_of(data[split]), places[split]
            metrics |= {f"{split}_{name}": value for name, value in nearness(*compared).items()}
            metrics[f"{split}_pairs"] = len(places[split])
            examples = write_cosines(run.output_dir, split, *compared, texts[split]["text"][:])
    if run.is_first:
        if args.do_predict:
            taught_by = teacher if task_args.evaluate_teacher else None
            with trainer.evaluating() as trained:
                metrics |= compare(trained, tokenizer, taught_by, tasks, args.max_tokens)
        report(run, trainer, metrics | describe(tasks), examples, model_args, data_args)
        write_sentence_transformer(run.output_dir, trainer.model, trainer.reading)


def report(
    run: Run,
    trainer: SentenceTrainer,
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    model_args: ModelArguments,
    data_args: DataArguments,
) -> None:
    """Metrics, learning curves, the model card, and a summary on the screen."""
    kind = f"An encoder with {' and '.join(sorted(set(model_args.encoder_layer_types)))} layers"
    if model_args.model_name_or_path is not None:
        kind = model_args.model_name_or_path
    if swapped := swapped_layers(trainer.model):
        metrics["swapped_layers"] = swapped
        kind += f" with {swap_in_words(trainer.model)}"
    run.write_metrics(metrics)
    panels = {"eval_spearman": "validation: Spearman with the teacher × 100", "eval_cosine": "validation: cosine"}
    run.plot_learning_curves(trainer, f"Sentence embeddings: {data_args.source}", panels, "distance to the teacher")
    run.write_model_card(
        "sentence embeddings",
        metrics,
        summary=f"{kind}, {metrics['parameters'] / 1e6:.1f} million parameters, whose vectors of texts are learnt from "
        f"those of a teacher; it reads up to {trainer.reading.max_length} tokens. Trained with seqdyconv.",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "seqdyconv"],
        languages=[],
        data={
            "data sets": data_args.source,
            "training texts": len(trainer.train_dataset),
            **{f"{split} pairs": metrics[f"{split}_pairs"] for split in HELD_OUT if f"{split}_pairs" in metrics},
        },
        usage=USAGE,
        examples=examples,
    )
    rows = {}
    for split in HELD_OUT:
        if f"{split}_spearman" in metrics:
            rows[f"{split}, Spearman × 100"] = score_text(metrics, f"{split}_spearman")
            rows[f"{split}, cosine"] = f"{metrics[f'{split}_cosine']:.4f}"
    for name in [name.removeprefix("kept_") for name in metrics if name.startswith("kept_")]:
        rows[name] = f"{metrics[f'test_{name}']:.2f}   (teacher {metrics[f'teacher_{name}']:.2f})"
    run.print_summary(metrics, examples, rows)


USAGE = """
import seqdyconv.swap  # registers the model with the Auto classes
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer(".")  # this folder
print(encoder.encode(["...", "..."]).shape)
"""


if __name__ == "__main__":
    main()
