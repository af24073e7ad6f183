"""The one kind of error that a user of a script is told of in one line, and how a script ends with it."""

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


class InputError(ValueError):
    """What was given (arguments, a folder, data, a model) can't be used; the message is one line for the user.

    The scripts print it and exit with status 2. All other errors keep their traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the next one where it ends in a colon; or its type if it has none."""
    if "trust_remote_code" in str(error):  # transformers names an option here that nothing of ours has
        return "it needs code of its own, which is never run"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


_OF_THE_FILES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
"""What a system says of files that can't be written, which is no fault of a program."""


@contextlib.contextmanager
def exit_on_error(*errors: type[BaseException]) -> Iterator[None]:
    """Turn an InputError, or a full disk, into one line on standard error and exit status 2; Ctrl-C into a quiet 130.

    A file or the standard output that can't be written, such as on a full disk, is one line too. All other errors keep
    their traceback, but for `errors` where a script knows of more that are the input's fault. Where the reader of the
    output has gone away, as ``| head`` does, the script ends quietly, with what a shell gives for SIGPIPE.
    In a run of several processes only the first one writes.
    """
    expected: tuple[type[BaseException], ...] = (InputError, *errors)
    try:
        yield
        sys.stdout.flush()
    except expected as error:
        _end_with(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader():
            # What is still in the buffer goes nowhere: Python would try it once more in the end, and say that it can't.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None
        if error.errno not in _OF_THE_FILES:
            raise
        _end_with(f"can't use {error.filename or 'the output'}: {error.strerror}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _has_no_reader() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    if not hasattr(select, "poll"):
        return False
    look = select.poll()
    try:
        look.register(sys.stdout, 0)
    except (TypeError, ValueError):  # it is closed, or no file
        return False
    return any(event & select.POLLERR for _, event in look.poll(0))


def _end_with(message: str) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2) from None
