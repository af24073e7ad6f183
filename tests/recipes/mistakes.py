"""Random mistakes, and whether a script ends well with them: what all fuzzing shares."""

import contextlib
import dataclasses
import io
import os
import random
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints
from unittest import mock

import datasets
import huggingface_hub.constants
import torch
from transformers.utils import logging as transformers_logging

LONGEST_TRIAL = 60
"""Seconds."""

_NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    10**6,
    10**12,
    10**30,
    -(2**63) - 1,
    0.5,
    1.5,
    -0.5,
    1e-300,
    1e30,
    *map(float, ("nan", "inf")),
]
_WORDS = ["", " ", "nonsense", "none", "auto", "no", "nan", "1e5", "0x10", "é", "a" * 5000, "\0", "\ud800", "--x", "-x"]
_PATHS = ["/dev/null", "/", "."]
_LISTS = [[], [0], [-1], [4], [1, [2]], [None], ["nonsense"], [float("nan")], [10**12]]
_MAPPINGS = [{}, {"foo": 1}, {"a": {"b": []}}, "[", "{", "[]", "{}", '{"foo": 1}', '{"foo": NaN}', '["dynamic_conv"]']
VALUES: list[Any] = [*_NUMBERS, *_WORDS, *_PATHS, *_LISTS, *_MAPPINGS, True, False, None]
INSERTED = [b"\0", b"\r", b"\n", b"\t", b'"', b",", b"\xff", b"\xef\xbb\xbf", b": ", b"&a [*a]", b"{", b"!!x "]


class TookTooLong(BaseException):
    """A trial was ended."""


class Trials:
    """Trials in a folder of their own.

    Args:
        folder: Where they write to.
        seed: Of all trials.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.data, self.place = folder / "data", folder / "place"
        self.data.mkdir()
        self.random = random.Random(seed)
        self.ended = ""
        """How the last trial ended."""

    def trial(self) -> tuple[str, str | None]:
        """One trial: what was tried, and what went wrong, None where nothing did."""
        raise NotImplementedError

    def new_place(self) -> None:
        """An empty working directory."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()

    def option(self, kinds: Sequence[type], left_out: Collection[str] = ()) -> tuple[str, Any]:
        """An option of some dataclasses, and a value for it."""
        hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
        names = [item.name for kind in kinds for item in dataclasses.fields(kind) if item.init]
        option = self.random.choice([name for name in names if name not in left_out])
        fitting = [value for value in VALUES if type(value) in kinds_of(hints[option])]
        return option, self.random.choice(fitting if fitting and self.random.random() < 0.7 else VALUES)

    def mutated(self, content: bytes) -> bytes:
        """Some bytes changed, removed, put in, or repeated, or all the rest cut off."""
        changed = bytearray(content)
        for _ in range(self.random.choice([1, 1, 3, 20])):
            start = self.random.randrange(len(changed) + 1)
            end = min(len(changed), start + self.random.choice([1, 1, 10, 1000]))
            put = [bytes(self.random.choices(range(32, 127), k=end - start)), b"", self.random.choice(INSERTED)]
            changed[start:end] = self.random.choice([*put, bytes(changed[start:end]) * 3])
            if self.random.random() < 0.05:
                del changed[start:]
        return bytes(changed)


def kinds_of(hint: Any) -> set[Any]:
    """The plain types in a type."""
    return {hint, get_origin(hint)}.union(*(kinds_of(part) for part in get_args(hint)))


def words_of(option: str, value: Any) -> list[str]:
    """An option of a command line."""
    return [f"--{option}", *map(str, value if isinstance(value, list) else [value])]


class Ending(NamedTuple):
    """How a script ended: its exit status, None where it came to its end, what it wrote, and the error it raised."""

    status: Any
    output: str
    errors: str
    crash: str | None

    @property
    def told(self) -> list[str]:
        """The lines that say why it could not do its work."""
        return [line for line in self.errors.splitlines() if ": error: " in line]

    def problem(self) -> str | None:
        """What is wrong with it: it is well if it came to its end, or if one line, the last, says why not."""
        if self.crash is not None or self.status is None:
            return self.crash
        lines = self.errors.splitlines()
        if self.status != 2 or len(self.told) != 1 or self.told != lines[-1:] or "Traceback" in self.errors:
            return f"exit status {self.status}: {self.errors[-2000:]}"
        return None


def ending(
    main: Callable[[list[str]], None], words: list[str], place: Path, standard_input: str = os.devnull
) -> Ending:
    """Run a script with these words and a file as its standard input, in a directory."""
    output, errors = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    status: Any = None
    crash = None
    with surroundings(place, standard_input), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            main(words)
        except SystemExit as error:
            status = error.code
        except (Exception, TookTooLong) as error:
            crash = "".join(traceback.format_exception(error)[-3:])
    output.flush()
    written: Any = output.buffer
    return Ending(status, written.getvalue().decode("utf-8", "surrogateescape"), errors.getvalue(), crash)


@contextlib.contextmanager
def surroundings(place: Path, standard_input: str) -> Iterator[None]:
    """A working directory, a standard input, bounded time and no network; all as before afterwards."""

    def stop(*args: Any) -> None:
        raise TookTooLong

    before, environment = Path.cwd(), dict(os.environ)
    handler = signal.signal(signal.SIGALRM, stop)
    os.chdir(place)
    patched: list[tuple[Any, str, Any]] = [
        (huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        (datasets.config, "HF_HUB_OFFLINE", True),
    ]
    signal.alarm(LONGEST_TRIAL)
    try:
        with open(standard_input) as stream, warnings.catch_warnings(), patches([*patched, (sys, "stdin", stream)]):
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        torch.use_deterministic_algorithms(False)
        transformers_logging.set_verbosity_warning()


@contextlib.contextmanager
def patches(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Other attributes of some objects, while it lasts."""
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield
