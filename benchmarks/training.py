"""Training steps of whole models: translation, speech recognition, a swapped BERT of MiniLM's size.

    python -m benchmarks.training               # about ten minutes
    python -m benchmarks.training --threads 2

A step is forward, backward and AdamW. The same model has convolutions or self-attention; in each round all take their
turn, and the medians are compared. Before that, each loss is compared with that of the backend ``reference``.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.layers import setting, the_reference, write
from benchmarks.ops import TOLERANCES, at_least_one, interleaved

import torch
from torch import Tensor

MIXERS = ("self_attention", "dynamic_conv", "lightweight_conv")

Model = tuple[torch.nn.Module, Callable[[], Tensor], int]
"""A model, its loss on a batch, and how many tokens or frames that has."""


def translation(mixer: str, batch: int, quick: bool, device: str) -> Model:
    from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration

    width, shape = (8, (2, 6)) if quick else (256, (batch, 32))
    config = SeqDyConvConfig(
        vocab_size=6000,
        hidden_size=width,
        encoder_layer_types=mixer,
        decoder_layer_types=mixer,
        encoder_kernel_sizes=[3] if quick else [3, 7, 15],
        decoder_kernel_sizes=[3] if quick else [3, 7, 15],
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
    )
    model = SeqDyConvForConditionalGeneration(config).to(device)
    tokens = torch.randint(4, 6000, shape, device=device)
    return model, lambda: model(tokens, torch.ones_like(tokens), labels=tokens).loss, tokens.numel()


def speech(mixer: str, batch: int, quick: bool, device: str) -> Model:
    from seqdyconv.models import SeqDyConvForCTC, SeqDyConvSpeechConfig

    width, batch, frames = (16, 2, 40) if quick else (256, batch, 1600)
    config = SeqDyConvSpeechConfig(
        vocab_size=64,
        hidden_size=width,
        encoder_layer_types=mixer,
        encoder_kernel_sizes=[31] * (1 if quick else 8),
        encoder_attention_heads=4,
        encoder_ffn_dim=4 * width,
        subsampling_channels=4 if quick else 64,
    )
    model = SeqDyConvForCTC(config).to(device)
    features = torch.randn(batch, frames, 80, device=device)
    labels = torch.randint(4, 64, (batch, frames // 16), device=device)
    mask = torch.ones(batch, frames, dtype=torch.long, device=device)
    return model, lambda: model(features, mask, labels=labels).loss, batch * frames


def swapped(mixer: str, batch: int, quick: bool, device: str) -> Model:
    from seqdyconv.swap import swap_self_attention

    from transformers import BertConfig, BertModel

    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536}
    if quick:
        size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(**size, attn_implementation="sdpa"))
    if mixer != "self_attention":
        model = swap_self_attention(model, mixer=mixer, kernel_size=31, weights="random")
    model = model.to(device)
    tokens = torch.randint(0, 30000, (2, 8) if quick else (batch, 512), device=device)
    return model, lambda: model(tokens).last_hidden_state.float().square().mean(), tokens.numel()


TASKS: dict[str, tuple[Callable[[str, int, bool, str], Model], int]] = {
    "translation": (translation, 64),
    "speech": (speech, 4),
    "swapped BERT": (swapped, 8),
}
"""How each is built, and the rows of its batch on a CPU."""


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    rows, speeds = [], {}
    for task, (build, batch) in TASKS.items():
        steps, tokens = {}, 0
        for mixer in MIXERS:
            torch.manual_seed(0)
            model, loss, tokens = build(mixer, batch, options.quick, "cpu")
            check(f"{task} with {mixer}", model.eval(), loss)
            steps[mixer] = step_of(model.train(), loss, lr=1e-5)
        times = interleaved(steps, options.rounds)
        for mixer in MIXERS:
            speeds[task, mixer] = tokens / times[mixer]
            ratio = times["self_attention"] / times[mixer]
            rows.append([task, mixer, f"{speeds[task, mixer]:,.0f}", f"{ratio:.2f}×"])
    columns = ["model", "mixer", "tokens/s", "÷ self-attention"]
    title = "Tokens (frames of speech) per second of training steps"
    write(options, f"training_{options.threads}", title, columns, rows)
    draw(speeds, options.output / f"training_{options.threads}.png", setting(options))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(rounds=1)
    parser.set_defaults(dtype="float32")
    return parser.parse_args(arguments)


@torch.no_grad()
def check(name: str, model: torch.nn.Module, loss: Callable[[], Tensor]) -> None:
    """Leave with exit status 1 where a loss is not that of the definition."""
    found = loss().item()
    with the_reference():
        expected = loss().item()
    if not abs(found - expected) <= TOLERANCES["float32"] * max(1.0, abs(expected)):  # NaN is wrong too
        sys.exit(f"{name} is wrong, so nothing is timed: its loss is {found:.6g}, by the definition {expected:.6g}")


def step_of(model: torch.nn.Module, loss: Callable[[], Tensor], **settings: Any) -> Callable[[], None]:
    """A step of AdamW with these settings."""
    optimizer = torch.optim.AdamW(model.parameters(), **settings)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def draw(speeds: dict[tuple[str, str], float], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    colours = {"self_attention": "0.6", "dynamic_conv": "#0b5fa5", "lightweight_conv": "#4f9d69"}
    for number, mixer in enumerate(MIXERS):
        heights = [speeds[task, mixer] / speeds[task, "self_attention"] for task in TASKS]
        places = [place + 0.27 * (number - 1) for place in range(len(TASKS))]
        bars = axis.bar(places, heights, 0.25, color=colours[mixer], label=mixer)
        axis.bar_label(bars, [f"{speeds[task, mixer]:,.0f}" for task in TASKS], fontsize=8)
    axis.set_xticks(range(len(TASKS)), list(TASKS))
    axis.set_ylabel("training speed, self-attention = 1")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)
    axis.set_title(f"Tokens (frames) per second, {title}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=len(MIXERS), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
