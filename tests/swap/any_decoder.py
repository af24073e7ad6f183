"""The causal decoders of transformers and what our layers do in them, each of a tiny configuration.

    python -m tests.swap.any_decoder docs/decoders.md

goes through them all and writes the table. The suite tries a few of them.
"""

import re
import signal
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from seqdyconv.errors import InputError
from seqdyconv.swap import (
    add_short_conv,
    decoders,
    load_swapped,
    remove_short_conv,
    restore_self_attention,
    swap_self_attention,
)
from seqdyconv.swap.short_conv_places import decoder_layers, places_of

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"), 16
    ),
}
FULL = {"layer_types": ["full_attention"] * 2}
SETTINGS = {
    "mistral": {"sliding_window": 6},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global"], 2]], "num_hidden_layers": None},
    "falcon": {"head_dim": None},
    "whisper": {"decoder_attention_heads": 4, "decoder_layers": 2, "d_model": 32},
    **dict.fromkeys(("qwen3_next", "qwen3_5_moe_text", "lfm2_moe"), FULL | EXPERTS),
    **dict.fromkeys(("qwen3_5_text", "lfm2", "lfm3"), FULL),
}
IDS = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(3))
PACKED = torch.tensor([[*range(5), *range(7)]])
LEFT = torch.tensor([[0] * 3 + [1] * 9, [1] * 12])


def decoder(model_type="llama", **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configuration(model_type, **settings)).eval()


def configuration(model_type, **settings):
    sizes = {**SIZES, **SETTINGS.get(model_type, EXPERTS if "mo" in model_type else {}), **settings}
    return transformers.AutoConfig.for_model(model_type, **{k: v for k, v in sizes.items() if v is not None})


def with_random_convolutions(model):
    """The model, its convolutions as if they were trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".short_conv." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


def all_places(model):
    """The places that all layers of a decoder have."""
    layers = [places_of(model.get_submodule(name)) for name in decoder_layers(model).values()]
    return [name for name in layers[0] if all(name in places for places in layers)] if layers else []


@torch.no_grad()
def check(model_type):
    """The places of a decoder, and whether it packs; AssertionError where short convolutions there don't do right."""
    model = decoder(model_type)
    places = all_places(model)
    assert places, "no self-attention with plain projections of usual names"
    expected = model(IDS, attention_mask=LEFT).logits
    names = str(model)
    packs, pads = tells_packed_sequences_apart(model), ignores_left_padding(model)
    assert pads, "the model itself depends on left padding"
    add_short_conv(model, on=places, static_kernel=True)
    assert torch.allclose(model(IDS, attention_mask=LEFT).logits[LEFT > 0], expected[LEFT > 0], atol=1e-6), "start"
    with_random_convolutions(model)
    changed = model(IDS, attention_mask=LEFT).logits
    assert not torch.allclose(changed, expected, atol=1e-3), "no effect"
    assert ignores_left_padding(model), "left padding"
    for options in ({}, {"num_beams": 2}):
        assert_cached_is_uncached(model, **options)
    packs = packs and tells_packed_sequences_apart(model)
    if not packs:
        assert model_type in decoders.MIXING, "packed sequences are mixed"
    assert_comes_back(model, changed)
    assert str(remove_short_conv(model)) == names, "removed"
    assert torch.allclose(model(IDS, attention_mask=LEFT).logits[LEFT > 0], expected[LEFT > 0], atol=1e-5), "removed"
    return places, packs


@torch.no_grad()
def check_swap(model_type):
    """AssertionError where a decoder whose attention is swapped in all layers doesn't do right."""
    model, original = decoder(model_type), decoder(model_type)
    expected = original(IDS, attention_mask=LEFT).logits
    swap_self_attention(model, kernel_size=5)
    changed = model(IDS, attention_mask=LEFT).logits
    assert not torch.allclose(changed, expected, atol=1e-4), "no effect"
    assert ignores_left_padding(model), "left padding"
    for options in ({}, {"num_beams": 2}):
        assert_cached_is_uncached(model, **options)
    assert tells_packed_sequences_apart(model) == (model_type not in decoders.MIXING), "packed sequences"
    assert_comes_back(model, changed)
    assert str(restore_self_attention(model, original)) == str(original), "restored"
    assert torch.allclose(model(IDS, attention_mask=LEFT).logits[LEFT > 0], expected[LEFT > 0], atol=1e-5), "restored"


def assert_cached_is_uncached(model, **options):
    runs = [
        model.generate(IDS, attention_mask=LEFT, max_new_tokens=6, pad_token_id=0, use_cache=use_cache, **options)
        for use_cache in (True, False)
    ]
    assert torch.equal(*runs), f"generation with a cache {options or ''}"


def assert_comes_back(model, expected):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        assert torch.equal(load_swapped(folder)(IDS, attention_mask=LEFT).logits, expected), "saved and loaded"


def ignores_left_padding(model):
    positions = (LEFT.cumsum(1) - 1).clamp(min=0)
    alone = model(IDS[:1, 3:], use_cache=False).logits[0]
    left = model(IDS, attention_mask=LEFT, position_ids=positions, use_cache=False).logits[0, 3:]
    return torch.allclose(left, alone, atol=1e-4)


def tells_packed_sequences_apart(model):
    try:
        both = model(IDS[1:], position_ids=PACKED, use_cache=False).logits[0]
    except (TypeError, InputError):
        return False
    rows = [model(part, use_cache=False).logits[0] for part in IDS[1:].split([5, 7], dim=1)]
    return torch.allclose(both, torch.cat(rows), atol=1e-4)


def tiny(model_type):
    """Whether a decoder gets small by the usual names of sizes; those of experts too, if that is needed."""
    for settings in ({}, EXPERTS):
        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in decoder(model_type, **settings).parameters())
        except Exception:  # whatever a configuration can't be combined with
            continue
        if size < 1e6:
            SETTINGS[model_type] = {**SETTINGS.get(model_type, {}), **settings}
            return True
    return False


def swapped(model_type):
    """Whether its attention can be swapped, or why not."""
    try:
        check_swap(model_type)
    except ValueError as error:
        if "not told by their names" in str(error):
            return "no three projections of usual names"
        return str(error).rpartition("Attention, ")[2].partition(", '")[0]
    return "yes"


def raise_timeout(*_):
    raise TimeoutError("not done within a minute")


def main(path):
    """Write the table of all causal decoders."""
    transformers.utils.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    signal.signal(signal.SIGALRM, raise_timeout)
    rows, others = [], []
    for model_type in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        known, decoders.DECODERS = decoders.DECODERS, (model_type,)
        signal.alarm(60)
        try:
            assert tiny(model_type), "no small configuration by the usual names of sizes"
            rows.append((model_type, *check(model_type), swapped(model_type)))
        except Exception as error:  # whatever a model stumbles over is the reason
            said = re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+", "the folder", " ".join(str(error).split()))
            others.append((model_type, said[:120]))
        signal.alarm(0)
        decoders.DECODERS = known
        print((rows or others)[-1] if rows and rows[-1][0] == model_type else others[-1], flush=True)
    total = len(rows) + len(others)
    page = [
        "# Decoders of transformers",
        "",
        f"Written by `python -m tests.swap.any_decoder {path}` with transformers {transformers.__version__}.",
        f"Of its {total} types of causal decoders {len(rows)} pass. Each has a tiny configuration and short",
        "convolutions at all places that its layers have in common (`add_short_conv`); it starts as it was, generates",
        "with its cache what it generates without, greedily and with beams, does not depend on left padding, and comes",
        "back from disk. Packed: each sequence gets what it gets alone; else such rows are refused. Swapped: it does",
        "all that, but the start, with dynamic convolutions instead of self-attention, too (`swap_self_attention`).",
        "",
        "| `model_type` | places of short convolutions | packed | swapped |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {', '.join(places)} | {'yes' if packs else 'refused'} | {swap} |"
            for name, places, packs, swap in rows
        ),
        "",
        "| others | what stops them |",
        "|---|---|",
        *(f"| `{name}` | {reason.replace('|', '/')} |" for name, reason in others),
    ]
    Path(path).write_text("\n".join(page) + "\n", encoding="utf-8")
    print(len(rows), "pass:", [name for name, *_ in rows])


if __name__ == "__main__":
    main(sys.argv[1])
