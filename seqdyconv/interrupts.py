"""Ctrl-C ends a program that imports this module first quietly, with status 130: imports of torch take seconds.

It changes what Python does with an interrupt that nothing catches, and nothing else.
"""

import sys
from types import TracebackType

_others = sys.excepthook


def end_quietly(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Write nothing about an interrupt; leave all other exceptions to the hook that was there before."""
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(130)
    _others(kind, error, traceback)


sys.excepthook = end_quietly
