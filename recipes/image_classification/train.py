"""Compare static and mixed kernels on scikit-learn's digits and write everything into output_dir.

    python recipes/image_classification/train.py CONFIG.yaml [--key value ...]

Each network is trained with each seed; metrics.json, record.json, results.md and mixtures.png compare them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, stdev
from typing import Annotated, Any, ClassVar

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv import KernelAttentionConv2d, ODConv2d
from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.layers import set_temperature
from seqdyconv.models import record_mixtures
from seqdyconv.pictures import plot_mixtures
from seqdyconv.ranges import Count, OneOf, Options, Positive, PositiveShare, Seed
from seqdyconv.training.annealing import TemperatureAnnealing
from seqdyconv.training.arguments import changed_arguments, command_line, parse_arguments, resolved_arguments
from seqdyconv.training.model_arguments import check_size
from seqdyconv.training.output_dir import begin_run, check_output_dir, remove_replaced_run
from seqdyconv.training.records import write_record
from seqdyconv.training.reports import write_metrics, write_text
from seqdyconv.training.trainer_arguments import CheckedTrainingArguments, try_trainer

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, Trainer, set_seed

LAYERS = {  # What stands where the network convolves, and its name in the table.
    "static": "static, `nn.Conv2d`",
    "static_wide": "static, as many parameters as DyConv",
    "dyconv": "DyConv, `KernelAttentionConv2d`",
    "condconv": "CondConv, the same with sigmoids",
    "odconv": "ODConv, `ODConv2d`",
}
Layer = Annotated[str, OneOf(*LAYERS)]


@dataclass
class ComparisonArguments(Options):
    """What is compared."""

    layers: list[Layer] = field(default_factory=lambda: list(LAYERS), metadata={"help": "What is compared."})
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Train with each of them."})
    channels: Count = field(default=8, metadata={"help": "Of the first convolution; the others have twice as many."})
    num_kernels: Count = field(default=4, metadata={"help": "Kernels that are mixed."})
    start_temperature: Positive = field(default=30.0, metadata={"help": "Of the attention at first; it ends at 1."})
    annealing_share: PositiveShare = field(default=0.1, metadata={"help": "The part of training in which it falls."})
    train_size: Count = field(default=899, metadata={"help": "The first so many images are trained on."})
    validation_size: Count = field(default=449, metadata={"help": "The next so many validate; the others test."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "seeds"):
            if len(set(values := getattr(self, name))) < len(values):
                raise InputError(f"{name} must be some different values, got {values}")


@dataclass
class DigitsTrainingArguments(CheckedTrainingArguments):
    """The arguments of the Trainer, one training after another in one output directory."""

    overwrite: bool = field(default=False, metadata={"help": "Replace the run in output_dir by a new one."})
    without_effect: ClassVar[dict[str, str]] = {"seed": "use seeds", "label_names": "the labels are digits"}
    without_effect |= dict.fromkeys(("eval_strategy", "eval_on_start"), "each network is evaluated at its end")


def load_images(train_size: int, validation_size: int) -> dict[str, list[dict[str, Tensor]]]:
    """scikit-learn's digits (1, 8, 8) in [0, 1] with their labels; what train and validation leave is tested on.

    The 13 people who wrote them come one after the other and stay so: who wrote the tested ones is mostly new.
    """
    digits: Any = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    rows = [{"images": image, "labels": label} for image, label in zip(images, labels)]
    end = train_size + validation_size
    if end >= len(rows):
        got = f"got {train_size} and {validation_size}"
        raise InputError(f"train_size and validation_size must leave some of the {len(rows)} images to test, {got}")
    return {"train": rows[:train_size], "validation": rows[train_size:end], "test": rows[end:]}


class DigitsModel(nn.Module):
    """Three 3×3 convolutions with batch normalisation, the mean over the image, and a linear layer.

    The first convolution is static in all networks, as in the papers: there is little to tell images by before it. It
    has ``channels``, the others, which ``conv`` builds as ``nn.Conv2d`` would be, twice as many.
    """

    def __init__(self, conv: Callable[..., nn.Module], channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        first = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        second = conv(channels, wide, 3, stride=2, padding=1, bias=False)
        self.convs = nn.ModuleList([first, second, conv(wide, wide, 3, padding=1, bias=False)])
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (channels, wide, wide))
        self.classifier = nn.Linear(wide, 10)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Logits (B, 10) of images (B, 1, 8, 8), and with labels (B,) the loss."""
        hidden = images
        for conv, norm in zip(self.convs, self.norms):
            hidden = F.relu(norm(conv(hidden)))
        logits = self.classifier(hidden.mean((2, 3)))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def build_model(layer: str, channels: int, num_kernels: int) -> DigitsModel:
    """The network with one of ``LAYERS``."""
    convs: dict[str, Callable[..., nn.Module]] = {
        "static": nn.Conv2d,
        "dyconv": partial(KernelAttentionConv2d, num_kernels=num_kernels),
        "condconv": partial(KernelAttentionConv2d, routing="sigmoid", reduction=None, num_kernels=num_kernels),
        "odconv": partial(ODConv2d, num_kernels=num_kernels),
    }
    if layer == "static_wide":  # parameters grow with the square of the width, and with the number of kernels
        return DigitsModel(nn.Conv2d, round(channels * num_kernels**0.5))
    return DigitsModel(convs[layer], channels)


def train_one(
    layer: str, seed: int, comparison: ComparisonArguments, args: DigitsTrainingArguments, images: dict[str, Any]
) -> tuple[DigitsModel, dict[str, Any]]:
    """A network trained with one seed, and what came of it."""
    set_seed(seed)
    model = build_model(layer, comparison.channels, comparison.num_kernels)
    args.seed = seed
    trainer = Trainer(model, args, train_dataset=images["train"])
    trainer.remove_callback(PrinterCallback)
    if set_temperature(model, 1.0):  # it mixes kernels
        trainer.add_callback(TemperatureAnnealing(comparison.start_temperature, 1.0, comparison.annealing_share))
    result: dict[str, Any] = {"layer": layer, "seed": seed, "parameters": trainer.get_num_trainable_parameters()}
    start = time.perf_counter()
    trainer.train()
    result["train_seconds"] = time.perf_counter() - start
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model.eval()(images["test"][0]["images"][None].to(trainer.args.device))
    result["megaflops"] = flops.get_total_flops() / 1e6
    for split in ("validation", "test"):
        output = trainer.predict(images[split])
        result[f"{split}_accuracy"] = 100 * float((output.predictions.argmax(-1) == output.label_ids).mean())
    return model, result


def mixtures_by_digit(model: DigitsModel, images: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """For each layer that mixes kernels their mean weights by digit, (10, N); NaN for a digit without images."""
    labels = torch.stack([row["labels"] for row in images])
    inputs = torch.stack([row["images"] for row in images]).to(next(model.parameters()).device)
    return {
        f"convolution {number}": torch.stack([mixture[labels == digit].mean((0, 2, 3)) for digit in range(10)]).cpu()
        for number, mixture in enumerate(record_mixtures(model, images=inputs).values(), start=2)
    }


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each layer the mean and standard deviation over its seeds, of accuracies in per cent and of seconds."""
    summary: dict[str, dict[str, float]] = {}
    for layer in dict.fromkeys(run["layer"] for run in runs):
        own = [run for run in runs if run["layer"] == layer]
        summary[layer] = {name: own[0][name] for name in ("parameters", "megaflops")} | {"seeds": len(own)}
        for name in ("validation_accuracy", "test_accuracy", "train_seconds"):
            values = [run[name] for run in own]
            summary[layer] |= {name: fmean(values), f"{name}_std": stdev(values) if len(values) > 1 else 0.0}
    return summary


def table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row for each layer."""
    text = "| convolution | parameters | MFLOPs per image | validation accuracy, % | test accuracy, % | seconds |\n"
    text += "|---|--:|--:|--:|--:|--:|\n"
    for layer, row in summary.items():
        text += f"| {LAYERS[layer]} | {row['parameters']:,} | {row['megaflops']:.2f} "
        for name in ("validation_accuracy", "test_accuracy"):
            text += f"| {row[name]:.2f}" + f" ± {row[name + '_std']:.2f}" * (row["seeds"] > 1) + " "
        text += f"| {row['train_seconds']:.1f} |\n"
    return text


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    comparison, args = parse_arguments([ComparisonArguments, DigitsTrainingArguments], argv, description=__doc__)
    started = time.perf_counter()
    for layer in comparison.layers:
        check_size(partial(build_model, layer, comparison.channels, comparison.num_kernels))
    try_trainer(args)
    check_output_dir(args.output_dir, overwrite=args.overwrite)
    images = load_images(comparison.train_size, comparison.validation_size)
    begin_run(args.output_dir, arguments := resolved_arguments(comparison, args), args.overwrite)
    runs, mixtures = [], {}
    for layer in comparison.layers:
        for seed in comparison.seeds:
            model, result = train_one(layer, seed, comparison, args, images)
            remove_replaced_run(args.output_dir)
            runs.append(result)
            print(f"{layer}, seed {seed}: {result['test_accuracy']:.2f} % of the test images", flush=True)
            if seed == comparison.seeds[0] and set_temperature(model, 1.0):  # it mixes kernels
                mixtures[LAYERS[layer].split(",")[0]] = mixtures_by_digit(model, images["test"])
    summary = summarise(runs)
    write_text(f"{args.output_dir}/results.md", table(summary))
    if mixtures:
        plot_mixtures(mixtures, f"{args.output_dir}/mixtures.png", classes="digit in the image")
    metrics = {f"{layer}_{name}": value for layer, row in summary.items() for name, value in row.items()}
    metrics |= {f"{run['layer']}_seed_{run['seed']}_test_accuracy": run["test_accuracy"] for run in runs}
    metrics["wall_seconds"] = time.perf_counter() - started
    write_metrics(f"{args.output_dir}/metrics.json", metrics)
    command = command_line("recipes/image_classification/train.py", argv)
    write_record(args.output_dir, command, changed_arguments(arguments, comparison, args), metrics)
    print(f"\n{table(summary)}\n{metrics['wall_seconds']:.0f} seconds; {args.output_dir} holds the results.")


if __name__ == "__main__":
    main()
