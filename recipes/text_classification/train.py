"""Train a text classification model, evaluate it on the test set and write everything into output_dir.

    python recipes/text_classification/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/text_classification/train.py CONFIG.yaml ...
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from seqdyconv import DynamicConv1d, LightweightConv1d
from seqdyconv.data.text_classification import (
    DataArguments,
    DataError,
    check_labels,
    load_classification_datasets,
    load_unlabelled_texts,
    make_tokenizer,
)
from seqdyconv.data.text_rows import tokenize
from seqdyconv.models.loading import ModelError, check_packing, load_tokenizer
from seqdyconv.pictures import plot_kernels, plot_learning_curves
from seqdyconv.scores.text_classification import majority_accuracy, score, svm_accuracy, write_split
from seqdyconv.swap import swapped_attention
from seqdyconv.training.arguments import (
    changed_arguments,
    command_line,
    exit_on_error,
    parse_arguments,
    resolved_arguments,
)
from seqdyconv.training.checkpoints import latest_checkpoint, remove_incomplete_checkpoints
from seqdyconv.training.classifiers import (
    ModelArguments,
    build_config,
    build_model,
    classify,
    known_labels,
    resolve_name,
)
from seqdyconv.training.distilling import DistillationArguments, distil, distillation_metrics, make_teacher
from seqdyconv.training.output_dir import begin_run, check_output_dir, check_resumed_arguments
from seqdyconv.training.reports import write_metrics, write_model_card
from seqdyconv.training.runs import is_finished, train_or_load
from seqdyconv.training.swapping import SwapArguments, check_swap, swap_layers
from seqdyconv.training.text_classification import (
    ClassificationTrainer,
    ClassificationTrainingArguments,
    DistilledClassificationTrainer,
    balanced_weights,
    labels_of_texts,
)

HELD_OUT = ("validation", "test")

# What a resumed run may change: none of these alters the weights.
MAY_CHANGE = {
    *("output_dir", "resume", "overwrite", "run_name", "report_to", "disable_tqdm", "svm_baseline"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_level", "log_level_replica", "log_on_each_node"),
    *("save_strategy", "save_steps", "save_total_limit", "average_checkpoints"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("hub_token", "push_to_hub_token", "max_test_samples", "ddp_timeout"),
}


ARGUMENTS = (ModelArguments, SwapArguments, DistillationArguments, DataArguments, ClassificationTrainingArguments)


def main(argv: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(ARGUMENTS, argv, description=__doc__)
    command = command_line("recipes/text_classification/train.py", argv)
    with exit_on_error():
        run(*parsed, command)


def run(
    model_args: ModelArguments,
    swap_args: SwapArguments,
    distil_args: DistillationArguments,
    data_args: DataArguments,
    args: ClassificationTrainingArguments,
    command: str,
) -> None:
    started = time.perf_counter()
    disable_progress_bar()  # That of saving weights; the bar of the training stays.
    check_together(model_args, swap_args, distil_args, args)
    arguments = resolved_arguments(model_args, swap_args, distil_args, data_args, args)
    output_dir = Path(args.output_dir)
    first = args.process_index == 0

    # The first process goes ahead and writes, the others read what it wrote. Nothing is written before all is checked.
    with args.main_process_first(local=False, desc="preparation"):
        if first:
            check_output_dir(output_dir, args.resume, args.overwrite)
            if args.resume:
                check_resumed_arguments(output_dir, arguments, MAY_CHANGE)
        checkpoint = latest_checkpoint(output_dir) if args.resume else None
        if model_args.model_name_or_path is not None and data_args.tokenizer_name is None:
            data_args.tokenizer_name = resolve_name(model_args.model_name_or_path)
        texts, labels = load_texts(model_args, data_args)
        if "validation" not in texts and args.eval_strategy != "no":
            raise DataError("there is no validation data: give some, or eval_strategy: no")
        if first and not (args.resume and (output_dir / "tokenizer_config.json").is_file()):
            tokenizer = make_tokenizer(data_args, texts["train"])
        else:
            tokenizer = load_tokenizer(str(output_dir))
        data = tokenize(texts, tokenizer, data_args)
        set_seed(args.seed)
        model = build_model(model_args, tokenizer, labels, pairs="token_type_ids" in data["train"].column_names)
        if args.packing:
            check_packing(model)
        check_swap(model, tokenizer, data, swap_args, args)
        teacher = make_teacher(model, distil_args, model_args.model_name_or_path)
        if first and args.resume:
            for folder in (output_dir, output_dir / "distillation"):
                remove_incomplete_checkpoints(folder)
        if first and checkpoint is None:
            begin_run(output_dir, arguments, args.overwrite)
            tokenizer.save_pretrained(output_dir)

    def accuracy(candidate: PreTrainedModel) -> float:
        probabilities = classify(candidate, tokenizer, data["validation"], batch_size=32)
        return score(probabilities, labels_of_texts(data["validation"]))["accuracy"]

    swap_layers(model, tokenizer, data["train"], swap_args, args, accuracy)
    metrics: dict[str, Any] = {}
    if distil_args.distil_epochs and checkpoint is None and not (args.resume and is_finished(output_dir)):
        unlabelled = tokenize(DatasetDict({"unlabelled": load_unlabelled_texts(data_args)}), tokenizer, data_args)
        metrics |= distil(model, teacher, tokenizer, unlabelled["unlabelled"], distil_args, args)

    trainer = make_trainer(model, teacher, tokenizer, data, distil_args, args)
    seconds = train_or_load(trainer, checkpoint)
    metrics |= {
        **distillation_metrics(output_dir),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "train_steps": trainer.state.global_step,
    }
    if swapped := swapped_attention(trainer.model):
        metrics["swapped_layers"] = numbers_of(swapped)
    if seconds is not None:
        training_seconds = seconds - trainer.evaluation_seconds
        metrics |= {
            "train_seconds": seconds,
            "train_seconds_without_evaluation": training_seconds,
            "train_examples_per_second": int(trainer.trained_items) / training_seconds,
        }
    if checkpoint is not None:
        metrics["resumed_from_step"] = int(checkpoint.name.split("-")[1])

    examples: list[dict[str, str]] = []
    for split in HELD_OUT:
        if split in texts:
            start = time.perf_counter()
            probabilities = trainer.classify(data[split])
            seconds = time.perf_counter() - start
            references = texts[split]["label"][:]
            if first:
                title = f"{data_source(data_args)}, {split}"
                found = write_split(output_dir, split, probabilities, references, labels, title)
                metrics |= {f"{split}_{name}": value for name, value in found.items()}
                metrics[f"{split}_examples_per_second"] = len(references) / seconds
                examples = spread_examples(texts[split], probabilities, labels, 4)
    if not first:
        return
    metrics |= baselines(texts, args)
    metrics["wall_seconds"] = time.perf_counter() - started
    write_metrics(output_dir / "metrics.json", metrics)
    groups = (model_args, swap_args, distil_args, data_args, args)
    draw_kernels(trainer, texts["test" if "test" in texts else "train"], output_dir)
    report(
        trainer, labels, metrics, examples, changed_arguments(arguments, *groups), data_args, model_args, args, command
    )
    print_summary(metrics, examples, output_dir)


def check_together(
    model_args: ModelArguments,
    swap_args: SwapArguments,
    distil_args: DistillationArguments,
    args: ClassificationTrainingArguments,
) -> None:
    """Refuse what can't be before the data are read."""
    if args.packing and (swap_args.swap_mixer is not None or distil_args.used):
        raise ModelError("packing is for models of seqdyconv, without swap_mixer and distillation")
    if model_args.model_name_or_path is None:
        build_config(model_args)
        if swap_args.swap_mixer is not None:
            raise ModelError("swap_mixer swaps the self-attention of a pretrained model: give model_name_or_path")
        if swap_args.swap_greedy_max_loss is not None:
            raise ModelError("swap_greedy_max_loss needs model_name_or_path and swap_mixer")
        if distil_args.used:
            raise ModelError("a new model has no teacher: distillation needs model_name_or_path")
    elif swap_args.swap_greedy_max_loss is not None:
        if swap_args.swap_mixer is None:
            raise ModelError("swap_greedy_max_loss needs swap_mixer")
        if known_labels(model_args.model_name_or_path) is None:
            raise ModelError(
                f"swap_greedy_max_loss measures a model that does its task, and {model_args.model_name_or_path} isn't "
                "trained for classification: fine-tune it first"
            )
    if swap_args.swap_mixer is None and distil_args.used and distil_args.teacher_name_or_path is None:
        raise ModelError("without swap_mixer the model would be its own teacher: give teacher_name_or_path")
    if distil_args.teacher_name_or_path is not None and not distil_args.used:
        raise ModelError("teacher_name_or_path has no effect without distil_epochs or matching_weight")


def load_texts(model_args: ModelArguments, data_args: DataArguments) -> tuple[DatasetDict, list[str]]:
    """All splits and the names of the labels by id, in the order of a model that knows them already."""
    texts = load_classification_datasets(data_args)
    labels = texts["train"].features["label"].names
    known = None if model_args.model_name_or_path is None else known_labels(model_args.model_name_or_path)
    if known is not None and (names := check_labels(known, labels)) != labels:
        return load_classification_datasets(data_args, label_names=names), names
    return texts, labels


# Training


def make_trainer(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    distil_args: DistillationArguments,
    args: ClassificationTrainingArguments,
) -> ClassificationTrainer:
    """The trainer of the task, with the teacher's terms if they are on."""
    weights = None
    if args.class_weights == "balanced":
        weights = balanced_weights(data["train"]["labels"][:], model.config.num_labels)
    options: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": data["train"],
        "eval_dataset": data.get("validation"),
        "processing_class": tokenizer,
        "class_weights": weights,
    }
    if teacher is None or not (distil_args.matching_weight or distil_args.distil_logits_weight):
        return ClassificationTrainer(**options)
    return DistilledClassificationTrainer(
        **options,
        teacher=teacher,
        matching_weight=distil_args.matching_weight,
        matching_until=distil_args.matching_until,
        logits_weight=distil_args.distil_logits_weight,
        temperature=distil_args.distil_temperature,
    )


# Reports


def baselines(texts: DatasetDict, args: ClassificationTrainingArguments) -> dict[str, float]:
    """Test accuracy of the majority label, and of a linear SVM if asked for."""
    if "test" not in texts:
        return {}
    train, test = texts["train"], texts["test"]
    metrics = {"majority_accuracy": majority_accuracy(train["label"][:], test["label"][:])}
    if args.svm_baseline:
        start = time.perf_counter()
        found = svm_accuracy(whole_texts(train), train["label"][:], whole_texts(test), test["label"][:])
        metrics |= {f"svm_test_{name}": value for name, value in found.items()}
        metrics["svm_seconds"] = time.perf_counter() - start
    return metrics


def whole_texts(texts: Dataset) -> list[str]:
    if "text_pair" not in texts.column_names:
        return texts["text"][:]
    return [f"{one} {other}" for one, other in zip(texts["text"], texts["text_pair"])]


def data_source(data_args: DataArguments) -> str:
    source = data_args.dataset or "local files"
    return f"{source} ({data_args.dataset_config})" if data_args.dataset_config else source


def numbers_of(swapped: Mapping[int, Any]) -> str:
    return ", ".join(map(str, swapped))


def spread_examples(texts: Dataset, probabilities: Any, labels: Sequence[str], number: int) -> list[dict[str, str]]:
    """A few texts, evenly spaced, with what was predicted."""
    chosen = range(len(texts))[:: max(1, len(texts) // number)][:number]
    return [
        {
            "text": " / ".join(shortened(texts[index][name]) for name in ("text", "text_pair") if name in texts[index]),
            "right label": labels[texts[index]["label"]],
            "predicted": f"{labels[probabilities[index].argmax()]} ({probabilities[index].max():.2f})",
        }
        for index in chosen
    ]


def shortened(text: str, length: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[:length].rsplit(' ', 1)[0]} ..."


def draw_kernels(trainer: ClassificationTrainer, texts: Dataset, output_dir: Path) -> None:
    """The kernels of a text that is short enough to be read, where the model has any."""
    tokenizer: Any = trainer.processing_class
    candidates = texts.select(range(min(500, len(texts))))
    columns = [name for name in ("text", "text_pair") if name in texts.column_names]
    lengths = [len(ids) for ids in tokenizer(*(candidates[name][:] for name in columns))["input_ids"]]
    best = min(range(len(lengths)), key=lambda index: abs(lengths[index] - 16))
    text = tuple(candidates[best][name] for name in columns)
    if lengths[best] > 64 or not all(text):
        return
    if any(isinstance(module, (LightweightConv1d, DynamicConv1d)) for module in trainer.model.modules()):
        plot_kernels(trainer.model, text if len(text) == 2 else text[0], tokenizer, path=output_dir / "kernels.png")


def report(
    trainer: ClassificationTrainer,
    labels: Sequence[str],
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    config: dict[str, Any],
    data_args: DataArguments,
    model_args: ModelArguments,
    args: ClassificationTrainingArguments,
    command: str,
) -> None:
    """The learning curves and the model card."""
    output_dir, source = Path(args.output_dir), data_source(data_args)
    plot_learning_curves(
        trainer.state.log_history,
        output_dir / "learning_curves.png",
        f"Text classification: {source}",
        {"eval_accuracy": "validation accuracy (%)", "eval_macro_f1": "validation macro-F1 (%)"},
        training_label="training (label smoothing)" if args.label_smoothing_factor else "training",
        loss_label="loss (nats per text)",
    )
    if model_args.model_name_or_path is None:
        kind = f"An encoder with {' and '.join(sorted(set(model_args.encoder_layer_types)))} layers"
    else:
        kind = f"{model_args.model_name_or_path}, fine-tuned,"
        if swapped := swapped_attention(trainer.model):
            mixers = {entry["mixer"] for entry in trainer.model.config.seqdyconv["layers"].values()}
            kind += f" with {' and '.join(sorted(mixers))} instead of self-attention in layers {numbers_of(swapped)},"
    names = ", ".join(labels[:20]) + (" and others" if len(labels) > 20 else "")
    write_model_card(
        output_dir / "README.md",
        name=f"{output_dir.name}: text classification",
        summary=f"{kind} of {metrics['parameters'] / 1e6:.1f} million parameters that sorts texts into {len(labels)} "
        f"classes ({names}), trained with seqdyconv.",
        tags=["text-classification", "seqdyconv"],
        languages=[],
        data={
            "data set": source,
            "training texts": len(labels_of_texts(trainer.train_dataset)),
            **{f"{split} texts": metrics[f"{split}_examples"] for split in HELD_OUT if f"{split}_examples" in metrics},
        },
        results=metrics,
        usage=SWAPPED_USAGE if swapped_attention(trainer.model) else USAGE,
        command=command,
        config=config,
        examples=examples,
        picture="learning_curves.png",
    )


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


def print_summary(metrics: dict[str, Any], examples: list[dict[str, str]], output_dir: Path) -> None:
    print()
    for lines in examples:
        print("\n".join(f"  {label:<12}{text}" for label, text in lines.items()) + "\n")
    if "test_accuracy" in metrics:
        print(f"test accuracy               {metrics['test_accuracy']:.2f}")
        print(f"test macro-F1               {metrics['test_macro_f1']:.2f}")
        if "svm_test_accuracy" in metrics:
            found = (metrics["svm_test_accuracy"], metrics["svm_test_macro_f1"])
            print(f"TF-IDF and linear SVM       {found[0]:.2f}   (macro-F1 {found[1]:.2f})")
        print(f"majority label              {metrics['majority_accuracy']:.2f}")
    print(f"parameters                  {metrics['parameters']:,}")
    if "train_seconds" in metrics:
        print(f"training, texts/s           {metrics['train_examples_per_second']:.0f}")
        print(f"training time               {metrics['train_seconds']:.0f} s, {metrics['train_steps']} steps")
    print(f"wall time                   {metrics['wall_seconds']:.0f} s")
    print(f"written to                  {output_dir}")


if __name__ == "__main__":
    main()
