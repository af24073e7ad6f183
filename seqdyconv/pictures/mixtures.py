"""How layers that mix kernels mix them, by class."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from seqdyconv.pictures.figures import new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_mixtures(
    means: Mapping[str, Mapping[str, Tensor]],
    path: str | Path | None = None,
    title: str = "",
    classes: str = "class",
) -> "Figure":
    """Draw the mean weights of mixed kernels by class: a column for each model, a panel for each of its layers.

    Args:
        means: name of a model → name of a layer → (L, N) mean weights of its N kernels for inputs of L classes; NaN for
            a class without any. :func:`seqdyconv.models.record_mixtures` gives the weights.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        title: above the picture.
        classes: what the classes are.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no means.
        InputError: a path that cannot be written.

    Example:
        >>> import torch
        >>> from seqdyconv.pictures import plot_mixtures
        >>> figure = plot_mixtures({"DyConv": {"conv": torch.rand(10, 4).softmax(-1)}}, classes="digit")
        >>> figure.axes[0].get_title()
        'DyConv, conv'
    """
    if not means or not all(means.values()):
        raise ValueError("means must have a layer of each model, got none")
    rows = max(map(len, means.values()))
    figure = new_figure(path, figsize=(3.6 * len(means), 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, len(means), squeeze=False)
    figure.suptitle(title, parse_math=False)
    for column, (model, layers) in enumerate(means.items()):
        shown = {layer: weights.detach().float().cpu() for layer, weights in layers.items()}
        largest = max(float(weights.nan_to_num().max()) for weights in shown.values())
        for axis in panels[len(layers) :, column]:
            axis.set_axis_off()
        for axis, (layer, weights) in zip(panels[:, column], shown.items()):
            image = axis.imshow(weights.numpy(), cmap="viridis", vmin=0, vmax=largest, aspect="auto")
            for row, values in enumerate(weights.tolist()):
                for kernel, value in enumerate(values):
                    colour = "black" if value > 0.6 * largest else "white"
                    axis.text(kernel, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
            axis.set_title(f"{model}, {layer}", fontsize=10, parse_math=False)
            axis.set_xticks(range(weights.shape[1]), [f"{kernel + 1}" for kernel in range(weights.shape[1])])
            axis.set_yticks(range(weights.shape[0]))
        axis.set_xlabel("kernel")
        figure.colorbar(image, ax=list(panels[:, column]), location="bottom", shrink=0.8, label="mean weight")
    for axis in panels[:, 0]:
        axis.set_ylabel(classes, parse_math=False)
    save(figure, path)
    return figure
