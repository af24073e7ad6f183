"""Arguments of commands that need neither torch nor transformers: ``MODEL_DIR ... [--key value ...]``."""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.ranges import Number, Options, rules_of

T = TypeVar("T")


@dataclass
class ExportedArguments(Options):
    """An exported model, and what computes."""

    model_dir: str = field(metadata={"help": "The folder that an export wrote."})
    use_cpu: bool = field(default=False, metadata={"help": "Nothing else is used, with or without this."})
    threads: Number = field(default=1, metadata={"help": "That compute; 0: as many as there are cores."})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse_plain(kind: type[T], words: Sequence[str], first: Sequence[str], description: str | None = None) -> T:
    """Parse words into a dataclass, as :func:`seqdyconv.training.arguments.parse_arguments` does.

    Bad input writes one line to standard error and exits with status 2.

    Args:
        kind: the dataclass, of texts, numbers, booleans and lists of texts.
        words: of the command line.
        first: the fields that the first words set, of which one is required; a list takes all that are left.
        description: text for ``--help``.

    Example:
        >>> parse_plain(ExportedArguments, ["outputs/speech", "--threads", "2"], ["model_dir"])
        ExportedArguments(model_dir='outputs/speech', use_cpu=False, threads=2)
    """
    hints = get_type_hints(kind)
    rules = rules_of(kind)
    named = " ".join(name.upper() + ("..." if get_origin(hints[name]) is list else "") for name in first)
    usage = f"{Path(sys.argv[0]).name} {named} [--key value ...]"
    parser = _Parser(
        usage=usage,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for item in fields:
        parts = get_args(hints[item.name])
        inner = next(part for part in (*parts, hints[item.name]) if part is not NoneType)
        kept = _or_null(inner) if NoneType in parts else inner
        options: dict[str, Any] = {"type": kept, "metavar": inner.__name__.upper()}
        if inner is bool:
            options = {"type": _truth, "nargs": "?", "const": True, "metavar": "BOOL"}
        if get_origin(hints[item.name]) is list:
            options["nargs"] = "+"
        rule = f" It must be {rules[item.name]}." if item.name in rules else ""
        said = "" if item.default in (dataclasses.MISSING, None) else f" (default: {item.default})"
        parser.add_argument(
            f"--{item.name}", default=argparse.SUPPRESS, help=item.metadata.get("help", "") + rule + said, **options
        )
    if {"-h", "--help"} & set(words):
        parser.parse_args(["--help"])
    with exit_on_error():
        end = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
        leading = list(words[:end])
        if not leading:
            raise InputError(f"the first argument is missing, usage: {usage}")
        values: dict[str, Any] = {}
        for name in first[: len(leading)]:
            takes_all = get_origin(hints[name]) is list
            values[name] = leading if takes_all else leading[0]
            leading = [] if takes_all else leading[1:]
        found, unknown = parser.parse_known_args(_spelt(words[end:]))
        for word in [*unknown, *leading]:
            key = word[2:].split("=")[0]
            nearest = difflib.get_close_matches(key, [item.name for item in fields], n=1)
            hint = f", did you mean --{nearest[0]}?" if nearest else ", --help lists all keys"
            if word.startswith("--"):
                raise InputError(f"unknown option --{key}{hint}")
            raise InputError(f"unexpected argument {word!r}, usage: {usage}")
        try:
            return kind(**{**values, **vars(found)})
        except (ValueError, TypeError) as error:
            raise InputError(str(error)) from None


def _or_null(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of a value that may be None, which is written as null."""

    def convert(word: str) -> Any:
        return None if word == "null" else kind(word)

    convert.__name__ = getattr(kind, "__name__", str(kind))  # what an error message calls it
    return convert


def _spelt(words: Sequence[str]) -> list[str]:
    """``--a-key -value`` as ``--a_key=-value``: a value may begin with a dash, which argparse takes for an option."""
    spelt: list[str] = []
    for word in words:
        previous = spelt[-1] if spelt else ""
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            spelt.append(f"--{key.replace('-', '_')}{equals}{value}")
        elif previous.startswith("--") and "=" not in previous and word.startswith("-"):
            spelt[-1] = f"{previous}={word}"
        else:
            spelt.append(word)
    return spelt


def _truth(word: str) -> bool:
    truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if word.lower() not in truths:
        raise argparse.ArgumentTypeError(f"expected true or false, got {word!r}")
    return truths[word.lower()]
