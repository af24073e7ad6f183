"""Training steps on packed rows and on padded ones, side by side in one run, on batches of real lengths:

    python -m benchmarks.packing --output table.md           # one thread, about twenty minutes
    python -m benchmarks.packing --data r8 --kernel-size 31 --dtype bfloat16

The texts have the lengths of a recipe's training data and random tokens; the model has the recipe's size, and batches
have its ``max_tokens``. ``similar``: batches of texts of similar lengths, as the recipes make them. ``mixed``: those of
all lengths (``mix_lengths``). Padded and packed batches have the same texts, so that nothing but the padding differs.

Tokens per second: real ones, source and target, the median over rounds of steps of AdamW; each round takes the next
batch, and in it every contender runs once. The ratios are medians over rounds of the ratio in a round.

Memory: the most bytes alive at once above weights and optimizer's state, in the first batch, as in ``benchmarks.swap``.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ops import CLOCKS, at_least_one, peak_memory, processor
from benchmarks.swap import DTYPES, autocast
from seqdyconv.data import text_classification, translation
from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.data.packing import PackingCollator
from seqdyconv.data.text_rows import tokenize
from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForSequenceClassification,
)
from seqdyconv.training.arguments import read_yaml

import torch
from datasets import DatasetDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

RECIPES = Path(__file__).parents[1] / "recipes"
DATA = {
    "r8": ("text_classification", "r8"),
    "movie reviews": ("text_classification", "movie_reviews"),
    "translation": ("translation", "quickstart"),
}
MIXERS = ("dynamic_conv", "lightweight_conv", "self_attention")
ORDERS = ("similar", "mixed")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    lines = [
        f"{options.threads} thread{'s' * (options.threads > 1)}, {processor('cpu')}, torch {torch.__version__}, "
        f"{options.clock} clock, median of {options.rounds} rounds"
        f"{f', all kernels K={options.kernel_size}' if options.kernel_size else ''}.",
        "",
        "| data | dtype | mixer | batches | padding | padded, tokens/s | packed, tokens/s | packed ÷ padded | "
        "÷ padded, similar | MiB, padded | MiB, packed |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    for name in options.data:
        values, lengths = recipe_of(name, options)
        for dtype in options.dtype:
            for mixer in options.mixer:
                for row in measure(name, values, lengths, mixer, dtype, options):
                    lines.append(row)
                    print(row, flush=True)
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, nargs="+", default=list(DATA))
    parser.add_argument("--mixer", choices=MIXERS, nargs="+", default=MIXERS)
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--kernel-size", type=at_least_one, help="of all layers; the recipe's where not given")
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what to time by")
    parser.add_argument("--output", type=Path, help="file for the table")
    parser.add_argument("--quick", action="store_true", help="few made-up texts and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(rounds=1, dtype=["float32"])
    return parser.parse_args(arguments)


def recipe_of(name: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[int, ...]]]:
    """A recipe's configuration, and the lengths of its training texts, or of source and target."""
    recipe, config = DATA[name]
    values = read_yaml(RECIPES / recipe / "configs" / f"{config}.yaml")
    if options.quick:
        small = {"hidden_size": 16, "ffn_dim": 16, "vocab_size": 50, "max_tokens": 40}
        return values | small, [(1 + 3 * n % 11, 1 + 5 * n % 9)[: 1 + (recipe == "translation")] for n in range(30)]
    if recipe == "translation":
        args = of_values(translation.DataArguments, values)
        texts = translation.load_translation_datasets(args, ["train"])
        tokenizer = translation.make_tokenizer(args, texts["train"])
        rows = translation.tokenize(texts, tokenizer, args)["train"]
        return values, [(len(row["input_ids"]), len(row["labels"])) for row in rows]
    args = of_values(text_classification.DataArguments, values)
    texts = text_classification.load_classification_datasets(args)
    tokenizer = text_classification.make_tokenizer(args, texts["train"])
    rows = tokenize(DatasetDict(train=texts["train"]), tokenizer, args)["train"]
    return values, [(len(row),) for row in rows["input_ids"]]


def of_values(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass of those values that are its fields."""
    names = {item.name for item in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


def build(values: dict[str, Any], mixer: str, pairs: bool, options: argparse.Namespace) -> Any:
    """The recipe's model with that mixer and random weights."""
    sizes = {name: values[name] for name in ("vocab_size", "hidden_size")}
    for side in ("encoder", "decoder") if pairs else ("encoder",):
        kernels = values[f"{side}_kernel_sizes"]
        sizes |= {
            f"{side}_layer_types": mixer,
            f"{side}_kernel_sizes": [options.kernel_size] * len(kernels) if options.kernel_size else kernels,
            f"{side}_ffn_dim": values["ffn_dim"],
            f"{side}_attention_heads": values["attention_heads"],
        }
    torch.manual_seed(0)
    if pairs:
        return SeqDyConvForConditionalGeneration(SeqDyConvConfig(**sizes))
    return SeqDyConvForSequenceClassification(SeqDyConvConfig(**sizes, is_encoder_decoder=False, num_labels=8))


def batches(
    lengths: Sequence[tuple[int, ...]], order: str, values: dict[str, Any], model: Any, count: int
) -> list[dict[str, dict[str, Tensor]]]:
    """Batches of the same random texts, padded and packed."""
    sampler = TokenBatchSampler(lengths, values["max_tokens"], mix_lengths=order == "mixed")
    found = []
    for _, rows in zip(range(count), sampler):
        texts = [[torch.randint(4, values["vocab_size"], (length,)) for length in lengths[row]] for row in rows]
        sources = [text[0] for text in texts]
        labels: Any = [row % 8 for row in rows]
        if len(texts[0]) == 2:
            labels = [text[1] for text in texts]
        tokens = pad_sequence(sources, batch_first=True, padding_value=1)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(source) for source in sources])[:, None]
        target = torch.tensor(labels) if len(texts[0]) == 1 else pad_sequence(labels, True, -100)
        examples = [
            {"input_ids": source.tolist(), "labels": label if isinstance(label, int) else label.tolist()}
            for source, label in zip(sources, labels)
        ]
        padded = {"input_ids": tokens, "attention_mask": mask.long(), "labels": target}
        found.append({"padded": padded, "packed": PackingCollator(model)(examples)})
    return found


def real_tokens(inputs: dict[str, Tensor]) -> int:
    """Of a packed batch, on both sides."""
    return inputs["input_ids"].numel() + (inputs["labels"].numel() if inputs["labels"].dim() == 2 else 0)


def padding(batch: dict[str, dict[str, Tensor]]) -> float:
    """The share of a padded batch that is padding."""
    return 1 - real_tokens(batch["packed"]) / real_tokens(batch["padded"])


def measure(
    name: str,
    values: dict[str, Any],
    lengths: Sequence[tuple[int, ...]],
    mixer: str,
    dtype: str,
    options: argparse.Namespace,
) -> list[str]:
    """The rows of the table for one model."""
    model = build(values, mixer, len(lengths[0]) == 2, options)
    step = training(model, argparse.Namespace(dtype=dtype))
    orders = {order: batches(lengths, order, values, model, options.rounds + 1) for order in ORDERS}
    contenders = [(order, kind) for order in ORDERS for kind in ("padded", "packed")]
    speeds: dict[tuple[str, str], list[float]] = {contender: [] for contender in contenders}
    for order, kind in contenders:
        step(orders[order][0][kind])
    for number in range(options.rounds):
        for order, kind in contenders:
            batch = orders[order][(1 + number) % len(orders[order])]
            start = CLOCKS[options.clock]()
            step(batch[kind])
            speeds[order, kind].append(real_tokens(batch["packed"]) / (CLOCKS[options.clock]() - start))
    rows = []
    for order in ORDERS:
        padded, packed = speeds[order, "padded"], speeds[order, "packed"]
        memory = [
            peak_memory(lambda inputs=orders[order][0][kind]: step(inputs), "cpu") for kind in ("padded", "packed")
        ]
        ratio = statistics.median(one / other for one, other in zip(packed, padded))
        to_usual = statistics.median(one / other for one, other in zip(packed, speeds["similar", "padded"]))
        rows.append(
            f"| {name} | {dtype} | {mixer} | {order} | {statistics.mean(map(padding, orders[order])):.0%} | "
            f"{statistics.median(padded):.0f} | {statistics.median(packed):.0f} | {ratio:.2f}× | {to_usual:.2f}× | "
            f"{memory[0] / 2**20:.0f} | {memory[1] / 2**20:.0f} |"
        )
    return rows


def training(model: Any, options: argparse.Namespace) -> Callable[[dict[str, Tensor]], None]:
    """A step of training on a batch."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def run(inputs: dict[str, Tensor]) -> None:
        model.train()
        with autocast(options):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
