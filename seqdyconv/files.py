"""Files that a crash leaves as they were."""

import os
from collections.abc import Iterator
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
