"""Tiny recognisers with random weights, and a driver of streaming steps as any language would write it."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqdyconv.models import SeqDyConvForCTC, SeqDyConvSpeechConfig
from seqdyconv.speech import Recogniser, SeqDyConvFeatureExtractor, global_statistics
from seqdyconv.speech.tokenization import train_character_tokenizer


def recogniser(features: dict[str, Any] | None = None, **config: Any) -> Recogniser:
    """Of our CTC models, whose outputs change a lot from step to step."""
    tokenizer = train_character_tokenizer(["abcde fg"])
    sizes = {"hidden_size": 16, "encoder_ffn_dim": 16, "encoder_attention_heads": 2, "encoder_kernel_sizes": [3, 11]}
    sizes |= {"subsampling_channels": 4, "num_mel_bins": 20, "conformer_kernel_size": 5, "vocab_size": len(tokenizer)}
    model = SeqDyConvForCTC(SeqDyConvSpeechConfig(**{**sizes, "pad_token_id": 0, **config})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_() if name.endswith("bias") else parameter.normal_(0, 0.7, generator=generator)
        model.ctc_head.bias[1:4] = -1000  # no special tokens
    noise = torch.randn(16000, generator=generator) / 10
    mean, variance = global_statistics(SeqDyConvFeatureExtractor(20, normalize=None), [noise])
    options = {"normalize": "global", "mean": mean, "variance": variance, **(features or {})}
    return Recogniser(model, SeqDyConvFeatureExtractor(20, **options), tokenizer)


def streaming(
    features: dict[str, Any] | None = None, lookahead: int = 2, lookahead_ms: float | None = None, **config: Any
) -> Recogniser:
    """The same of models that stream, with less look-ahead than they could have where ``lookahead_ms`` says so."""
    found = recogniser(features, encoder_lookahead=lookahead, encoder_position_type="none", **config)
    found.set_lookahead(lookahead_ms)
    return found


def drive(
    run: Callable[..., Any], states: list[Tensor], step: int, padding: int, flush: int, samples: Tensor, seed: int
) -> Tensor:
    """The logits (T, V) of all calls of a streaming step, for a stream in chunks of random sizes."""
    chance = random.Random(seed)
    waiting = torch.cat([torch.zeros(padding), samples])
    outputs = []
    while len(waiting) >= step and chance.random() > 0.1:
        size = min(chance.randint(1, 4), len(waiting) // step)
        chunk, waiting = waiting[: size * step], waiting[size * step :]
        logits, *states = run(chunk.view(1, size, step), torch.tensor([size * step]), *states)
        outputs.append(logits[0])
    size = (len(waiting) + step - 1) // step + flush
    if size:
        rest = torch.cat([waiting, torch.full((size * step - len(waiting),), 7.0)])  # what is not real is not read
        outputs.append(run(rest.view(1, size, step), torch.tensor([len(waiting)]), *states)[0][0])
    return torch.cat(outputs)
