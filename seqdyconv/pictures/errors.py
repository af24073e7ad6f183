"""Which errors a recogniser makes, how often, and with whom."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqdyconv.files import shorten
from seqdyconv.pictures.figures import LONGEST_NAME, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#4878a8", "#e0a030", "#a03050")  # of the kinds of errors


def plot_errors(
    rates: Mapping[str, Mapping[str, Mapping[str, float]]],
    errors: Mapping[str, Sequence[tuple[str, str, int]]],
    path: str | Path | None = None,
    title: str = "",
) -> "Figure":
    """Draw error rates by kind and speaker, and below them the most frequent errors.

    Args:
        rates: what a panel shows, such as ``"word error rate (%)"`` → group of utterances → kind of errors → per cent.
            All panels have the same groups, of which the first one is that of all utterances, and up to three kinds.
        errors: what a panel shows → its errors (what was taken for what, kind, times), in the order to draw. There are
            as many panels as of rates.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        title: above the picture.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: numbers of panels that differ.
        InputError: a path that cannot be written.

    Example:
        >>> from seqdyconv.pictures import plot_errors
        >>> rates = {"word error rate (%)": {"all speakers": {"substitutions": 5.0, "deletions": 1.5}}}
        >>> figure = plot_errors(rates, {"words": [("two → too", "substitutions", 3), ("a → ∅", "deletions", 1)]})
        >>> figure.axes[0].texts[0].get_text()
        ' 6.5'
    """
    if not rates or len(rates) != len(errors):
        raise ValueError(f"there must be as many panels of rates as of errors, got {len(rates)} and {len(errors)}")
    groups = next(iter(rates.values()))
    colours = dict(zip(next(iter(groups.values())), COLOURS))
    heights = [0.27 * len(groups) + 0.5, 0.24 * max(1, *map(len, errors.values())) + 0.5]
    figure = new_figure(path, figsize=(4.5 * len(rates), sum(heights) + 1.5), layout="constrained")
    panels = figure.subplots(2, len(rates), squeeze=False, gridspec_kw={"height_ratios": heights, "hspace": 0.06})
    figure.suptitle(title, fontsize=11, parse_math=False)
    for axis, (name, rows) in zip(panels[0], rates.items()):
        _draw_rates(axis, rows, colours, name)
    for axis in panels[0, 1:]:
        axis.set_yticklabels([])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    for axis, (name, entries) in zip(panels[1], errors.items()):
        _draw_counts(axis, entries, colours, name)
    save(figure, path)
    return figure


def _draw_rates(axis: Any, rows: Mapping[str, Mapping[str, float]], colours: Mapping[str, str], name: str) -> None:
    """Stacked bars, one for each group, the sum written behind it."""
    left = [0.0] * len(rows)
    for kind, colour in colours.items():
        widths = [row[kind] for row in rows.values()]
        axis.barh(range(len(rows)), widths, left=left, color=colour, label=kind, height=0.75)
        left = [start + width for start, width in zip(left, widths)]
    end = min(max(1.0, *left), 120.0)  # a rate has no upper limit: few words could stretch the axis
    for position, total in enumerate(left):
        weight = None if position else "bold"
        axis.text(min(total, end), position, f" {total:.1f}", va="center", fontsize=8, weight=weight)
    axis.set_yticks(range(len(rows)), [shorten(row, LONGEST_NAME) for row in rows], fontsize=8, parse_math=False)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, end * 1.12)
    axis.set_xlabel(name, fontsize=9)
    _horizontal(axis)


def _draw_counts(axis: Any, entries: Sequence[tuple[str, str, int]], colours: Mapping[str, str], title: str) -> None:
    """Bars of counts, coloured by the kind of the error."""
    counts = [count for _, _, count in entries]
    axis.barh(range(len(entries)), counts, color=[colours[kind] for _, kind, _ in entries], height=0.75)
    axis.set_yticks(
        range(len(entries)), [shorten(label, LONGEST_NAME) for label, _, _ in entries], fontsize=8, parse_math=False
    )
    axis.set_ylim(max(len(entries), 1) - 0.4, -0.6)
    axis.set_xlim(0, max(counts, default=1) * 1.08)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("times", fontsize=9)
    if not entries:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", va="center")
    _horizontal(axis)


def _horizontal(axis: Any) -> None:
    """A grid behind horizontal bars, and no more lines than needed."""
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
