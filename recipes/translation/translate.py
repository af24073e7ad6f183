"""Translate standard input to standard output, line by line.

    python recipes/translation/translate.py MODEL_DIR [--key value ...] < in > out

Every line gives one line, empty ones too, in the same order. Lines are translated in batches of similar length as far
as they have arrived, so that a pipe that delivers slowly gets its answers at once.
"""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers.utils.logging import disable_progress_bar
from translation_model import load_model, load_tokenizer

from seqdyconv.training.arguments import exit_on_error, parse_arguments
from seqdyconv.training.decoding import DecodingArguments, generate
from seqdyconv.training.streams import read_windows


@dataclass
class TranslationArguments:
    """What to translate with."""

    model_dir: str = field(metadata={"help": "The model: a folder, or a name on the Hub."})
    window: int = field(default=1000, metadata={"help": "Translate at most that many lines together."})
    max_line_tokens: int = field(
        default=1000, metadata={"help": "Longer lines are cut there, with a note on standard error."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Don't use a GPU."})

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("max_line_tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def main(argv: Sequence[str] | None = None) -> None:
    args, decoding_args = parse_arguments(
        (TranslationArguments, DecodingArguments), argv, first="model_dir", description=__doc__
    )
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # A reader that goes away ends us quietly, as in any Unix tool.
    with exit_on_error():
        run(args, decoding_args)


def run(args: TranslationArguments, decoding_args: DecodingArguments) -> None:
    disable_progress_bar()  # That of loading weights.
    tokenizer = load_tokenizer(args.model_dir)
    model = load_model(args.model_dir)
    if torch.cuda.is_available() and not args.use_cpu:
        model.to("cuda")
    number = 0
    for lines in read_windows(sys.stdin.fileno(), args.window):
        translations = [""] * len(lines)
        texts = {index: text for index, line in enumerate(lines) if (text := line.strip())}
        inputs = tokenizer(list(texts.values()))["input_ids"] if texts else []
        for index, ids in zip(texts, inputs):
            if len(ids) > args.max_line_tokens:
                print(f"line {number + index + 1} is cut to {args.max_line_tokens} tokens", file=sys.stderr)
                ids[args.max_line_tokens - 1 :] = ids[-1:]  # The end of the sentence stays.
        for index, beams in zip(texts, generate(model, tokenizer, inputs, decoding_args)):
            translations[index] = " ".join(beams[0].text.split())
        sys.stdout.buffer.write("".join(f"{line}\n" for line in translations).encode("utf-8"))
        sys.stdout.buffer.flush()
        number += len(lines)


if __name__ == "__main__":
    main()
