"""Draw the convolution kernels of a model's encoder for a text, one panel per head, into a file.

    seqdyconv plot-kernels MODEL_DIR TEXT [--key value ...]

The model is one of ours, or one whose attention was swapped; text must be what its tokenizer takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers.utils.logging import disable_progress_bar

import seqdyconv.models
from seqdyconv.errors import exit_on_error
from seqdyconv.models.loading import ModelError, check_vocabulary, load_config, load_tokenizer
from seqdyconv.pictures import plot_kernels
from seqdyconv.ranges import Number, Options
from seqdyconv.swap.loading import load_trained
from seqdyconv.training.arguments import parse_arguments


@dataclass
class PictureArguments(Options):
    """What to draw."""

    model_dir: str = field(metadata={"help": "The model: a folder, or a name on the Hub."})
    text: str = field(default="", metadata={"help": "The text; also the second word."})
    text_pair: str | None = field(default=None, metadata={"help": "The second text, of a model that reads pairs."})
    layers: list[Number] | None = field(
        default=None, metadata={"help": "Numbers of the layers, from 0; None: up to four, from the first to the last."}
    )
    heads: list[Number] | None = field(
        default=None, metadata={"help": "Numbers of the heads, from 0; None: the first."}
    )
    output_file: str = field(default="kernels.png", metadata={"help": "The picture: .png, .pdf, .svg ..."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.text:
            raise ValueError("the text is missing: give it after the model")


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse_arguments((PictureArguments,), argv, first=("model_dir", "text"), description=__doc__)
    with exit_on_error(ImportError):  # of matplotlib, which is imported to draw
        text = args.text if args.text_pair is None else (args.text, args.text_pair)
        disable_progress_bar()  # That of loading weights.
        model = load_model(args.model_dir)
        tokenizer = load_tokenizer(args.model_dir)
        check_vocabulary(model, tokenizer, args.model_dir)
        plot_kernels(model, text, tokenizer, args.layers, args.heads, args.output_file)
    print(args.output_file)


def load_model(name_or_path: str) -> Any:
    """Load one of our models, or a swapped one, as the class that it was saved from.

    Raises:
        ModelError: There is no such model, no layer of it is ours, or it reads no text.
    """
    config = load_config(name_or_path, "model")
    name = next(iter(config.architectures or []), None)
    if name not in seqdyconv.models.__all__ and getattr(config, "seqdyconv", None) is None:
        raise ModelError(f"the model in {name_or_path} is {name}, none of ours and not swapped")
    model: Any = load_trained(getattr(seqdyconv.models, str(name), None), name_or_path, "model")
    if model.main_input_name != "input_ids":
        raise ModelError(f"the model in {name_or_path} takes {model.main_input_name}, no text")
    return model
