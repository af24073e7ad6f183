"""Train a text classification model, evaluate it on the test set and write everything into output_dir.

    python recipes/text_classification/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/text_classification/train.py CONFIG.yaml ...
"""

import textwrap
import time
from collections.abc import Sequence
from typing import Any

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.splits import HELD_OUT
from seqdyconv.data.text_classification import (
    DataArguments,
    load_classification_datasets,
    load_unlabelled_texts,
    make_tokenizer,
)
from seqdyconv.data.text_rows import tokenize
from seqdyconv.errors import exit_on_error
from seqdyconv.models.loading import check_packing, load_tokenizer
from seqdyconv.scores.text_classification import baselines, score, write_split
from seqdyconv.training.arguments import command_line, parse_arguments
from seqdyconv.training.classifiers import ModelArguments, build_model, classify, labels_of_data, resolve_name
from seqdyconv.training.distilling import DistillationArguments, distil, distillation_metrics, make_teacher
from seqdyconv.training.reports import plain_markdown, score_text, spread_examples
from seqdyconv.training.runs import Run
from seqdyconv.training.swapping import SwapArguments, check_swap, swap_in_words, swap_layers, swapped_layers
from seqdyconv.training.text_classification import (
    ClassificationTrainer,
    ClassificationTrainingArguments,
    DistilledClassificationTrainer,
    balanced_weights,
    check_together,
    draw_kernels,
    labels_of_texts,
)

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, set_seed

ARGUMENTS = (ModelArguments, SwapArguments, DistillationArguments, DataArguments, ClassificationTrainingArguments)


def main(argv: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(ARGUMENTS, argv, description=__doc__)
    with exit_on_error():
        train(*parsed, command_line("recipes/text_classification/train.py", argv))


def train(
    model_args: ModelArguments,
    swap_args: SwapArguments,
    distil_args: DistillationArguments,
    data_args: DataArguments,
    args: ClassificationTrainingArguments,
    command: str,
) -> None:
    check_together(model_args, swap_args, distil_args, args)  # what can't be stops here, before any work
    run = Run(args, (model_args, swap_args, distil_args, data_args), command)
    with run.preparation():
        if model_args.model_name_or_path is not None and data_args.tokenizer_name is None:
            data_args.tokenizer_name = resolve_name(model_args.model_name_or_path)
        texts = load_classification_datasets(data_args)
        labels = labels_of_data(texts, model_args.model_name_or_path)
        if labels != texts["train"].features["label"].names:  # a trained model has them in another order
            texts = load_classification_datasets(data_args, label_names=labels)
        run.check_splits(texts)
        if run.has_tokenizer:
            tokenizer = load_tokenizer(str(run.output_dir))
        else:
            tokenizer = make_tokenizer(data_args, texts["train"], new_model=model_args.model_name_or_path is None)
        data = tokenize(texts, tokenizer, data_args)
        set_seed(args.seed)
        model = build_model(model_args, tokenizer, labels, data)
        if args.packing:
            check_packing(model)
        check_swap(model, tokenizer, data, swap_args, args)
        teacher = make_teacher(model, tokenizer, data, distil_args, model_args.model_name_or_path)
        distils = distil_args.distil_epochs > 0 and not run.goes_on
        more = tokenize(load_unlabelled_texts(data_args), tokenizer, data_args) if distils else {}
        if run.begin(data, {"train": labels}):
            tokenizer.save_pretrained(run.output_dir)

    def accuracy(candidate: PreTrainedModel) -> float:
        probabilities = classify(candidate, tokenizer, data["validation"], batch_size=32)
        return score(probabilities, labels_of_texts(data["validation"]))["accuracy"]

    swap_layers(model, tokenizer, data["train"], swap_args, args, accuracy)
    if teacher is not None and more:
        distil(model, teacher, tokenizer, more["unlabelled"], distil_args, args)

    trainer = make_trainer(model, teacher, tokenizer, data, distil_args, args)
    metrics = run.train(trainer, "examples") | distillation_metrics(run.output_dir)

    examples: list[dict[str, str]] = []
    for split in run.held_out(texts):
        start = time.perf_counter()
        probabilities = trainer.classify(data[split])
        seconds = time.perf_counter() - start
        if run.is_first:
            right = texts[split]["label"][:]
            found = write_split(run.output_dir, split, probabilities, right, labels, f"{data_args.source}, {split}")
            metrics |= {f"{split}_{name}": value for name, value in found.items()}
            metrics[f"{split}_examples_per_second"] = len(right) / seconds
            examples = spread_examples(example_columns(texts[split], probabilities, labels))
    if run.is_first:
        if "test" in run.held_out(texts):
            metrics |= baselines(texts["train"], texts["test"], svm=args.svm_baseline)
        draw_kernels(trainer, texts[(run.held_out(texts) or ["train"])[-1]], run.output_dir / "kernels.png")
        report(run, trainer, labels, metrics, examples, model_args, data_args)


def make_trainer(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    tokenizer: Any,
    data: DatasetDict,
    distil_args: DistillationArguments,
    args: ClassificationTrainingArguments,
) -> ClassificationTrainer:
    """The trainer of the task, with the teacher's terms if they are on."""
    trainer_class: type[ClassificationTrainer] = ClassificationTrainer
    options: dict[str, Any] = {}
    if teacher is not None and distil_args.beside_the_task:
        trainer_class, options = DistilledClassificationTrainer, distil_args.trainer_options(teacher)
    if args.class_weights == "balanced":
        options["class_weights"] = balanced_weights(data["train"]["labels"][:], model.config.num_labels)
    return trainer_class(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data.get("validation"),
        processing_class=tokenizer,
        **options,
    )


def example_columns(texts: Dataset, probabilities: Any, labels: Sequence[str]) -> dict[str, list[str]]:
    """Texts, cut off where they are long, their right labels, and what was predicted how surely."""
    columns = [texts[name] for name in ("text", "text_pair") if name in texts.column_names]
    return {
        "text": [" / ".join(textwrap.shorten(text, 200, placeholder=" ...") for text in row) for row in zip(*columns)],
        "right label": [labels[number] for number in texts["label"]],
        "predicted": [f"{labels[row.argmax()]} ({row.max():.2f})" for row in probabilities],
    }


def report(
    run: Run,
    trainer: ClassificationTrainer,
    labels: Sequence[str],
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    model_args: ModelArguments,
    data_args: DataArguments,
) -> None:
    """Metrics, learning curves, the model card, and a summary on the screen."""
    kind = f"An encoder with {' and '.join(sorted(set(model_args.encoder_layer_types)))} layers"
    if model_args.model_name_or_path is not None:
        kind = f"{model_args.model_name_or_path}, fine-tuned,"
    if swapped := swapped_layers(trainer.model):
        metrics["swapped_layers"] = swapped
        kind += f" with {swap_in_words(trainer.model)},"
    run.write_metrics(metrics)
    panels = {"eval_accuracy": "validation accuracy (%)", "eval_macro_f1": "validation macro-F1 (%)"}
    run.plot_learning_curves(trainer, f"Text classification: {data_args.source}", panels, "loss (nats per text)")
    names = ", ".join(map(plain_markdown, labels[:20])) + (" and others" if len(labels) > 20 else "")
    run.write_model_card(
        "text classification",
        metrics,
        summary=f"{kind} of {metrics['parameters'] / 1e6:.1f} million parameters that sorts texts into {len(labels)} "
        f"classes ({names}), trained with seqdyconv.",
        tags=["text-classification", "seqdyconv"],
        languages=[],
        data={
            "data set": data_args.source,
            "training texts": len(labels_of_texts(trainer.train_dataset)),
            **{f"{split} texts": metrics[f"{split}_examples"] for split in HELD_OUT if f"{split}_examples" in metrics},
        },
        usage=SWAPPED_USAGE if swapped else USAGE,
        examples=examples,
    )
    rows = {}
    if "test_accuracy" in metrics:
        rows = {
            "test accuracy": score_text(metrics, "test_accuracy"),
            "test macro-F1": f"{metrics['test_macro_f1']:.2f}",
        }
        if "svm_test_accuracy" in metrics:
            found = f"{metrics['svm_test_accuracy']:.2f}   (macro-F1 {metrics['svm_test_macro_f1']:.2f})"
            rows["TF-IDF and linear SVM"] = found
        rows["majority label"] = f"{metrics['majority_accuracy']:.2f}"
    run.print_summary(metrics, examples, rows)


USAGE = """
import seqdyconv.models  # registers the model with the Auto classes
from transformers import pipeline

classify = pipeline("text-classification", model=".")  # this folder
print(classify("..."))
"""

SWAPPED_USAGE = """
from seqdyconv.swap import load_swapped
from transformers import AutoTokenizer, pipeline

folder = "."  # this folder
classify = pipeline("text-classification", model=load_swapped(folder), tokenizer=AutoTokenizer.from_pretrained(folder))
print(classify("..."))
"""


if __name__ == "__main__":
    main()
