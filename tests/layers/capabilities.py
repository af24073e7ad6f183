"""What each layer can do, by trying. ``python -m tests.layers.capabilities`` writes the table of docs/layers.md."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import seqdyconv
from seqdyconv import DeformableConv1d, KernelAttentionConv1d, ODConv1d, SpanDynamicConv1d, build_mixer
from seqdyconv.layers import MIXERS, share_options
from seqdyconv.layers.states import tensors_of
from seqdyconv.swap import swap_self_attention
from tests.helpers import randomize

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
WIDTH, HEADS, KERNEL_SIZE, TIME = 6, 3, 4, 40
YES, NO = "yes", "–"

Build = Callable[..., nn.Module]

# Public layers over time that are no part of a mixer. Those in two dimensions are not in the table.
OTHER_LAYERS: dict[str, Build] = {
    "KernelAttentionConv1d": lambda padding="same": KernelAttentionConv1d(WIDTH, WIDTH, KERNEL_SIZE, padding=padding),
    "ODConv1d": lambda padding="same": ODConv1d(WIDTH, WIDTH, KERNEL_SIZE, padding=padding),
    "SpanDynamicConv1d": lambda padding="same": SpanDynamicConv1d(WIDTH, KERNEL_SIZE, HEADS, padding=padding),
    "DeformableConv1d": lambda padding="same": DeformableConv1d(WIDTH, WIDTH, KERNEL_SIZE, padding=padding),
}


def mixer_builder(name: str) -> Build:
    """Builds the mixer with ``padding`` "same", "causal", or the number of steps before the current one."""

    def build(padding: Any = "same") -> nn.Module:
        options = {"causal": padding == "causal"}
        if isinstance(padding, int):
            options = {"lookahead": KERNEL_SIZE - 1 - padding}
        return build_mixer(name, WIDTH, HEADS, **share_options(name, {"kernel_size": KERNEL_SIZE}), **options)

    return build


def layer_of(mixer: str) -> str:
    """The class of a mixer, or of the convolution in it."""
    module = mixer_builder(mixer)()
    return type(module.conv if type(module) is seqdyconv.ConvMixer else module).__name__


def ready(module: nn.Module) -> Any:
    return randomize(module.double())


def sequence(seed: int = 0, rows: int = 1, time: int = TIME) -> Tensor:
    return torch.randn(rows, time, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sees(build: Build) -> str:
    """How far: whether the first step matters to the last one of many."""
    module, input = ready(build()), sequence()
    changed = input.clone()
    changed[:, 0] += 1
    return "K steps" if torch.equal(module(changed)[:, -1], module(input)[:, -1]) else "all steps"


def ignores_padding(build: Build) -> str:
    module, input = ready(build()), sequence()
    padded = torch.cat([torch.full_like(input, torch.nan), input, torch.full_like(input, torch.nan)], dim=1)
    output = module(padded, padding_mask=padded[..., 0].isnan())
    return YES if torch.allclose(output[:, TIME : 2 * TIME], module(input)) else NO


def takes_packed(build: Build) -> str:
    module, first, second = ready(build()), sequence(0, time=9), sequence(1, time=5)
    packed = module(torch.cat([first, second], dim=1), cu_seqlens=torch.tensor([0, 9, 14]))
    return YES if torch.allclose(packed, torch.cat([module(first), module(second)], dim=1)) else NO


def streams(build: Build) -> str:
    module, input = ready(build("causal")), sequence()
    state, outputs = module.initial_state(1), []
    for chunk in input.split(7, dim=1):
        output, state = module.stream(chunk, state)
        outputs.append(output)
    return YES if torch.allclose(torch.cat(outputs, dim=1), module(input)) else NO


def streams_with_lookahead(build: Build) -> str:
    try:
        module = ready(build(1))
        late = module.lookahead
    except (ValueError, AttributeError):
        return NO
    input, nothing = sequence(), torch.zeros(1, late, WIDTH, dtype=torch.float64)
    state, outputs = module.initial_state(1), []
    for chunk in input.split(7, dim=1):
        output, state = module.stream(chunk, state)
        outputs.append(output)
    output, _ = module.stream(nothing, state, torch.ones(1, late, dtype=torch.bool))
    outputs.append(output)
    return YES if torch.allclose(torch.cat(outputs, dim=1)[:, late:], module(input)) else NO


def has_bounded_state(build: Build) -> str:
    module = ready(build("causal"))
    start = module.initial_state(1)
    following = module.stream(sequence(), start)[1]
    return YES if [x.shape for x in tensors_of(following)] == [x.shape for x in tensors_of(start)] else NO


def starts_from_attention(mixer: str) -> str:
    """What of a replaced self-attention it can start from."""

    def swap(**options: Any) -> None:
        config = BertConfig(
            vocab_size=20, hidden_size=WIDTH * 2, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=8
        )
        swap_self_attention(BertModel(config), mixer=mixer, kernel_size=KERNEL_SIZE, **options)

    swap(weights="random")
    found = []
    for words, options in {
        "projections": {},
        "kernels": {"calibration": [{"input_ids": torch.ones(1, 5, dtype=torch.long)}]},
    }.items():
        try:
            swap(**options)
            found.append(words)
        except ValueError:
            pass
    return ", ".join(found) or NO


COLUMNS: dict[str, Callable[[Build], str]] = {
    "sees": sees,
    "padding changes nothing": ignores_padding,
    "packed": takes_packed,
    "causal, streams": streams,
    "streams with look-ahead": streams_with_lookahead,
    "state of fixed size": has_bounded_state,
}


def row(name: str) -> str:
    """The row of a mixer, or of a layer that is none."""
    if name in MIXERS:
        build, cells, start = mixer_builder(name), [f"`{layer_of(name)}`", f"`{name}`"], starts_from_attention(name)
    else:
        build, cells, start = OTHER_LAYERS[name], [f"`{name}`", NO], NO
    return f"| {' | '.join([*cells, *(column(build) for column in COLUMNS.values()), start])} |"


def names() -> list[str]:
    return [*MIXERS, *OTHER_LAYERS]


def table() -> str:
    head = ["layer", "mixer", *COLUMNS, "a swap starts it from"]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(row, names())]) + "\n"


def table_lines() -> list[str]:
    """The rows that the page has."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].splitlines()[2:]


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
