"""Evaluate a translation model on any test set.

    python recipes/translation/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any sequence-to-sequence model. The data are those of
the run unless keys such as --test_file or --split say otherwise.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar
from translation_data import SPLITS, DataArguments, load_translation_datasets
from translation_model import load_model, load_tokenizer
from translation_scores import score

from seqdyconv.files import write_lines
from seqdyconv.training.arguments import ArgumentsError, exit_on_error, parse_arguments
from seqdyconv.training.decoding import DecodingArguments, generate
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.reports import write_metrics


@dataclass
class EvaluationArguments:
    """What to evaluate."""

    model_dir: str = field(metadata={"help": "The model: a folder, or a name on the Hub."})
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    nbest: int = field(default=1, metadata={"help": "Write that many translations of each sentence with scores."})
    evaluation_dir: str | None = field(
        default=None, metadata={"help": "Where to write to; by default MODEL_DIR/evaluation."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Don't use a GPU."})

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.nbest < 1:
            raise ValueError(f"nbest must be at least 1, got {self.nbest}")


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    types = (EvaluationArguments, DataArguments, DecodingArguments)
    # The model brings its own tokenizer.
    names = {item.name for kind in types[1:] for item in dataclasses.fields(kind)} - {"tokenizer_name"}
    with exit_on_error():
        defaults = run_arguments(words[0], names) if words else {}
    args, data_args, decoding_args = parse_arguments(
        types, argv, first="model_dir", defaults=defaults, description=__doc__
    )
    with exit_on_error():
        run(args, data_args, decoding_args)


def run(args: EvaluationArguments, data_args: DataArguments, decoding_args: DecodingArguments) -> None:
    if args.nbest > decoding_args.num_beams:
        raise ArgumentsError(f"nbest {args.nbest} needs as many beams, got num_beams {decoding_args.num_beams}")
    disable_progress_bar()  # That of loading weights.
    tokenizer = load_tokenizer(args.model_dir)
    model = load_model(args.model_dir)
    if torch.cuda.is_available() and not args.use_cpu:
        model.to("cuda")
    texts = load_translation_datasets(data_args, (args.split,))[args.split]
    inputs = tokenizer(texts["source"][:])["input_ids"]

    start = time.perf_counter()
    with tqdm(total=len(inputs), desc=f"Translating the {args.split} set") as bar:
        found = generate(model, tokenizer, inputs, decoding_args, args.nbest, bar.update)
    seconds = time.perf_counter() - start
    translations = [beams[0].text for beams in found]
    metrics = {
        **{f"{args.split}_{name}": value for name, value in score(translations, texts["target"]).items()},
        f"{args.split}_examples": len(texts),
        "decoding_seconds": seconds,
        "decoding_tokens_per_second": sum(beams[0].tokens for beams in found) / seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **dataclasses.asdict(decoding_args),
    }

    local = Path(args.model_dir)
    folder = Path(args.evaluation_dir) if args.evaluation_dir else (local if local.is_dir() else Path()) / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / f"{args.split}_sources.txt", texts["source"])
    write_lines(folder / f"{args.split}_references.txt", texts["target"])
    write_lines(folder / f"{args.split}_predictions.txt", translations)
    if args.nbest > 1:
        rows = [
            f"{number}\t{rank}\t{beam.score:.4f}\t{beam.text}"
            for number, beams in enumerate(found, start=1)
            for rank, beam in enumerate(beams, start=1)
        ]
        write_lines(folder / f"{args.split}_nbest.tsv", ["line\trank\tscore\ttranslation", *rows])
    write_metrics(folder / "metrics.json", metrics)

    print(f"{args.split} BLEU    {metrics[f'{args.split}_bleu']:.2f}   ({metrics[f'{args.split}_bleu_signature']})")
    print(f"{args.split} chrF    {metrics[f'{args.split}_chrf']:.2f}   ({metrics[f'{args.split}_chrf_signature']})")
    print(
        f"decoding     {metrics['decoding_tokens_per_second']:.0f} tokens/s, {len(texts)} sentences in {seconds:.0f} s"
    )
    print(f"written to   {folder}")


if __name__ == "__main__":
    main()
