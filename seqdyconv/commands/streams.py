"""Standard input, line by line as soon as lines arrive, and standard output that may close."""

import os
import select
import signal
from collections.abc import Iterator

from seqdyconv.errors import InputError


def end_with_the_reader() -> None:
    """From now on a reader of the output that goes away ends the command quietly, as in any Unix tool."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def read_windows(descriptor: int, window: int) -> Iterator[list[str]]:
    """Lines without their ends, at most `window` at a time; fewer when the sender pauses.

    Raises:
        InputError: A line is not UTF-8.
    """
    pending = b""
    lines: list[bytes] = []
    number = 0

    def decode(window: list[bytes]) -> list[str]:
        nonlocal number
        texts = []
        for line in window:
            number += 1
            try:
                texts.append(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(
                    f"line {number} of standard input is not UTF-8 text (byte {error.start + 1})"
                ) from None
        return texts

    while chunk := os.read(descriptor, 1 << 16):
        *complete, pending = (pending + chunk).split(b"\n")
        lines += complete
        while len(lines) >= window:
            yield decode(lines[:window])
            lines = lines[window:]
        if lines and not select.select([descriptor], [], [], 0)[0]:
            yield decode(lines)
            lines = []
    if pending:
        lines.append(pending)
    if lines:
        yield decode(lines)
