"""Evaluate a translation model on any test set.

    python recipes/translation/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any sequence-to-sequence model. The data are those of
the run unless keys such as --test_file or --split say otherwise.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.external_tokenizers import set_languages
from seqdyconv.data.translation import DataArguments, load_translation_datasets, tokenize
from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.files import write_lines
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.ranges import Count
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.scores.translation import bleu_metric, score
from seqdyconv.training.arguments import command_line
from seqdyconv.training.decoding import generate
from seqdyconv.training.evaluation import EvaluationArguments, parse_model_arguments, write_evaluation
from seqdyconv.training.reports import score_text
from seqdyconv.training.translation_models import check_translation, load_translation_model

from datasets import DatasetDict
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar


@dataclass
class TranslationEvaluationArguments(EvaluationArguments):
    """What to evaluate."""

    nbest: Count = field(default=1, metadata={"help": "Write that many translations of each sentence with scores."})


def main(argv: Sequence[str] | None = None) -> None:
    types = (TranslationEvaluationArguments, DataArguments, DecodingArguments)
    # The model brings its own tokenizer.
    of_the_run = {item.name for kind in types[1:] for item in dataclasses.fields(kind)} - {"tokenizer_name"}
    parsed = parse_model_arguments(types, argv, of_the_run=of_the_run, description=__doc__)
    with exit_on_error():
        evaluate(*parsed, command_line("recipes/translation/evaluate.py", argv))


def evaluate(
    args: TranslationEvaluationArguments, data_args: DataArguments, decoding_args: DecodingArguments, command: str
) -> None:
    if args.nbest > decoding_args.num_beams:
        raise InputError(f"nbest {args.nbest} needs as many beams, got num_beams {decoding_args.num_beams}")
    bleu_metric(data_args.target_lang, data_args.bleu_tokenizer)  # what can't be scored stops here
    disable_progress_bar()  # That of loading weights.
    model = load_translation_model(args.model_dir).to(args.device)
    tokenizer = load_tokenizer(args.model_dir)
    set_languages(tokenizer, args.model_dir, data_args.source_lang, data_args.target_lang)
    check_translation(model, tokenizer, args.model_dir)
    texts = load_translation_datasets(data_args, (args.split,))[args.split]
    inputs = tokenize(DatasetDict({"evaluation": texts}), tokenizer, data_args)["evaluation"]["input_ids"][:]

    start = time.perf_counter()
    with tqdm(total=len(inputs), desc=f"Translating the {args.split} set") as bar:
        found = generate(model, tokenizer, inputs, decoding_args, args.nbest, bar.update)
    seconds = time.perf_counter() - start
    translations = [beams[0].text for beams in found]
    scores = score(translations, texts["target"], data_args.target_lang, data_args.bleu_tokenizer, with_bounds=True)

    args.folder.mkdir(parents=True, exist_ok=True)
    write_lines(args.folder / f"{args.split}_sources.txt", texts["source"])
    write_lines(args.folder / f"{args.split}_references.txt", texts["target"])
    write_lines(args.folder / f"{args.split}_predictions.txt", translations)
    if args.nbest > 1:
        rows = [
            f"{number}\t{rank}\t{beam.score:.4f}\t{beam.text.expandtabs(1)}"
            for number, beams in enumerate(found, start=1)
            for rank, beam in enumerate(beams, start=1)
        ]
        write_lines(args.folder / f"{args.split}_nbest.tsv", ["line\trank\tscore\ttranslation", *rows])
    speed = sum(beams[0].tokens for beams in found) / seconds
    metrics = {
        **{f"{args.split}_{name}": value for name, value in scores.items()},
        f"{args.split}_examples": len(texts),
        "decoding_seconds": seconds,
        "decoding_tokens_per_second": speed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **dataclasses.asdict(decoding_args),
    }
    write_evaluation(args, (data_args, decoding_args), command, metrics)

    print(f"{args.split} BLEU    {score_text(metrics, f'{args.split}_bleu')}   {scores['bleu_signature']}")
    print(f"{args.split} chrF    {scores['chrf']:.2f}   {scores['chrf_signature']}")
    print(f"decoding     {speed:.0f} tokens/s, {len(texts)} sentences in {seconds:.0f} s")
    print(f"written to   {args.folder}")


if __name__ == "__main__":
    main()
