"""Speed and peak memory of a Hugging Face encoder as it is and with swapped self-attention, side by side in one run:

    python -m benchmarks.swap                                # BERT of MiniLM's size, one thread, about ten minutes
    python -m benchmarks.swap --model FOLDER --dtype bfloat16 --kernel-size 15 --threads 2 --output table.md

Compared are the model with torch's attention (``sdpa``), and copies in which each of ``--mixer`` replaces it in the
upper half of the layers and in all of them. Without ``--model`` it has 6 layers of 384, 12 heads, and random weights,
on which speed does not depend; learned positions are made as many as the longest text needs. Texts are random tokens;
with ``--padding`` they differ in length, up to T, so that this share of the batch is padding. Every batch has about
``--tokens`` tokens.

Texts per second: the median over rounds, in each of which every contender runs once, so that a busy moment of the
machine meets all of them; the ratio to the original is the median over rounds of the ratio in a round. Inference, in
the given dtype by autocast.

Memory: the most bytes alive at once above the weights (and above the optimizer's state, for a step of training with
AdamW: so gradients and activations), counted exactly from the allocations and frees that torch's profiler records. What
libraries take outside torch's allocator is not seen.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.ops import CLOCKS, at_least_one, peak_memory, processor, times_of_rounds
from seqdyconv.swap import extend_positions, swap_self_attention

import torch
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel

DTYPES = ("float32", "bfloat16")
MIXERS = ("dynamic_conv", "lightweight_conv")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    original = load(options)
    models = {"original": original, **swapped_copies(original, options)}
    rows = [row for length in options.length for row in measure(models, length, options)]
    text = table(rows, original, options)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a Hugging Face encoder")
    parser.add_argument("--mixer", choices=MIXERS, nargs="+", default=MIXERS)
    parser.add_argument("--kernel-size", type=at_least_one, default=31)
    parser.add_argument("--glu", action="store_true", help="gate the input of the convolutions")
    parser.add_argument("--length", type=at_least_one, nargs="+", default=[32, 128, 512], help="tokens of a text")
    parser.add_argument("--tokens", type=at_least_one, default=4096, help="tokens of a batch")
    parser.add_argument("--padding", type=float, default=0.0, help="share of the batch that is padding, below 0.5")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what to time by")
    parser.add_argument("--output", type=Path, help="file for the table")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(length=[8], tokens=16, kernel_size=3, rounds=1)
    options = parser.parse_args(arguments)
    if not 0 <= options.padding < 0.5:
        parser.error(f"--padding must be from 0 to below 0.5, got {options.padding}")
    if options.model is not None and not (options.model / "config.json").is_file():
        parser.error(f"--model must be a folder with a config.json, got {options.model}")
    return options


def load(options: argparse.Namespace) -> Any:
    longest = max(512, *options.length)
    if options.model is not None:
        model = AutoModel.from_pretrained(
            options.model, attn_implementation="sdpa", dtype=torch.float32, trust_remote_code=False
        )
        return extend_positions(model, longest)
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    if options.quick:
        size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return BertModel(BertConfig(**size, max_position_embeddings=longest, attn_implementation="sdpa"))


def swapped_copies(original: Any, options: argparse.Namespace) -> dict[str, Any]:
    count = original.config.num_hidden_layers
    return {
        f"{mixer}, {share}": swap_self_attention(
            copy.deepcopy(original),
            mixer=mixer,
            layers=layers,
            kernel_size=options.kernel_size,
            glu=options.glu,
            weights="random",
        )
        for mixer in options.mixer
        for share, layers in {"half": list(range(count // 2, count)), "all": list(range(count))}.items()
    }


def measure(models: dict[str, Any], length: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Speed and memory of every contender at one length."""
    inputs = batch(next(iter(models.values())), length, options)
    memory = {
        name: [
            peak_memory(call, "cpu") for call in (inference(model, inputs, options), training(model, inputs, options))
        ]
        for name, model in models.items()
    }
    calls = {name: inference(model, inputs, options) for name, model in models.items()}
    times = times_of_rounds(calls, options.rounds, CLOCKS[options.clock], f" T={length}")
    return [
        {
            "length": length,
            "batch": len(inputs["input_ids"]),
            "model": name,
            "texts per second": len(inputs["input_ids"]) / statistics.median(times[name]),
            "ratio": statistics.median(one / other for one, other in zip(times["original"], times[name])),
            "inference": memory[name][0],
            "training": memory[name][1],
        }
        for name in models
    ]


def batch(model: Any, length: int, options: argparse.Namespace) -> dict[str, Tensor]:
    """Random texts, the shortest of T − 2·padding·T tokens, the longest of T."""
    count = max(1, options.tokens // length)
    lengths = torch.linspace(length * (1 - 2 * options.padding), length, count).round()
    if count == 1:
        lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": torch.randint(0, model.config.vocab_size, (count, length)), "attention_mask": mask}


def inference(model: Any, inputs: dict[str, Tensor], options: argparse.Namespace) -> Callable[[], object]:
    def run() -> None:
        model.eval()
        with torch.inference_mode(), autocast(options):
            model(**inputs)

    return run


def training(model: Any, inputs: dict[str, Tensor], options: argparse.Namespace) -> Callable[[], object]:
    """A step of training, after a first one has made the optimizer's state."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def run() -> None:
        model.train()
        with autocast(options):
            loss = model(**inputs).last_hidden_state.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    run()
    return run


def autocast(options: argparse.Namespace) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bfloat16")


def table(rows: list[dict[str, Any]], model: Any, options: argparse.Namespace) -> str:
    config = model.config
    lines = [
        f"{type(model).__name__}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.num_attention_heads} heads, K={options.kernel_size}, {options.dtype}, "
        f"{options.padding:.0%} padding, {options.threads} thread{'s' * (options.threads > 1)}, {processor('cpu')}, "
        f"torch {torch.__version__}, {options.clock} clock, median of {options.rounds} rounds.",
        "",
        "| tokens × texts | model | texts/s | ÷ original | MiB, inference | MiB, training |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['length']} × {row['batch']} | {row['model']} | {row['texts per second']:.3g} | {row['ratio']:.2f}× | "
        f"{row['inference'] / 2**20:.3g} | {row['training'] / 2**20:.3g} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
