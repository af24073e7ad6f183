"""Show what a model folder holds, or, without a folder, what is installed and what it runs on.

    seqdyconv info [MODEL_DIR]

Nothing is loaded but the configuration and the heads of the weight files, so this takes no memory and runs no code.
"""

import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.requirements import Requirement
from safetensors import SafetensorError
from transformers import PreTrainedConfig

import seqdyconv
from seqdyconv.errors import exit_on_error
from seqdyconv.functional.conv import BACKENDS
from seqdyconv.layers.mixers import mixers_with
from seqdyconv.models import SeqDyConvConfig
from seqdyconv.models.loading import ModelError, load_config, read_header
from seqdyconv.ranges import Options
from seqdyconv.threads import WAITING
from seqdyconv.training.arguments import parse_arguments, read_yaml
from seqdyconv.training.output_dir import RUN_FILE

EXTRAS = ("speech", "recipes", "deploy", "demo")


@dataclass
class InfoArguments(Options):
    """What to look at."""

    model_dir: str = field(metadata={"help": "The model's folder; without one, what is installed is shown."})


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if not words:
        with exit_on_error():
            print(as_table(installation()))
        return
    (args,) = parse_arguments((InfoArguments,), words, first="model_dir", description=__doc__)
    with exit_on_error():
        print(as_table(model(Path(args.model_dir))))


def as_table(rows: Iterable[tuple[str, str]]) -> str:
    """A line for each name and value."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:{width}}{value}".rstrip() for name, value in rows)


def installation() -> list[tuple[str, str]]:
    """Versions of what is installed, then what runs the convolutions and on how many threads."""
    rows = [
        ("seqdyconv", seqdyconv.__version__),
        ("torch", torch.__version__),
        ("transformers", transformers.__version__),
        ("python", platform.python_version()),
    ]
    rows += [(f"extra {extra}", ", ".join(installed_packages(extra))) for extra in EXTRAS]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    chosen = [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ]
    return [
        *rows,
        ("devices", ", ".join(["cpu", *gpus])),
        ("backends", ", ".join(BACKENDS)),
        ("threads", ", ".join([f"{torch.get_num_threads()} on {os.cpu_count()} cores", *chosen])),
    ]


def installed_packages(extra: str) -> list[str]:
    """The packages that an extra asks for, beside those of the core, with their versions where they are installed."""
    requirements = [Requirement(text) for text in metadata.requires("seqdyconv") or ()]
    core = {"seqdyconv", *(requirement.name for requirement in requirements if requirement.marker is None)}
    return [
        f"{one.name} {version(one.name)}"
        for one in requirements
        if one.name not in core and one.marker is not None and one.marker.evaluate({"extra": extra})
    ]


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(missing)"


def model(folder: Path) -> list[tuple[str, str]]:
    """What the files of a model say about it.

    Raises:
        ModelError: There is no such model, or its files are damaged.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}")
    config = load_config(str(folder), "model")
    kind = ", ".join(config.architectures or []) or "a configuration alone"
    return [
        ("model", f"{kind} ({config.model_type})"),
        *layers(config),
        ("weights", weights(folder)),
        ("tokenizer", tokenizer(folder, config)),
        *training(folder),
    ]


def layers(config: PreTrainedConfig) -> list[tuple[str, str]]:
    """The width of the model, and the mixers of its layers as far as they are ours."""
    rows = [("width", str(getattr(config, "hidden_size", "unknown")))]
    if isinstance(config, SeqDyConvConfig):
        with_kernels = mixers_with("kernel_size")
        for side in config.sides:
            stack = config.stack(side)
            mixers = [
                f"{name}, kernel {size}" if name in with_kernels else name
                for name, size in zip(stack.layer_types, stack.kernel_sizes)
            ]
            sizes = f"{stack.attention_heads} heads, feed-forward {stack.ffn_dim}"
            rows.append((side, f"{len(mixers)} layers, {sizes}"))
            rows += in_runs(side, dict(enumerate(mixers, start=1)))
        return rows
    changed: Mapping[str, Any] = getattr(config, "seqdyconv", None) or {}
    number_of_layers = getattr(config, "num_hidden_layers", "unknown")
    rows.append(("layers", f"{number_of_layers}, of them changed {sum(map(len, entries(changed)))}"))
    for found in entries(changed):
        rows += in_runs("", {int(number): described(entry) for number, entry in found.items()})
    return rows


def entries(changed: Mapping[str, Any]) -> list[Mapping[str, Mapping[str, Any]]]:
    """What ``config.seqdyconv`` says of layers whose attention was swapped or got short convolutions."""
    return [changed[key] for key in ("layers", "short_convs") if key in changed]


def described(entry: Mapping[str, Any]) -> str:
    name = entry.get("mixer") or f"short convolutions on {entry.get('on')}"
    return ", ".join([name, *(f"{key} {value}" for key, value in entry.items() if key not in ("mixer", "on"))])


def in_runs(side: str, mixers: Mapping[int, str]) -> list[tuple[str, str]]:
    """A row for each run of neighbouring layers with the same mixer, in their order."""
    rows = []
    places = enumerate(sorted(mixers))  # a number less its place is the same as long as none is left out
    for (mixer, _), group in itertools.groupby(places, key=lambda pair: (mixers[pair[1]], pair[1] - pair[0])):
        numbers = [number for _, number in group]
        name = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]} to {numbers[-1]}"
        rows.append((f"  {side} {name}" if side else f"  {name}", mixer))
    return rows


def weights(folder: Path) -> str:
    """How many numbers lie in the weight files, and of which types."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        return "none (no model.safetensors)"
    count, kinds = 0, set()
    for file in files:
        try:
            for kind, shape in read_header(file).values():
                count += math.prod(shape)
                kinds.add(kind)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"can't read the weights in {file}: {error}") from None
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    return f"{count:,} parameters, {', '.join(sorted(kinds))}, {megabytes:.1f} MB"


def tokenizer(folder: Path, config: PreTrainedConfig) -> str:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return "none"
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class", "of no named class")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: {error}") from None
    return f"{name}, {getattr(config, 'vocab_size', 'unknown')} entries"


def training(folder: Path) -> list[tuple[str, str]]:
    """The data and the metrics of the run that wrote the model, where a recipe did."""
    rows: list[tuple[str, str]] = []
    if (folder / RUN_FILE).is_file():
        run = read_yaml(folder / RUN_FILE)
        of_data = [key for key in run if key.startswith("dataset") or key.endswith(("_file", "_lang"))]
        rows += [(key, str(run[key])) for key in of_data if run[key] is not None]
    file = folder / "metrics.json"
    if file.is_file():
        try:
            rows += [
                (name, f"{value:,.4g}" if isinstance(value, float) else str(value))
                for name, value in json.loads(file.read_text(encoding="utf-8")).items()
            ]
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{file} is damaged: {error}") from None
    return rows
