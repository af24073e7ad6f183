"""Evaluate a speech recognition model on any data.

    python recipes/speech_recognition/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any model for speech recognition. The data are those of
the run unless keys such as --test_file or --split say otherwise. Greedy by default; with --beam_size 16 a beam search,
and with --language_model auto one with an n-gram model that is counted on the training texts alone. With --lookahead_ms
0 80 320 a streaming model is evaluated at each of these latencies, for a table in latencies.md.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.speech_batches import batches_in_seconds
from seqdyconv.data.speech_recognition import SAMPLING_RATE, DataArguments, Samples, load_speech, write_bad_files
from seqdyconv.errors import exit_on_error
from seqdyconv.files import write_text
from seqdyconv.ranges import Positive
from seqdyconv.speech.decoding import Decoder, SpeechDecodingArguments
from seqdyconv.speech.recogniser import check_sampling_rate, load_recogniser
from seqdyconv.training.arguments import command_line
from seqdyconv.training.evaluation import EvaluationArguments, parse_model_arguments, write_evaluation
from seqdyconv.training.latencies import LookaheadArguments, latency_table, stream_all
from seqdyconv.training.reports import score_text
from seqdyconv.training.speech_recognition import write_recognised

from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar


@dataclass
class SpeechEvaluationArguments(EvaluationArguments):
    """What to evaluate."""

    batch_seconds: Positive = field(default=60.0, metadata={"help": "Seconds of audio in a batch, padding included."})


def main(argv: Sequence[str] | None = None) -> None:
    types = (SpeechEvaluationArguments, LookaheadArguments, SpeechDecodingArguments, DataArguments)
    of_the_run = {item.name for item in dataclasses.fields(DataArguments)}
    parsed = parse_model_arguments(types, argv, of_the_run=of_the_run, description=__doc__)
    with exit_on_error():
        evaluate(*parsed, command_line("recipes/speech_recognition/evaluate.py", argv))


def evaluate(
    args: SpeechEvaluationArguments,
    lookahead_args: LookaheadArguments,
    decoding_args: SpeechDecodingArguments,
    data_args: DataArguments,
    command: str,
) -> None:
    disable_progress_bar()  # That of loading weights.
    recogniser = load_recogniser(args.model_dir).to(args.device)
    check_sampling_rate(recogniser.feature_extractor, SAMPLING_RATE)
    lookaheads = lookahead_args.choices(recogniser)
    decoder = Decoder(recogniser, decoding_args, args.model_dir)
    data, bad = load_speech(data_args, (args.split,))
    table = data[args.split]
    samples = Samples(table)

    rows = []
    for lookahead in lookaheads or [None]:
        folder, found = args.folder, {}
        if lookahead is not None:
            recogniser.set_lookahead(lookahead)
            folder, found = args.folder / f"lookahead_{lookahead:g}ms", {"lookahead_ms": lookahead}
            print(f"looks {lookahead:g} ms ahead")

        start = time.perf_counter()
        texts: dict[int, str] = {}
        with tqdm(total=len(table), desc=f"Recognising the {args.split} set") as bar:
            for batch in batches_in_seconds(samples.lengths, args.batch_seconds):
                texts |= zip(batch, decoder.texts([samples[row] for row in batch]))
                bar.update(len(batch))
        seconds = time.perf_counter() - start
        if lookahead is not None and recogniser.is_ctc:
            streamed = stream_all(recogniser, samples, lookahead_args.chunk_seconds)
            found |= {f"{args.split}_{name}": value for name, value in streamed.items()}

        folder.mkdir(parents=True, exist_ok=True)
        predictions = [texts[row] for row in range(len(table))]
        metrics = write_recognised(folder, args.split, table, predictions, data_args.source, seconds, bad) | found
        write_bad_files(folder / f"{args.split}_bad_files.tsv", bad)
        metrics["parameters"] = sum(parameter.numel() for parameter in recogniser.model.parameters())
        metrics |= {name: value for name, value in dataclasses.asdict(decoding_args).items() if value is not None}
        write_evaluation(args, (lookahead_args, data_args, decoding_args), command, metrics, folder)
        rows.append(metrics)

        print(f"{args.split} WER         {score_text(metrics, f'{args.split}_wer')}")
        print(f"{args.split} CER         {score_text(metrics, f'{args.split}_cer')}")
        minutes = metrics[f"{args.split}_minutes"]
        print(f"real-time factor {seconds / 60 / minutes:.4f}, {minutes:.1f} minutes in {seconds:.0f} s")
        print(f"written to       {folder}")
    if lookaheads:
        latencies = latency_table(rows, args.split)
        write_text(args.folder / "latencies.md", latencies)
        print(latencies, end="")


if __name__ == "__main__":
    main()
