"""Evaluate a language model on any text: perplexity, and bits per byte; or how many masked tokens are right.

    python recipes/language_modeling/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any causal language model (with --objective masked any
masked one). The data are those of the run unless keys such as --test_file or --split say otherwise; --window and
--stride set how much past a token has.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.language_modeling import DataArguments, load_documents, tokenize
from seqdyconv.errors import exit_on_error
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.ranges import Count, OneOf
from seqdyconv.training.arguments import command_line
from seqdyconv.training.evaluation import EvaluationArguments, parse_model_arguments, write_evaluation
from seqdyconv.training.language_models import (
    OBJECTIVES,
    MaskShare,
    check_positions,
    cost_of_rows,
    load_language_model,
)
from seqdyconv.training.masked_language_models import TokenMasks, cost_of_masked_rows

from datasets import DatasetDict
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar


@dataclass
class LanguageModelEvaluationArguments(EvaluationArguments):
    """What to evaluate."""

    batch_size: Count = field(default=16, metadata={"help": "Windows of a batch."})
    objective: Annotated[str, OneOf(*OBJECTIVES)] = field(default="causal", metadata={"help": "That of the model."})
    mlm_probability: MaskShare = field(default=0.15, metadata={"help": "The share of tokens that are masked."})


def main(argv: Sequence[str] | None = None) -> None:
    # The model brings its own tokenizer.
    of_the_run = {item.name for item in dataclasses.fields(DataArguments)} - {"tokenizer_name"}
    of_the_run |= {"objective", "mlm_probability"}
    types = (LanguageModelEvaluationArguments, DataArguments)
    args, data_args = parse_model_arguments(types, argv, of_the_run=of_the_run, description=__doc__)
    with exit_on_error():
        evaluate(args, data_args, command_line("recipes/language_modeling/evaluate.py", argv))


def evaluate(args: LanguageModelEvaluationArguments, data_args: DataArguments, command: str) -> None:
    disable_progress_bar()  # That of loading weights.
    model: Any = load_language_model(args.model_dir, args.objective).to(args.device)
    tokenizer = load_tokenizer(args.model_dir)
    texts = load_documents(data_args, (args.split,))[args.split]
    # Under another name than train, whose rows are blocks.
    rows = tokenize(DatasetDict({"evaluation": texts}), tokenizer, data_args)["evaluation"]
    check_positions(model, {args.split: rows})

    start = time.perf_counter()
    with tqdm(total=len(rows), desc=f"Reading the {args.split} set") as bar:
        if args.objective == "masked":
            masks = TokenMasks(tokenizer, args.mlm_probability)
            found = cost_of_masked_rows(model, rows, masks, args.batch_size, bar.update)
        else:
            found = cost_of_rows(model, rows, args.batch_size, bar.update)
    seconds = time.perf_counter() - start

    args.folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        **{f"{args.split}_{name}": value for name, value in found.items()},
        f"{args.split}_documents": len(texts),
        f"{args.split}_seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    write_evaluation(args, (data_args,), command, metrics)
    for name, value in found.items():
        print(f"{args.split} {name.replace('_', ' '):16} {value:.4f}")
    print(f"written to            {args.folder}")


if __name__ == "__main__":
    main()
