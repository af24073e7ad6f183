"""What all pictures share: the figure, its file, its fonts and lines. matplotlib is imported where one is drawn."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqdyconv.errors import InputError
from seqdyconv.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = 7.2  # inches of a page's text
LONGEST_NAME = 40  # letters of what users name, on an axis
FONT = 6.5  # points of the labels in pictures that show as much as fits a page


def new_figure(path: str | Path | None = None, **options: Any) -> "Figure":
    """An empty figure, once it is clear that it can be drawn and written.

    Args:
        path: the file that it shall be written to by :func:`save`; its suffix names the type. None: none.
        options: of ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: a type that matplotlib doesn't write, or a folder that doesn't exist.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "seqdyconv[recipes]"') from error
    figure = Figure(**options)
    if path is not None:
        types = sorted(figure.canvas.get_supported_filetypes())
        if Path(path).suffix[1:].lower() not in types:
            raise InputError(f"path must end in one of {', '.join('.' + kind for kind in types)}, got {str(path)!r}")
        if not Path(path).parent.is_dir():
            raise InputError(f"path must be in a folder that exists, got {str(path)!r}")
    return figure


def save(figure: "Figure", path: str | Path | None, dots_per_inch: int = 120) -> None:
    """Write a figure to a file of the type that the suffix names, whole or not at all; None writes none."""
    if path is not None:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix[1:], dpi=dots_per_inch)


def thin_lines(axis: "Axes") -> None:
    """Frame and ticks for a panel that is one of many."""
    axis.tick_params(length=2, width=0.5, pad=1.5, labelsize=FONT)
    for spine in axis.spines.values():
        spine.set_linewidth(0.5)


def hatch(axis: "Axes") -> None:
    """Hatching behind what is drawn: there is nothing."""
    axis.patch.set(facecolor="0.96", edgecolor="0.82", hatch="//////", linewidth=0)


def add_weight_bar(figure: "Figure", drawn: Any, axes: Any, ticks: Iterable[float] | None = None) -> None:
    """A short colour bar for the weights of taps, at the upper end of the panels.

    Args:
        figure: with the panels.
        drawn: what has the colours, such as an image.
        axes: all panels.
        ticks: round numbers; None: matplotlib's.
    """
    bar = figure.colorbar(
        drawn,
        ax=axes,
        fraction=0.02,
        aspect=25,
        pad=0.01,
        shrink=min(1.0, 2.5 / figure.get_figheight()),
        anchor=(0, 1),
        ticks=ticks,
        format="%g" if ticks else None,
    )
    bar.set_label("weight of the tap", fontsize=FONT + 0.5)
    bar.ax.tick_params(labelsize=FONT, length=2)
    bar.outline.set_linewidth(0.5)
