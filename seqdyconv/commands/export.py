"""Write a trained or swapped model as graphs in ONNX, in a folder that needs no torch to run.

    seqdyconv export MODEL_DIR OUTPUT_DIR [--quantize int8] [--check true] [--key value ...]

The folder takes the place of MODEL_DIR in `seqdyconv translate`, `classify`, `transcribe` and `stream`, and
`seqdyconv.runtime` reads it. With --check its outputs are compared with those of the model in torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from transformers.utils.logging import disable_progress_bar

from seqdyconv.deploy.checking import check_export
from seqdyconv.deploy.exporting import export_model
from seqdyconv.errors import exit_on_error
from seqdyconv.ranges import FileName, OneOf, Options, Weight
from seqdyconv.training.arguments import parse_arguments


@dataclass
class ExportArguments(Options):
    """What to export, and how."""

    model_dir: str = field(metadata={"help": "The model: a folder, or a name on the Hub."})
    output_dir: str = field(default="", metadata={"help": "The folder to make; also the second word."})
    quantize: Annotated[str, OneOf("float16", "int8", "int4")] | None = field(
        default=None, metadata={"help": "Give the weights another precision: float16, int8 or int4."}
    )
    check: bool = field(default=False, metadata={"help": "Compare it with the model in torch, and write that down."})
    check_files: Annotated[list[str], FileName()] = field(
        default_factory=list,
        metadata={
            "help": "Texts line by line, or audio files, to compare with; by default the validation data of the run."
        },
    )
    lookahead_ms: Weight | None = field(
        default=None,
        metadata={"help": "Of a speech model that streams: look at most so many milliseconds ahead, in all graphs."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier export in output_dir."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output_dir:
            raise ValueError("the folder to write to is missing: give it after the model")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these words; those of the command line if None."""
    (args,) = parse_arguments((ExportArguments,), argv, first=("model_dir", "output_dir"), description=__doc__)
    with exit_on_error():
        disable_progress_bar()  # That of loading weights.
        exported = export_model(
            args.model_dir,
            args.output_dir,
            args.quantize or "float32",
            overwrite=args.overwrite,
            lookahead_ms=args.lookahead_ms,
        )
        size = sum(file.stat().st_size for file in exported.folder.iterdir())
        print(f"written to {exported.folder}: {exported.task}, {exported.precision}, {size / 1e6:.1f} MB", flush=True)
        for line in check_export(args.model_dir, exported, args.check_files) if args.check or args.check_files else ():
            print(line)
