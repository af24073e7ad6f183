"""Time and peak memory of the convolutions' backends, beside what they replace. One command, one table, one picture:

    python benchmarks/ops.py                      # dynamic_conv1d, one thread, about five minutes
    python benchmarks/ops.py --op lightweight --threads 2 --time 512 --kernel-size 31

Contenders: every backend of ``seqdyconv.functional`` that runs on the device; the two ways in which a convolution with
kernels per step was written in plain torch before, ``unfold`` (all windows of the input, times the kernels) and
``expand`` (all kernels in one T×(T+K−1) band, times the input); and ``sdpa``, torch's attention of that size with
queries, keys and values given.

Before anything is timed, each contender's values and gradients are compared with ``reference`` in float64 at the same
T and K; one that differs ends the run with exit status 1.

Time: median over rounds of the mean of some calls. In each round every contender runs for every K, so that a busy
moment of the machine meets all of them. Forward is without autograd; forward+backward gives all gradients.

Memory: the most bytes alive at once above the inputs, output and gradients among them, counted exactly from the
allocations and frees that torch's profiler records (on CUDA: torch.cuda.max_memory_allocated). What libraries take
outside torch's allocator is not seen.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's notes on a machine without GPU; read at torch's import

from seqdyconv import dynamic_conv1d, lightweight_conv1d
from seqdyconv.functional.conv import BACKENDS

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

OPS = {"dynamic": dynamic_conv1d, "lightweight": lightweight_conv1d}
PASSES = ("forward", "forward+backward")
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}  # relative to the largest number
SHORTEST = 0.02  # seconds: faster calls are repeated up to this


def unfold(input: Tensor, weight: Tensor) -> Tensor:
    """(B·T·H, R, K) windows of the input times (B·T·H, K, 1) kernels."""
    heads, kernel_size = weight.shape[-2:]
    batch, steps, _ = input.shape
    left = (kernel_size - 1) // 2
    windows = F.pad(input, (0, 0, left, kernel_size - 1 - left)).unfold(1, kernel_size, 1)
    windows = windows.unflatten(2, (heads, -1)).flatten(0, 2)
    kernels = weight.expand(batch, steps, -1, -1).reshape(-1, kernel_size, 1)
    return torch.bmm(windows, kernels).view(input.shape)


def expand(input: Tensor, weight: Tensor) -> Tensor:
    """(B·H, T, T) bands of kernels times (B·H, T, R) inputs."""
    heads, kernel_size = weight.shape[-2:]
    batch, steps, _ = input.shape
    width = steps + kernel_size - 1
    band = weight.new_zeros(batch * heads, steps, width)
    diagonals = band.as_strided((batch * heads, steps, kernel_size), (steps * width, width + 1, 1))
    diagonals.copy_(weight.expand(batch, steps, -1, -1).transpose(1, 2).flatten(0, 1))
    left = (kernel_size - 1) // 2
    columns = input.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
    output = torch.bmm(band[:, :, left : left + steps], columns)
    return output.unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)


WAYS = {"unfold": unfold, "expand": expand}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    contenders: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        **{name: partial(OPS[options.op], backend=name) for name in runnable(options.device, options.dtype)},
        **WAYS,
    }
    for steps in options.time:
        for kernel_size in options.kernel_size:
            check(contenders, options, steps, kernel_size)
    results = [row for steps in options.time for row in measure(contenders, options, steps)]
    text = table(results, [*contenders, "sdpa"])
    print(text)
    save(results, text, [*contenders, "sdpa"], options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark the convolutions as functions.")
    parser.add_argument("--op", choices=OPS, default="dynamic")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--time", type=int, nargs="+", default=[128, 512, 2048], help="sequence lengths")
    parser.add_argument("--kernel-size", type=int, nargs="+", default=[3, 7, 15, 31, 63])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(batch=2, channels=16, heads=2, time=[32], kernel_size=[3], rounds=1)
    options = parser.parse_args(arguments)
    counts = [options.batch, options.channels, options.heads, options.rounds, options.threads]
    if min(counts + options.time + options.kernel_size) < 1:
        parser.error("sizes, rounds and threads must be at least 1")
    if options.channels % options.heads:
        parser.error(f"--heads must divide --channels, got {options.heads} and {options.channels}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch sees none")
    return options


def runnable(device: str, dtype: str) -> list[str]:
    """The backends that run there."""
    input = torch.zeros(1, 9, 6, device=device, dtype=getattr(torch, dtype))
    return [name for name, backend in BACKENDS.items() if backend.refuses(input, (3, 4), 1) is None]


def make(options: argparse.Namespace, steps: int, kernel_size: int, batch: int) -> tuple[Tensor, Tensor]:
    """An input, and kernels that are normalised as in a layer."""
    factory = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    kernels = (
        (options.heads, kernel_size) if options.op == "lightweight" else (batch, steps, options.heads, kernel_size)
    )
    return torch.randn(batch, steps, options.channels, **factory), torch.randn(kernels, **factory).softmax(-1)


def check(contenders: dict[str, Callable], options: argparse.Namespace, steps: int, kernel_size: int) -> None:
    """Leave with exit status 1 if values or gradients of a contender are not those of ``reference`` in float64."""
    inputs = make(options, steps, kernel_size, batch=1)
    expected = with_gradients(contenders["reference"], *(input.double() for input in inputs))
    for name, contender in contenders.items():
        actual = with_gradients(contender, *inputs)
        for what, one, other in zip(("values", "gradients of the input", "gradients of the kernels"), actual, expected):
            error = (one.double() - other).abs().max().item() / max(1.0, other.abs().max().item())
            if not error <= TOLERANCES[options.dtype]:  # NaN is wrong too
                sys.exit(
                    f"{name} is wrong, so nothing is timed: at T={steps} K={kernel_size} its {what} differ from "
                    f"reference in float64 by {error:.2g} (allowed {TOLERANCES[options.dtype]:.2g})"
                )


def with_gradients(function: Callable, *inputs: Tensor) -> tuple[Tensor, ...]:
    inputs = tuple(input.detach().requires_grad_() for input in inputs)
    output = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randint(-8, 9, output.shape, generator=generator).to(output.device, output.dtype) / 4
    return output.detach(), *torch.autograd.grad(output, inputs, cotangent)


def measure(contenders: dict[str, Callable], options: argparse.Namespace, steps: int) -> list[dict]:
    """Time and memory of every contender, K and pass at one T."""
    calls = {}
    for kernel_size in options.kernel_size:
        inputs = make(options, steps, kernel_size, options.batch)
        for name, contender in contenders.items():
            calls |= {(kernel_size, name, which): call for which, call in passes(contender, *inputs)}
    head = (options.batch, options.heads, steps, options.channels // options.heads)
    heads = [torch.randn(head, device=options.device, dtype=inputs[0].dtype) for _ in range(3)]
    calls |= {(None, "sdpa", which): call for which, call in passes(F.scaled_dot_product_attention, *heads)}

    memory, repeats = {}, {}
    for key, call in calls.items():
        start = time.perf_counter()
        memory[key] = peak_memory(call, options.device)  # warms up too
        slow = time.perf_counter() - start > 10 * SHORTEST
        repeats[key] = 1 if slow else 1 + int(SHORTEST / seconds(call, options.device))
    times: dict[tuple, list[float]] = {key: [] for key in calls}
    for _ in range(options.rounds):
        for key, call in calls.items():
            times[key].append(seconds(call, options.device, repeats[key]))
        print(".", end="", file=sys.stderr, flush=True)
    print(f" T={steps}", file=sys.stderr)
    return [
        {
            "time_steps": steps,
            "kernel_size": kernel_size,
            "contender": name,
            "pass": which,
            "milliseconds": round(1e3 * statistics.median(times[key]), 4),
            "peak_bytes": memory[key],
        }
        for key in calls
        for kernel_size, name, which in [key]
    ]


def passes(function: Callable, *inputs: Tensor) -> list[tuple[str, Callable[[], object]]]:
    leaves = [input.detach().requires_grad_() for input in inputs]
    cotangent = torch.randn_like(inputs[0])

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def forward_and_backward() -> None:
        torch.autograd.grad(function(*leaves), leaves, cotangent)

    return list(zip(PASSES, (forward, forward_and_backward)))


def seconds(call: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Mean time of one call."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_memory(call: Callable[[], object], device: str) -> int:
    """The most bytes that one call holds at once, above those alive before it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()  # negative where memory is freed
        peak = max(peak, alive)
    return peak


def table(results: list[dict], names: list[str]) -> str:
    """One markdown row per T, K and pass; the gain is the better of the two ways over ``blocked``."""
    lines = [
        "Milliseconds / MiB at the peak.",
        "",
        f"| T | K | pass | {' | '.join(names)} | better way ÷ blocked |",
        f"|--:|--:|---|{'--:|' * (len(names) + 1)}",
    ]
    for steps in dict.fromkeys(row["time_steps"] for row in results):
        rows = [row for row in results if row["time_steps"] == steps]
        for kernel_size in dict.fromkeys(row["kernel_size"] for row in rows if row["kernel_size"]):
            for which in PASSES:
                cells = {
                    row["contender"]: row
                    for row in rows
                    if row["kernel_size"] in (kernel_size, None) and row["pass"] == which
                }
                texts = [
                    f"{cells[name]['milliseconds']:.3g} / {cells[name]['peak_bytes'] / 2**20:.3g}" for name in names
                ]
                better = min(cells[name]["milliseconds"] for name in WAYS)
                gain = better / cells["blocked"]["milliseconds"]
                lines.append(f"| {steps} | {kernel_size} | {which} | {' | '.join(texts)} | {gain:.1f}× |")
    return "\n".join(lines)


def save(results: list[dict], text: str, names: list[str], options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    setting = {name: value for name, value in vars(options).items() if name not in ("output", "quick")}
    setting |= {"torch": torch.__version__, "processor": processor(options.device)}
    stem = options.output / f"ops_{options.op}"
    stem.with_suffix(".json").write_text(
        json.dumps({"setting": setting, "results": results}, indent=1) + "\n", encoding="utf-8"
    )
    title = (
        f"{OPS[options.op].__name__}, B={options.batch} C={options.channels} H={options.heads} {options.dtype}, "
        f"{options.threads} thread{'s' * (options.threads > 1)}, {setting['processor']}, torch {torch.__version__}"
    )
    stem.with_suffix(".md").write_text(f"{title}.\n{text}\n", encoding="utf-8")
    draw(results, names, title, stem.with_suffix(".png"))
    print(f"Wrote {stem}.json, .md and .png", file=sys.stderr)


def processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def draw(results: list[dict], names: list[str], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lengths = list(dict.fromkeys(row["time_steps"] for row in results))
    kernel_sizes = sorted({row["kernel_size"] for row in results if row["kernel_size"]})
    panels = [(which, "milliseconds", 1, f"{which}, ms") for which in PASSES]
    panels.append((PASSES[1], "peak_bytes", 2**-20, "peak memory of\nforward+backward, MiB"))
    styles = {
        "blocked": {"color": "#0b5fa5", "linewidth": 2.6, "marker": "o", "zorder": 3},
        "unfold": {"color": "#b2512c", "marker": "s"},
        "expand": {"color": "#d99a2b", "marker": "D"},
        "sdpa": {"color": "0.45", "linestyle": "--"},
        "reference": {"color": "#4f9d69", "marker": "^"},
    }
    figure, axes = plt.subplots(
        len(panels),
        len(lengths),
        figsize=(3.4 * len(lengths) + 0.8, 8.2),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for i, (which, quantity, unit, label) in enumerate(panels):
        for j, steps in enumerate(lengths):
            axis = axes[i, j]
            for name in names:
                points = {
                    row["kernel_size"]: row[quantity] * unit
                    for row in results
                    if (row["time_steps"], row["contender"], row["pass"]) == (steps, name, which)
                }
                heights = [points.get(size, points.get(None)) for size in kernel_sizes]
                axis.plot(kernel_sizes, heights, label=name, markersize=4, **styles.get(name, {"marker": "v"}))
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(kernel_sizes, [str(size) for size in kernel_sizes])
            axis.minorticks_off()
            axis.grid(alpha=0.3, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            if i == 0:
                axis.set_title(f"T = {steps}")
            if i == len(panels) - 1:
                axis.set_xlabel("kernel size K")
        axes[i, 0].set_ylabel(label)
    figure.suptitle(title, fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
