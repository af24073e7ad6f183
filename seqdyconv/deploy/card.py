"""The card of an exported folder: what it holds, how it is run, and what it was checked against."""

from pathlib import Path
from typing import Any

import onnx

import seqdyconv
from seqdyconv.deploy.folder import Written
from seqdyconv.files import write_text

CARD = "README.md"

_USE = {
    "translation": 'Translator("FOLDER").translate(["..."])',
    "classification": 'Classifier("FOLDER").classify(["..."])',
    "embedding": 'Embedder("FOLDER").embed(["..."])',
    "recognition": 'Recogniser("FOLDER").transcribe(["recording.wav"])',
}


def write_card(folder: Path, name: str, model: Any, written: Written, precision: str) -> None:
    """Write ``README.md``."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"# {Path(name).name}, exported",
        "",
        f"{type(model).__name__} ({parameters / 1e6:.1f} M parameters) for {written.task}, weights in {precision}, "
        f"exported by seqdyconv {seqdyconv.__version__}.",
        "",
    ]
    if written.task in _USE:
        call = _USE[written.task]
        lines += [
            "```python",
            f"from seqdyconv.runtime import {call.split('(')[0]}",
            "",
            f"print({call})",
            "```",
            "",
        ]
    lines += ["| graph | inputs | outputs |", "|---|---|---|"]
    for file in written.graphs.values():
        graph = onnx.load(folder / file, load_external_data=False).graph
        lines.append(f"| `{file}` | {_values(graph.input)} | {_values(graph.output)} |")
    lines += ["", *(f"- {note}" for note in written.notes), *([""] if written.notes else [])]
    lines += ["## Checks", "", "Not checked yet: `seqdyconv export --check` compares it with the model in torch.", ""]
    write_text(folder / CARD, "\n".join(lines))


def write_checks(folder: Path, lines: list[str]) -> None:
    """Put what a check has found in the place of an earlier one."""
    card = folder / CARD
    before = card.read_text(encoding="utf-8").split("## Checks", 1)[0]
    write_text(card, "\n".join([f"{before}## Checks", "", *lines, ""]))


def _values(values: Any) -> str:
    """Names and shapes of a graph's inputs or outputs; of the many states one line for all."""
    found = []
    for value in values:
        shape = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        found.append(f"`{value.name}` ({', '.join(map(str, shape))})")
    return ", ".join(found) if len(found) <= 12 else ", ".join([*found[:10], f"and {len(found) - 10} more"])
