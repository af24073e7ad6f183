"""Speed and cache of a causal decoder as it is and turned hybrid, after texts of several lengths, in one run:

    python -m benchmarks.decoding                            # a Llama of eight layers of 512, one thread, some minutes
    python -m benchmarks.decoding --model FOLDER --threads 2 --output table.md

Compared are the model, and copies in which dynamic convolutions replace the attention of every other layer and of all.
Each reads a text of random tokens, then a few more one by one: tokens per second are the median over rounds, in each of
which every contender runs once; the ratio to the original is the median over rounds of the ratio in a round. The cache
is what all tensors in it take. Without ``--model`` the weights are random, on which speed does not depend.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.ops import at_least_one, processor
from seqdyconv.swap import swap_self_attention
from seqdyconv.swap.conv_states import ConvStates

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

PIECE = 512  # tokens that are read at once


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    original = load(options)
    models = {"original": original}
    for name, layers in {"every other layer": "every 2", "all layers": None}.items():
        models[name] = swap_self_attention(
            copy.deepcopy(original), layers=layers, kernel_size=options.kernel_size, weights="random"
        )
    rows = [row for length in options.length for row in measure(models, length, options)]
    text = table(rows, original, options)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a Hugging Face decoder")
    parser.add_argument("--kernel-size", type=at_least_one, default=31)
    parser.add_argument("--length", type=at_least_one, nargs="+", default=[128, 1024, 8192], help="tokens of the text")
    parser.add_argument("--tokens", type=at_least_one, default=32, help="tokens that are then decoded in a round")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--output", type=Path, help="file for the table")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(length=[8], tokens=2, kernel_size=3, rounds=1)
    options = parser.parse_args(arguments)
    if options.model is not None and not (options.model / "config.json").is_file():
        parser.error(f"--model must be a folder with a config.json, got {options.model}")
    return options


def load(options: argparse.Namespace) -> Any:
    if options.model is not None:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, trust_remote_code=False)
        return model.eval()
    size = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}
    if options.quick:
        size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    longest = max(options.length) + options.tokens
    config = LlamaConfig(
        vocab_size=1000, intermediate_size=3 * size["hidden_size"], max_position_embeddings=longest, **size
    )
    return LlamaForCausalLM(config).eval()


@torch.inference_mode()
def measure(models: dict[str, Any], length: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Speed and cache of every contender after a text of one length."""
    tokens = torch.randint(0, models["original"].config.vocab_size, (1, length + options.tokens))
    caches = {name: read(model, tokens[:, :length]) for name, model in models.items()}
    sizes = {name: size_of(cache) for name, cache in caches.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for round in range(options.rounds + 1):
        for name, model in models.items():
            cache = copy.deepcopy(caches[name])
            start = time.perf_counter()
            for token in tokens[:, length:].split(1, dim=1):
                model(token, cache=cache)
            if round:  # the first one warms up
                times[name].append(time.perf_counter() - start)
        print(".", end="", file=sys.stderr, flush=True)
    print(f" T={length}", file=sys.stderr)
    return [
        {
            "length": length,
            "model": name,
            "tokens per second": options.tokens / statistics.median(times[name]),
            "ratio": statistics.median(one / other for one, other in zip(times["original"], times[name])),
            "cache": sizes[name],
        }
        for name in models
    ]


def read(model: Any, tokens: Tensor) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    for piece in tokens.split(PIECE, dim=1):
        model(piece, cache=cache, logits_to_keep=1)
    return cache


def size_of(cache: DynamicCache) -> int:
    """The bytes of all tensors in a cache."""
    tensors: list[Tensor] = []
    for layer in cache.layers:
        own: Any = layer
        tensors += own.inputs.values() if isinstance(layer, ConvStates) else (own.keys, own.values)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def table(rows: list[dict[str, Any]], model: Any, options: argparse.Namespace) -> str:
    config = model.config
    lines = [
        f"{type(model).__name__}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {config.num_key_value_heads} of keys and values, "
        f"K={options.kernel_size}, float32, {options.threads} thread{'s' * (options.threads > 1)}, {processor('cpu')}, "
        f"torch {torch.__version__}, median of {options.rounds} rounds of {options.tokens} tokens.",
        "",
        "| tokens before | dynamic convolutions in | tokens/s | ÷ original | cache, MiB |",
        "|--:|---|--:|--:|--:|",
    ]
    names = {"original": "no layer"}
    lines += [
        f"| {row['length']} | {names.get(row['model'], row['model'])} | {row['tokens per second']:.3g} | "
        f"{row['ratio']:.2f}× | {row['cache'] / 2**20:.3g} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
