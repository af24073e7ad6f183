"""The scripts that use a trained model: where it is, what its run says of its data, what they leave behind."""

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from seqdyconv.data.splits import SPLITS
from seqdyconv.errors import exit_on_error
from seqdyconv.ranges import OneOf, Options
from seqdyconv.training.arguments import declared_defaults, parse_arguments, resolved_arguments
from seqdyconv.training.output_dir import RUN_FILE, OutputDirError, check_folder, run_arguments
from seqdyconv.training.records import write_record
from seqdyconv.training.reports import METRICS, write_metrics


@dataclass
class ModelDirArguments(Options):
    """A trained model, and what computes."""

    model_dir: str = field(metadata={"help": "The model: a folder, or a name on the Hub."})
    use_cpu: bool = field(default=False, metadata={"help": "Don't use a GPU."})

    @property
    def device(self) -> str:
        """Where the model is to be."""
        return "cuda" if torch.cuda.is_available() and not self.use_cpu else "cpu"


@dataclass
class EvaluationArguments(ModelDirArguments):
    """What to evaluate."""

    split: Annotated[str, OneOf(*SPLITS)] = field(default="test", metadata={"help": "train, validation or test."})
    evaluation_dir: str | None = field(
        default=None, metadata={"help": "Where to write to; by default MODEL_DIR/evaluation."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_folder(self.folder, "evaluation_dir")
        if (self.folder / METRICS).is_file() and not _is_of_an_evaluation(self.folder):
            raise OutputDirError(
                f"evaluation_dir {self.folder} has a {METRICS} that is of no evaluation: choose another folder"
            )

    @property
    def folder(self) -> Path:
        """Where to write to; of a model of the Hub it is below the current directory."""
        local = Path(self.model_dir)
        return Path(self.evaluation_dir or (local if local.is_dir() else Path()) / "evaluation").expanduser()


def _is_of_an_evaluation(folder: Path) -> bool:
    """Whether the metrics in a folder are those that an evaluation writes, and not of a run or of anybody else."""
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(metrics, dict) and "parameters" in metrics and not (folder / RUN_FILE).is_file()


def parse_model_arguments(
    dataclass_types: Sequence[type],
    argv: Sequence[str] | None,
    *,
    of_the_run: Collection[str],
    description: str | None = None,
) -> tuple[Any, ...]:
    """Parse ``MODEL_DIR [--key value ...]`` as :func:`seqdyconv.training.arguments.parse_arguments` does.

    Args:
        dataclass_types: The dataclasses, one of them with the field model_dir.
        argv: The words after the script's name; ``sys.argv[1:]`` if None.
        of_the_run: The keys that default to their values in the run that wrote the model, if one of ours did.
        description: Text for ``--help``.
    """
    words = sys.argv[1:] if argv is None else argv
    with exit_on_error():
        defaults = run_arguments(words[0], of_the_run) if words else {}
    return parse_arguments(dataclass_types, argv, first="model_dir", defaults=defaults, description=description)


def write_evaluation(
    args: EvaluationArguments,
    groups: Sequence[Any],
    command: str,
    metrics: dict[str, Any],
    folder: Path | None = None,
) -> None:
    """Write metrics.json, and record.json with the record of the model's training.

    Args:
        args: Where to, and of which model.
        groups: All other arguments.
        command: What repeats the evaluation.
        metrics: What was measured.
        folder: Another one than that of `args`, of one of several evaluations.
    """
    folder = folder or args.folder
    write_metrics(folder / METRICS, metrics)
    values, defaults = resolved_arguments(args, *groups), declared_defaults(args, *groups)
    config = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
    write_record(folder, command, config, metrics, Path(args.model_dir))
