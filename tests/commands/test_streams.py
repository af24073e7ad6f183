"""Lines of standard input, in windows and as soon as they arrive."""

import os
from contextlib import closing, suppress

import pytest

from seqdyconv.commands import streams
from seqdyconv.commands.streams import read_windows, standard_input
from seqdyconv.errors import InputError


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def read(pipe, content, window):
    reader, writer = pipe
    os.write(writer, content)
    os.close(writer)
    return list(read_windows(reader, window))


@pytest.mark.parametrize(
    ("content", "window", "expected"),
    [
        (b"", 2, []),
        (b"a\nb\nc\n", 2, [["a", "b"], ["c"]]),
        (b"a\nb\n", 2, [["a", "b"]]),
        (b"a\n\nb\n", 9, [["a", "", "b"]]),
        (b"\n", 9, [[""]]),
        (b"a\r\n \tb \nc\rd", 9, [["a", " \tb ", "c\rd"]]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", 1, [["a"], ["\ufeffb"]]),
        ("ä\u2028ß\x85\n語\n".encode(), 1, [["ä\u2028ß\x85"], ["語"]]),
    ],
    ids=repr,
)
def test_lines_come_in_windows(pipe, content, window, expected):
    assert read(pipe, content, window) == expected


def test_the_last_line_needs_no_end(pipe):
    assert [line for window in read(pipe, b"a\nb", 1) for line in window] == ["a", "b"]


def test_lines_longer_than_a_chunk(tmp_path):
    lines = ["ü" * 100_000, "", "b" * 70_000]
    (tmp_path / "lines").write_text("\n".join(lines), encoding="utf-8")
    with (tmp_path / "lines").open("rb") as file:
        assert [line for window in read_windows(file.fileno(), 2) for line in window] == lines


def test_lines_do_not_wait_for_a_full_window(pipe):
    reader, writer = pipe
    with closing(read_windows(reader, 100)) as windows:
        os.write(writer, b"first\nsecond\nbegun")
        assert next(windows) == ["first", "second"]
        os.write(writer, b" and ended\n")
        assert next(windows) == ["begun and ended"]
        os.close(writer)
        assert list(windows) == []


@pytest.mark.parametrize(("window", "before"), [(1, [["a"], ["b"]]), (2, [["a", "b"]]), (9, [])])
def test_a_line_that_is_not_utf8(pipe, window, before):
    reader, writer = pipe
    os.write(writer, b"a\nb\nok\xff\nd\n")
    os.close(writer)
    seen = []
    with pytest.raises(InputError, match=r"^line 3 of standard input is not UTF-8 text \(byte 3\)$"):
        seen.extend(read_windows(reader, window))
    assert seen == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\0c\n", "line 2 of standard input holds a NUL byte"),
        ("a\n".encode("utf-16"), "standard input is UTF-16 text"),
        (b"a\n" + b"b" * 101, "line 2 of standard input has more than 100 bytes"),
    ],
)
def test_lines_that_are_no_text(pipe, monkeypatch, content, message):
    monkeypatch.setattr(streams, "LONGEST_LINE", 100)
    with pytest.raises(InputError, match=message):
        read(pipe, content, 9)


def test_an_endless_line_is_refused_before_it_fills_the_memory():
    with open("/dev/zero", "rb") as zeros, pytest.raises(InputError, match="line 1 of standard input has more than"):
        list(read_windows(zeros.fileno(), 9))


def test_a_closed_input_or_a_folder(monkeypatch, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InputError, match="standard input can't be read"):
        list(read_windows(folder, 9))
    os.close(folder)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        standard_input()
