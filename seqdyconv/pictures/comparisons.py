"""A comparison of variants: what each run came to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqdyconv.pictures.figures import new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_comparison(
    values: Mapping[str, Sequence[float]],
    path: str | Path | None = None,
    title: str = "",
    label: str = "",
    intervals: Mapping[str, tuple[float, float]] | None = None,
    trials: Mapping[str, Sequence[float]] | None = None,
    trials_label: str = "",
) -> "Figure":
    """Draw the runs of each variant as points on a line, their mean and its interval; beside them the trials.

    Args:
        values: variant → what its runs came to.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        title: above the picture.
        label: of the values' axis.
        intervals: variant → from where to where its mean may be.
        trials: variant → what the trials of its search came to, in a panel of their own.
        trials_label: of the trials' axis.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: a path that cannot be written.

    Example:
        >>> from seqdyconv.pictures import plot_comparison
        >>> figure = plot_comparison({"attention": [28.1, 28.9], "dynamic": [36.4, 36.9]}, label="BLEU")
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['attention', 'dynamic']
    """
    shown: list[tuple[Mapping[str, Sequence[Any]], str]] = [(values, label)]
    if trials and any(trials.values()):
        shown.append((trials, trials_label))
    names = list(values)
    size = (4.2 * len(shown) + 1.6, 0.42 * len(names) + 1.3)
    figure = new_figure(path, figsize=size, layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    figure.suptitle(title, parse_math=False)
    for panel, (points, name) in zip(panels, shown):
        of_trials = points is trials
        for row, variant in enumerate(names):
            found = list(points.get(variant, ()))
            color = "0.5" if of_trials else "#0b5fa5"
            panel.plot(found, [row] * len(found), "o", color=color, alpha=0.55, markersize=5, markeredgewidth=0)
            if found and not of_trials:
                panel.plot(sum(found) / len(found), row, "|", color="#b2512c", markersize=16, markeredgewidth=2)
                if intervals and variant in intervals:
                    panel.plot(intervals[variant], [row, row], "-", color="#b2512c", linewidth=1.4, zorder=0)
        panel.set(ylim=(len(names) - 0.5, -0.5))
        panel.set_xlabel(name, parse_math=False)
        panel.set_yticks(range(len(names)), names, parse_math=False)
        panel.grid(axis="x", alpha=0.3, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    return figure
