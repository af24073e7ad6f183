"""What the values of options may be: declared beside their types, checked in one place.

    @dataclass
    class DecodingArguments(Options):
        num_beams: Beams = 4
        kind: Annotated[str, OneOf("greedy", "beam")] = "beam"

Without a word all numbers are finite, whole ones have at most 64 bits, and all texts can be written to a file in UTF-8.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from seqdyconv.errors import InputError

INT64 = 2**63 - 1


@dataclass(frozen=True)
class Range:
    """Numbers from ``least`` to ``most``, which belong to it, or between ``above`` and ``below``, which do not.

    Example:
        >>> str(Range(1)), str(Range(0, below=1)), str(Range(above=0))
        ('at least 1', 'in [0, 1)', 'above 0')
        >>> 1 in Range(0, below=1), float("nan") in Range(0)
        (False, False)
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below  # a NaN is in no range

    def __str__(self) -> str:
        lower, upper = max(self.least, self.above), min(self.most, self.below)
        if math.isinf(upper):
            return f"above {lower}" if self.above == lower else f"at least {lower}"
        return f"in {'(' if self.above == lower else '['}{lower}, {upper}{')' if self.below == upper else ']'}"


class KernelSizeRange:
    """A kernel size, or several of one layer; a rule for each of these numbers, which a text is not.

    Example:
        >>> 31 in KernelSizeRange(), 2.5 in KernelSizeRange(), "x" in KernelSizeRange()
        (True, False, False)
    """

    def __contains__(self, value: Any) -> bool:
        return type(value) is int and value in Range(1, 65_536)

    def __str__(self) -> str:
        return "a whole number in [1, 65536]"


class OneOf:
    """Any of these words.

    Example:
        >>> str(OneOf("text", "json")), "json" in OneOf("text", "json")
        ('one of text, json', True)
    """

    def __init__(self, *words: str) -> None:
        self.words = words

    def __contains__(self, value: Any) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


class FileName:
    """The name of a file that is there: in any bytes that the system allows, UTF-8 or not."""

    def __contains__(self, value: Any) -> bool:
        return "\0" not in value

    def __str__(self) -> str:
        return "the name of a file"


Rule = Range | KernelSizeRange | OneOf | FileName

Count = Annotated[int, Range(1)]
Number = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""What NumPy takes."""
Beams = Annotated[int, Range(1, 1000)]
VocabSize = Annotated[int, Range(1, 10_000_000)]
KernelSize = Annotated[Any, KernelSizeRange()]
"""An int, or a list of several."""
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(above=0, most=1)]
Dropout = Annotated[float, Range(0, below=1)]
LearningRate = Annotated[float, Range(above=0, most=1000)]


@dataclass
class Options:
    """A dataclass whose values are checked when it is made: see :func:`check_options`."""

    def __post_init__(self) -> None:
        check_options(self)


def rule_of(hint: Any) -> Rule | None:
    """What a type says of its values, itself or where it is made of others; None if nothing."""
    return next(_rules(hint), None)


def rules_of(kind: type) -> dict[str, Rule]:
    """What the fields of a dataclass say of their values, beside their types; those alone that say something."""
    hints = get_type_hints(kind, include_extras=True)
    found = {item.name: rule_of(hints[item.name]) for item in dataclasses.fields(kind)}
    return {name: rule for name, rule in found.items() if rule is not None}


def check_options(options: Any, more: Mapping[str, Rule] | None = None) -> None:
    """Refuse values of a dataclass that its fields don't allow; None is for the type to say.

    Args:
        options: The instance. Of a list each value is checked, of a mapping only that it can be written down.
        more: Rules by name for fields that have none of their own.

    Raises:
        InputError: With the name of the field, what is allowed and what was got.

    Example:
        >>> from dataclasses import make_dataclass
        >>> check_options(make_dataclass("Decoding", [("num_beams", Count, 4)])(num_beams=0))
        Traceback (most recent call last):
        ...
        seqdyconv.errors.InputError: num_beams must be at least 1, got 0
    """
    rules = {**(more or {}), **rules_of(type(options))}
    for item in dataclasses.fields(options):
        check_value(item.name, getattr(options, item.name), rules.get(item.name))


def check_value(name: str, value: Any, rule: Rule | None = None) -> None:
    """The check of one value, a list or a mapping: see :func:`check_options`."""
    for one, nested in _values(value):
        _check(name, one, None if nested else rule)


def _rules(hint: Any) -> Iterator[Rule]:
    """The rules in a type, also in those that it is made of."""
    yield from (part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Rule))
    for part in get_args(hint):
        yield from _rules(part)


def _values(value: Any, nested: bool = False) -> Iterator[tuple[Any, bool]]:
    """The plain values in a value, and whether they are in a mapping."""
    if isinstance(value, dict):
        for pair in value.items():
            yield from (found for part in pair for found in _values(part, True))
    elif isinstance(value, (list, tuple)):
        yield from (found for part in value for found in _values(part, nested))
    elif value is not None:
        yield value, nested


def _check(name: str, value: Any, rule: Rule | None) -> None:
    shown = f"{value!r:.60}"
    if isinstance(value, int) and abs(value) > INT64:
        raise InputError(f"{name} must be a number of at most 64 bits, got {shown}")
    if isinstance(value, float) and not math.isfinite(value) and rule is None:
        raise InputError(f"{name} must be a finite number, got {shown}")
    if (
        isinstance(value, str)
        and not isinstance(rule, FileName)
        and ("\0" in value or value != value.encode("utf-8", "replace").decode("utf-8"))
    ):
        raise InputError(f"{name} must be text that can be written in UTF-8, got {shown}")
    if rule is not None and value not in rule:
        raise InputError(f"{name} must be {rule}, got {shown}")
