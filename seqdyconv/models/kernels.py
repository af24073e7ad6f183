"""See the kernels: those of every convolution of a model for a given input, as tensors and as a picture."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from seqdyconv.files import replacing
from seqdyconv.layers import DynamicConv1d, LightweightConv1d

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PITCH = 0.108  # inches of a token on the axis: the labels, of FONT points, just do not touch
FONT = 6.5
WIDTH = 7.2  # inches of a page's text: as many heads side by side as fit
MARGIN = 1.1  # inches of it for axis labels and colour bar


Run = TypeVar("Run", bound=Any)  # what was recorded of a run of a convolution, with its ``name``


class Recorded(NamedTuple):
    """One run of one convolution."""

    name: str
    conv: LightweightConv1d | DynamicConv1d
    kernels: Tensor  # (B, T, H, K)


def record_kernels(model: nn.Module, **inputs: Any) -> dict[str, Tensor]:
    """The kernels of every lightweight and dynamic convolution of a model for a given input.

    Args:
        model: any model with our layers somewhere in it, swapped ones too. It runs once, in eval mode and without
            gradients, and is left as it was.
        inputs: of the model, such as ``input_ids`` and ``attention_mask``. A decoder runs without its cache, unless
            ``use_cache`` says otherwise: steps with a cache are streamed, and only whole sequences are recorded.

    Returns:
        By the convolution's name in the model (B, T, H, K), softmax included: the kernel of head h at step t of
        sequence b; tap k reads the step t + k·dilation − P, where P is the convolution's ``left``. Kernels at padded
        steps mean nothing. Where a model runs one module several times, as ALBERT does, the later ones are named
        ``"name (run 2)"`` and so on.

    Raises:
        ValueError: the model has no such convolution, or ran none of them.

    Example:
        >>> import torch
        >>> from seqdyconv import build_mixer
        >>> from seqdyconv.models import record_kernels
        >>> kernels = record_kernels(build_mixer("dynamic_conv", 16, 4, kernel_size=5), input=torch.randn(2, 10, 16))
        >>> {name: tuple(tensor.shape) for name, tensor in kernels.items()}
        {'conv': (2, 10, 4, 5)}
    """
    return {one.name: one.kernels for one in _record(model, inputs)}


def _record(model: nn.Module, inputs: dict[str, Any]) -> list[Recorded]:
    def read(conv: Any, input: Tensor, padding_mask: Tensor | None = None, **query: Tensor | None) -> Tensor:
        if isinstance(conv, DynamicConv1d):
            return conv.kernels(input, padding_mask=padding_mask, **query)
        if padding_mask is None:
            padding_mask = torch.zeros(input.shape[:2], dtype=torch.bool, device=input.device)
        kernels = conv.kernels(padding_mask).clone()  # never the parameter itself
        return kernels.expand(*input.shape[:2], *kernels.shape[-2:])

    return [Recorded(*one) for one in record_runs(model, inputs, (LightweightConv1d, DynamicConv1d), read)]


@torch.no_grad()
def record_runs(
    model: nn.Module, inputs: dict[str, Any], kinds: tuple[type[nn.Module], ...], read: Callable[..., Any]
) -> list[tuple[str, Any, Any]]:
    """Run a model once, and read something of each run of its convolutions.

    Args:
        model: runs in eval mode and without gradients, and is left as it was.
        inputs: of the model.
        kinds: the classes of the convolutions.
        read: called with a convolution and what its ``forward`` was given, but for ``cu_seqlens``.

    Returns:
        For each run the convolution's name, the convolution, and what was read.

    Raises:
        ValueError: the model has no such convolution, ran none of them, or ran one on packed sequences.
    """
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if not convolutions:
        raise ValueError(
            f"the model must have a {' or a '.join(kind.__name__ for kind in kinds)}, got a "
            f"{type(model).__name__} without any"
        )
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs = {"use_cache": False} | inputs
    recorded: list[tuple[str, Any, Any]] = []
    runs = dict.fromkeys(convolutions, 0)

    def record(name: str, conv: Any, *args: Any, cu_seqlens: Tensor | None = None, **kwargs: Any) -> None:
        if cu_seqlens is not None:
            raise ValueError("kernels are recorded of padded batches: give the sequences without cu_seqlens")
        runs[name] += 1
        name = name if runs[name] == 1 else f"{name} (run {runs[name]})"
        recorded.append((name, conv, read(conv, *args, **kwargs)))

    training = {module: module.training for module in model.modules()}
    handles = [
        module.register_forward_hook(
            lambda module, args, kwargs, _, name=name: record(name, module, *args, **kwargs), with_kwargs=True
        )
        for name, module in convolutions.items()
    ]
    try:
        model.eval()
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    if not recorded:
        raise ValueError(
            f"the model ran none of its {len(convolutions)} convolutions on a whole sequence, such as "
            f"{next(iter(convolutions))}"
        )
    return recorded


def plot_kernels(
    model: Any,
    text: str | tuple[str, str],
    tokenizer: Any = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Draw the kernels of a model's encoder for a text: one panel per head, with the tokens on its axis.

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

    Returns:
        A ``matplotlib.figure.Figure``, as wide as the text needs.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no tokenizer, no convolution in the encoder, a layer or head that is not there, no text or one that
            is too long, or a path that cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plot_kernels needs matplotlib: pip install "seqdyconv[recipes]"') from error
    figure = Figure(layout="constrained")
    if path is not None:
        _check_path(Path(path), figure.canvas.get_supported_filetypes())
    tokenizer = _own_tokenizer(model) if tokenizer is None else tokenizer
    tokens, special, inputs = _tokenize(text, tokenizer)
    recorded = _by_layer(_record(*_encoder_call(model, inputs)))
    shown = _choose("layers", layers, list(recorded), _spread(list(recorded), 4))
    columns = max(1, int((WIDTH - MARGIN) / (PITCH * len(tokens) + 0.1)))
    panels = {}
    for layer in shown:
        every = list(range(recorded[layer].conv.num_heads))
        panels[layer] = _choose("heads", heads, every, every[: 4 if columns > 1 else 2])
    _draw(figure, recorded, panels, columns, tokens, special)
    most = max(one.conv.num_heads for one in recorded.values())
    figure.suptitle(_title(f"Kernels of {type(model).__name__}", len(recorded), most, panels), fontsize=FONT + 1)
    if path is not None:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix[1:], dpi=200)
    return figure


def _check_path(path: Path, types: Iterable[str]) -> None:
    if path.suffix[1:].lower() not in types:
        raise ValueError(
            f"path must end in one of {', '.join('.' + kind for kind in sorted(types))}, got {str(path)!r}"
        )
    if not path.parent.is_dir():
        raise ValueError(f"path must be in a folder that exists, got {str(path)!r}")


def _own_tokenizer(model: Any) -> Any:
    name = getattr(model, "name_or_path", "")
    try:
        if not name:
            raise ValueError("the model was not loaded by from_pretrained")
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # whatever a folder without a usable tokenizer raises
        raise ValueError(f"found no tokenizer beside the model ({name or error}): pass tokenizer=") from error


def _tokenize(text: Any, tokenizer: Any) -> tuple[list[str], list[bool], dict[str, Tensor]]:
    """Tokens as the tokenizer writes them, which of them are special, and the model's inputs."""
    texts = tuple(text) if isinstance(text, (tuple, list)) else (text,)
    if len(texts) not in (1, 2) or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(f"text must be a text or a pair of texts, not empty, got {text!r}")
    encoded = tokenizer(*texts, return_tensors="pt")
    ids = encoded["input_ids"][0].tolist()
    longest = tokenizer.model_max_length
    if len(ids) > longest:
        raise ValueError(f"text must have at most the tokenizer's {longest} tokens, got {len(ids)}")
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return tokenizer.convert_ids_to_tokens(ids), [one in special for one in ids], dict(encoded)


def _encoder_call(model: Any, inputs: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """What is to be run, and the inputs it takes: of a model with a decoder the encoder alone."""
    run = model
    if model.config.is_encoder_decoder and isinstance(model.get_encoder(), PreTrainedModel):
        run = model.get_encoder()
    known = inspect.signature(run.forward).parameters
    return run, {name: value.to(model.device) for name, value in inputs.items() if name in known}


def _by_layer(recorded: Sequence[Run]) -> dict[int, Run]:
    """By the layer's number, which is the first in a module's name; where these aren't unique, by order."""
    found = [re.search(r"(?:^|\.)(\d+)(?:\.|$)", one.name) for one in recorded]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) < len(recorded):
        numbers = list(range(len(recorded)))
    return dict(zip(numbers, recorded))


def _spread(items: Sequence[int], count: int) -> list[int]:
    """Up to ``count`` of the items, from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _choose(name: str, wanted: Iterable[int] | None, allowed: Sequence[int], default: Sequence[int]) -> list[int]:
    chosen = list(default if wanted is None else wanted)
    if not chosen or not set(chosen) <= set(allowed):
        raise ValueError(f"{name} must be of {', '.join(map(str, allowed))}, got {chosen}")
    return chosen


def _title(title: str, layers: int, most_heads: int, panels: dict[int, list[int]]) -> str:
    """The title and, where not all layers and heads are drawn, a line that says how many are."""
    heads = sorted({head for chosen in panels.values() for head in chosen})
    parts = []
    if len(panels) < layers:
        parts.append(f"{len(panels)} of {layers} layers")
    if len(heads) < most_heads:
        parts.append(f"{len(heads)} of {most_heads} heads")
    return title + (f"\n{', '.join(parts)}" if parts else "")


def _draw(
    figure: Any,
    recorded: dict[int, Recorded],
    panels: dict[int, list[int]],
    columns: int,
    tokens: Sequence[str],
    special: Sequence[bool],
) -> None:
    """Fill the figure: for each layer one or more rows of heads, all on one colour scale."""
    from matplotlib.colors import Normalize, PowerNorm

    most = max(map(len, panels.values()))
    columns = math.ceil(most / math.ceil(most / columns))  # rows of equal length: four heads as 2 × 2, not as 3 + 1
    rows = [(layer, heads[i : i + columns]) for layer, heads in panels.items() for i in range(0, len(heads), columns)]
    images = {layer: _offsets(recorded[layer], len(tokens)) for layer in panels}
    heights = [min(0.9, max(0.42, 0.05 * images[layer][0].shape[1])) for layer, _ in rows]
    seen = torch.cat([weights[panels[layer]].flatten() for layer, (weights, _) in images.items()])
    seen = seen[~seen.isnan()]
    top = seen.abs().max().item()
    if seen.min() >= 0:
        # The root: one head may put all its weight on a tap, and another spread it over thirty.
        scale, ticks = {"cmap": "magma_r", "norm": PowerNorm(0.5, vmin=0, vmax=top)}, _root_ticks(top)
    else:
        scale, ticks = {"cmap": "RdBu_r", "norm": Normalize(-top, top)}, None

    width = columns * (PITCH * len(tokens) + 0.1) + MARGIN
    longest = max(map(len, tokens)) * 0.055
    figure.set_size_inches(
        max(width, WIDTH / 2), sum(heights) + (0.2 if columns > 1 else 0.08) * len(rows) + longest + 0.7
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
                extent=(-0.5, len(tokens) - 0.5, *extent),
                origin="lower",
                aspect="auto",
                interpolation="none",  # vector files get the cells as they are
                **scale,
            )
            _dress(axis, extent, recorded[layer].conv.dilation)
            if columns > 1:
                axis.set_title(f"head {heads[column]}", fontsize=FONT, pad=2)
            axis.set_xticks(range(len(tokens)), [])
            lowest[column] = axis
        name = f"layer {layer}" if columns > 1 else f"layer {layer}\nhead {heads[0]}"
        axes[row, 0].set_ylabel(name, fontsize=FONT)
    for axis in lowest.values():
        axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=FONT, parse_math=False)
        for label, dim in zip(axis.get_xticklabels(), special):
            label.set_color("0.6" if dim else "black")
    figure.supylabel("offset in tokens", fontsize=FONT + 0.5)
    shrink = min(1.0, 2.5 / figure.get_figheight())
    bar = figure.colorbar(
        image,
        ax=axes,
        fraction=0.02,
        aspect=25,
        pad=0.01,
        shrink=shrink,
        anchor=(0, 1),
        ticks=ticks,
        format="%g" if ticks else None,
    )
    bar.set_label("weight of the tap", fontsize=FONT + 0.5)
    bar.ax.tick_params(labelsize=FONT, length=2)
    bar.outline.set_linewidth(0.5)
    figure.draw_without_rendering()
    missing = PITCH * len(tokens) - axes[0, 0].get_window_extent().width / figure.dpi
    figure.set_figwidth(figure.get_figwidth() + columns * max(missing, 0))


def _offsets(recorded: Recorded, time: int) -> tuple[Tensor, tuple[float, float]]:
    """Kernels (H, taps, T) of the first sequence with NaN outside it, and the lowest and highest offset drawn.

    Taps that are outside at every step are left out.
    """
    conv = recorded.conv
    offsets = torch.arange(conv.kernel_size) * conv.dilation - conv.left
    kernels = recorded.kernels[0].float().cpu().permute(1, 2, 0)
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


def _dress(axis: "Axes", extent: tuple[float, float], dilation: int) -> None:
    """Hatching behind the image, ticks at the lowest and highest offset and at the token itself, thin lines."""
    axis.patch.set(facecolor="0.96", edgecolor="0.82", hatch="//////", linewidth=0)
    first, last = extent[0] + dilation / 2, extent[1] - dilation / 2
    ticks = sorted({first, 0.0, last} if first <= 0 <= last else {first, last})
    axis.set_yticks(ticks, [f"{tick:+.0f}".replace("-", "−") if tick else "0" for tick in ticks], fontsize=FONT - 1)
    axis.tick_params(length=2, width=0.5, pad=1.5)
    for spine in axis.spines.values():
        spine.set_linewidth(0.5)
