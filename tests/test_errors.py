"""What a user is told in one line."""

from seqdyconv.errors import first_line


def test_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(OSError()) == "OSError"
