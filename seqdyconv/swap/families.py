"""Where the encoders of transformers keep their self-attention: one row per family.

A row says how the narrowest self-attention module of a family is named, which projections it holds, how it is called
and what it returns. All of them map hidden states (batch, time, channels) to the same shape.
"""

import re
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Projections:
    """The names of a self-attention module's linear projections.

    Args:
        query, key, value: empty where they are one.
        output: None where the output projection is outside of the module, and stays.
        fused: query, key and value in one layer, stacked in this order.
        by_head: they are stacked so for each head, one head after the other.
    """

    query: str = ""
    key: str = ""
    value: str = ""
    output: str | None = None
    fused: str | None = None
    by_head: bool = False


@dataclass(frozen=True)
class PositionBias:
    """A bias of the scores by relative position, which one layer computes and hands on to the later ones.

    Args:
        embedding: name of the embedding (buckets, heads) in the layers that compute the bias.
        max_distance: name of the module's attribute.
        per_row: the bias is (B·H, T, T) instead of (1, H, T, T).
    """

    embedding: str
    max_distance: str
    per_row: bool


@dataclass(frozen=True)
class Family:
    """Models whose self-attention has one name, one call and one kind of result.

    Args:
        name: what messages and ``config.seqdyconv`` call it.
        model_types: values of ``config.model_type``.
        pattern: the end of the module's name; ``*`` stands for a number, which, if it is the only one, is the layer's.
        projections: what the module holds; None: recognised by their names.
        results: what the module returns after the hidden states: None, or ``"position_bias"``. None instead of a tuple:
            it returns the hidden states alone, not in a tuple.
        masks: names of the attention mask.
        mask_is_product: a float mask has 1 where a step may attend, and 0 elsewhere.
        position_bias: where the layers hand one on.
        output_dropout: name of a dropout inside the module, after the output projection.
        residual_norm: name of a layer norm inside the module, after the residual connection, which is inside too.
        shared: one module serves all layers.
        causal: of a decoder, whose steps see earlier ones alone, and whose calls may go on by a cache.
        own_names: the weights keep their names when the model is saved, where transformers has others in files.
    """

    name: str
    model_types: tuple[str, ...]
    pattern: str
    projections: Projections | None
    results: tuple[str | None, ...] | None = (None,)
    masks: tuple[str, ...] = ("attention_mask",)
    mask_is_product: bool = False
    position_bias: PositionBias | None = None
    output_dropout: str | None = None
    residual_norm: str | None = None
    shared: bool = False
    causal: bool = False
    own_names: bool = False


_IN_BART = Projections("q_proj", "k_proj", "v_proj", "out_proj")

FAMILIES = (
    Family(
        "bert",
        ("bert", "roberta", "xlm-roberta", "electra", "camembert", "data2vec-text"),
        "encoder.layer.*.attention.self",
        Projections("query", "key", "value"),
    ),
    Family(
        "distilbert",
        ("distilbert",),
        "transformer.layer.*.attention",
        Projections("q_lin", "k_lin", "v_lin", "out_lin"),
    ),
    Family(
        "mpnet",
        ("mpnet",),
        "encoder.layer.*.attention.attn",
        Projections("q", "k", "v", "o"),
    ),
    Family(
        "albert",
        ("albert",),
        "encoder.albert_layer_groups.*.albert_layers.*.attention",
        Projections("query", "key", "value", "dense"),
        output_dropout="output_dropout",
        residual_norm="LayerNorm",
        shared=True,
    ),
    Family(
        "deberta-v2",
        ("deberta-v2",),
        "encoder.layer.*.attention.self",
        Projections("query_proj", "key_proj", "value_proj"),
        mask_is_product=True,
    ),
    Family(
        "modernbert",
        ("modernbert",),
        "layers.*.attn",
        Projections(output="Wo", fused="Wqkv"),
        output_dropout="out_drop",
    ),
    Family(
        "bart",
        ("bart", "marian", "mbart", "pegasus", "m2m_100"),
        "encoder.layers.*.self_attn",
        _IN_BART,
    ),
    Family(
        "t5",
        ("t5", "mt5", "switch_transformers"),
        "encoder.block.*.layer.0.SelfAttention",
        Projections("q", "k", "v", "o"),
        results=("position_bias", None),
        masks=("mask",),
        position_bias=PositionBias(
            "relative_attention_bias",
            "relative_attention_max_distance",
            per_row=False,
        ),
    ),
    Family(
        "wav2vec2",
        ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat"),
        "encoder.layers.*.attention",
        _IN_BART,
    ),
    Family(
        "wavlm",
        ("wavlm",),
        "encoder.layers.*.attention",
        _IN_BART,
        results=(None, "position_bias"),
        position_bias=PositionBias("rel_attn_embed", "max_distance", per_row=True),
    ),
    Family(
        "wav2vec2-bert",
        ("wav2vec2-bert",),
        "encoder.layers.*.self_attn",
        Projections("linear_q", "linear_k", "linear_v", "linear_out"),
    ),
    Family(
        "whisper",
        ("whisper",),
        "encoder.layers.*.self_attn",
        _IN_BART,
    ),
    Family(
        "vit",
        ("vit",),
        "layers.*.attention",
        Projections("q_proj", "k_proj", "v_proj", "o_proj"),
    ),
)

# Of a model that is in no row: recognised by its modules or named by a pattern, it follows the convention of most.
UNKNOWN = Family("unknown", (), "", None, masks=("attention_mask", "mask"), own_names=True)
# A causal decoder of seqdyconv.swap.decoders, recognised by its layers.
DECODER = Family("decoder", (), "", None, causal=True)
RECOGNISED = (UNKNOWN.name, DECODER.name)

# What tells sequences in one row apart, as flash attention has it.
OF_PACKED = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
# What only cross-attention and decoders are given.
OF_A_DECODER = (
    *("encoder_hidden_states", "encoder_attention_mask", "key_value_states", "query_states"),
    *("cache", "past_key_values", "past_key_value", "is_causal", "attn_prompt"),
)

_USUAL_NAMES = {
    "query": ("query", "q_proj", "query_proj", "q_lin", "linear_q", "q", "to_q"),
    "key": ("key", "k_proj", "key_proj", "k_lin", "linear_k", "k", "to_k"),
    "value": ("value", "v_proj", "value_proj", "v_lin", "linear_v", "v", "to_v"),
    "output": ("out_proj", "o_proj", "dense", "out_lin", "linear_out", "o", "projection_layer", "proj"),
}


def _expression(pattern: str) -> re.Pattern[str]:
    """What names that end with ``pattern`` match; a group for each ``*``."""
    return re.compile(r"(?:.*\.)?" + re.escape(pattern).replace(r"\*", r"(\d+)"))


def find_modules(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """The modules of a model whose names end with ``pattern``, where ``*`` stands for a number, by name."""
    expression = _expression(pattern)
    return {name: module for name, module in model.named_modules() if expression.fullmatch(name)}


def number_modules(names: list[str], pattern: str) -> dict[int, str]:
    """Layer numbers of the modules that ``pattern`` found: from the name where it has one ``*``, otherwise by order.

    Raises:
        ValueError: two modules have one number.
    """
    if pattern.count("*") != 1:
        return dict(enumerate(names))
    expression = _expression(pattern)
    numbered: dict[int, str] = {}
    for name in names:
        match = expression.fullmatch(name)
        number = int(match[1]) if match else -1
        if number in numbered:
            raise ValueError(f"{pattern!r} finds two modules for layer {number}: {numbered[number]} and {name}")
        numbered[number] = name
    return dict(sorted(numbered.items()))


def recognise_projections(attention: nn.Module) -> Projections | None:
    """The projections of a self-attention module, by the usual names of its linear layers; None if they have others."""
    linear = [name for name, child in attention.named_children() if isinstance(child, nn.Linear)]
    found = {role: [name for name in names if name in linear] for role, names in _USUAL_NAMES.items()}
    if any(len(found[role]) != 1 for role in ("query", "key", "value")) or len(found["output"]) > 1:
        return None
    known = {name for names in found.values() for name in names}
    if not found["output"] and set(linear) - known:
        return None  # one of the others may be the output projection
    query, key, value = (found[role][0] for role in ("query", "key", "value"))
    return Projections(query, key, value, output=next(iter(found["output"]), None))


def candidate_patterns(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Patterns of the modules that look like self-attention of an encoder, and what each finds."""
    patterns: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if recognise_projections(module) and not re.search("decoder|cross|encoder_attn|EncDec", name):
            patterns.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(module)
    return patterns


def is_cross_attention(name: str, module: nn.Module) -> bool:
    """Whether a module, by its name in the model or its class, attends to another sequence."""
    of_a_decoder = re.search(r"(?<![^.])(cross_?att\w*|encoder_attn|encoder_attention|EncDecAttention)(?![^.])", name)
    return of_a_decoder is not None or "CrossAtt" in type(module).__name__
