"""What only a GPU can tell of the convolutions. ``benchmarks/gpu.sh`` runs all parts, each in a time of its own:

    python -m benchmarks.gpu check                       # every backend's numbers, in every dtype
    python -m benchmarks.gpu ops                         # the operation beside copies, the portable way and attention
    python -m benchmarks.gpu short                       # a few taps, a kernel for each channel
    python -m benchmarks.gpu layers                      # a training step of an encoder layer
    python -m benchmarks.gpu models                      # training steps of whole models
    python -m benchmarks.gpu ops --device cpu --quick    # small sizes, to see that it works

Each writes ``gpu_<part>.md``, row by row, so that a run which is stopped leaves what it has measured. ``check`` ends
with exit status 1 where a number is wrong.

Times of operations are the device's alone, medians of replays of a CUDA graph; those of layers and models are a
program's, launches and all. A copy moves as many bytes as the operation has to, half of them read and half written:
forward are input, kernels and output; backward those and the gradients of all three.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.ops import OPS, TOLERANCES, processor, runnable, seconds, with_gradients
from benchmarks.training import TASKS, step_of
from seqdyconv.functional import (
    dynamic_conv1d,
    dynamic_conv1d_step,
    lightweight_conv1d,
    lightweight_conv1d_step,
    low_rank_conv1d,
    low_rank_conv1d_step,
)
from seqdyconv.functional.conv import BACKENDS

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS, HEADS = 512, 8
TOKENS = 2**17  # of an operation's input: its tensors exceed any cache
DTYPES = tuple(TOLERANCES)


class Report:
    """A table that is on disk after each row."""

    def __init__(self, options: argparse.Namespace, part: str, title: str, columns: Sequence[str]) -> None:
        versions = f"{processor(options.device)}, torch {torch.__version__}, Triton {triton_version()}"
        options.output.mkdir(parents=True, exist_ok=True)
        self.path = options.output / f"gpu_{part}.md"
        self.path.write_text("", encoding="utf-8")
        self.write(f"{title}. {versions}.\n")
        self.row(*columns)
        self.write("|" + "---|" * len(columns))

    def row(self, *cells: object) -> None:
        self.write("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")

    def write(self, line: str) -> None:
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "none"
    return triton.__version__


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.manual_seed(0)
    for part in options.parts:
        PARTS[part](options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", choices=PARTS, nargs="+")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the tables")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch sees none")
    return options


# Numbers.


def check(options: argparse.Namespace) -> None:
    """The largest error of the output and of each gradient, relative to the largest number."""
    columns = ["operation", "dtype", "backend", "error"]
    report = Report(options, "check", "Largest errors against the definition", columns)
    wrong = 0
    for name, (function, reference, shapes) in cases(options).items():
        few = options.quick or "causal" not in name  # each dtype and kernel size is compiled, for half a second
        for dtype in ("bfloat16", "float32") if few else DTYPES:
            for backend in runnable(options.device, dtype):
                run = partial(function, backend=backend)
                errors = partial(errors_of, run, reference, shapes, dtype, options)
                error = max(attempt(errors))
                fine = error <= TOLERANCES[dtype]  # NaN is not
                wrong += not fine
                report.row(name, dtype, backend, f"{error:.2g}" + ", WRONG" * (not fine))
    if wrong:
        sys.exit(f"{wrong} are wrong")


def cases(options: argparse.Namespace) -> dict[str, tuple[Callable, Callable, list[tuple[tuple[int, ...], ...]]]]:
    """Names of operations, each with its definition and the shapes of its tensors."""
    # Tensor cores, and loops over the taps: one channel for each head, and numbers that nothing divides.
    sizes = [(1, 24, 8, 2, 3)] if options.quick else [(2, 165, 96, 4, 31), (2, 130, 64, 64, 4), (3, 70, 30, 10, 7)]
    dynamic = [((b, t, c), (b, t, h, k)) for b, t, c, h, k in sizes]
    shared = [((b, t, c), (h, k)) for b, t, c, h, k in sizes]
    mixed = [((b, t, c), (b, t, 5), (5, c, 4)) for b, t, c, *_ in sizes]
    ends = torch.tensor([0, 7, 7, 20, 24] if options.quick else [0, 40, 40, 164, 165], device=options.device)
    packed = [((1, int(ends[-1]), c), (1, int(ends[-1]), h, k)) for _, _, c, h, k in sizes]
    found = {
        f"{op.__name__}, {said}": (partial(op, **given), partial(op, backend="reference", **given), shapes)
        for said, given in {
            "causal": {"padding": "causal"},
            "dilated": {"dilation": 3},
            "softmax": {"softmax": True},
        }.items()
        for op, shapes in ((dynamic_conv1d, dynamic), (lightweight_conv1d, shared))
    }
    given = {"cu_seqlens": ends, "softmax": True}
    found["dynamic_conv1d, packed, softmax"] = (
        partial(dynamic_conv1d, **given),
        partial(dynamic_conv1d, backend="reference", **given),
        packed,
    )
    found["low_rank_conv1d"] = (low_rank_conv1d, partial(low_rank_conv1d, backend="reference"), mixed)
    for step, whole, shapes in (
        (dynamic_conv1d_step, dynamic_conv1d, dynamic),
        (lightweight_conv1d_step, lightweight_conv1d, shared),
        (low_rank_conv1d_step, low_rank_conv1d, mixed),
    ):
        causal = partial(whole, padding="causal", backend="reference")
        found[step.__name__] = (partial(by_steps, step), causal, shapes)
    return found


def by_steps(step: Callable, input: Tensor, *kernels: Tensor, backend: str) -> Tensor:
    """The whole by three chunks; kernels of each step go along, the others, which come last, are for all."""
    lengths = [1, 5, input.shape[1] - 6]
    state, outputs, first = input.new_zeros(input.shape[0], kernels[-1].shape[-1] - 1, input.shape[2]), [], 0
    for length in lengths:
        now = slice(first, first + length)
        given = [kernel[:, now] if kernel.shape[:2] == input.shape[:2] else kernel for kernel in kernels]
        output, state = step(input[:, now], state, *given, backend=backend)
        outputs.append(output)
        first += length
    return torch.cat(outputs, dim=1)


def errors_of(
    function: Callable,
    reference: Callable,
    shapes: Sequence[Sequence[tuple[int, ...]]],
    dtype: str,
    options: argparse.Namespace,
) -> list[float]:
    errors = []
    for tensors in shapes:
        inputs = [torch.randn(shape, device=options.device).to(getattr(torch, dtype)) for shape in tensors]
        actual, expected = with_gradients(function, *inputs), with_gradients(reference, *(x.double() for x in inputs))
        for one, other in zip(actual, expected):
            error = ((one.double() - other).abs().max() / other.abs().max().clamp(min=1)).item()
            errors.append(error if error == error else float("inf"))
    return errors


# Times of operations.


def milliseconds(call: Callable[[], object], options: argparse.Namespace) -> float:
    """Of the device, or where there is none, of one call."""
    if options.device.startswith("cuda"):
        from triton.testing import do_bench_cudagraph

        return float(do_bench_cudagraph(call, rep=10, return_mode="median"))
    return program_milliseconds(call, options, calls=1)


def program_milliseconds(call: Callable[[], object], options: argparse.Namespace, calls: int = 10) -> float:
    """Of one of several calls after each other, once it is warm."""
    warm, calls = (0, 1) if options.quick else (3, calls)
    for _ in range(warm):
        call()
    return 1e3 * seconds(call, options.device, calls)


def both_passes(function: Callable[..., Tensor], inputs: Sequence[Tensor], options: argparse.Namespace) -> list[float]:
    """Milliseconds forward, and forward and backward to all inputs."""
    leaves = [input.detach().requires_grad_() for input in inputs]
    cotangent = torch.randn_like(function(*inputs))

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    return [
        milliseconds(call, options)
        for call in (forward, lambda: torch.autograd.grad(function(*leaves), leaves, cotangent))
    ]


def copies(inputs: Sequence[Tensor], output: Tensor, options: argparse.Namespace) -> list[float]:
    """Milliseconds of copies of the bytes that must move, forward, and forward and backward."""
    read, written = sum(x.numel() * x.itemsize for x in inputs), output.numel() * output.itemsize
    times = []
    for size in (read + written, 3 * read + 2 * written):
        source = torch.empty(size // 2, dtype=torch.uint8, device=options.device)
        times.append(milliseconds(partial(torch.empty_like(source).copy_, source), options))
    return times


def attempt(measure: Callable[[], list[float]]) -> list[float]:
    """What cannot run here, for want of memory or of a kernel that compiles, is no number, and stops nothing else."""
    try:
        return measure()
    except Exception as error:
        print(f"  {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return [float("nan"), float("nan")]


def ops(options: argparse.Namespace) -> None:
    tokens = 64 if options.quick else TOKENS
    names = [name for name in runnable(options.device, "bfloat16") if name != "reference"]
    columns = ["op", "dtype", "T", "K", *names, "tap loop", "attention", "copy", *(f"{name} ÷ copy" for name in names)]
    title = f"Milliseconds forward / forward and backward, {tokens} steps of C={CHANNELS}, H={HEADS}"
    report = Report(options, "ops", title, columns)
    plan = [("bfloat16", time, kernel) for time in (4096, 512) for kernel in (3, 7, 15, 31, 63, 127)]
    plan += [("bfloat16", 16384, kernel) for kernel in (3, 31, 127)] + [("float32", 4096, kernel) for kernel in (3, 31)]
    for dtype, time_steps, kernel_size in [("bfloat16", 32, 9)] if options.quick else plan:
        for op, function in OPS.items():
            factory: dict[str, Any] = {"device": options.device, "dtype": getattr(torch, dtype)}
            batch = tokens // time_steps
            input = torch.randn(batch, time_steps, CHANNELS, **factory)
            steps = (batch, time_steps) if op == "dynamic" else ()
            inputs = (input, torch.randn(*steps, HEADS, kernel_size, **factory).softmax(-1))
            baseline = copies(inputs, input, options)
            times = {
                name: attempt(lambda: both_passes(partial(function, backend=name), inputs, options))  # noqa: B023
                for name in names
            }
            loop = attention = [float("nan")] * 2
            if time_steps <= 512 and kernel_size <= 31:
                loop = attempt(lambda: both_passes(partial(function, backend="reference"), inputs, options))  # noqa: B023
            if op == "dynamic" and kernel_size in (3, 9):  # it has no kernels: once is enough
                heads = [torch.randn(batch, HEADS, time_steps, CHANNELS // HEADS, **factory) for _ in range(3)]
                attention = attempt(lambda: both_passes(F.scaled_dot_product_attention, heads, options))  # noqa: B023
            ratios = ["{:.2f} / {:.2f}".format(*(a / b for a, b in zip(times[name], baseline))) for name in names]
            report.row(
                *(op, dtype, time_steps, kernel_size),
                *map(said, (*times.values(), loop, attention, baseline)),
                *ratios,
            )


def said(times: Sequence[float]) -> str:
    return " / ".join(f"{time:.3g}" if time == time else "" for time in times) if times[0] == times[0] else ""


def short(options: argparse.Namespace) -> None:
    """Four taps, as in Mamba and its like; kernels of every step of rank 8, or each their own."""
    tokens, channels, width = (64, 8, 4) if options.quick else (TOKENS // 4, 2048, 4)
    title = f"Milliseconds forward / forward and backward, {tokens} steps of C=H={channels}, K={width}"
    report = Report(options, "short", title, ["dtype", "T", "kernels", "backend", "ms", "÷ copy"])
    for dtype, time_steps in [
        (dtype, steps) for dtype in ("bfloat16", "float32") for steps in ((32,) if options.quick else (512, 16384))
    ]:
        factory: dict[str, Any] = {"device": options.device, "dtype": getattr(torch, dtype)}
        batch = tokens // time_steps
        input = torch.randn(batch, time_steps, channels, **factory)
        one, each = (torch.randn(*s, channels, width, **factory) for s in ((), (batch, time_steps)))
        mix, basis = torch.randn(batch, time_steps, 8, **factory), torch.randn(8, channels, width, **factory)
        names = runnable(options.device, dtype)
        runs: dict[tuple[str, str], tuple[Callable, tuple[Tensor, ...]]] = {
            ("one", "F.conv1d"): (grouped, (input, one)),
            **{
                ("one", name): (partial(lightweight_conv1d, padding="causal", backend=name), (input, one))
                for name in names
            },
            **{
                ("each", name): (partial(dynamic_conv1d, padding="causal", backend=name), (input, each))
                for name in names
            },
            **{
                ("rank 8", name): (partial(low_rank_conv1d, padding="causal", backend=name), (input, mix, basis))
                for name in ("tap_by_tap", *(name for name in names if name == "triton"))
            },
        }
        for (kernels, name), (function, inputs) in runs.items():
            times = attempt(lambda: both_passes(function, inputs, options))  # noqa: B023
            ratios = "{:.2f} / {:.2f}".format(*(a / b for a, b in zip(times, copies(inputs, input, options))))
            report.row(dtype, time_steps, kernels, name, said(times), ratios)


def grouped(input: Tensor, weight: Tensor) -> Tensor:
    """Torch's own, which wants channels before time."""
    past = F.pad(input.mT, (weight.shape[-1] - 1, 0))
    return F.conv1d(past, weight[:, None], groups=input.shape[2]).mT


# Training steps.


@contextlib.contextmanager
def preferring(name: str | None) -> Iterator[None]:
    """The backend that layers take without being told."""
    if name is None:
        yield
        return
    kept = BACKENDS[name]
    BACKENDS[name] = replace(kept, pays=lambda input, kernels, dilation: True)
    try:
        yield
    finally:
        BACKENDS[name] = kept


def contenders(options: argparse.Namespace) -> dict[str, tuple[str, str | None]]:
    """Layer types, and the backend that they prefer."""
    found: dict[str, tuple[str, str | None]] = {"self-attention": ("self_attention", None)}
    for mixer in ("dynamic_conv",) if options.quick else ("dynamic_conv", "lightweight_conv"):
        found[mixer] = (mixer, None)
        if "triton" in runnable(options.device, "bfloat16"):
            found[f"{mixer}, triton"] = (mixer, "triton")
    return found


def training_step(
    model: torch.nn.Module, loss: Callable[[], Tensor], options: argparse.Namespace
) -> Callable[[], None]:
    autocast = torch.autocast(options.device.partition(":")[0], torch.bfloat16)
    return step_of(model, autocast(loss), fused=True)


def layers(options: argparse.Namespace) -> None:
    from seqdyconv.models import SeqDyConvConfig
    from seqdyconv.models.modeling import SeqDyConvEncoderLayer

    width, tokens, lengths = (16, 64, (32,)) if options.quick else (CHANNELS, TOKENS // 4, (512, 2048, 8192, 16384))
    title = (
        f"Milliseconds of a training step (bfloat16 autocast, AdamW) of an encoder layer, {tokens} tokens of {width}"
    )
    report = Report(options, "layers", title, ["T", "layer", "K", "ms", "self-attention ÷ it"])
    for length in lengths:
        hidden = torch.randn(tokens // length, length, width, device=options.device)
        times: dict[str, float] = {}
        for name, (mixer, backend) in contenders(options).items():
            sizes = {"hidden_size": width, "encoder_attention_heads": 2 if options.quick else HEADS}
            config = SeqDyConvConfig(**sizes, encoder_layer_types=mixer, encoder_ffn_dim=4 * width)
            layer = SeqDyConvEncoderLayer(config, 3).to(options.device)  # K=31
            step = training_step(layer, lambda: layer(hidden).float().square().mean(), options)  # noqa: B023
            with preferring(backend):
                times[name] = attempt(lambda: [program_milliseconds(step, options)] * 2)[0]  # noqa: B023
            report.row(length, name, 31, times[name], f"{times['self-attention'] / times[name]:.2f}×")


def models(options: argparse.Namespace) -> None:
    report = Report(
        options,
        "models",
        "Tokens (frames of speech) per second of training steps in bfloat16 autocast with AdamW",
        ["model", "mixer", "tokens/s", "÷ self-attention"],
    )
    for name, (build, batch) in TASKS.items():
        speeds: dict[str, float] = {}
        for mixer, (layer, backend) in contenders(options).items():
            model, loss, tokens = build(layer, 8 * batch, options.quick, options.device)
            step = training_step(model.train(), loss, options)
            with preferring(backend):
                speeds[mixer] = tokens / attempt(lambda: [program_milliseconds(step, options)] * 2)[0] * 1e3  # noqa: B023
            report.row(name, mixer, f"{speeds[mixer]:,.0f}", f"{speeds[mixer] / speeds['self-attention']:.2f}×")


PARTS = {"check": check, "ops": ops, "short": short, "layers": layers, "models": models}


if __name__ == "__main__":
    main()
