"""Standard input, line by line as soon as lines arrive, and standard output that may close."""

import os
import select
import signal
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice

from seqdyconv.errors import InputError
from seqdyconv.files import decode_lines

LONGEST_LINE = 2**24
"""Bytes; what is longer is no line of text, and would fill the memory."""


def end_with_the_reader() -> None:
    """From now on a reader of the output that goes away ends the command quietly, as in any Unix tool."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def standard_input() -> int:
    """The descriptor of standard input.

    Raises:
        InputError: It is closed.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed: give the texts there")
    return sys.stdin.fileno()


def read_windows(descriptor: int, window: int) -> Iterator[list[str]]:
    """Lines as :func:`seqdyconv.files.decode_lines` reads them: at most `window`, and fewer when the sender pauses.

    Raises:
        InputError: A line is not UTF-8, holds a NUL byte or is longer than `LONGEST_LINE`, or nothing can be read.
    """
    pending: list[bytes] = []  # parts of a line that has no end yet
    lines: deque[bytes] = deque()
    texts = decode_lines(iter(lines.popleft, None), "standard input")
    number = size = 0
    while chunk := _read(descriptor):
        first, *others = chunk.split(b"\n")
        pending.append(first)
        if others:
            lines += [b"".join(pending), *others[:-1]]
            pending, size = [others[-1]], 0
            number += len(others)
        size += len(pending[-1])
        if size > LONGEST_LINE:
            raise InputError(f"line {number + 1} of standard input has more than {LONGEST_LINE:,} bytes")
        while len(lines) >= window:
            yield list(islice(texts, window))
        if lines and not select.select([descriptor], [], [], 0)[0]:
            yield list(islice(texts, len(lines)))
    if size:
        lines.append(b"".join(pending))
    while lines:
        yield list(islice(texts, min(window, len(lines))))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError as error:
        raise InputError(f"standard input can't be read ({error.strerror})") from None
