"""Time of TaLK convolutions against the length of the sequence and of the windows, and their error. Three tables:

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=99999999999 python -m benchmarks.talk     # one thread, about two minutes

The two settings let the process keep its memory (Linux, glibc). Without them each tensor of more than 32 MiB, thus the
longest sequence alone, is new memory from the system every time, and that takes longer than the work itself.

Time over T: how talk_conv1d grows with the sequence. Time over K: beside dynamic_conv1d of the same K, and by backend.
Both are medians over rounds; in each round every case runs once, so that a busy moment of the machine meets all of
them. Forward is without autograd; forward+backward gives all gradients.

Error: the largest difference from the prefix sums in float64, at T = 100,000, beside one ``cumsum`` over the whole
sequence in float32, as TaLK convolutions were written before. The inputs are those that the dtype can tell.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.ops import PASSES, at_least_one, passes, processor, seconds
from seqdyconv import dynamic_conv1d, talk_conv1d

import torch
import torch.nn.functional as F
from torch import Tensor


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    text = "\n".join(
        [
            f"talk_conv1d, C={options.channels} H={options.heads}, {options.threads} thread(s), "
            f"{processor('cpu')}, torch {torch.__version__}, median of {options.rounds} rounds beside other work.",
            "",
            *time_over_length(options),
            "",
            *time_over_windows(options),
            "",
            *errors(options),
        ]
    )
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark TaLK convolutions.")
    parser.add_argument("--channels", type=at_least_one, default=128)
    parser.add_argument("--heads", type=at_least_one, default=4)
    parser.add_argument(
        "--time", type=at_least_one, nargs="+", default=[1000, 10_000, 100_000], help="sequence lengths"
    )
    parser.add_argument("--kernel-size", type=at_least_one, nargs="+", default=[31, 255], help="longest windows")
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "talk.md")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(channels=8, heads=2, time=[20, 200], kernel_size=[3, 63], rounds=1)
    options = parser.parse_args(arguments)
    if options.channels % options.heads:
        parser.error(f"--heads must divide --channels, got {options.heads} and {options.channels}")
    return options


def make(options: argparse.Namespace, steps: int, kernel_size: int) -> tuple[dict[str, int], Tensor, Tensor, Tensor]:
    """The most steps of both sides, an input, and extents."""
    most = {"max_left": (kernel_size - 1) // 2, "max_right": kernel_size // 2}
    left, right = (torch.rand(1, steps, options.heads) * side for side in most.values())
    return most, torch.randn(1, steps, options.channels), left, right


def medians(calls: dict[tuple, Callable[[], object]], rounds: int) -> dict[tuple, float]:
    """Milliseconds of each call."""
    times: dict[tuple, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for key, call in calls.items():
            times[key].append(seconds(call, "cpu"))
        print(".", end="", file=sys.stderr, flush=True)
    return {key: 1e3 * statistics.median(values) for key, values in times.items()}


def time_over_length(options: argparse.Namespace) -> list[str]:
    kernel_size, calls = options.kernel_size[min(1, len(options.kernel_size) - 1)], {}
    for steps in options.time:
        most, *tensors = make(options, steps, kernel_size)
        calls |= {(steps, which): call for which, call in passes(partial(talk_conv1d, **most), *tensors)}
    times = medians(calls, options.rounds)
    lines = [f"Milliseconds at K={kernel_size} over T, and nanoseconds for each step and channel:", ""]
    lines += [f"| T | {' | '.join(f'{which} | ns' for which in PASSES)} |", "|--:|--:|--:|--:|--:|"]
    for steps in options.time:
        cells = (
            f"{times[steps, which]:.3g} | {1e6 * times[steps, which] / steps / options.channels:.2g}"
            for which in PASSES
        )
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return lines


def time_over_windows(options: argparse.Namespace) -> list[str]:
    steps, calls = options.time[min(1, len(options.time) - 1)], {}
    names = ("blocked", "prefix_sums")
    for kernel_size in options.kernel_size:
        most, *tensors = make(options, steps, kernel_size)
        for name in names:
            function = partial(talk_conv1d, **most, backend=name)
            calls |= {(kernel_size, name, which): call for which, call in passes(function, *tensors)}
        kernels = torch.randn(1, steps, options.heads, kernel_size).softmax(-1)
        dynamic = passes(dynamic_conv1d, tensors[0], kernels)
        calls |= {(kernel_size, "dynamic_conv1d", which): call for which, call in dynamic}
    times = medians(calls, options.rounds)
    lines = [f"Milliseconds at T={steps} over K, and dynamic_conv1d ÷ prefix_sums:", ""]
    lines += [f"| K | pass | {' | '.join(names)} | dynamic_conv1d | ÷ |", "|--:|---|--:|--:|--:|--:|"]
    for kernel_size in options.kernel_size:
        for which in PASSES:
            row = [times[kernel_size, name, which] for name in (*names, "dynamic_conv1d")]
            numbers = " | ".join(f"{number:.3g}" for number in row)
            lines.append(f"| {kernel_size} | {which} | {numbers} | {row[2] / row[1]:.1f}× |")
    return lines


def one_cumsum(input: Tensor, left: Tensor, right: Tensor, *, max_left: int, max_right: int) -> Tensor:
    """Interpolated differences of one prefix sum over the whole sequence (1, T, C), in float32."""
    sums = F.pad(input.float().cumsum(1), (0, 0, 1, 0))[0].unflatten(-1, (left.shape[2], -1))
    step = torch.arange(input.shape[1])[:, None]
    head = torch.arange(left.shape[2])

    def at(place: Tensor) -> Tensor:
        place = place.clamp(0, input.shape[1])
        floor = place.floor().long()
        low, high = sums[floor, head], sums[(floor + 1).clamp(max=input.shape[1]), head]
        return torch.lerp(low, high, (place - floor)[..., None].float())

    # Places in float64: what is measured is the sums.
    output = (at(step + right[0].double() + 1) - at(step - left[0].double())) / (max_left + max_right + 1)
    return output.flatten(1)[None].to(input.dtype)


def errors(options: argparse.Namespace) -> list[str]:
    steps = max(options.time)
    contenders = {
        "blocked": partial(talk_conv1d, backend="blocked"),
        "prefix_sums": partial(talk_conv1d, backend="prefix_sums"),
        "one cumsum": one_cumsum,
    }
    lines = [f"Largest error at T={steps}, inputs of standard deviation 1:", ""]
    lines += [
        f"| K | mean | dtype | {' | '.join(contenders)} | rounding of the output |",
        f"|--:|--:|---|{'--:|' * (len(contenders) + 1)}",
    ]
    for kernel_size in options.kernel_size:
        most, noise, left, right = make(options, steps, kernel_size)
        for mean in (0, 3):
            for dtype in (torch.float32, torch.bfloat16):
                # A few channels tell the error, and float64 needs its memory.
                input = (noise[..., : options.heads] + mean).to(dtype)
                tensors = input.double(), left.double(), right.double()
                exact = talk_conv1d(*tensors, **most, backend="prefix_sums")
                cells = [contender(input, left, right, **most) for contender in contenders.values()] + [exact.to(dtype)]
                row = " | ".join(f"{(cell.double() - exact).abs().max().item():.1e}" for cell in cells)
                lines.append(f"| {kernel_size} | {mean} | {str(dtype).removeprefix('torch.')} | {row} |")
    return lines


if __name__ == "__main__":
    main()
