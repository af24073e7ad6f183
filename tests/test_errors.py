"""What a user is told in one line."""

import os
import subprocess
import sys

import pytest

from seqdyconv.errors import first_line


def test_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(OSError()) == "OSError"


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_goes_away_ends_a_script_quietly(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does in the end
    script = "from seqdyconv.errors import exit_on_error\nwith exit_on_error(): print('a line')"
    try:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(
            [sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")  # what a shell says of a program that SIGPIPE ends


def test_another_pipe_that_breaks_keeps_its_traceback():
    script = (
        "from seqdyconv.errors import exit_on_error\nwith exit_on_error(): raise BrokenPipeError(32, 'of a worker')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 1 and "of a worker" in ended.stderr
