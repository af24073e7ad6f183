"""Train a translation model, evaluate it on the test set and write everything into output_dir.

    python recipes/translation/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/translation/train.py CONFIG.yaml ...
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar
from translation_data import DataArguments, DataError, load_translation_datasets, make_tokenizer, tokenize
from translation_model import ModelArguments, build_config, build_model, load_tokenizer
from translation_scores import score

from seqdyconv.files import write_lines
from seqdyconv.models.loading import check_packing
from seqdyconv.pictures import plot_learning_curves
from seqdyconv.training.arguments import (
    changed_arguments,
    command_line,
    exit_on_error,
    parse_arguments,
    resolved_arguments,
)
from seqdyconv.training.checkpoints import latest_checkpoint, remove_incomplete_checkpoints
from seqdyconv.training.decoding import DecodingArguments
from seqdyconv.training.output_dir import begin_run, check_output_dir, check_resumed_arguments
from seqdyconv.training.reports import write_metrics, write_model_card
from seqdyconv.training.runs import train_or_load
from seqdyconv.training.trainer import TokenBatchTrainer, TokenBatchTrainingArguments

HELD_OUT = ("validation", "test")

# What a resumed run may change: none of these alters the weights.
MAY_CHANGE = {
    *("output_dir", "resume", "overwrite", "run_name", "report_to", "disable_tqdm", "sample_translations"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_level", "log_level_replica", "log_on_each_node"),
    *("save_strategy", "save_steps", "save_total_limit", "average_checkpoints"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("hub_token", "push_to_hub_token", "max_test_samples", "ddp_timeout"),
    *(item.name for item in dataclasses.fields(DecodingArguments)),
}


@dataclass
class TranslationTrainingArguments(TokenBatchTrainingArguments):
    """The training arguments, and what only translation has."""

    generation_examples: int | None = field(
        default=200,
        metadata={
            "help": "predict_with_generate translates that many validation sentences for eval_bleu; None is all."
        },
    )
    sample_translations: int = field(
        default=3, metadata={"help": "Print the translations of that many validation sentences at each evaluation."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    types = (ModelArguments, DataArguments, DecodingArguments, TranslationTrainingArguments)
    parsed = parse_arguments(types, argv, description=__doc__)
    command = command_line("recipes/translation/train.py", argv)
    with exit_on_error():
        run(*parsed, command)


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    decoding_args: DecodingArguments,
    args: TranslationTrainingArguments,
    command: str,
) -> None:
    started = time.perf_counter()
    disable_progress_bar()  # That of saving weights; the bar of the training stays.
    if model_args.model_name_or_path is not None and data_args.tokenizer_name is None:
        data_args.tokenizer_name = model_args.model_name_or_path
    if model_args.model_name_or_path is None:
        build_config(model_args)  # an impossible model stops here, before any work
    arguments = resolved_arguments(model_args, data_args, decoding_args, args)
    output_dir = Path(args.output_dir)
    first = args.process_index == 0

    # The first process goes ahead and writes, the others read what it wrote. Nothing is written before all is checked.
    with args.main_process_first(local=False, desc="preparation"):
        if first:
            check_output_dir(output_dir, args.resume, args.overwrite)
            if args.resume:
                check_resumed_arguments(output_dir, arguments, MAY_CHANGE)
        checkpoint = latest_checkpoint(output_dir) if args.resume else None
        texts = load_translation_datasets(data_args)
        if "validation" not in texts and args.eval_strategy != "no":
            raise DataError("there is no validation data: give some, or eval_strategy: no")
        if first and checkpoint is None:
            tokenizer = make_tokenizer(data_args, texts["train"])
        else:
            tokenizer = load_tokenizer(str(output_dir))
        # The test set is read here, so that a mistake in it shows early, and used only after the training.
        data = tokenize(DatasetDict({name: texts[name] for name in texts if name != "test"}), tokenizer, data_args)
        set_seed(args.seed)
        model = build_model(model_args, tokenizer)
        if args.packing:
            check_packing(model)
        if first and args.resume:
            remove_incomplete_checkpoints(output_dir)
        if first and checkpoint is None:
            begin_run(output_dir, arguments, args.overwrite)
            tokenizer.save_pretrained(output_dir)

    trainer = make_trainer(model, tokenizer, data, texts, args)
    seconds = train_or_load(trainer, checkpoint)
    speed: dict[str, Any] = {}
    if seconds is not None:
        training_seconds = seconds - trainer.evaluation_seconds
        tokens = int(trainer.trained_items)
        speed = {
            "train_seconds": seconds,
            "train_seconds_without_evaluation": training_seconds,
            "train_target_tokens": tokens,
            "train_tokens_per_second": tokens / training_seconds,
        }
    metrics: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "train_steps": trainer.state.global_step,
        **speed,
    }
    if checkpoint is not None:
        metrics["resumed_from_step"] = int(checkpoint.name.split("-")[1])

    if "test" in texts:
        data["test"] = tokenize(DatasetDict({"test": texts["test"]}), tokenizer, data_args)["test"]
    examples: list[dict[str, str]] = []
    for split in HELD_OUT:
        if split in texts:
            found, translations = evaluate_split(trainer, texts[split], data[split], split, decoding_args)
            metrics |= {f"{split}_{name}": value for name, value in found.items()}
            if first:
                write_lines(output_dir / f"{split}_sources.txt", texts[split]["source"])
                write_lines(output_dir / f"{split}_references.txt", texts[split]["target"])
                write_lines(output_dir / f"{split}_predictions.txt", translations)
            examples = spread_examples(texts[split], translations, 4)
    metrics["wall_seconds"] = time.perf_counter() - started
    if first:
        write_metrics(output_dir / "metrics.json", metrics)
        report(trainer, output_dir, metrics, examples, data_args, model_args, decoding_args, args, command)
        print_summary(metrics, examples, output_dir)


def make_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Any, texts: Any, args: TranslationTrainingArguments
) -> TokenBatchTrainer:
    """The trainer with the metrics and the samples of the validation set."""

    def text_metrics(translations: list[str], indices: list[int]) -> dict[str, float]:
        found = score(translations, texts["validation"].select(indices)["target"])
        return {"bleu": float(found["bleu"]), "chrf": float(found["chrf"])}

    trainer = TokenBatchTrainer(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        text_metrics=text_metrics,
        generation_examples=args.generation_examples,
    )
    if args.sample_translations and "validation" in texts:
        trainer.add_callback(SampleTranslations(trainer, texts["validation"], args.sample_translations))
    return trainer


class SampleTranslations(TrainerCallback):
    """Prints translations of a few fixed validation sentences at each evaluation."""

    def __init__(self, trainer: TokenBatchTrainer, texts: Dataset, number: int) -> None:
        self.trainer = trainer
        number = min(number, len(texts))
        self.indices = [index * len(texts) // number for index in range(number)]
        self.texts = texts.select(self.indices)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        inputs = self.trainer.eval_dataset.select(self.indices)["input_ids"]
        translations = self.trainer.generate(inputs[:], self.trainer.decoding)
        if state.is_world_process_zero:
            blocks = [format_example(example(text, beams[0].text)) for text, beams in zip(self.texts, translations)]
            tqdm.write("\n".join([f"\nTranslations after {state.global_step} steps", *blocks]))


def evaluate_split(
    trainer: TokenBatchTrainer, texts: Dataset, data: Dataset, split: str, decoding_args: DecodingArguments
) -> tuple[dict[str, Any], list[str]]:
    """Loss, BLEU, chrF and speed of decoding on one split, and the translations; ``data`` are the ids of ``texts``."""
    trainer.text_metrics = None
    metrics = trainer.evaluation_loop(trainer.get_eval_dataloader(data), split, metric_key_prefix="").metrics
    trainer.callback_handler.on_predict(trainer.args, trainer.state, trainer.control, metrics)  # ends its progress bar
    start = time.perf_counter()
    hypotheses = trainer.generate(data["input_ids"][:], decoding_args, progress=f"Translating the {split} set")
    seconds = time.perf_counter() - start
    translations = [beams[0].text for beams in hypotheses]
    return {
        **score(translations, texts["target"]),
        "loss": metrics["_loss"],
        "examples": len(texts),
        "decoding_seconds": seconds,
        "decoding_tokens_per_second": sum(beams[0].tokens for beams in hypotheses) / seconds,
    }, translations


def spread_examples(texts: Dataset, translations: Sequence[str], number: int) -> list[dict[str, str]]:
    """A few examples, evenly spaced, whose lengths are easy to read."""
    readable = [index for index, text in enumerate(texts["target"]) if 5 <= len(text.split()) <= 25] or [0]
    chosen = readable[:: max(1, len(readable) // number)][:number]
    return [example(texts[index], translations[index]) for index in chosen]


def example(text: dict[str, str], translation: str) -> dict[str, str]:
    return {"source": text["source"], "reference": text["target"], "translation": translation}


def format_example(lines: dict[str, str]) -> str:
    return "\n".join(f"  {label:<12}{text}" for label, text in lines.items()) + "\n"


def report(
    trainer: TokenBatchTrainer,
    output_dir: Path,
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    data_args: DataArguments,
    model_args: ModelArguments,
    decoding_args: DecodingArguments,
    args: TranslationTrainingArguments,
    command: str,
) -> None:
    """The learning curves and the model card."""
    pair = f"{data_args.source_lang} to {data_args.target_lang}"
    source = data_args.dataset or "local files"
    if data_args.dataset_config:
        source += f" ({data_args.dataset_config})"
    plot_learning_curves(
        trainer.state.log_history,
        output_dir / "learning_curves.png",
        f"Translation from {pair}: {source}",
        {"eval_bleu": "validation BLEU"},
        training_label="training (label smoothing)" if args.label_smoothing_factor else "training",
    )
    layers = "" if model_args.model_name_or_path else f" with {' and '.join(layer_kinds(model_args))} layers"
    write_model_card(
        output_dir / "README.md",
        name=f"{output_dir.name}: translation from {pair}",
        summary=f"An encoder-decoder{layers} of {metrics['parameters'] / 1e6:.1f} million parameters that translates "
        f"from {pair}, trained with seqdyconv.",
        tags=["translation", "seqdyconv"],
        languages=[data_args.source_lang, data_args.target_lang],
        data={
            "data set": source,
            "training pairs": len(trainer.train_dataset),
            **{f"{split} pairs": metrics[f"{split}_examples"] for split in HELD_OUT if f"{split}_examples" in metrics},
        },
        results=metrics,
        usage=USAGE,
        command=command,
        config=changed_arguments(model_args, data_args, decoding_args, args),
        examples=examples,
        picture="learning_curves.png",
    )


USAGE = """
import seqdyconv.models  # registers the model with the Auto classes
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
batch = tokenizer(["..."], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=100, num_beams=4), skip_special_tokens=True))
"""


def layer_kinds(model_args: ModelArguments) -> list[str]:
    kinds = {
        "/".join(dict.fromkeys(names)) for names in (model_args.encoder_layer_types, model_args.decoder_layer_types)
    }
    return sorted(kinds)


def print_summary(metrics: dict[str, Any], examples: list[dict[str, str]], output_dir: Path) -> None:
    print()
    for lines in examples:
        print(format_example(lines))
    if "test_bleu" in metrics:
        print(f"test BLEU                   {metrics['test_bleu']:.2f}   ({metrics['test_bleu_signature']})")
        print(f"test chrF                   {metrics['test_chrf']:.2f}   ({metrics['test_chrf_signature']})")
        print(f"decoding, tokens/s          {metrics['test_decoding_tokens_per_second']:.0f}")
    print(f"parameters                  {metrics['parameters']:,}")
    if "train_seconds" in metrics:
        print(f"training, target tokens/s   {metrics['train_tokens_per_second']:.0f}")
        print(f"training time               {metrics['train_seconds']:.0f} s, {metrics['train_steps']} steps")
    print(f"wall time                   {metrics['wall_seconds']:.0f} s")
    print(f"written to                  {output_dir}")


if __name__ == "__main__":
    main()
