"""Which layers: the ways in which a user may name them."""

import re
from collections.abc import Callable, Iterable

Layers = int | str | Iterable[int] | Callable[[int], bool] | None


def select_layers(layers: Layers, numbers: Iterable[int]) -> list[int]:
    """The numbers that ``layers`` means, see :func:`swap_self_attention`, in ascending order.

    Args:
        layers: the choice.
        numbers: of the layers that there are.

    Raises:
        ValueError: a choice that cannot be read, or of no layer, or of one that is not there.

    Example:
        >>> select_layers("0,3-4", range(6))
        [0, 3, 4]
        >>> select_layers("every 2", range(6))
        [1, 3, 5]
    """
    available = sorted(numbers)
    there = f"the layers are {number_ranges(available)}"
    if layers is None:
        chosen = available
    elif isinstance(layers, str):
        chosen = _read_layers(layers, available, there)
    elif callable(layers):
        chosen = [number for number in available if layers(number)]
    else:
        given = list(layers) if isinstance(layers, Iterable) else [layers]
        if wrong := [number for number in given if not isinstance(number, int) or isinstance(number, bool)]:
            raise ValueError(f"layers must be ints, a string or a function, got {wrong[0]!r}; {there}")
        chosen = [available[number] if -len(available) <= number < 0 else number for number in given]
    if missing := sorted(set(chosen) - set(available)):
        raise ValueError(f"there is no layer {', '.join(map(str, missing))}; {there}")
    if not chosen:
        raise ValueError(f"layers={layers!r} chooses none; {there}")
    return sorted(set(chosen))


def number_ranges(numbers: list[int]) -> str:
    """Ascending numbers in few characters: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _read_layers(text: str, available: list[int], there: str) -> list[int]:
    if match := re.fullmatch(r"\s*every\s+([1-9]\d*)\s*", text):
        step = int(match[1])
        return available[step - 1 :: step]
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(
                f'layers as a string are numbers and ranges such as "0,2,4-6", or "every 2", got {text!r}; {there}'
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last > available[-1]:
            raise ValueError(f"there is no layer {last}; {there}")
        chosen += range(first, last + 1)
    return chosen
