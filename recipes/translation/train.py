"""Train a translation model, evaluate it on the test set and write everything into output_dir.

    python recipes/translation/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/translation/train.py CONFIG.yaml ...
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.splits import HELD_OUT
from seqdyconv.data.translation import DataArguments, load_translation_datasets, make_tokenizer, tokenize
from seqdyconv.errors import exit_on_error
from seqdyconv.files import write_lines
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.ranges import Count, Number
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.scores.translation import bleu_metric, score
from seqdyconv.training.arguments import command_line, parse_arguments
from seqdyconv.training.model_arguments import EncoderDecoderArguments
from seqdyconv.training.reports import score_text, spread_examples
from seqdyconv.training.runs import Run
from seqdyconv.training.samples import SampleOutputs
from seqdyconv.training.trainer import TokenBatchTrainer, TokenBatchTrainingArguments
from seqdyconv.training.translation_models import build_model, check_model

from datasets import Dataset, DatasetDict
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase, set_seed

FILES = {"source": "sources", "reference": "references", "translation": "predictions"}


@dataclass
class TranslationTrainingArguments(TokenBatchTrainingArguments):
    """The training arguments, and what only translation has."""

    generation_examples: Count | None = field(
        default=200, metadata={"help": "predict_with_generate translates that many validation sentences; None is all."}
    )
    sample_translations: Number = field(
        default=3, metadata={"help": "Print the translations of that many validation sentences at each evaluation."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    types = (EncoderDecoderArguments, DataArguments, DecodingArguments, TranslationTrainingArguments)
    parsed = parse_arguments(types, argv, description=__doc__)
    with exit_on_error():
        train(*parsed, command_line("recipes/translation/train.py", argv))


def train(
    model_args: EncoderDecoderArguments,
    data_args: DataArguments,
    decoding_args: DecodingArguments,
    args: TranslationTrainingArguments,
    command: str,
) -> None:
    if model_args.model_name_or_path is None:
        check_model(model_args)  # an impossible model stops here, before any work, as does a score
    elif data_args.tokenizer_name is None:
        data_args.tokenizer_name = model_args.model_name_or_path
    bleu_metric(data_args.target_lang, data_args.bleu_tokenizer)
    run = Run(args, (model_args, data_args, decoding_args), command)
    with run.preparation():
        texts = load_translation_datasets(data_args)
        run.check_splits(texts)
        if run.has_tokenizer:
            tokenizer = load_tokenizer(str(run.output_dir))
        else:
            tokenizer = make_tokenizer(data_args, texts["train"], new_model=model_args.model_name_or_path is None)
        data = tokenize(texts, tokenizer, data_args)
        set_seed(args.seed)
        model = build_model(model_args, tokenizer, data)
        args.check_model(model)
        if run.begin(data):
            tokenizer.save_pretrained(run.output_dir)

    trainer = make_trainer(model, tokenizer, data, texts, data_args, args)
    metrics = run.train(trainer, "tokens")

    examples: list[dict[str, str]] = []
    for split in run.held_out(texts):
        found, translations = evaluate_split(trainer, texts[split], data[split], split, data_args, decoding_args)
        metrics |= {f"{split}_{name}": value for name, value in found.items()}
        columns = {"source": texts[split]["source"][:], "reference": texts[split]["target"][:]}
        columns["translation"] = translations
        examples = spread_examples(columns, rows=readable(columns["reference"]))
        if run.is_first:
            for name, lines in columns.items():
                write_lines(run.output_dir / f"{split}_{FILES[name]}.txt", lines)
    if run.is_first:
        report(run, trainer, metrics, examples, model_args, data_args)


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    texts: DatasetDict,
    data_args: DataArguments,
    args: TranslationTrainingArguments,
) -> TokenBatchTrainer:
    """The trainer, whose loss is in seqdyconv/training/trainer.py, with BLEU and samples of the validation set."""

    def text_metrics(translations: list[str], indices: list[int]) -> dict[str, float]:
        references = texts["validation"].select(indices)["target"]
        found = score(translations, references, data_args.target_lang, data_args.bleu_tokenizer)
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
        columns = {"source": texts["validation"]["source"][:], "reference": texts["validation"]["target"][:]}
        trainer.add_callback(SampleOutputs(trainer, columns, args.sample_translations, "translation"))
    return trainer


def evaluate_split(
    trainer: TokenBatchTrainer,
    texts: Dataset,
    data: Dataset,
    split: str,
    data_args: DataArguments,
    decoding_args: DecodingArguments,
) -> tuple[dict[str, Any], list[str]]:
    """Loss, BLEU, chrF and speed of decoding on one split, and the translations; ``data`` are the ids of ``texts``."""
    loss = trainer.token_loss(data)
    start = time.perf_counter()
    hypotheses = trainer.generate(data["input_ids"][:], decoding_args, progress=f"Translating the {split} set")
    seconds = time.perf_counter() - start
    translations = [beams[0].text for beams in hypotheses]
    return {
        **score(translations, texts["target"], data_args.target_lang, data_args.bleu_tokenizer, with_bounds=True),
        "loss": loss,
        "examples": len(texts),
        "decoding_seconds": seconds,
        "decoding_tokens_per_second": sum(beams[0].tokens for beams in hypotheses) / seconds,
    }, translations


def readable(texts: Sequence[str]) -> list[int]:
    """The rows whose lengths are easy to read, at least one."""
    return [row for row, text in enumerate(texts) if 5 <= len(text.split()) <= 25] or [0]


def report(
    run: Run,
    trainer: TokenBatchTrainer,
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    model_args: EncoderDecoderArguments,
    data_args: DataArguments,
) -> None:
    """Metrics, learning curves, the model card, and a summary on the screen."""
    pair = f"{data_args.source_lang} to {data_args.target_lang}"
    layers = "" if model_args.model_name_or_path else f" with {' and '.join(layer_kinds(model_args))} layers"
    run.write_metrics(metrics)
    run.plot_learning_curves(trainer, f"Translation from {pair}: {data_args.source}", {"eval_bleu": "validation BLEU"})
    run.write_model_card(
        f"translation from {pair}",
        metrics,
        summary=f"An encoder-decoder{layers} of {metrics['parameters'] / 1e6:.1f} million parameters that translates "
        f"from {pair}, trained with seqdyconv.",
        tags=["translation", "seqdyconv"],
        languages=[data_args.source_lang, data_args.target_lang],
        data={
            "data set": data_args.source,
            "training pairs": len(trainer.train_dataset),
            **{f"{split} pairs": metrics[f"{split}_examples"] for split in HELD_OUT if f"{split}_examples" in metrics},
        },
        usage=USAGE,
        examples=examples,
    )
    rows = {}
    if "test_bleu" in metrics:
        rows = {
            "test BLEU": f"{score_text(metrics, 'test_bleu')}   {metrics['test_bleu_signature']}",
            "test chrF": f"{metrics['test_chrf']:.2f}   {metrics['test_chrf_signature']}",
            "decoding, tokens/s": f"{metrics['test_decoding_tokens_per_second']:.0f}",
        }
    run.print_summary(metrics, examples, rows)


USAGE = """
import seqdyconv.models  # registers the model with the Auto classes
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
batch = tokenizer(["..."], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=100, num_beams=4), skip_special_tokens=True))
"""


def layer_kinds(model_args: EncoderDecoderArguments) -> list[str]:
    kinds = {
        "/".join(dict.fromkeys(names)) for names in (model_args.encoder_layer_types, model_args.decoder_layer_types)
    }
    return sorted(kinds)


if __name__ == "__main__":
    main()
