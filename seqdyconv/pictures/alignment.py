"""When what was said: a spectrogram with its words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from seqdyconv.pictures.figures import PAGE, new_figure, save, thin_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seqdyconv.runtime.words import Word

FONT = 7.0
LETTER = 0.062  # inches of a letter of that size, with some air
WIDEST = 24.0  # inches of a picture


def plot_alignment(
    features: Tensor,
    words: Sequence["Word"],
    path: str | Path | None = None,
    *,
    title: str = "",
    seconds_per_feature: float = 0.01,
) -> "Figure":
    """Draw a spectrogram with the words of an utterance under it, where they were said.

    Args:
        features: (T, F) logarithms of energies, such as ``input_features`` of one utterance.
        words: in the order of time.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        title: above the picture.
        seconds_per_feature: between two rows of ``features``.

    Returns:
        A ``matplotlib.figure.Figure``, as wide as the words need.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: features of another shape or of no frames.
        InputError: a path that cannot be written.
    """
    figure = new_figure(path, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.0)  # type: ignore[call-arg, union-attr]
    if features.ndim != 2 or not features.shape[0]:
        raise ValueError(f"features must be (T, F) of at least one frame, got the shape {tuple(features.shape)}")
    seconds = features.shape[0] * seconds_per_feature
    starts = [word.start for word in words]
    slots = [max(after - start, 1e-3) for start, after in zip(starts, [*starts[1:], max(seconds, *starts, 0.0)])]
    # As wide as the words beside each other need, if that isn't too wide; else they stand upright.
    flat = max([len(word.text) * LETTER / slot for word, slot in zip(words, slots)], default=0.0) * seconds
    width = min(max(PAGE, flat), WIDEST)
    upright = flat > 2.5 * PAGE
    if upright:
        width = min(max(PAGE, max(0.12 / slot for slot in slots) * seconds), WIDEST)
    height = LETTER * max(len(word.text) for word in words) + 0.1 if upright else 0.25
    figure.set_size_inches(width, 2.3 + height)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.9, height]})
    values = features.detach().float().cpu().numpy()
    low, high = np.quantile(values, (0.02, 0.995))
    upper.imshow(
        values.T,
        extent=(0, seconds, -0.5, features.shape[1] - 0.5),
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=low,
        vmax=max(high, low + 1e-6),
        interpolation="nearest",
    )
    upper.set_ylabel("mel filter", fontsize=FONT)
    for word in words:
        for edge in (word.start, word.end):
            upper.axvline(edge, color="white", linewidth=0.5, alpha=0.6)
        lower.axvspan(word.start, word.end, color="tab:blue", alpha=0.25, linewidth=0)
        lower.text(
            word.start + (0.0 if not upright else (word.end - word.start) / 2),
            0.5,
            word.text,
            fontsize=FONT,
            rotation=90 if upright else 0,
            ha="center" if upright else "left",
            va="center",
            parse_math=False,
        )
    lower.set_ylim(0, 1)
    lower.set_yticks([])
    lower.set_xlim(0, seconds)
    lower.set_xlabel("seconds", fontsize=FONT)
    for axis in (upper, lower):
        thin_lines(axis)
    upper.tick_params(bottom=False, labelbottom=False)
    if title:
        figure.suptitle(title, fontsize=FONT + 1, parse_math=False)
    save(figure, path, dots_per_inch=150)
    return figure
