"""Long texts in windows, which a model reads one by one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def mean_of_windows(probabilities: npt.NDArray[Any], texts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Average the probabilities of the windows of each text.

    Args:
        probabilities: (N, L) of N windows.
        texts: (N,) the text, 0 to M − 1, that a window is of; each has at least one.

    Returns:
        (M, L) in float64.

    Example:
        >>> mean_of_windows(np.array([[0.25, 0.75], [0.75, 0.25], [1.0, 0.0]]), [0, 0, 1]).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    rows = np.asarray(texts, dtype=np.int64)
    number = np.bincount(rows)
    sums = np.zeros((len(number), probabilities.shape[1]))
    np.add.at(sums, rows, probabilities)
    return sums / number[:, None]
