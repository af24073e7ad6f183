"""Compare static and mixed kernels on scikit-learn's digits and write everything into output_dir.

    python recipes/image_classification/train.py CONFIG.yaml [--key value ...]

Each network is trained with each seed; metrics.json, results.md and mixtures.png compare them.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from digits import CLASSES, Images, load_images
from digits_model import LAYERS, DigitsModel, build_model, count_parameters
from digits_report import mean_mixtures, plot_mixtures, summarise, table
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from seqdyconv.layers import set_temperature
from seqdyconv.training.annealing import TemperatureAnnealing
from seqdyconv.training.arguments import exit_on_error, parse_arguments, resolved_arguments
from seqdyconv.training.checkpoints import prepare_output_dir, write_run_file
from seqdyconv.training.reports import write_metrics, write_text


@dataclass
class ComparisonArguments:
    """What is compared."""

    layers: list[str] = field(
        default_factory=lambda: list(LAYERS),
        metadata={"help": f"Which of {', '.join(LAYERS)}, each a row of the table."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Train with each of them."})
    channels: int = field(default=8, metadata={"help": "Of the first convolution; the others have twice as many."})
    num_kernels: int = field(default=4, metadata={"help": "Kernels that are mixed."})
    start_temperature: float = field(
        default=30.0, metadata={"help": "Of the attention over kernels at the start; at the end it is 1."}
    )
    annealing_share: float = field(default=0.1, metadata={"help": "The part of the training in which it falls."})
    train_size: int = field(default=899, metadata={"help": "The first so many images are trained on."})
    validation_size: int = field(default=449, metadata={"help": "The next so many validate; the others test."})

    def __post_init__(self) -> None:
        for name in ("layers", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be some different values, got {values}")
        if unknown := [layer for layer in self.layers if layer not in LAYERS]:
            raise ValueError(f"layers must be some of {', '.join(LAYERS)}, got {', '.join(unknown)}")
        for name in ("channels", "num_kernels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        TemperatureAnnealing(self.start_temperature, 1.0, self.annealing_share)  # checks them


@dataclass
class DigitsTrainingArguments(TrainingArguments):
    """The arguments of the Trainer, one training after another in one output directory."""

    overwrite: bool = field(default=False, metadata={"help": "Delete the run in output_dir and start anew."})

    # Other defaults than the Trainer's.
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Where to log to."})  # noqa: RUF036
    save_strategy: str = field(default="no", metadata={"help": "The trainings take seconds: nothing is saved."})
    logging_strategy: str = field(default="no", metadata={"help": "When to log: no, steps or epoch."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "No progress bar for each training."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "There are none."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Pin the memory of batches."})

    def __post_init__(self) -> None:
        if self.seed != 42:
            raise ValueError(f"seed has no effect here, use seeds; got {self.seed}")
        super().__post_init__()


def main(argv: Sequence[str] | None = None) -> None:
    comparison, args = parse_arguments([ComparisonArguments, DigitsTrainingArguments], argv, description=__doc__)
    with exit_on_error():
        run(comparison, args)


def run(comparison: ComparisonArguments, args: DigitsTrainingArguments) -> None:
    started = time.perf_counter()
    images = load_images(comparison.train_size, comparison.validation_size)
    output_dir = prepare_output_dir(args.output_dir, overwrite=args.overwrite)
    write_run_file(output_dir, resolved_arguments(comparison, args))
    runs: list[dict[str, Any]] = []
    mixtures = {}
    for layer in comparison.layers:
        for seed in comparison.seeds:
            model, result = train_one(layer, seed, comparison, args, images)
            runs.append({"layer": layer, "seed": seed, **result})
            print(f"{layer}, seed {seed}: {result['test_accuracy']:.2f} % of the test images", flush=True)
            if seed == comparison.seeds[0] and (means := mixtures_by_digit(model, images["test"])):
                mixtures[layer] = means
    summary = summarise(runs)
    write_text(output_dir / "results.md", table(summary))
    if mixtures:
        plot_mixtures(mixtures, output_dir / "mixtures.png")
    metrics = {f"{layer}_{name}": value for layer, row in summary.items() for name, value in row.items()}
    metrics |= {f"{run['layer']}_seed_{run['seed']}_test_accuracy": run["test_accuracy"] for run in runs}
    metrics["wall_seconds"] = time.perf_counter() - started
    write_metrics(output_dir / "metrics.json", metrics)
    print(f"\n{table(summary)}\n{metrics['wall_seconds']:.0f} seconds; {output_dir} holds the results.")


def train_one(
    layer: str, seed: int, comparison: ComparisonArguments, args: DigitsTrainingArguments, images: dict[str, Images]
) -> tuple[DigitsModel, dict[str, Any]]:
    """A network trained with one seed, and what came of it."""
    set_seed(seed)
    model = build_model(layer, comparison.channels, comparison.num_kernels)
    annealed = set_temperature(model, 1.0) > 0
    annealing = TemperatureAnnealing(comparison.start_temperature, 1.0, comparison.annealing_share)
    args = copy.copy(args)
    args.seed = seed
    trainer = Trainer(
        model,
        args,
        data_collator=lambda batch: batch,  # Images gives whole batches
        train_dataset=images["train"],
        callbacks=[annealing] if annealed else [],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model.eval()(images["test"].images[:1].to(trainer.args.device))
    return model, {
        "parameters": count_parameters(model),
        "megaflops": flops.get_total_flops() / 1e6,
        "validation_accuracy": accuracy(trainer, images["validation"]),
        "test_accuracy": accuracy(trainer, images["test"]),
        "train_seconds": seconds,
    }


def accuracy(trainer: Trainer, images: Images) -> float:
    """In per cent."""
    predicted = torch.as_tensor(trainer.predict(images).predictions).argmax(-1)
    return 100 * (predicted == images.labels).float().mean().item()


@torch.no_grad()
def mixtures_by_digit(model: DigitsModel, images: Images) -> list[torch.Tensor]:
    """For each layer that mixes kernels their mean weights by digit, (10, N)."""
    device = next(model.parameters()).device
    found = model.eval().mixtures(images.images.to(device))
    return [mean_mixtures(weights.cpu(), images.labels, CLASSES) for weights in found]


if __name__ == "__main__":
    main()
