"""Batches of similar lengths."""

from collections.abc import Sequence


def batches_of_similar_lengths(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of things in batches, from short to long, that hold at most ``most`` with their padding, or one thing.

    Example:
        >>> batches_of_similar_lengths([5, 2, 2, 3], 6)
        [[1, 2], [3], [0]]
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[number] > most:
            batches.append([])
        batches[-1].append(number)
    return batches
