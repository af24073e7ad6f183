"""Time and peak memory of the convolutions' backends, beside what they replace. One command, one table, one picture:

    python benchmarks/ops.py                                 # dynamic_conv1d, one and two threads, half an hour
    python benchmarks/ops.py --op lightweight --threads 2 --time 512 --kernel-size 31

Contenders: every backend of ``seqdyconv.functional`` that runs on the device; the two ways in which a convolution with
kernels per step was written in plain torch before, ``unfold`` (all windows of the input, times the kernels) and
``expand`` (all kernels in one T×(T+K−1) band, times the input); ``sdpa``, torch's attention of that size with queries,
keys and values given; and, where each channel is a head (``--short-kernel-size``), only the backends and, of the
lightweight operation, ``conv1d``, torch's own with ``groups`` = C.

Beside them two yardsticks. ``matmul``: a product of square matrices with as many multiply-adds, three times as many
with backward; the column "of matmul" is the speed of the fastest backend as a share of its speed. ``copy``: a copy of
half as many bytes as the input, kernels and output have, so that it reads and writes as many; the column "copies" is
the time of the fastest backend in such copies.

Before anything is timed, each contender's values and gradients are compared with ``reference`` in float64 at the same
T and K; one that differs ends the run with exit status 1.

Time: median over rounds of the mean of some calls. In each round every contender runs for every K, so that a busy
moment of the machine meets all of them. Forward is without autograd; forward+backward gives all gradients.

What is freed stays with the process (glibc), so no contender waits for the system to find new pages for its results:
that takes as long as the whole of a short convolution, and how long it takes is the system's affair.

Memory: the most bytes alive at once above the inputs, output and gradients among them, counted exactly from the
allocations and frees that torch's profiler records (on CUDA: torch.cuda.max_memory_allocated). What libraries take
outside torch's allocator is not seen.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's notes on a machine without GPU; read at torch's import

from seqdyconv import dynamic_conv1d, lightweight_conv1d, machine
from seqdyconv.functional.conv import BACKENDS

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

OPS = {"dynamic": dynamic_conv1d, "lightweight": lightweight_conv1d}
PASSES = ("forward", "forward+backward")
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}  # relative to the largest number
SHORTEST = 0.02  # seconds: faster calls are repeated up to this
YARDSTICKS = ("matmul", "copy")
MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of mallopt
LARGEST = 4 * 2**30  # bytes of a band: longer sequences are not expanded


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


def conv1d(input: Tensor, weight: Tensor) -> Tensor:
    """Torch's own, of (B, C, T)."""
    left = (weight.shape[-1] - 1) // 2
    padded = F.pad(input.mT, (left, weight.shape[-1] - 1 - left))
    return F.conv1d(padded, weight[:, None], groups=weight.shape[0]).mT


WAYS = {"unfold": unfold, "expand": expand}


@dataclass(frozen=True)
class Setting:
    """What is measured side by side."""

    heads: int
    steps: int
    kernel_size: int


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads[0])
    torch.manual_seed(0)
    groups = [settings(options, steps) for steps in options.time]
    for setting in chain(*groups):
        check(contenders(options, setting), options, setting)
    results = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        results += [row | {"threads": threads} for group in groups for row in measure(options, group)]
    text = table(results)
    print(text)
    save(results, text, options)


def keep_freed_memory() -> None:
    """Have glibc's malloc give no memory back to the system."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def settings(options: argparse.Namespace, steps: int) -> list[Setting]:
    """Of one T, the short kernels with a head per channel behind the others."""
    usual = [Setting(options.heads, steps, size) for size in options.kernel_size]
    return usual + [Setting(options.channels, steps, size) for size in options.short_kernel_size]


def contenders(options: argparse.Namespace, setting: Setting) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    backends = {name: partial(OPS[options.op], backend=name) for name in runnable(options.device, options.dtype)}
    if setting.heads < options.channels:
        return {**backends, **WAYS}
    return {**backends, "conv1d": conv1d} if options.op == "lightweight" else backends


def at_least_one(word: str) -> int:
    """The type of an option that is a size, or a number of rounds or threads."""
    if (number := int(word)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark the convolutions as functions.")
    parser.add_argument("--op", choices=OPS, default="dynamic")
    parser.add_argument("--batch", type=at_least_one, default=8)
    parser.add_argument("--channels", type=at_least_one, default=512)
    parser.add_argument("--heads", type=at_least_one, default=8)
    parser.add_argument("--time", type=at_least_one, nargs="+", default=[128, 512, 2048], help="sequence lengths")
    parser.add_argument("--kernel-size", type=at_least_one, nargs="+", default=[3, 7, 15, 31, 63])
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument(
        "--short-kernel-size", type=at_least_one, nargs="*", default=[4], help="where each channel is a head"
    )
    parser.add_argument("--threads", type=at_least_one, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(batch=2, channels=16, heads=2, time=[32], kernel_size=[3], rounds=1, threads=[1])
    options = parser.parse_args(arguments)
    if options.channels % options.heads:
        parser.error(f"--heads must divide --channels, got {options.heads} and {options.channels}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch sees none")
    return options


def runnable(device: str, dtype: str) -> list[str]:
    """The backends that run there."""
    input = torch.zeros(1, 9, 6, device=device, dtype=getattr(torch, dtype))
    return [name for name, backend in BACKENDS.items() if backend.refuses(input, (3, 4), 1) is None]


def make(options: argparse.Namespace, setting: Setting, batch: int) -> tuple[Tensor, Tensor]:
    """An input, and kernels that are normalised as in a layer."""
    factory = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    steps = () if options.op == "lightweight" else (batch, setting.steps)
    kernels = torch.randn(*steps, setting.heads, setting.kernel_size, **factory).softmax(-1)
    return torch.randn(batch, setting.steps, options.channels, **factory), kernels


def check(contenders: dict[str, Callable], options: argparse.Namespace, setting: Setting) -> None:
    """Leave with exit status 1 if values or gradients of a contender are not those of ``reference`` in float64."""
    inputs = make(options, setting, batch=1)
    expected = with_gradients(contenders["reference"], *(input.double() for input in inputs))
    for name, contender in contenders.items():
        actual = with_gradients(contender, *inputs)
        for what, one, other in zip(("values", "gradients of the input", "gradients of the kernels"), actual, expected):
            error = (one.double() - other).abs().max().item() / max(1.0, other.abs().max().item())
            if not error <= TOLERANCES[options.dtype]:  # NaN is wrong too
                sys.exit(
                    f"{name} is wrong, so nothing is timed: at T={setting.steps} K={setting.kernel_size} its {what} "
                    f"differ from reference in float64 by {error:.2g} (allowed {TOLERANCES[options.dtype]:.2g})"
                )


def with_gradients(function: Callable, *inputs: Tensor) -> tuple[Tensor, ...]:
    inputs = tuple(input.detach().requires_grad_() for input in inputs)
    output = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randint(-8, 9, output.shape, generator=generator).to(output.device, output.dtype) / 4
    return output.detach(), *torch.autograd.grad(output, inputs, cotangent)


def measure(options: argparse.Namespace, group: list[Setting]) -> list[dict]:
    """Time and memory of every contender and pass in settings of one T."""
    calls: dict[tuple[Setting | None, str, str], Callable[[], object]] = {}
    for setting in group:
        inputs = make(options, setting, options.batch)
        functions = contenders(options, setting)
        if setting.heads * setting.steps**2 * options.batch * 4 > LARGEST:
            functions.pop("expand", None)
        for name, function in functions.items():
            calls |= {(setting, name, which): call for which, call in passes(function, *inputs)}
        for name, of_pass in yardsticks(options, setting, *inputs).items():
            calls |= {(setting, name, which): call for which, call in zip(PASSES, of_pass)}
    head = (options.batch, options.heads, group[0].steps, options.channels // options.heads)
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
    print(f" T={group[0].steps}", file=sys.stderr)
    return [
        {
            "time_steps": group[0].steps,
            "heads": setting.heads if setting else options.heads,
            "kernel_size": setting.kernel_size if setting else None,
            "contender": name,
            "pass": which,
            "milliseconds": round(1e3 * statistics.median(times[setting, name, which]), 4),
            "peak_bytes": memory[setting, name, which],
        }
        for setting, name, which in calls
    ]


def yardsticks(
    options: argparse.Namespace, setting: Setting, input: Tensor, weight: Tensor
) -> dict[str, list[Callable[[], object]]]:
    """For each pass a product of matrices with as many multiply-adds, and a copy of as many bytes as forward moves."""
    multiply_adds = input.numel() * setting.kernel_size
    sides = [max(8, round((times * multiply_adds) ** (1 / 3))) for times in (1, 3)]
    squares = [torch.randn(side, side, device=input.device, dtype=input.dtype) for side in sides]
    source = torch.zeros((2 * input.nbytes + weight.nbytes) // 8, device=input.device)
    target = torch.zeros_like(source)
    copy = partial(target.copy_, source)
    return {"matmul": [partial(torch.mm, square, square) for square in squares], "copy": [copy, copy]}


def passes(function: Callable, *inputs: Tensor) -> list[tuple[str, Callable[[], object]]]:
    leaves = [input.detach().requires_grad_() for input in inputs]
    cotangent = torch.randn_like(inputs[0])

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def forward_and_backward() -> None:
        torch.autograd.grad(function(*leaves), leaves, cotangent)

    return list(zip(PASSES, (forward, forward_and_backward)))


def times_of_rounds(
    calls: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    title: str = "",
) -> dict[str, list[float]]:
    """Seconds of each call in each round, after one to warm up: in a round every call has its turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if round:
                times[name].append(clock() - start)
        print(".", end="", file=sys.stderr, flush=True)
    print(title, file=sys.stderr)
    return times


def interleaved(
    calls: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each call, the median of all rounds."""
    return {name: statistics.median(times) for name, times in times_of_rounds(calls, rounds, clock).items()}


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


def table(results: list[dict]) -> str:
    """One markdown row per number of threads, T, H, K and pass."""
    names = list(dict.fromkeys(row["contender"] for row in results if row["contender"] not in YARDSTICKS))
    lines = [
        "Milliseconds / MiB at the peak.",
        "",
        f"| threads | T | H | K | pass | {' | '.join(names)} | others ÷ ours | of matmul | copies |",
        f"|--:|--:|--:|--:|---|{'--:|' * (len(names) + 3)}",
    ]
    keys = ("threads", "time_steps", "heads", "kernel_size", "pass")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in results if row["kernel_size"]):
        cells = {
            row["contender"]: row
            for row in results
            if all(row[name] in (value, None) for name, value in zip(keys, key))
        }
        texts = [
            f"{cells[name]['milliseconds']:.3g} / {cells[name]['peak_bytes'] / 2**20:.3g}" if name in cells else ""
            for name in names
        ]
        milliseconds = {name: cell["milliseconds"] for name, cell in cells.items()}
        ours = min(milliseconds[name] for name in cells if name in BACKENDS)
        others = [milliseconds[name] for name in ("unfold", "expand", "conv1d") if name in cells]
        gain = f"{min(others) / ours:.1f}×" if others else ""
        shares = f"{milliseconds['matmul'] / ours:.2f} | {ours / milliseconds['copy']:.2f}"
        lines.append(f"| {' | '.join(map(str, key))} | {' | '.join(texts)} | {gain} | {shares} |")
    return "\n".join(lines)


def save(results: list[dict], text: str, options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    setting = {name: value for name, value in vars(options).items() if name not in ("output", "quick")}
    setting |= {"torch": torch.__version__, "processor": processor(options.device)}
    stem = options.output / "_".join(["ops", options.op, *([options.dtype] if options.dtype != "float32" else [])])
    stem.with_suffix(".json").write_text(
        json.dumps({"setting": setting, "results": results}, indent=1) + "\n", encoding="utf-8"
    )
    title = (
        f"{OPS[options.op].__name__}, B={options.batch} C={options.channels} {options.dtype}, {setting['processor']}, "
        f"torch {torch.__version__}"
    )
    stem.with_suffix(".md").write_text(f"{title}.\n{text}\n", encoding="utf-8")
    threads = options.threads[0]
    drawn = [row for row in results if row["threads"] == threads and row["heads"] == options.heads]
    picture_title = f"{title}, H={options.heads}, {threads} thread{'s' * (threads > 1)}"
    draw(drawn, picture_title, stem.with_suffix(".png"))
    print(f"Wrote {stem}.json, .md and .png", file=sys.stderr)


def processor(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else machine.processor()


def draw(results: list[dict], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["contender"] for row in results))
    lengths = list(dict.fromkeys(row["time_steps"] for row in results))
    kernel_sizes = sorted({row["kernel_size"] for row in results if row["kernel_size"]})
    panels = [(which, "milliseconds", 1, f"{which}, ms") for which in PASSES]
    panels.append((PASSES[1], "peak_bytes", 2**-20, "peak memory of\nforward+backward, MiB"))
    styles = {
        "native": {"color": "#0b5fa5", "linewidth": 2.6, "marker": "o", "zorder": 3},
        "triton": {"color": "#0b5fa5", "linewidth": 2.6, "marker": "o", "zorder": 3},
        "blocked": {"color": "#5da9e0", "marker": "o", "zorder": 3},
        "unfold": {"color": "#b2512c", "marker": "s"},
        "expand": {"color": "#d99a2b", "marker": "D"},
        "sdpa": {"color": "0.45", "linestyle": "--"},
        "matmul": {"color": "0.2", "linestyle": ":"},
        "copy": {"color": "0.7", "linestyle": ":"},
        "reference": {"color": "#4f9d69", "marker": "^"},
    }
    figure, axes = plt.subplots(
        len(panels),
        len(lengths),
        figsize=(max(7.6, 3.4 * len(lengths) + 0.8), 8.2),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for i, (which, quantity, unit, label) in enumerate(panels):
        for j, steps in enumerate(lengths):
            axis = axes[i, j]
            for name in names:
                if quantity == "peak_bytes" and name in YARDSTICKS:
                    continue
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
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
