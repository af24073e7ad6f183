"""Train a language model, evaluate it on the test set and write everything into output_dir.

    python recipes/language_modeling/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/language_modeling/train.py CONFIG.yaml ...
"""

import lzma
import time
from collections.abc import Sequence
from typing import Any

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.language_modeling import DataArguments, load_documents, make_tokenizer, tokenize
from seqdyconv.data.splits import HELD_OUT
from seqdyconv.data.text_streams import StreamedBatches, TextStream
from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.models.loading import check_packing, load_tokenizer
from seqdyconv.training.arguments import command_line, parse_arguments
from seqdyconv.training.distilling import TeacherArguments
from seqdyconv.training.hybrid_language_models import check_together, costs_of, make_teacher, make_trainer
from seqdyconv.training.language_models import (
    ContinuationArguments,
    LanguageModelTrainer,
    LanguageModelTrainingArguments,
    ModelArguments,
    build_model,
    check_model,
    go_on,
)
from seqdyconv.training.masked_language_models import fill_in
from seqdyconv.training.reports import evenly_spaced
from seqdyconv.training.runs import Run
from seqdyconv.training.swapping import NamedSwapArguments, check_swap, swap_layers

from datasets import Dataset
from transformers import set_seed

ARGUMENTS = (ModelArguments, NamedSwapArguments, TeacherArguments, DataArguments, LanguageModelTrainingArguments)


def main(argv: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(ARGUMENTS, argv, description=__doc__)
    with exit_on_error():
        train(*parsed, command_line("recipes/language_modeling/train.py", argv))


def train(
    model_args: ModelArguments,
    swap_args: NamedSwapArguments,
    teacher_args: TeacherArguments,
    data_args: DataArguments,
    args: LanguageModelTrainingArguments,
    command: str,
) -> None:
    check_model(model_args)  # what can't be stops here, before any work
    check_together(model_args, swap_args, teacher_args)
    if args.packing and data_args.join_documents:
        raise InputError("packing puts documents that are not joined into a row: it needs join_documents: false")
    if data_args.streaming and args.max_steps < 1:
        raise InputError("streaming has no end: it needs max_steps")
    if data_args.streaming and args.dataloader_num_workers > 0:
        raise InputError("streaming reads in the process that trains: it needs dataloader_num_workers: 0")
    run = Run(args, (model_args, swap_args, teacher_args, data_args), command)
    with run.preparation():
        if model_args.model_name_or_path is not None and data_args.tokenizer_name is None:
            data_args.tokenizer_name = model_args.model_name_or_path
        texts = load_documents(data_args)
        run.check_splits(texts)
        if run.has_tokenizer:
            tokenizer: Any = load_tokenizer(str(run.output_dir))
        else:
            is_new = model_args.model_name_or_path is None
            tokenizer = make_tokenizer(data_args, texts["train"], new_model=is_new, masks=model_args.is_masked)
        data = tokenize(texts, tokenizer, data_args)
        set_seed(args.seed)
        model = build_model(model_args, tokenizer, data)
        if args.packing:
            check_packing(model)
        check_swap(model, tokenizer, data, swap_args, args)
        teacher = make_teacher(model, tokenizer, data, teacher_args, model_args, args)
        if run.begin(data):
            tokenizer.save_pretrained(run.output_dir)

    swap_layers(model, tokenizer, data["train"], swap_args, args)
    trainer = make_trainer(
        model_args,
        tokenizer,
        teacher,
        teacher_args,
        model=model,
        args=args,
        train_dataset=stream_batches(data_args, args, tokenizer) if data_args.streaming else data["train"],
        eval_dataset=data.get("validation"),
    )
    metrics = run.train(trainer, "tokens")

    examples: list[dict[str, str]] = []
    for split in run.held_out(texts):
        start = time.perf_counter()
        metrics |= {f"{split}_{name}": value for name, value in costs_of(trainer, data[split]).items()}
        metrics |= describe(texts[split], split) | {f"{split}_seconds": time.perf_counter() - start}
        if run.is_first:
            examples = continuations(trainer, tokenizer, texts[split], model_args)
    if run.is_first:
        report(run, trainer, metrics, examples, model_args, swap_args, data_args)


def stream_batches(data_args: DataArguments, args: LanguageModelTrainingArguments, tokenizer: Any) -> StreamedBatches:
    """As many batches as the training has, of documents that are read meanwhile."""
    rows = max(1, args.max_tokens // data_args.block_size)
    number = args.max_steps * args.gradient_accumulation_steps * args.world_size
    return StreamedBatches(TextStream(data_args), tokenizer, data_args.block_size, rows, number)


def describe(texts: Dataset, split: str) -> dict[str, float]:
    """The size of a split, and the bits per byte that xz, a compressor, needs for it."""
    written = "\n".join(texts["text"]).encode()
    return {
        f"{split}_documents": len(texts),
        f"{split}_bytes": sum(len(text.encode()) for text in texts["text"]),
        f"{split}_xz_bits_per_byte": 8 * len(lzma.compress(written, preset=9)) / len(written),
    }


def continuations(
    trainer: LanguageModelTrainer, tokenizer: Any, texts: Dataset, model_args: ModelArguments
) -> list[dict[str, str]]:
    """How the model goes on with the first words of some documents, or fills in what is masked there."""
    set_seed(trainer.args.seed)
    rows = evenly_spaced(len(texts), 3)
    begun = [" ".join(texts[row]["text"].split()[:6]) for row in rows]
    with trainer.evaluating() as model:
        if model_args.is_masked:
            filled = (fill_in(model, tokenizer, " ".join(texts[row]["text"].split()[:40])) for row in rows)
            return [{"masked": masked, "filled in": found} for masked, found in filled]
        settings = ContinuationArguments(max_new_tokens=40)
        return [{"beginning": text, "continued": go_on(model, tokenizer, text, settings)} for text in begun]


def report(
    run: Run,
    trainer: LanguageModelTrainer,
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    model_args: ModelArguments,
    swap_args: NamedSwapArguments,
    data_args: DataArguments,
) -> None:
    """Metrics, learning curves, the model card, and a summary on the screen."""
    run.write_metrics(metrics)
    panels = {"eval_bits_per_byte": "validation bits per byte"}
    if model_args.is_masked:
        panels = {"eval_masked_accuracy": "validation: right masked tokens (%)"}
    run.plot_learning_curves(trainer, f"Language model: {data_args.source}", panels)
    layer_types = model_args.encoder_layer_types if model_args.is_masked else model_args.decoder_layer_types
    kind = f"A {'masked ' * model_args.is_masked}language model with {' and '.join(sorted(set(layer_types)))} layers"
    if model_args.model_name_or_path is not None:
        kind = f"{model_args.model_name_or_path}, trained further,"
        if swap_args.swap_mixer is not None:
            kind += f" with {swap_args.swap_mixer} for self-attention in layers: {swap_args.swap_layers or 'all'},"
    run.write_model_card(
        "language model",
        metrics,
        summary=f"{kind} of {metrics['parameters'] / 1e6:.1f} million parameters, trained with seqdyconv.",
        tags=["fill-mask" if model_args.is_masked else "text-generation", "seqdyconv"],
        languages=[],
        data={
            "data set": data_args.source,
            "training rows": "read while training" if data_args.streaming else len(trainer.train_dataset),
            **{f"{split} documents": metrics[f"{split}_documents"] for split in HELD_OUT if f"{split}_loss" in metrics},
        },
        usage=USAGE_OF_MASKED if model_args.is_masked else USAGE,
        examples=examples,
    )
    rows = {}
    for split in HELD_OUT:
        if f"{split}_loss" in metrics:
            rows[f"{split} perplexity"] = f"{metrics[f'{split}_perplexity']:.2f}"
            if model_args.is_masked:
                rows[f"{split}, right masked tokens"] = f"{metrics[f'{split}_masked_accuracy']:.2f}%"
            else:
                rows[f"{split} bits per byte"] = f"{metrics[f'{split}_bits_per_byte']:.3f}"
                if (taught := metrics.get(f"{split}_teacher_bits_per_byte")) is not None:
                    rows[f"{split}, the teacher"] = f"{taught:.3f} bits per byte"
                rows[f"{split}, xz"] = f"{metrics[f'{split}_xz_bits_per_byte']:.3f} bits per byte"
    run.print_summary(metrics, examples, rows)


USAGE_OF_MASKED = """
import seqdyconv.models  # registers the model with the Auto classes
from transformers import pipeline

fill_in = pipeline("fill-mask", model=".")  # this folder; the classification recipe takes it as model_name_or_path
print(fill_in("... <mask> ..."))
"""
USAGE = """
import seqdyconv.models  # registers the model with the Auto classes
from transformers import pipeline

generate = pipeline("text-generation", model=".")  # this folder
print(generate("...", max_new_tokens=50)[0]["generated_text"])
"""


if __name__ == "__main__":
    main()
