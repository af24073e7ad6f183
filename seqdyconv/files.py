"""Texts as lines: what ends a line, what is no text; and files that a crash leaves as they were."""

import codecs
import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from seqdyconv.errors import InputError

WHITE_SPACE = " \t\n\r\v\f"
"""What is taken off the ends of a text. Other spaces, such as U+00A0 and U+3000, are letters that somebody chose."""

_BYTE_ORDER_MARK = "\ufeff"
_NO_TEXT = {
    codecs.BOM_UTF16_LE: "is UTF-16 text: save it as UTF-8",
    codecs.BOM_UTF16_BE: "is UTF-16 text: save it as UTF-8",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"PK\x03\x04": "is a zip archive, as those of xlsx: save a table as csv in UTF-8",
}


def strip_text(text: str) -> str:
    """A text without the white space of ASCII at its ends; empty if it is nothing but white space of any kind.

    Example:
        >>> strip_text(" 10\N{NO-BREAK SPACE}km \\r\\n"), strip_text("\N{NO-BREAK SPACE}")
        ('10\\xa0km', '')
    """
    return text.strip(WHITE_SPACE) if text and not text.isspace() else ""


def decode_lines(lines: Iterable[bytes], name: str, *, keep_ends: bool = False) -> Iterator[str]:
    r"""Texts of lines that are UTF-8 and end with a line feed, as ``wc -l`` counts them.

    A carriage return before the end belongs to it, elsewhere to the text, as do all other characters that Unicode calls
    line breaks. A byte order mark at the start of the first line is left out.

    Args:
        lines: of a file that is opened to read bytes, or of a stream.
        name: what they are of, for messages.
        keep_ends: leave the ends where they are.

    Raises:
        InputError: a line is not UTF-8 or holds a NUL byte.

    Example:
        >>> list(decode_lines([b"\xef\xbb\xbfone\r\n", b"t\rwo\n", b"\n", b"three"], "a.txt"))
        ['one', 't\rwo', '', 'three']
    """
    for number, line in enumerate(lines, start=1):
        for mark, problem in _NO_TEXT.items() if number == 1 else ():
            if line.startswith(mark):
                raise InputError(f"{name} {problem}")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of {name} is not UTF-8 text (byte {error.start + 1})") from None
        if "\0" in text:
            raise InputError(f"line {number} of {name} holds a NUL byte, so it is no text, or not UTF-8")
        if number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        yield text if keep_ends else text.rstrip("\r\n")


def open_lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The lines of a file as bytes, with their ends.

    Raises:
        InputError: it can't be read, or its lines end with carriage returns alone.
    """
    try:
        with open(path, "rb") as file:
            first = file.readline()
            if b"\r" in first.rstrip(b"\r") and not first.endswith(b"\n"):
                raise InputError(f"{path} has lines that end with carriage returns alone: save it with line feeds")
            yield from chain([first] if first else [], file)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from None


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
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, as a whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write one text per line, as :func:`one_line` makes it, as a whole or not at all."""
    write_text(path, "".join(one_line(line) + "\n" for line in lines))


def one_line(text: str) -> str:
    r"""A text on one line, for whatever reads it: each run of line breaks of any kind is one space.

    Example:
        >>> one_line("two\r\nlines, or\u2028three")
        'two lines, or three'
    """
    return re.sub(r"[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+", " ", text)


def shorten(text: str, longest: int) -> str:
    """A text on one line, cut where it is longer than so many characters, for messages and pictures.

    Example:
        >>> shorten("a text of\\nlines", 9)
        'a text o…'
    """
    line = one_line(text)
    return line if len(line) <= longest else line[: longest - 1] + "…"
