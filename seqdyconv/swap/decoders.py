"""The causal decoders of transformers that convolutions can be put into: their types, and where their layers are."""

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from seqdyconv.errors import InputError
from seqdyconv.swap.families import Projections
from seqdyconv.swap.short_conv_places import decoder_layers

DECODERS = (
    *("afmoe", "apertus", "apertus1p5_text", "arcee", "aria_text", "beam", "biogpt", "bitnet", "bloom"),
    *("codegen", "cohere", "cohere2", "cohere2_moe", "cwm", "diffllama", "doge", "dots1", "ernie4_5"),
    *("ernie4_5_moe", "exaone4", "exaone_moe", "falcon", "flex_olmo", "flint", "fuyu", "gemma", "gemma2"),
    *("gemma3_text", "gemma4_unified_text", "glm", "glm4", "glm4_moe", "gpt_neox", "gpt_neox_japanese"),
    *("gpt_oss", "gptj", "granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense"),
    *("hunyuan_v1_moe", "hy_v3", "hyperclovax", "jais2", "kolibri1", "laguna", "lara_mini", "lfm2"),
    *("lfm2_moe", "lfm3", "llama", "llama4_text", "mellum", "mimo_v2_flash", "minimax_m2"),
    *("minimax_m3_vl_text", "ministral", "ministral3", "mistral", "mixtral", "modernbert-decoder"),
    *("nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "opt", "persimmon"),
    *("phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_moe_text", "qwen3_5_text"),
    *("qwen3_moe", "qwen3_next", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2"),
    *("vaultgemma", "whisper", "xglm"),
)
"""Values of config.model_type: decoders that are known to do right, see docs/decoders.md."""
MIXING = (
    *("afmoe", "biogpt", "bloom", "codegen", "falcon", "gpt_neox", "gpt_neox_japanese", "gpt_oss"),
    *("gptj", "lara_mini", "nemotron", "olmo_hybrid", "opt", "stablelm", "xglm"),
)
"""Those of them that can't tell packed sequences apart, and refuse them."""

# Those of them with one projection for queries, keys and values, in an order that is known.
FUSED = {
    "phi3": Projections(fused="qkv_proj", output="o_proj"),
    "gpt_neox": Projections(fused="query_key_value", output="dense", by_head=True),
    "persimmon": Projections(fused="query_key_value", output="dense", by_head=True),
    "fuyu": Projections(fused="query_key_value", output="dense", by_head=True),
}


def layer_names(model: PreTrainedModel) -> dict[int, str]:
    """The names of the layers of a decoder, by number.

    Raises:
        InputError: a model of another type.
    """
    model_type = model.config.model_type
    if model_type not in DECODERS:
        raise InputError(
            f"short convolutions are added to causal decoders such as llama or qwen3, got {model_type!r}; all are "
            "in seqdyconv.swap.decoders.DECODERS"
        )
    return decoder_layers(model)


def body_of(model: PreTrainedModel, names: Iterable[str]) -> nn.Module:
    """The module that holds the list of the layers, and calls them; the names are of layers, or of parts of them."""
    parts = next(iter(names)).split(".")
    number = max(index for index, part in enumerate(parts) if part.isdecimal())
    return model.get_submodule(".".join(parts[: number - 1]))


def tells_packed_sequences_apart(model: PreTrainedModel) -> bool:
    """Whether sequences that are packed into one row get what they get alone."""
    return model.config.model_type not in MIXING
