"""See where deformable convolutions read: the positions of their taps for an input, as tensors and as a picture."""

import inspect
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from seqdyconv.files import replacing
from seqdyconv.layers import DeformableConv1d, DeformableDepthwiseConv1d
from seqdyconv.models.kernels import (
    FONT,
    MARGIN,
    PITCH,
    WIDTH,
    _by_layer,
    _check_path,
    _choose,
    _encoder_call,
    _own_tokenizer,
    _spread,
    _title,
    _tokenize,
    record_runs,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOT = 26.0  # square points of the tap with the largest weight


class Sampling(NamedTuple):
    """Where the taps of a convolution read, and how much what they read counts."""

    positions: Tensor
    """(B, T, H, K), in steps of the convolution's input from 0; before and after the sequence are zeros."""
    weights: Tensor
    """(B, T, H, K): kernel times modulation, of a :class:`seqdyconv.DeformableConv1d` the norm of a tap's weights."""


class _Recorded(NamedTuple):
    """One run of one convolution."""

    name: str
    conv: DeformableConv1d | DeformableDepthwiseConv1d
    sampling: Sampling

    @property
    def heads(self) -> list[int]:
        return list(range(self.sampling.positions.shape[2]))


def record_sampling(model: nn.Module, **inputs: Any) -> dict[str, Sampling]:
    """Where the taps of every deformable convolution of a model read for a given input.

    Args:
        model: any model with our layers somewhere in it, swapped ones too. It runs once, in eval mode and without
            gradients, and is left as it was.
        inputs: of the model, such as ``input_ids`` and ``attention_mask``. A decoder runs without its cache, unless
            ``use_cache`` says otherwise.

    Returns:
        By the convolution's name in the model, see :class:`Sampling`; H is the number of offset groups of a
        :class:`seqdyconv.DeformableConv1d`. What is at padded steps means nothing.

    Raises:
        ValueError: the model has no such convolution, or ran none of them.

    Example:
        >>> import torch
        >>> from seqdyconv import build_mixer
        >>> from seqdyconv.models import record_sampling
        >>> found = record_sampling(build_mixer("deformable_conv", 16, 4, kernel_size=3), input=torch.randn(1, 10, 16))
        >>> found["conv"].positions[0, 5, 0].tolist()  # not trained yet
        [4.0, 5.0, 6.0]
    """
    return {one.name: one.sampling for one in _record(model, inputs)}


def _record(model: nn.Module, inputs: dict[str, Any]) -> list[_Recorded]:
    def read(conv: Any, input: Tensor, padding_mask: Tensor | None = None) -> Sampling:
        return Sampling(*conv.sampling(input, padding_mask=padding_mask))

    return [_Recorded(*one) for one in record_runs(model, inputs, (DeformableConv1d, DeformableDepthwiseConv1d), read)]


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
        ValueError: no tokenizer, no deformable convolution in the encoder, a layer, head or step that is not there, no
            text, one that is too long or features of another shape, or a path that cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plot_sampling needs matplotlib: pip install "seqdyconv[recipes]"') from error
    figure = Figure(layout="constrained" if isinstance(input, Tensor) else "compressed")
    if path is not None:
        _check_path(Path(path), figure.canvas.get_supported_filetypes())
    if isinstance(input, Tensor):
        if input.dim() != 2 or 0 in input.shape:
            raise ValueError(f"features must be (T, F), neither of them 0, got {tuple(input.shape)}")
        name = next(iter(inspect.signature(model.forward).parameters))
        inputs, across = {name: input[None]}, WIDTH
    else:
        tokenizer = _own_tokenizer(model) if tokenizer is None else tokenizer
        tokens, special, inputs = _tokenize(input, tokenizer)
        across = PITCH * len(tokens) + 0.1
    recorded = _by_layer(_record(*(_encoder_call(model, inputs) if hasattr(model, "config") else (model, inputs))))
    shown = _choose("layers", layers, list(recorded), _spread(list(recorded), 4))
    columns = max(1, int((WIDTH - MARGIN) / across))
    panels = {}
    for layer in shown:
        every = recorded[layer].heads
        panels[layer] = _choose("heads", heads, every, every[: 4 if columns > 1 or isinstance(input, Tensor) else 2])
    if isinstance(input, Tensor):
        _draw_over_features(figure, recorded, panels, input, steps, seconds_per_feature)
    else:
        _draw_over_tokens(figure, recorded, panels, columns, tokens, special)
    most = max(len(one.heads) for one in recorded.values())
    title = _title(f"Where {type(model).__name__} reads", len(recorded), most, panels)
    figure.suptitle(title, fontsize=FONT + 1)
    if path is not None:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix[1:], dpi=200)
    return figure


def _draw_over_tokens(
    figure: Any,
    recorded: dict[int, _Recorded],
    panels: dict[int, list[int]],
    columns: int,
    tokens: Sequence[str],
    special: Sequence[bool],
) -> None:
    """Fill the figure: for each layer one or more rows of heads, all on one scale of dots and colours."""
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    time = len(tokens)
    most = max(map(len, panels.values()))
    columns = math.ceil(most / math.ceil(most / columns))  # rows of equal length
    rows = [(layer, heads[i : i + columns]) for layer, heads in panels.items() for i in range(0, len(heads), columns)]
    top, lowest = _largest(recorded, panels)
    side = PITCH * time
    label = max(map(len, tokens)) * 0.055
    figure.set_size_inches(columns * (side + 0.1) + label + 0.9, len(rows) * (side + 0.3) + label + 0.5)
    axes = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    for row, (layer, heads) in enumerate(rows):
        conv = recorded[layer].conv
        positions, weights = (part[0].float().cpu() for part in recorded[layer].sampling)
        token = torch.arange(time).repeat_interleave(conv.kernel_size)
        unmoved = (torch.arange(conv.kernel_size) * conv.dilation - conv.left + torch.arange(time)[:, None]).flatten()
        for column in range(columns):
            axis = axes[row, column]
            if column >= len(heads):
                axis.set_axis_off()
                continue
            head = heads[column]
            axis.patch.set(facecolor="0.96", edgecolor="0.82", hatch="//////", linewidth=0)
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
            axis.set_xticks(range(time), tokens, rotation=90, fontsize=FONT, parse_math=False)
            axis.set_yticks(range(time), tokens, fontsize=FONT, parse_math=False)
            axis.tick_params(length=2, width=0.5, pad=1.5)
            for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
                for text, dim in zip(ticks, special):
                    text.set_color("0.6" if dim else "black")
            for spine in axis.spines.values():
                spine.set_linewidth(0.5)
    for axis in axes[:, 0]:
        axis.set_ylabel("what its taps read", fontsize=FONT)
    shrink = min(1.0, 2.5 / figure.get_figheight())
    bar = figure.colorbar(dots, ax=axes, fraction=0.02, aspect=25, pad=0.01, shrink=shrink, anchor=(0, 1))
    bar.set_label("weight of the tap", fontsize=FONT + 0.5)
    bar.ax.tick_params(labelsize=FONT, length=2)
    bar.outline.set_linewidth(0.5)


def _draw_over_features(
    figure: Any,
    recorded: dict[int, _Recorded],
    panels: dict[int, list[int]],
    features: Tensor,
    steps: Iterable[int] | None,
    seconds_per_feature: float,
) -> None:
    """Fill the figure: one panel per layer."""
    from matplotlib import colormaps

    frames, bins = features.shape
    top, _ = _largest(recorded, panels)
    count = max(map(len, panels.values()))
    figure.set_size_inches(WIDTH, len(panels) * (0.6 + 0.22 * count) + 0.7)
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    seconds = frames * seconds_per_feature
    shades = features.float().cpu().flatten().quantile(torch.tensor([0.05, 0.995])).tolist()
    for axis, (layer, heads) in zip(axes, panels.items()):
        positions, weights = (part[0].float().cpu() for part in recorded[layer].sampling)
        time = len(positions)
        step_seconds = max(1, round(frames / time)) * seconds_per_feature  # subsampled features: several to a step
        centres = list(range(time))
        chosen = _choose(
            "steps", steps, centres, [int(time * (i + 0.5) / 5) for i in range(5)] if time > 5 else centres
        )
        axis.imshow(
            features.float().cpu().T.numpy(),
            extent=(0, seconds, 0, bins),
            origin="lower",
            aspect="auto",
            cmap="Greys",
            alpha=0.55,
            vmin=shades[0],
            vmax=shades[1],
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
        axis.tick_params(length=2, width=0.5, pad=1.5, labelsize=FONT)
        for spine in axis.spines.values():
            spine.set_linewidth(0.5)
    axes[-1].set_xlabel("seconds", fontsize=FONT + 0.5)


def _largest(recorded: dict[int, _Recorded], panels: dict[int, list[int]]) -> tuple[float, float]:
    """The largest weight that is drawn, by its amount, and the lowest one."""
    drawn = torch.cat([recorded[layer].sampling.weights[0][:, heads].flatten() for layer, heads in panels.items()])
    return drawn.abs().max().item() or 1.0, drawn.min().item()
