"""Tiny models of any type of the installed transformers, from its own configuration made small, and inputs for them."""

from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig

TIME, REAL = 9, 5  # steps of both rows of text, and the real ones of the second
TESTED = (
    *("esmc", "gte", "jina_embeddings_v3", "layoutlm", "nomic_bert", "roformer", "t5gemma", "umt5"),
    *("xlm-roberta-xl", "audio-spectrogram-transformer", "moonshine", "parakeet_ctc", "qwen2_audio_encoder"),
    *("speech_to_text", "wav2vec2-conformer", "beit", "clip_vision_model", "data2vec-vision", "deit"),
    *("dinov2", "dinov3_vit", "vit_mae"),
)
"""The types of no known family that the suite runs."""
# What a small configuration of some types needs: they have no grouped heads.
_NEEDS = {
    "esmc": {"num_key_value_heads": 4},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
}
# What configurations call their sizes.
_SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "encoder_hidden_dim"), 16),
    **dict.fromkeys(("embedding_size", "pe_dim"), 16),
    **dict.fromkeys(("num_attention_heads", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_num_attention_heads", "decoder_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "encoder_num_key_value_heads", "decoder_num_key_value_heads"), 2),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "encoder_num_hidden_layers"), 2),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers", "decoder_num_layers"), 1),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim", "mlp_dim"), 24),
    **{"vocab_size": 40, "max_position_embeddings": 64, "image_size": 16, "patch_size": 4, "head_dim": 4, "d_kv": 4},
    **{
        "num_mel_bins": 16,
        "feature_projection_input_dim": 16,
        "input_feat_per_channel": 16,
        "max_source_positions": 20,
    },
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "attention_head_size": 4},
    **{"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2, "mask_token_id": 4},
    **{"layerdrop": 0.0, "encoder_layerdrop": 0.0, "apply_spec_augment": False, "sliding_window": 64},
}


def small(kind: Any, **settings: Any) -> Any:
    """A configuration with small sizes, also of those inside it."""
    sizes: dict[str, Any] = {}
    for name, value in vars(kind()).items():
        if isinstance(value, PreTrainedConfig):
            sizes[name] = small(type(value))
        elif name in _SIZES and type(value) in (int, type(_SIZES[name])):
            sizes[name] = _SIZES[name]
        elif name == "image_size" and isinstance(value, (list, tuple)):
            sizes[name] = [16] * len(value)
    return kind(**{**sizes, **settings})


def tiny_model(model_type: str) -> Any:
    """The model without a head, with random weights, in evaluation mode."""
    torch.manual_seed(0)
    kind = CONFIG_MAPPING[model_type]
    found = MODEL_MAPPING[kind]
    model = (found[0] if isinstance(found, tuple) else found)(small(kind, **_NEEDS.get(model_type, {}))).eval()
    with torch.no_grad():  # biases are zero in new models, and would hide that one is missing
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(parameter + 0.05 * torch.randn(parameter.shape))
    return model


def inputs_of(model: Any) -> list[dict[str, Tensor]]:
    """What the model may take, in the order of likelihood: two rows."""
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (2, TIME), generator=random)
    mask = torch.ones_like(ids)
    mask[1, REAL:] = 0
    name = model.main_input_name
    found: list[dict[str, Tensor]] = []
    if name == "input_ids":
        found = [{"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}]
    elif name == "pixel_values":
        size = getattr(model.config, "image_size", 16)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(model.config, "num_channels", 3)
        images = torch.randn(2, channels, height, width, generator=random)
        frames = getattr(model.config, "num_frames", 8)
        found = [{name: images}, {name: images[:, None].repeat(1, frames, 1, 1, 1)}]
    elif name == "input_values":
        found = [{name: torch.randn(2, 4000, generator=random)}]
        mels = getattr(model.config, "num_mel_bins", 16)
        found.append({name: torch.randn(2, getattr(model.config, "max_length", 80), mels, generator=random)})
    elif name == "input_features":
        mels = getattr(model.config, "num_mel_bins", 16)
        found = [{name: torch.randn(2, 80, mels, generator=random)}, {name: torch.randn(2, mels, 40, generator=random)}]
    if model.config.is_encoder_decoder:
        found = [{**batch, "decoder_input_ids": ids[:, :3]} for batch in found]
    return [{key: value.to(device) for key, value in batch.items()} for batch in found]


def first(outputs: Any) -> Tensor:
    return outputs["encoder_last_hidden_state"] if "encoder_last_hidden_state" in outputs else outputs[0]


@torch.no_grad()
def run(model: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs that the model takes, and what it makes of them.

    Raises:
        Exception: the first that it raises, where it takes none of what :func:`inputs_of` has.
    """
    error: Exception | None = None
    for batch in inputs_of(model):
        torch.manual_seed(0)  # some mask images by chance
        try:
            return batch, first(model(**batch))
        except Exception as raised:  # whatever a model says to inputs that are not its own
            error = error or raised
    raise error or TypeError(f"no inputs for {model.main_input_name}")
