"""C libraries that write to standard error of themselves, and have no option against it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()  # Two threads that put back what the other has redirected would leave it so for good.


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Nothing reaches file descriptor 2 inside the block, from any thread: keep it short.

    Example:
        >>> import os
        >>> from seqdyconv.runtime.quiet import quiet_libraries
        >>> with quiet_libraries():
        ...     _ = os.write(2, b"[mpg123] Warning: ...")
    """
    with _LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # closed, so nothing is written
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
