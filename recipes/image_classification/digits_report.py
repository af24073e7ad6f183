"""The table of results and the picture of the mixtures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from seqdyconv.files import replacing

NAMES = {
    "static": "static, `nn.Conv2d`",
    "static_wide": "static, as many parameters as DyConv",
    "dyconv": "DyConv, `KernelAttentionConv2d`",
    "condconv": "CondConv, the same with sigmoids",
    "odconv": "ODConv, `ODConv2d`",
}


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each layer the mean and standard deviation over its seeds, of accuracies in per cent and of seconds."""
    found: dict[str, dict[str, float]] = {}
    for layer in dict.fromkeys(run["layer"] for run in runs):
        own = [run for run in runs if run["layer"] == layer]
        row = {"parameters": own[0]["parameters"], "megaflops": own[0]["megaflops"]}
        for name in ("validation_accuracy", "test_accuracy", "train_seconds"):
            values = [run[name] for run in own]
            row |= {name: fmean(values), f"{name}_std": stdev(values) if len(values) > 1 else 0.0}
        found[layer] = row
    return found


def table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row for each layer."""
    lines = [
        "| convolution | parameters | MFLOPs per image | validation accuracy, % | test accuracy, % | seconds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for layer, row in summary.items():
        accuracies = (
            f"{row[name]:.2f} ± {row[name + '_std']:.2f}" for name in ("validation_accuracy", "test_accuracy")
        )
        cells = (
            NAMES[layer],
            f"{row['parameters']:,}",
            f"{row['megaflops']:.2f}",
            *accuracies,
            f"{row['train_seconds']:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean_mixtures(mixtures: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean weights (classes, N) of images (n, N) by label; NaN for a label without images."""
    return torch.stack([mixtures[labels == label].mean(0) for label in range(classes)])


def plot_mixtures(means: Mapping[str, Sequence[Tensor]], path: str | Path) -> None:
    """Draw the mean weights (classes, N) of the kernels by class, for each layer of networks of each kind."""
    columns = max(len(layers) for layers in means.values())
    figure = Figure(figsize=(3.6 * len(means), 3.4 * columns), layout="constrained")
    panels = figure.subplots(columns, len(means), squeeze=False)
    for column, (kind, layers) in enumerate(means.items()):
        largest = max(float(weights.nan_to_num().max()) for weights in layers)
        for row, weights in enumerate(layers):
            panel = panels[row][column]
            image = panel.imshow(weights.numpy(), cmap="viridis", vmin=0, vmax=largest, aspect="auto")
            for digit, values in enumerate(weights.tolist()):
                for kernel, value in enumerate(values):
                    colour = "black" if value > 0.6 * largest else "white"
                    panel.text(kernel, digit, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
            panel.set_title(f"{NAMES[kind].split(',')[0]}, convolution {row + 2}", fontsize=10)
            panel.set_xticks(range(weights.shape[1]), [f"{kernel + 1}" for kernel in range(weights.shape[1])])
            panel.set_yticks(range(weights.shape[0]))
            if row == columns - 1:
                panel.set_xlabel("kernel")
            if column == 0:
                panel.set_ylabel("digit in the image")
        figure.colorbar(image, ax=list(panels[:, column]), location="bottom", shrink=0.8, label="mean weight")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
