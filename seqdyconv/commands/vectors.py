"""Lines of standard input whose vectors are asked for, and how these are written."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from seqdyconv.commands.streams import read_windows, standard_input
from seqdyconv.files import strip_text
from seqdyconv.ranges import Count, OneOf, Options

WINDOW = 1000
"""The most lines that are read together."""


@dataclass
class VectorOptions(Options):
    """How vectors are computed and written."""

    format: Annotated[str, OneOf("json", "tsv")] = field(
        default="json", metadata={"help": "A list in JSON on each line, or numbers with TABs between them."}
    )
    batch_size: Count = field(default=32, metadata={"help": "Texts of a batch."})


def write_vectors(embed: Callable[[list[str]], Any], kind: str) -> None:
    """Write a line for each line of standard input, as they arrive.

    Args:
        embed: texts → (N, D).
        kind: of the lines, see :class:`VectorOptions`.
    """
    for lines in read_windows(standard_input(), WINDOW):
        for vector in embed([strip_text(line) for line in lines]):
            numbers = [round(float(number), 6) for number in vector]
            line = json.dumps(numbers) if kind == "json" else "\t".join(map(str, numbers))
            sys.stdout.buffer.write(f"{line}\n".encode())
        sys.stdout.buffer.flush()
