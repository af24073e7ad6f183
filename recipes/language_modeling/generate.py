"""Go on with the texts of standard input, line by line, to standard output.

    python recipes/language_modeling/generate.py MODEL_DIR [--key value ...] < beginnings > texts

Every line gives one line: the beginning and what the model writes after it. Line breaks that it writes become spaces.
"""

import sys
from collections.abc import Sequence

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.commands.streams import end_with_the_reader, read_windows, standard_input
from seqdyconv.errors import exit_on_error
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.evaluation import ModelDirArguments
from seqdyconv.training.language_models import ContinuationArguments, go_on, load_language_model

from transformers import set_seed
from transformers.utils.logging import disable_progress_bar


def main(argv: Sequence[str] | None = None) -> None:
    types = (ModelDirArguments, ContinuationArguments)
    args, settings = parse_arguments(types, argv, first="model_dir", description=__doc__)
    end_with_the_reader()
    with exit_on_error():
        disable_progress_bar()  # That of loading weights.
        model, tokenizer = load_language_model(args.model_dir).to(args.device), load_tokenizer(args.model_dir)
        set_seed(settings.seed)
        for lines in read_windows(standard_input(), 1):
            for line in lines:
                text = " ".join(go_on(model, tokenizer, line, settings).splitlines())
                sys.stdout.buffer.write(f"{text}\n".encode())
                sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
