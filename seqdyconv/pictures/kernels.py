"""The kernels of a model's encoder for a text, or of its decoder."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqdyconv.errors import InputError
from seqdyconv.models.recording import KernelRun, kernel_runs
from seqdyconv.pictures.figures import FONT, PAGE, add_weight_bar, hatch, new_figure, save, thin_lines
from seqdyconv.pictures.panels import (
    LETTER,
    MARGIN,
    TOKEN,
    Tokens,
    arrange,
    by_layer,
    choose_panels,
    columns_on_page,
    decoder_tokens,
    encoder_call,
    label_tokens,
    picture_title,
    tokenize,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_kernels(
    model: Any,
    text: str | tuple[str, str],
    tokenizer: Any = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    path: str | Path | None = None,
    *,
    target: str | None = None,
) -> "Figure":
    """Draw the kernels of a model's encoder, or of its decoder, for a text: a panel per head, the tokens on its axis.

    In column t of a panel stands the kernel of token t, its tap at offset o is the weight of token t + o. Taps that
    reach outside the text are hatched.

    Args:
        model: one of our models or a swapped one, loaded by ``from_pretrained``.
        text: a text, or a pair of texts.
        tokenizer: of the model; None: the one that lies beside its weights.
        layers: numbers of the layers to draw, as in the names of the model's modules; None: up to four, from the first
            to the last.
        heads: numbers of the heads to draw, from 0; None: the first four, or two where the text is too long for heads
            side by side.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        target: what a decoder writes for the text, such as a translation: its kernels are drawn, over the tokens that
            it reads. None: those of the encoder.

    Returns:
        A ``matplotlib.figure.Figure``, as wide as the text needs.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: no tokenizer, no convolution there, no decoder for a target, a layer or head that is not there, no
            text or one that is too long, or a path that cannot be written.
    """
    figure = new_figure(path, layout="constrained")
    tokens = tokenize(model, text, tokenizer)
    if target is None:
        every = kernel_runs(*encoder_call(model, tokens.inputs))
    else:
        tokens = decoder_tokens(model, tokens, target, tokenizer)
        decoder = set(model.get_decoder().modules())
        every = [run for run in kernel_runs(model, tokens.inputs) if run.conv in decoder]
    # Some convolutions run over something else, such as the features of each step.
    runs = by_layer([run for run in every if run.kernels.shape[:2] == (1, len(tokens.strings))])
    if not runs:
        raise InputError(f"the model must have convolutions over tokens there, got a {type(model).__name__} without")
    columns = columns_on_page(tokens)
    num_heads = {layer: run.conv.num_heads for layer, run in runs.items()}
    panels = choose_panels(num_heads, layers, heads, most_heads=4 if columns > 1 else 2)
    _draw(figure, runs, panels, columns, tokens)
    what = type(model).__name__ if target is None else f"the decoder of {type(model).__name__}"
    figure.suptitle(picture_title(f"Kernels of {what}", num_heads, panels), fontsize=FONT + 1)
    save(figure, path, dots_per_inch=200)
    return figure


def _draw(figure: Any, runs: dict[int, KernelRun], panels: dict[int, list[int]], columns: int, tokens: Tokens) -> None:
    """Fill the figure: for each layer one or more rows of heads, all on one colour scale."""
    from matplotlib.colors import Normalize, PowerNorm

    time = len(tokens.strings)
    rows, columns = arrange(panels, columns)
    images = {layer: _offsets(runs[layer], time) for layer in panels}
    heights = [min(0.9, max(0.42, 0.05 * images[layer][0].shape[1])) for layer, _ in rows]
    seen = torch.cat([weights[panels[layer]].flatten() for layer, (weights, _) in images.items()])
    seen = seen[~seen.isnan()]
    top = seen.abs().max().item()
    if seen.min() >= 0:
        # The root: one head may put all its weight on a tap, and another spread it over thirty.
        scale, ticks = {"cmap": "magma_r", "norm": PowerNorm(0.5, vmin=0, vmax=top)}, _root_ticks(top)
    else:
        scale, ticks = {"cmap": "RdBu_r", "norm": Normalize(-top, top)}, None

    width = columns * (TOKEN * time + 0.1) + MARGIN
    longest = max(map(len, tokens.strings)) * LETTER
    figure.set_size_inches(
        max(width, PAGE / 2), sum(heights) + (0.2 if columns > 1 else 0.08) * len(rows) + longest + 0.7
    )
    axes = figure.subplots(len(rows), columns, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights})
    lowest: dict[int, Any] = {}
    for row, (layer, heads) in enumerate(rows):
        weights, extent = images[layer]
        for column in range(columns):
            axis = axes[row, column]
            if column >= len(heads):
                axis.set_axis_off()
                continue
            image = axis.imshow(
                weights[heads[column]].numpy(),
                extent=(-0.5, time - 0.5, *extent),
                origin="lower",
                aspect="auto",
                interpolation="none",  # vector files get the cells as they are
                **scale,
            )
            hatch(axis)
            thin_lines(axis)
            _label_offsets(axis, extent, runs[layer].conv.dilation)
            if columns > 1:
                axis.set_title(f"head {heads[column]}", fontsize=FONT, pad=2)
            axis.set_xticks(range(time), [])
            lowest[column] = axis
        name = f"layer {layer}" if columns > 1 else f"layer {layer}\nhead {heads[0]}"
        axes[row, 0].set_ylabel(name, fontsize=FONT)
    for axis in lowest.values():
        label_tokens(axis, tokens)
    figure.supylabel("offset in tokens", fontsize=FONT + 0.5)
    add_weight_bar(figure, image, axes, ticks)
    figure.draw_without_rendering()
    missing = TOKEN * time - axes[0, 0].get_window_extent().width / figure.dpi
    figure.set_figwidth(figure.get_figwidth() + columns * max(missing, 0))


def _offsets(run: KernelRun, time: int) -> tuple[Tensor, tuple[float, float]]:
    """Kernels (H, taps, T) of the first sequence with NaN outside it, and the lowest and highest offset drawn.

    Taps that are outside at every step are left out.
    """
    conv = run.conv
    kernels = run.kernels[0].float().cpu().permute(1, 2, 0)
    offsets = torch.arange(kernels.shape[1]) * conv.dilation - conv.left
    read = offsets[:, None] + torch.arange(time)
    kernels = kernels.masked_fill((read < 0) | (read >= time), math.nan)
    reached = offsets.abs() < time
    offsets = offsets[reached]
    half = conv.dilation / 2
    return kernels[:, reached], (offsets[0].item() - half, offsets[-1].item() + half)


def _root_ticks(top: float) -> list[float] | None:
    """Round weights up to ``top`` that stand apart on a scale of roots; None where the usual ticks do."""
    ticks = [0.0]
    for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        if tick <= top and math.sqrt(tick) - math.sqrt(ticks[-1]) > 0.11 * math.sqrt(top):
            ticks.append(tick)
    return ticks if len(ticks) > 2 and top <= 1 else None


def _label_offsets(axis: Any, extent: tuple[float, float], dilation: int) -> None:
    """Ticks at the lowest and highest offset and at the token itself."""
    first, last = extent[0] + dilation / 2, extent[1] - dilation / 2
    ticks = sorted({first, 0.0, last} if first <= 0 <= last else {first, last})
    axis.set_yticks(ticks, [f"{tick:+.0f}".replace("-", "−") if tick else "0" for tick in ticks], fontsize=FONT - 1)
