"""Encoder layers in training, and sequences of a million steps. One command, tables and a picture:

    python -m benchmarks.layers                 # about ten minutes
    python -m benchmarks.layers --threads 2 --dtype bfloat16
    python -m benchmarks.layers long            # a mixer, up to 1,000,000 steps

``layers``: a training step (forward and gradients of all) of a whole encoder layer, width 512, with a convolution or
self-attention (``F.scaled_dot_product_attention``). Before anything is timed, outputs and gradients are compared with
those of the backend ``reference``. In each round all take their turn; medians. What is kept for the backward pass are
the bytes that autograd saves, without parameters.

``long``: a mixer of width 64, forward, and with the gradients of all, each length in a process of its own, whose memory
at its most is above what it had with the input made.

``models``: short convolutions of other people's models on ours and on their own, see
:func:`seqdyconv.swap.swap_causal_conv1d`.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ops import TOLERANCES, at_least_one, interleaved, processor

import torch
from torch import Tensor

WIDTH, HEADS, KERNEL_SIZE = 512, 8, 31
LAYERS = {
    "self-attention": ("self_attention", {}),
    "dynamic": ("dynamic_conv", {}),
    "dynamic, recompute": ("dynamic_conv", {"recompute": True}),
    "lightweight": ("lightweight_conv", {}),
}
MODELS: dict[str, dict[str, Any]] = {
    "Mamba": {"state_size": 16},
    "Lfm2": {"num_attention_heads": 8, "num_key_value_heads": 2, "conv_L_cache": 3},
    "Qwen3Next": {
        **{"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 4},
        **{"num_experts_per_tok": 1, "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128},
        **{"linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 32},
        **{"linear_value_head_dim": 32},
    },
}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.output.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        PARTS[part](options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="layers, long or models; all where none is named")
    parser.add_argument("--time", type=at_least_one, nargs="+", default=[512, 2048, 8192], help="lengths, of layers")
    parser.add_argument("--tokens", type=at_least_one, default=8192, help="of a batch, of layers")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(time=[32], tokens=32, rounds=1)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return options


def setting(options: argparse.Namespace) -> str:
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    return f"{options.dtype}, {threads}, {processor('cpu')}, torch {torch.__version__}"


def write(options: argparse.Namespace, name: str, title: str, columns: list[str], rows: list[list[str]]) -> None:
    lines = [f"{title}. {setting(options)}.", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    text = "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
    (options.output / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def encoder_layer(mixer: str, options: dict[str, Any], width: int, dtype: torch.dtype) -> torch.nn.Module:
    from seqdyconv.models import SeqDyConvConfig
    from seqdyconv.models.modeling import SeqDyConvEncoderLayer

    torch.manual_seed(0)
    config = SeqDyConvConfig(
        hidden_size=width,
        encoder_ffn_dim=4 * width,
        encoder_attention_heads=HEADS,
        encoder_layer_types=[mixer],
        encoder_kernel_sizes=[KERNEL_SIZE],
        encoder_mixer_options=options or None,
        dropout=0.0,
    )
    return SeqDyConvEncoderLayer(config, 0).to(dtype)


def gradients_of(layer: torch.nn.Module, hidden: Tensor) -> tuple[Tensor, ...]:
    leaf = hidden.detach().requires_grad_()
    output = layer(leaf)
    return output.detach(), *torch.autograd.grad(output.float().square().mean(), (leaf, *layer.parameters()))


@contextmanager
def the_reference() -> Iterator[None]:
    """All convolutions by their definition."""
    from seqdyconv.functional.conv import BACKENDS

    others = {name: BACKENDS.pop(name) for name in list(BACKENDS) if name != "reference"}
    try:
        yield
    finally:
        BACKENDS.update(others)


def check(layers: dict[str, torch.nn.Module], hidden: Tensor, dtype: str) -> None:
    """Leave with exit status 1 where an output or gradient is not that of the definition."""
    for name, layer in layers.items():
        found = gradients_of(layer, hidden)
        with the_reference():
            expected = gradients_of(layer, hidden)
        for one, other in zip(found, expected):
            error = ((one - other).abs().max() / other.abs().max().clamp(min=1e-3)).item()
            if not error <= 10 * TOLERANCES[dtype]:  # NaN is wrong too
                sys.exit(f"{name} is wrong, so nothing is timed: it differs from the definition by {error:.2g}")


def kept_bytes(layer: torch.nn.Module, hidden: Tensor) -> int:
    """What autograd saves of a forward pass, without parameters."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(hidden.detach().requires_grad_())
    parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    del output
    return sum(size for place, size in storages.items() if place not in parameters)


def layers(options: argparse.Namespace) -> None:
    width = 16 if options.quick else WIDTH
    dtype = getattr(torch, options.dtype)
    contenders = {name: encoder_layer(*made, width, dtype) for name, made in LAYERS.items()}
    check(contenders, torch.randn(2, 70, width).to(dtype), options.dtype)
    rows = []
    for length in options.time:
        hidden = torch.randn(max(1, options.tokens // length), length, width).to(dtype)
        kept = {
            name: (kept_bytes(layer, hidden), kept_bytes(layer.mixer, hidden)) for name, layer in contenders.items()
        }
        times = interleaved(
            {name: lambda layer=layer: gradients_of(layer, hidden) for name, layer in contenders.items()},  # noqa: B023
            options.rounds,
        )
        for name in contenders:
            ratio = times["self-attention"] / times[name]
            sizes = [f"{size / 2**20:.0f}" for size in kept[name]]
            rows.append([f"{length}", name, f"{times[name] * 1e3:.0f}", f"{ratio:.2f}×", *sizes])
    columns = ["T", "mixer", "ms", "self-attention ÷ it", "MiB kept", "of it by the mixer"]
    title = (
        f"A training step of an encoder layer, {options.tokens} tokens, width {width}, {HEADS} heads, K={KERNEL_SIZE}"
    )
    write(options, f"layers_{options.dtype}_{options.threads}", title, columns, rows)


def long(options: argparse.Namespace) -> None:
    lengths = [1000, 10_000, 100_000, 1_000_000]
    contenders = {"dynamic": lengths, "lightweight": lengths, "self-attention": [1000, 10_000, 20_000, 40_000]}
    contenders = {"dynamic": [100]} if options.quick else contenders  # a process takes seconds to start
    rows, points = [], []
    context = multiprocessing.get_context("spawn")
    for name, sizes in contenders.items():
        for length in sizes:
            for training in (False, True):
                with context.Pool(1) as pool:
                    seconds, peak, size = pool.apply(measure_long, (name, length, training, options.threads))
                which = "forward+backward" if training else "forward"
                rows.append([name, f"{length:,}", which, f"{seconds:.3g}", f"{peak:.0f}", f"{size:.0f}"])
                points.append((name, length, which, seconds, peak))
                print(rows[-1], file=sys.stderr)
    columns = ["mixer", "T", "pass", "s", "MiB at the peak", "MiB of the input"]
    write(options, "long", f"A mixer of width 64, 4 heads, K={KERNEL_SIZE}, with recompute", columns, rows)
    draw_long(points, options.output / "long.png", setting(options))


def measure_long(name: str, length: int, training: bool, threads: int) -> tuple[float, float, float]:
    """Seconds, and in MiB the memory at its most above that with the input made, and the input's."""
    from seqdyconv import build_mixer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    mixer, settings = LAYERS[name]
    if mixer != "self_attention":
        settings = {"kernel_size": KERNEL_SIZE, "recompute": True}
    layer = build_mixer(mixer, 64, 4, **settings)

    def run(input: Tensor) -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(training):
            output = layer(input)
            if training:
                output.backward(torch.ones_like(output))
        return time.perf_counter() - start

    run(torch.randn(1, 64, 64, requires_grad=training))  # warm
    input = torch.randn(1, length, 64, requires_grad=training)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = run(input)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return seconds, peak, input.numel() * input.itemsize / 2**20


def draw_long(points: list[tuple[str, int, str, float, float]], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"dynamic": "#0b5fa5", "lightweight": "#4f9d69", "self-attention": "0.45"}
    styles = {"forward": "--", "forward+backward": "-"}
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for axis, column, label in ((axes[0], 3, "seconds"), (axes[1], 4, "MiB at the peak, above the input")):
        for name, colour in colours.items():
            for which, style in styles.items():
                line = [point for point in points if (point[0], point[2]) == (name, which)]
                axis.plot(
                    [point[1] for point in line],
                    [max(float(point[column]), 1e-4) for point in line],  # type: ignore[arg-type]
                    style,
                    color=colour,
                    marker="o",
                    markersize=4,
                    label=f"{name}, {which}",
                )
        axis.set(xscale="log", yscale="log", xlabel="steps T", ylabel=label)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"One sequence through a mixer of width 64, {title}", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def models(options: argparse.Namespace) -> None:
    from seqdyconv.swap import restore_causal_conv1d, swap_causal_conv1d

    import transformers

    transformers.logging.set_verbosity_error()
    width, length = (32, 16) if options.quick else (512, 1024)
    rows = []
    for name, sizes in MODELS.items():
        torch.manual_seed(0)
        layers = {"layer_types": ["conv"] * 2} if name == "Lfm2" else {}
        layers = {"layer_types": ["linear_attention"] * 2} if name == "Qwen3Next" else layers
        config = getattr(transformers, f"{name}Config")(
            vocab_size=1000, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, **layers, **sizes
        )
        model = transformers.AutoModel.from_config(config).eval().to(getattr(torch, options.dtype))
        tokens = torch.randint(1, 1000, (2, length))
        found = {}
        for ours in (False, True):
            (swap_causal_conv1d if ours else restore_causal_conv1d)(model)
            with torch.no_grad():
                found[ours] = model(tokens, use_cache=False).last_hidden_state.float()
        error = ((found[True] - found[False]).abs().max() / found[False].abs().max()).item()
        if not error <= 10 * TOLERANCES[options.dtype]:
            sys.exit(f"{name} is wrong, so nothing is timed: it differs from its own by {error:.2g}")
        for which, run in {"forward": forward_of(model, tokens), "training step": training_of(model, tokens)}.items():
            times = interleaved(
                {"own": on(restore_causal_conv1d, model, run), "ours": on(swap_causal_conv1d, model, run)},
                options.rounds,
            )
            rows.append(
                [
                    name,
                    which,
                    *(f"{times[key] * 1e3:.0f}" for key in ("own", "ours")),
                    f"{times['own'] / times['ours']:.2f}×",
                ]
            )
        restore_causal_conv1d(model)
    title = f"Two layers of other models, width {width}, 2 sequences of {length} tokens, ms"
    write(options, f"short_convs_{options.dtype}", title, ["model", "pass", "own", "ours", "gain"], rows)


def forward_of(model: torch.nn.Module, tokens: Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: model(tokens, use_cache=False))


def training_of(model: torch.nn.Module, tokens: Tensor) -> Callable[[], object]:
    def step() -> None:
        model(tokens, use_cache=False).last_hidden_state.float().square().mean().backward()
        model.zero_grad()

    return step


def on(change: Callable[[Any], object], model: torch.nn.Module, run: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        change(model)
        run()

    return call


PARTS = {"layers": layers, "long": long, "models": models}

if __name__ == "__main__":
    main()
