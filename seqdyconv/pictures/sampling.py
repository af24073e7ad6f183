"""Where the deformable convolutions of a model's encoder read, over the tokens of a text or over features."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seqdyconv.errors import InputError
from seqdyconv.models.recording import SamplingRun, sampling_runs
from seqdyconv.pictures.figures import FONT, PAGE, add_weight_bar, hatch, new_figure, save, thin_lines
from seqdyconv.pictures.panels import (
    LETTER,
    TOKEN,
    Tokens,
    arrange,
    by_layer,
    choose,
    choose_panels,
    columns_on_page,
    encoder_call,
    label_tokens,
    picture_title,
    tokenize,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOT = 26.0  # square points of the tap with the largest weight


def plot_sampling(
    model: Any,
    input: "str | tuple[str, str] | Tensor",
    tokenizer: Any = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    path: str | Path | None = None,
    *,
    steps: Iterable[int] | None = None,
    seconds_per_feature: float = 0.01,
) -> "Figure":
    """Draw where the deformable convolutions of a model's encoder read: dots, the larger the more a tap counts.

    For a text, one panel per head with the tokens on both axes: in column t stand the taps of token t, on the height of
    what they read; grey dashes are where they would read without offsets. What is not in the text is hatched: zeros are
    read there.

    For features, such as a spectrogram, one panel per layer: the features, and on top, in a row per head, the taps of
    some output steps, each in a colour of its own with a line where the step is.

    Args:
        model: one of our models or a swapped one; with features also a layer.
        input: a text or a pair of texts, or features (T, F).
        tokenizer: of the model; None: the one that lies beside its weights. For a text only.
        layers: numbers of the layers to draw, as in the names of the model's modules; None: up to four, from the first
            to the last.
        heads: numbers of the heads to draw, from 0; None: the first four, or two where the text is too long for heads
            side by side.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        steps: the output steps to draw over features; None: five, evenly spread.
        seconds_per_feature: between two rows of the features.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: no tokenizer, no deformable convolution in the encoder, a layer, head or step that is not there, no
            text, one that is too long or features of another shape, or a path that cannot be written.
    """
    figure = new_figure(path, layout="constrained" if isinstance(input, Tensor) else "compressed")
    if isinstance(input, Tensor):
        if input.dim() != 2 or 0 in input.shape:
            raise InputError(f"features must be (T, F), neither of them 0, got {tuple(input.shape)}")
        name = next(iter(inspect.signature(model.forward).parameters))
        inputs, columns = {name: input[None]}, 1
    else:
        tokens = tokenize(model, input, tokenizer)
        inputs, columns = tokens.inputs, columns_on_page(tokens)
    runs = by_layer(sampling_runs(*(encoder_call(model, inputs) if hasattr(model, "config") else (model, inputs))))
    num_heads = {layer: run.sampling.positions.shape[2] for layer, run in runs.items()}
    panels = choose_panels(num_heads, layers, heads, 4 if columns > 1 or isinstance(input, Tensor) else 2)
    if isinstance(input, Tensor):
        _draw_over_features(figure, runs, panels, input, steps, seconds_per_feature)
    else:
        _draw_over_tokens(figure, runs, panels, columns, tokens)
    figure.suptitle(picture_title(f"Where {type(model).__name__} reads", num_heads, panels), fontsize=FONT + 1)
    save(figure, path, dots_per_inch=200)
    return figure


def _draw_over_tokens(
    figure: Any, runs: dict[int, SamplingRun], panels: dict[int, list[int]], columns: int, tokens: Tokens
) -> None:
    """Fill the figure: for each layer one or more rows of heads, all on one scale of dots and colours."""
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    time = len(tokens.strings)
    rows, columns = arrange(panels, columns)
    top, lowest = _largest(runs, panels)
    side = TOKEN * time
    label = max(map(len, tokens.strings)) * LETTER
    figure.set_size_inches(columns * (side + 0.1) + label + 0.9, len(rows) * (side + 0.3) + label + 0.5)
    axes = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    for row, (layer, heads) in enumerate(rows):
        conv = runs[layer].conv
        positions, weights = (part[0].float().cpu() for part in runs[layer].sampling)
        taps = positions.shape[-1]
        token = torch.arange(time).repeat_interleave(taps)
        unmoved = (torch.arange(taps) * conv.dilation - conv.left + torch.arange(time)[:, None]).flatten()
        for column in range(columns):
            axis = axes[row, column]
            if column >= len(heads):
                axis.set_axis_off()
                continue
            head = heads[column]
            hatch(axis)
            axis.add_patch(Rectangle((-0.5, -0.5), time, time, facecolor="white", edgecolor="none", zorder=0.5))
            axis.plot([-0.5, time - 0.5], [-0.5, time - 0.5], color="0.8", linewidth=0.5, zorder=1)
            axis.scatter(token, unmoved, s=2, color="0.7", marker="_", linewidths=0.5, zorder=1)
            dots = axis.scatter(
                token,
                positions[:, head].flatten(),
                s=DOT * weights[:, head].abs().flatten() / top,
                c=weights[:, head].flatten(),
                cmap="viridis_r" if lowest >= 0 else "RdBu_r",
                norm=Normalize(0, top) if lowest >= 0 else Normalize(-top, top),
                linewidths=0.25,
                edgecolors="0.25",
                zorder=2,
            )
            axis.set(xlim=(-0.5, time - 0.5), ylim=(time + 0.5, -1.5), aspect="equal")
            axis.set_title(f"layer {layer}, head {head}", fontsize=FONT, pad=2)
            thin_lines(axis)
            label_tokens(axis, tokens, both=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("what its taps read", fontsize=FONT)
    add_weight_bar(figure, dots, axes)


def _draw_over_features(
    figure: Any,
    runs: dict[int, SamplingRun],
    panels: dict[int, list[int]],
    features: Tensor,
    steps: Iterable[int] | None,
    seconds_per_feature: float,
) -> None:
    """Fill the figure: one panel per layer."""
    from matplotlib import colormaps

    frames, bins = features.shape
    top, _ = _largest(runs, panels)
    count = max(map(len, panels.values()))
    figure.set_size_inches(PAGE, len(panels) * (0.6 + 0.22 * count) + 0.7)
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    seconds = frames * seconds_per_feature
    values = features.detach().float().cpu().numpy()
    low, high = np.quantile(values, (0.05, 0.995))
    steps = None if steps is None else list(steps)
    for axis, (layer, heads) in zip(axes, panels.items()):
        positions, weights = (part[0].float().cpu() for part in runs[layer].sampling)
        time = len(positions)
        step_seconds = max(1, round(frames / time)) * seconds_per_feature  # subsampled features: several to a step
        centres = list(range(time))
        chosen = choose("steps", steps, centres, [int(time * (i + 0.5) / 5) for i in range(5)] if time > 5 else centres)
        axis.imshow(
            values.T,
            extent=(0, seconds, 0, bins),
            origin="lower",
            aspect="auto",
            cmap="Greys",
            alpha=0.55,
            vmin=low,
            vmax=high,
        )
        for number, step in enumerate(chosen):
            colour = colormaps["tab10"](number % 10)
            axis.axvline((step + 0.5) * step_seconds, color=colour, linewidth=0.8, linestyle=(0, (3, 2)), zorder=2)
            for row, head in enumerate(heads):
                height = row + 0.5 + (0.12 if number % 2 else -0.12)  # the windows of neighbours may overlap
                axis.scatter(
                    (positions[step, head] + 0.5) * step_seconds,
                    torch.full((positions.shape[-1],), bins * (1 - height / len(heads))),
                    s=DOT * weights[step, head].abs() / top,
                    color=colour,
                    linewidths=0.3,
                    edgecolors="white",
                    zorder=3,
                )
        axis.set(xlim=(0, seconds), ylim=(0, bins))
        axis.set_ylabel(f"layer {layer}", fontsize=FONT)
        rows = [bins * (1 - (row + 0.5) / len(heads)) for row in range(len(heads))]
        axis.set_yticks(rows, [f"head {head}" for head in heads], fontsize=FONT)
        thin_lines(axis)
    axes[-1].set_xlabel("seconds", fontsize=FONT + 0.5)


def _largest(runs: dict[int, SamplingRun], panels: dict[int, list[int]]) -> tuple[float, float]:
    """The largest weight that is drawn, by its amount, and the lowest one."""
    drawn = torch.cat([runs[layer].sampling.weights[0][:, heads].flatten() for layer, heads in panels.items()])
    return drawn.abs().max().item() or 1.0, drawn.min().item()
