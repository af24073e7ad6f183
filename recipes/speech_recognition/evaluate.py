"""Evaluate a speech recognition model on any data.

    python recipes/speech_recognition/evaluate.py MODEL_DIR [--key value ...]

MODEL_DIR is an output_dir of train.py, a checkpoint in one, or any model for speech recognition. The data are those of
the run unless keys such as --test_file or --split say otherwise. Greedy by default; with --beam_size 16 a beam search,
and with --language_model auto one with an n-gram model that is counted on the training texts alone.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar

from seqdyconv.data.speech_batches import batches_in_seconds
from seqdyconv.data.speech_recognition import SAMPLING_RATE, DataArguments, Samples, load_speech, write_bad_files
from seqdyconv.data.splits import SPLITS
from seqdyconv.files import write_lines
from seqdyconv.scores.speech_recognition import write_split
from seqdyconv.speech.decoding import Decoder, SpeechDecodingArguments
from seqdyconv.speech.recogniser import check_sampling_rate, load_recogniser
from seqdyconv.training.arguments import exit_on_error, parse_arguments
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.reports import write_metrics


@dataclass
class EvaluationArguments:
    """What to evaluate."""

    model_dir: str = field(metadata={"help": "The model: a folder, or a name on the Hub."})
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    batch_seconds: float = field(default=60.0, metadata={"help": "Seconds of audio in a batch, padding included."})
    evaluation_dir: str | None = field(
        default=None, metadata={"help": "Where to write to; by default MODEL_DIR/evaluation."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Don't use a GPU."})

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if not self.batch_seconds > 0:
            raise ValueError(f"batch_seconds must be above 0, got {self.batch_seconds}")


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    names = {item.name for item in dataclasses.fields(DataArguments)}
    with exit_on_error():
        defaults = run_arguments(words[0], names) if words else {}
    groups = (EvaluationArguments, SpeechDecodingArguments, DataArguments)
    args, decoding_args, data_args = parse_arguments(
        groups, argv, first="model_dir", defaults=defaults, description=__doc__
    )
    with exit_on_error():
        run(args, decoding_args, data_args)


def run(args: EvaluationArguments, decoding_args: SpeechDecodingArguments, data_args: DataArguments) -> None:
    disable_progress_bar()  # That of loading weights.
    recogniser = load_recogniser(args.model_dir)
    check_sampling_rate(recogniser.feature_extractor, SAMPLING_RATE)
    if torch.cuda.is_available() and not args.use_cpu:
        recogniser.to("cuda")
    decoder = Decoder(recogniser, decoding_args, args.model_dir)
    data, bad = load_speech(data_args, (args.split,))
    table = data[args.split]
    samples = Samples(table)

    start = time.perf_counter()
    texts: dict[int, str] = {}
    with tqdm(total=len(table), desc=f"Recognising the {args.split} set") as bar:
        for batch in batches_in_seconds(samples.lengths, args.batch_seconds):
            texts |= zip(batch, decoder.texts([samples[row] for row in batch]))
            bar.update(len(batch))
    seconds = time.perf_counter() - start
    predictions = [texts[row] for row in range(len(table))]

    local = Path(args.model_dir)
    folder = Path(args.evaluation_dir) if args.evaluation_dir else (local if local.is_dir() else Path()) / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    speakers = table["speaker"][:] if "speaker" in table.column_names else None
    title = f"{data_args.dataset or 'local files'}, {args.split}"
    scores = write_split(folder, args.split, predictions, table["text"][:], speakers, title)
    write_lines(folder / f"{args.split}_files.txt", table["name"][:])
    write_bad_files(folder / f"{args.split}_bad_files.tsv", bad)
    spoken = sum(table["num_samples"]) / SAMPLING_RATE
    metrics: dict[str, Any] = {
        **{f"{args.split}_{name}": value for name, value in scores.items()},
        f"{args.split}_utterances": len(table),
        f"{args.split}_minutes": spoken / 60,
        f"{args.split}_bad_files": len(bad),
        f"{args.split}_real_time_factor": seconds / spoken,
        "parameters": sum(parameter.numel() for parameter in recogniser.model.parameters()),
        **{name: value for name, value in dataclasses.asdict(decoding_args).items() if value is not None},
    }
    write_metrics(folder / "metrics.json", metrics)

    print(f"{args.split} WER         {scores['wer']:.2f}")
    print(f"{args.split} CER         {scores['cer']:.2f}")
    print(f"real-time factor {seconds / spoken:.4f}, {spoken / 60:.1f} minutes in {seconds:.0f} s")
    print(f"written to       {folder}")


if __name__ == "__main__":
    main()
