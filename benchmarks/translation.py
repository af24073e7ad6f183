"""Speed of the translation model's mixers, side by side in one run: training steps, and decoding with beams.

    python benchmarks/translation.py                 # one thread, about three minutes
    python benchmarks/translation.py --threads 2 --beams 1
    python benchmarks/translation.py --mixers all    # every mixer of the package, in encoder and decoder

The model is that of ``recipes/translation/configs/libreoffice_help_de_en.yaml`` with random weights, the sentences are
random tokens, all of one length, so that nothing but the mixer differs. In each round every mixer runs once; printed
are medians over rounds, in target tokens per second, and the ratio to self-attention. Training is a step of AdamW on
``--tokens`` target tokens in bfloat16 autocast; decoding gives as many tokens as the source has, in float32.
"""

import argparse
from collections.abc import Callable

from benchmarks.ops import at_least_one, interleaved
from benchmarks.training import step_of
from seqdyconv.layers import MIXERS as LAYERS
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration

import torch

MIXERS = {
    "self-attention": ("self_attention", "self_attention"),
    "lightweight": ("lightweight_conv", "lightweight_conv"),
    "dynamic": ("dynamic_conv", "dynamic_conv"),
    "dynamic encoder, self-attention decoder": ("dynamic_conv", "self_attention"),
}


def build(encoder: str, decoder: str) -> SeqDyConvForConditionalGeneration:
    torch.manual_seed(0)
    config = SeqDyConvConfig(
        vocab_size=6000,
        hidden_size=256,
        encoder_layer_types=encoder,
        decoder_layer_types=decoder,
        encoder_kernel_sizes=[3, 7, 15],
        decoder_kernel_sizes=[3, 7, 15],
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
    )
    return SeqDyConvForConditionalGeneration(config)


def training_step(model: SeqDyConvForConditionalGeneration, options: argparse.Namespace) -> Callable[[], object]:
    tokens = torch.randint(4, 6000, (options.tokens // options.length, options.length))

    @torch.autocast("cpu", torch.bfloat16)
    def loss() -> torch.Tensor:
        return model.train()(tokens, torch.ones_like(tokens), labels=tokens).loss

    return step_of(model, loss, fused=True)


def decoding(model: SeqDyConvForConditionalGeneration, options: argparse.Namespace) -> Callable[[], object]:
    tokens = torch.randint(4, 6000, (options.sentences, options.length))
    lengths = {"min_new_tokens": options.length, "max_new_tokens": options.length}
    return lambda: model.eval().generate(
        tokens, attention_mask=torch.ones_like(tokens), num_beams=options.beams, do_sample=False, **lengths
    )


def measure(runs: dict[str, Callable[[], object]], tokens: int, rounds: int) -> dict[str, float]:
    """Median tokens per second of each."""
    return {name: tokens / seconds for name, seconds in interleaved(runs, rounds).items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", choices=("few", "all"), default="few", help="the four of MIXERS, or all")
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--length", type=at_least_one, default=24, help="tokens of a sentence, on both sides")
    parser.add_argument("--tokens", type=at_least_one, default=2000, help="target tokens of a training step")
    parser.add_argument("--sentences", type=at_least_one, default=64, help="sentences decoded together")
    parser.add_argument("--beams", type=at_least_one, default=4)
    options = parser.parse_args(arguments)
    if options.tokens < options.length:
        parser.error(f"--tokens must be those of a sentence at least, {options.length}, got {options.tokens}")
    torch.set_num_threads(options.threads)
    others = {name: (name, name) for name in LAYERS if (name, name) not in MIXERS.values()}
    models = {name: build(*mixers) for name, mixers in (MIXERS | (others if options.mixers == "all" else {})).items()}
    decoded = options.sentences * options.length
    trained = options.tokens // options.length * options.length
    speeds = {
        "decoding": measure(
            {name: decoding(model, options) for name, model in models.items()}, decoded, options.rounds
        ),
        "training": measure(
            {name: training_step(model, options) for name, model in models.items()}, trained, options.rounds
        ),
    }
    print(
        f"{options.threads} thread(s), torch {torch.__version__}, sentences of {options.length} tokens, median of "
        f"{options.rounds} rounds\n"
    )
    print(f"| mixer | parameters | training, tokens/s | decoding, beam {options.beams}, tokens/s |")
    print("|---|--:|--:|--:|")
    for name, model in models.items():
        cells = [
            f"{speeds[kind][name]:.0f} ({speeds[kind][name] / speeds[kind]['self-attention']:.2f}×)"
            for kind in ("training", "decoding")
        ]
        print(f"| {name} | {model.num_parameters():,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
