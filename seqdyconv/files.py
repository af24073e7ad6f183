"""Files that a crash leaves as they were."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to; it takes the place of ``path`` when the block has ended well.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp(), "metrics.json")
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("{}")
        >>> target.read_text()
        '{}'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    temporary.replace(path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, as a whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write one text per line, as a whole or not at all; line breaks inside a text become spaces."""
    breaks = r"[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+"
    write_text(path, "".join(re.sub(breaks, " ", line) + "\n" for line in lines))
