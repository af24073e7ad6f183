"""One kernel size for all heads of a convolution, or several, each for as many heads."""

from collections.abc import Sequence

from seqdyconv.layers.checks import check_positive

KernelSize = int | Sequence[int]


def kernel_sizes_of(kernel_size: KernelSize) -> tuple[int, ...]:
    """All of them, the smallest first; ValueError for what is none.

    Example:
        >>> kernel_sizes_of(31), kernel_sizes_of([31, 7])
        ((31,), (7, 31))
    """
    sizes = tuple(kernel_size) if isinstance(kernel_size, (list, tuple)) else (kernel_size,)
    if not sizes:
        raise ValueError(f"kernel_size must be an int >= 1, or several of them, got {kernel_size!r}")
    for size in sizes:
        check_positive(kernel_size=size)
    return tuple(sorted(sizes))


def first_taps(sizes: Sequence[int], before: int) -> tuple[int, ...]:
    """Where each kernel begins among the taps of the longest, of which ``before`` are before the current step.

    A kernel looks ahead as far as the longest, but no further than one of its size with ``padding="same"``.
    """
    ahead = sizes[-1] - 1 - before
    return tuple(max(0, before + min(ahead, size // 2) + 1 - size) for size in sizes)
