"""Files are written as a whole or not at all."""

import pytest

from seqdyconv.files import replacing, write_lines


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
