"""Lines of standard input that are classified, and how their labels are written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from seqdyconv.errors import InputError
from seqdyconv.files import strip_text
from seqdyconv.ranges import Count, OneOf, Options

WINDOW = 1000
"""The most lines that are classified together."""


@dataclass
class PredictionOptions(Options):
    """What to write of each text."""

    top_k: Count = field(default=1, metadata={"help": "Write that many labels of each text, the most probable first."})
    format: Annotated[str, OneOf("text", "jsonl")] = field(
        default="text", metadata={"help": "text (label, TAB, probability) or jsonl."}
    )
    batch_size: Count = field(default=32, metadata={"help": "Texts, or windows of texts, of a batch."})


def split_line(line: str, number: int) -> list[str]:
    """The text of a line, or the two of a pair."""
    parts = [strip_text(part) for part in line.split("\t")]
    if len(parts) > 2:
        raise InputError(
            f"line {number} of standard input has {len(parts) - 1} TABs, but only one, between the texts of a pair, "
            "is allowed"
        )
    return parts


def format_line(found: Sequence[tuple[str, float]], kind: str) -> str:
    """The line of one text, whose labels and probabilities are sorted."""
    if kind == "text":
        return "\t".join(f"{' '.join(label.split())}\t{probability:.4f}" for label, probability in found)
    top = [{"label": label, "probability": round(probability, 6)} for label, probability in found]
    return json.dumps(top[0] if len(top) == 1 else {**top[0], "top": top}, ensure_ascii=False)
