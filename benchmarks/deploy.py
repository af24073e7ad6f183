"""Models in use: ours in torch and without it, beside others of equal size, in one run:

    python -m benchmarks.deploy translation                  # one thread and two, about five minutes
    python -m benchmarks.deploy translation --threads 1 --batch 1 --beams 4 --output table.md
    python -m benchmarks.deploy encoding --threads 1

Translation: a model of three layers of 256 on each side, 6,000 tokens, random weights, on which speed does not depend.
Every source has ``--length`` tokens, and so has every output. Ours is decoded by ``generate()``, by the search of the
recipes in torch (``search``), and by ``seqdyconv.runtime`` in float32 and int8, after a check that the last two find
the same in float32; Marian, its Transformer of equal size, by ``generate()`` of transformers and by CTranslate2, where
it is installed, in float32 and int8.

Encoding: a text classifier of the size of MiniLM (BERT, 6 layers of 384), as it is and with dynamic or lightweight
convolutions of 31 taps instead of its self-attention, or dynamic ones instead of half of it, in torch and by ONNX
Runtime in float32 and int8, after a check that graphs in float32 give what torch gives; 2,048 tokens a batch.

Milliseconds: the median over rounds, in each of which every contender runs once, so that a busy moment of the machine
meets all of them.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.ops import CLOCKS, at_least_one, interleaved, processor
from seqdyconv.deploy.encoders import text_examples, write_forward
from seqdyconv.deploy.folder import write_manifest
from seqdyconv.deploy.precision import convert
from seqdyconv.deploy.translation import write_translation
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
from seqdyconv.models.beams import beam_search
from seqdyconv.runtime.folder import Graph
from seqdyconv.runtime.translator import Translator
from seqdyconv.swap import swap_self_attention

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertForSequenceClassification, MarianConfig, MarianMTModel

PRECISIONS = ("float32", "int8")
SIZES = {"vocab_size": 6000, "width": 256, "ffn": 1024, "layers": 3}
QUICK = {"vocab_size": 60, "width": 16, "ffn": 16, "layers": 1}
END = 2

Runs = dict[str, Callable[[], object]]
Row = tuple[list[object], dict[str, float]]


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.manual_seed(0)
    text = "\n\n".join(PARTS[part](options) for part in options.part)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"], nargs="?", default="all", help="what to measure")
    parser.add_argument(
        "--batch", type=at_least_one, nargs="+", default=[1, 8, 32], help="sentences translated together"
    )
    parser.add_argument("--beams", type=at_least_one, nargs="+", default=[4, 1])
    parser.add_argument("--length", type=at_least_one, default=24, help="tokens of each source and output")
    parser.add_argument(
        "--lengths", type=at_least_one, nargs="+", default=[32, 128, 512, 2048], help="tokens of each text"
    )
    parser.add_argument("--tokens", type=at_least_one, default=2048, help="of a batch of texts")
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--threads", type=at_least_one, nargs="+", default=[1, 2])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what to time by")
    parser.add_argument("--output", type=Path, help="file for the table")
    parser.add_argument("--picture", type=Path, help="file for a picture, .png, of the one part that is named")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(batch=[2], beams=[2], length=4, lengths=[32], tokens=64, rounds=1, threads=[1])
    options = parser.parse_args(arguments)
    options.part = list(PARTS) if options.part == "all" else [options.part]
    if options.picture is not None and len(options.part) > 1:
        parser.error("a picture is of one part: name it")
    return options


def measure(runs: Runs, options: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of each."""
    found = interleaved(runs, options.rounds, CLOCKS[options.clock])
    return {name: 1000 * seconds for name, seconds in found.items()}


def draw(heads: list[str], rows: list[Row], path: Path) -> None:
    """A group of bars for each row, of each contender one, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(rows[0][1])
    figure, axis = plt.subplots(figsize=(1.5 + 2.1 * len(rows), 4), layout="constrained")
    width = 0.85 / len(names)
    for number, name in enumerate(names):
        colour = COLOURS[name.split(",")[0]]
        shade = SHADES[name.split(", ")[-1]]
        places = [row + (number - (len(names) - 1) / 2) * width for row in range(len(rows))]
        heights = [times[name] for _, times in rows]
        bars = axis.bar(places, heights, width, color=colour, alpha=shade, label=name, edgecolor="white")
        axis.bar_label(bars, [f"{height:.0f}" for height in heights], fontsize=7, padding=1)
    axis.set_yscale("log")
    axis.set_ylabel("milliseconds")
    said = [", ".join(counted(value, head) for head, value in zip(heads, values)) for values, _ in rows]
    axis.set_xticks(range(len(rows)), said)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def counted(number: object, things: str) -> str:
    return f"1 {things.removesuffix('s')}" if number == 1 else f"{number:,} {things}"


COLOURS = {"ours": "C0", "Marian": "C1", "CTranslate2": "C3"}
COLOURS |= {"self-attention": "C1", "dynamic": "C0", "half dynamic": "C4", "lightweight": "C2"}
SHADES = {"generate()": 0.4, "torch": 0.4, "search": 0.6, "float32": 0.8, "int8": 1.0}


def table(heads: list[str], rows: list[Row], options: argparse.Namespace) -> str:
    if options.picture is not None:
        draw(heads, rows, options.picture)
    names = list(dict.fromkeys(name for _, times in rows for name in times))
    lines = [
        f"{processor('cpu')}, torch {torch.__version__}, {options.clock} clock, milliseconds, median of "
        f"{options.rounds} rounds",
        "",
        f"| {' | '.join([*heads, *names])} |",
        f"|{'--:|' * (len(heads) + len(names))}",
    ]
    for values, times in rows:
        cells = [f"{times[name]:.1f}" if name in times else "" for name in names]
        lines.append(f"| {' | '.join([*map(str, values), *cells])} |")
    return "\n".join(lines)


# Translation


def translation(options: argparse.Namespace) -> str:
    sizes = QUICK if options.quick else SIZES
    ours, marian = our_model(sizes), marian_model(sizes)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        export(ours, Path(folder))
        for threads in options.threads:
            torch.set_num_threads(threads)
            translators = {name: Translator(Path(folder, name), threads) for name in PRECISIONS}
            others = dict(ctranslate2_models(marian, Path(folder), threads))
            for batch in options.batch:
                sources = np.random.default_rng(0).integers(4, sizes["vocab_size"], (batch, options.length)).tolist()
                check(ours, translators["float32"], sources)
                for beams in options.beams:
                    runs = {
                        "ours, generate()": generation(ours, sources, beams),
                        "ours, search": our_search(ours, sources, beams),
                        **{f"ours, {name}": runtime(each, sources, beams) for name, each in translators.items()},
                        "Marian, generate()": generation(marian, sources, beams),
                        **{f"CTranslate2, {name}": other(each, sources, beams) for name, each in others.items()},
                    }
                    rows.append(([threads, batch, beams], measure(runs, options)))
    count, other_count = ours.num_parameters(), marian.num_parameters()
    said = f"{options.length} tokens in and out; ours {count:,} parameters, Marian {other_count:,}\n\n"
    return said + table(["threads", "sentences", "beams"], rows, options)


def our_model(sizes: dict[str, int]) -> SeqDyConvForConditionalGeneration:
    config = SeqDyConvConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["width"],
        **{f"{side}_kernel_sizes": [3, 7, 15][: sizes["layers"]] for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": sizes["ffn"] for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
        dropout=0.0,
        decoder_start_token_id=END,
    )
    model = SeqDyConvForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight[END] = 0  # so that no output ends before its limit
    return model


def marian_model(sizes: dict[str, int]) -> Any:
    pad = sizes["vocab_size"]
    sides = ("encoder", "decoder")
    config = MarianConfig(
        vocab_size=pad + 1,
        d_model=sizes["width"],
        **{f"{side}_layers": sizes["layers"] for side in sides},
        **{f"{side}_attention_heads": 4 for side in sides},
        **{f"{side}_ffn_dim": sizes["ffn"] for side in sides},
        pad_token_id=pad,
        decoder_start_token_id=pad,
        bos_token_id=0,
        eos_token_id=END,
        forced_eos_token_id=None,
        max_position_embeddings=256,
        scale_embedding=True,
        activation_function="relu",
    )
    return MarianMTModel(config).eval()


def export(model: SeqDyConvForConditionalGeneration, folder: Path) -> None:
    """The model without torch, in all precisions."""
    first = folder / PRECISIONS[0]
    first.mkdir()
    written = write_translation(model, first)
    words = {f"w{number}": number for number in range(model.config.vocab_size)}
    Tokenizer(WordLevel(words, unk_token="w3")).save(str(first / "tokenizer.json"))
    for precision in PRECISIONS:
        if precision != PRECISIONS[0]:
            shutil.copytree(first, folder / precision)
            for file in written.graphs.values():
                convert(folder / precision / file, precision)
        write_manifest(folder / precision, written, precision)


def ctranslate2_models(marian: Any, folder: Path, threads: int) -> Iterator[tuple[str, Any]]:
    try:
        import ctranslate2
        from ctranslate2.converters.transformers import MarianMTLoader
    except ImportError:
        return

    class Converter(ctranslate2.converters.Converter):
        def _load(self) -> Any:
            spec = MarianMTLoader().get_model_spec(marian)
            words = [f"w{number}" for number in range(marian.config.vocab_size - 1)]
            spec.register_source_vocabulary(words)
            spec.register_target_vocabulary(words)
            names = {"bos_token": "w0", "eos_token": f"w{END}", "unk_token": "w3", "decoder_start_token": f"w{END}"}
            for name, word in names.items():
                setattr(spec.config, name, word)
            spec.config.add_source_eos = False
            return spec

    path = str(folder / "ctranslate2")
    Converter().convert(path, force=True)
    for precision in PRECISIONS:
        yield precision, ctranslate2.Translator(path, compute_type=precision, inter_threads=1, intra_threads=threads)


def check(model: SeqDyConvForConditionalGeneration, translator: Translator, sources: list[list[int]]) -> None:
    """Stop unless ours finds the same with torch and without it, and outputs have their length."""
    limits = [len(ids) for ids in sources]
    torch_found = beam_search(model, sources, limits, num_beams=4)
    found = translator.search_ids(sources, 4, max_length_factor=0.0, max_length_constant=limits[0])
    np.testing.assert_allclose([one.score for (one,) in found], [one.score for (one,) in torch_found], atol=1e-3)
    assert [one.tokens for (one,) in found] == limits


def generation(model: Any, sources: list[list[int]], beams: int) -> Callable[[], object]:
    tokens = torch.tensor(sources)
    return lambda: model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        num_beams=beams,
        do_sample=False,
        min_new_tokens=tokens.shape[1],
        max_new_tokens=tokens.shape[1],
    )


def our_search(model: Any, sources: list[list[int]], beams: int) -> Callable[[], object]:
    return lambda: beam_search(model, sources, [len(ids) for ids in sources], num_beams=beams)


def runtime(translator: Translator, sources: list[list[int]], beams: int) -> Callable[[], object]:
    lengths: Any = {"max_length_factor": 0.0, "max_length_constant": len(sources[0])}
    return lambda: translator.search_ids(sources, beams, **lengths)


def other(translator: Any, sources: list[list[int]], beams: int) -> Callable[[], object]:
    words = [[f"w{number}" for number in ids] for ids in sources]
    length = len(words[0])
    return lambda: translator.translate_batch(
        words, beam_size=beams, min_decoding_length=length, max_decoding_length=length, max_batch_size=0
    )


# Encoding


def encoding(options: argparse.Namespace) -> str:
    mixers = list(MIXERS)[: 2 if options.quick else None]
    models = {mixer: classifier(mixer, max(options.lengths), options.quick) for mixer in mixers}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: path for mixer, model in models.items() for name, path in graphs(mixer, model, Path(folder))}
        for threads in options.threads:
            torch.set_num_threads(threads)
            opened = {name: Graph(path, threads) for name, path in files.items()}
            for length in options.lengths:
                shape = (max(1, options.tokens // length), length)
                inputs = {name: torch.zeros(shape, dtype=torch.long) for name in INPUTS}
                inputs["input_ids"] = torch.randint(5, 90, shape, generator=torch.Generator().manual_seed(0))
                inputs["attention_mask"] += 1
                for mixer, model in models.items():
                    found = opened[f"{mixer}, float32"].run(arrays(inputs))["logits"]
                    np.testing.assert_allclose(found, in_torch(model, inputs)(), atol=1e-4)
                runs: Runs = {f"{mixer}, torch": in_torch(model, inputs) for mixer, model in models.items()}
                runs |= {name: in_graph(graph, inputs) for name, graph in opened.items()}
                rows.append(([threads, length], measure(runs, options)))
    said = ", ".join(f"{mixer} {model.num_parameters():,}" for mixer, model in models.items())
    return f"{options.tokens:,} tokens a batch; parameters: {said}\n\n" + table(["threads", "tokens"], rows, options)


MIXERS: dict[str, tuple[str, str | None] | None] = {
    "self-attention": None,
    "dynamic": ("dynamic_conv", None),
    "half dynamic": ("dynamic_conv", "every 2"),
    "lightweight": ("lightweight_conv", None),
}
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def classifier(mixer: str, longest: int, quick: bool) -> Any:
    width, layers, heads = (16, 1, 4) if quick else (384, 6, 12)
    config = BertConfig(
        vocab_size=100 if quick else 30522,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=longest,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    if (swapped := MIXERS[mixer]) is None:
        return model
    return swap_self_attention(model, kernel_size=31, mixer=swapped[0], layers=swapped[1])


def graphs(mixer: str, model: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    """The model as a graph, in all precisions."""
    for precision in PRECISIONS:
        place = folder / f"{mixer}-{precision}"
        place.mkdir()
        if precision == PRECISIONS[0]:
            write_forward(model, place, text_examples(model, INPUTS))
        else:
            shutil.copy(folder / f"{mixer}-{PRECISIONS[0]}" / "model.onnx", place)
            convert(place / "model.onnx", precision)
        yield f"{mixer}, {precision}", place / "model.onnx"


def arrays(inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in inputs.items()}


def in_torch(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
    @torch.inference_mode()
    def run() -> Any:
        return model(**inputs).logits.numpy()

    return run


def in_graph(graph: Graph, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    given = arrays(inputs)
    return lambda: graph.run(given)


PARTS: dict[str, Callable[[argparse.Namespace], str]] = {"translation": translation, "encoding": encoding}


if __name__ == "__main__":
    main()
