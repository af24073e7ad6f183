"""What a line is, what a text; files are written as a whole or not at all."""

import pytest

from seqdyconv.errors import InputError
from seqdyconv.files import decode_lines, open_lines, replacing, strip_text, write_lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a\n\n", ["a", ""]),
        ("a\r\nb\nc\r\n", ["a", "b", "c"]),
        ("zwei\rdrei\n\rvier\r\r\n", ["zwei\rdrei", "\rvier"]),
        ("a\v\f\x1c\x1d\x1e\x85\u2028\u2029b\nc", ["a\v\f\x1c\x1d\x1e\x85\u2028\u2029b", "c"]),
        ("\ufeffa\n\ufeffb\n", ["a", "\ufeffb"]),
        (" \N{NO-BREAK SPACE}a \n", [" \N{NO-BREAK SPACE}a "]),
    ],
    ids=repr,
)
def test_lines_end_with_line_feeds_alone(tmp_path, content, lines):
    (tmp_path / "a.txt").write_bytes(content.encode())
    assert list(decode_lines(open_lines(tmp_path / "a.txt"), "a.txt")) == lines
    kept = list(decode_lines(open_lines(tmp_path / "a.txt"), "a.txt", keep_ends=True))
    assert "".join(kept) == content.removeprefix("\ufeff") and len(kept) == len(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\xff\n", r"line 2 of a\.txt is not UTF-8 text \(byte 2\)"),
        (b"a\n\0\n", r"line 2 of a\.txt holds a NUL byte"),
        ("a\n".encode("utf-16"), r"a\.txt is UTF-16 text: save it as UTF-8"),
        ("a\n".encode("utf-16-le"), r"line 1 of a\.txt holds a NUL byte"),
        (b"\x1f\x8b\x08", r"a\.txt is compressed by gzip"),
        (b"a\rb\r", r"a\.txt has lines that end with carriage returns alone"),
    ],
    ids=repr,
)
def test_what_is_no_text_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(decode_lines(open_lines("a.txt"), "a.txt"))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="nowhere can't be read"):
        list(open_lines(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("", ""),
        (" \t\v\f\r\na b\r\n ", "a b"),
        ("\N{NO-BREAK SPACE}a\N{IDEOGRAPHIC SPACE}\x1c\u2028 ", "\N{NO-BREAK SPACE}a\N{IDEOGRAPHIC SPACE}\x1c\u2028"),
        ("\N{NO-BREAK SPACE} \N{IDEOGRAPHIC SPACE}", ""),
    ],
    ids=repr,
)
def test_texts_lose_the_white_space_of_ascii_at_their_ends(text, stripped):
    assert strip_text(text) == stripped


def test_each_text_is_one_line(tmp_path):
    write_lines(tmp_path / "a.txt", ["one", "", "two\nlines\r\u2028here"])
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "one\n\ntwo lines here\n"


def test_a_crash_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
