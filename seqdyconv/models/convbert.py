"""Encoders of ConvBERT, as Hugging Face has them, as ours.

transformers reads the checkpoint into its own class and runs no code that comes with it. Beside self-attention that
model has the span-based dynamic convolution, in both of which valid outputs depend on how far a batch is padded: only
its attention looks at the mask. Ours do not.
"""

import os
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import ConvBertConfig, ConvBertModel, PreTrainedModel
from transformers.utils.hub import cached_file

from seqdyconv.errors import first_line
from seqdyconv.files import shorten
from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.loading import ModelError, check_model, load_config, load_tokenizer
from seqdyconv.models.modeling import SeqDyConvModel


class ConvBertEncoder(NamedTuple):
    """A converted checkpoint: ``model, tokenizer = load_convbert(...)``."""

    model: SeqDyConvModel
    tokenizer: Any  # None where none lies beside the weights


def load_convbert(checkpoint: str | os.PathLike[str] | PreTrainedModel) -> ConvBertEncoder:
    """Turn a ConvBERT checkpoint (Jiang et al. 2020, arXiv 2008.02496) into our encoder.

    The encoder alone, of a checkpoint with any head: its layers are of the type ``"mixed_attention"``. The model has
    the checkpoint's dtype and is in eval mode; from there on it is a Hugging Face model like any other, which
    ``SeqDyConvForSequenceClassification.from_pretrained`` and the like load with a new head.

    On a batch without padding it gives what ConvBERT does. On a padded one it gives for each text what it gives for
    the text alone.

    Args:
        checkpoint: a folder with ``config.json`` and weights, the name of a repository on the Hub, or a ConvBERT of
            transformers, which does not change.

    Returns:
        ``model`` and ``tokenizer``; ``tokenizer`` is None without its files, and where a model was given.

    Raises:
        ValueError: what was got and why it cannot be converted: no such folder or repository, another kind of model,
            options that cannot be, weights that are missing, of other shapes, no numbers or cannot be read.

    Example:
        >>> import torch
        >>> from transformers import ConvBertConfig, ConvBertModel
        >>> from seqdyconv.models import load_convbert
        >>> sizes = {"hidden_size": 32, "embedding_size": 16, "num_attention_heads": 4, "intermediate_size": 64}
        >>> theirs = ConvBertModel(ConvBertConfig(vocab_size=50, num_hidden_layers=2, **sizes)).eval()
        >>> ours = load_convbert(theirs).model
        >>> tokens = torch.tensor([[5, 6, 7, 8]])
        >>> torch.allclose(ours(tokens).last_hidden_state, theirs(tokens).last_hidden_state, atol=1e-5)
        True
    """
    if isinstance(checkpoint, PreTrainedModel):
        if not isinstance(checkpoint.base_model, ConvBertModel):
            raise ValueError(f"the model must be a ConvBERT of transformers, got {type(checkpoint).__name__}")
        return ConvBertEncoder(_convert(checkpoint.base_model), None)
    name = os.fspath(checkpoint)
    try:
        return ConvBertEncoder(_convert(_read(name)), _tokenizer(name))
    except ModelError:  # which names it
        raise
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _read(name: str) -> ConvBertModel:
    config = load_config(name, "ConvBERT")
    if not isinstance(config, ConvBertConfig):
        raise ValueError(f"the model_type must be {ConvBertConfig.model_type!r}, got {config.model_type!r}")
    _config(config)  # refuses what can't be before any weight is read
    try:
        loaded: Any = ConvBertModel.from_pretrained(
            name, config=config, dtype="auto", output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # damaged bytes and weights of other shapes raise anything
        raise ValueError(f"the weights can't be loaded: {shorten(first_line(error), 200)}") from None
    model, found = loaded
    check_model(model, name)
    if found["missing_keys"]:
        raise ValueError(f"weights are missing: {', '.join(sorted(found['missing_keys'])[:5])}")
    parts = tuple(f"{part}." for part, _ in model.named_children())
    # Without a prefix of the whole encoder: heads may be left out, nothing else.
    if unknown := [key for key in found["unexpected_keys"] if key.removeprefix("convbert.").startswith(parts)]:
        raise ValueError(f"the configuration has no place for the weights {', '.join(sorted(unknown)[:5])}")
    return model


def _tokenizer(name: str) -> Any:
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    there = (cached_file(name, file, _raise_exceptions_for_missing_entries=False) for file in files)
    return load_tokenizer(name) if any(there) else None


def _convert(theirs: ConvBertModel) -> SeqDyConvModel:
    config = _config(theirs.config)
    state = convert_weights(theirs.state_dict())
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = SeqDyConvModel(config)
    # Copies, so that no weight is shared with theirs.
    state = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


# Configuration

# Ours and theirs, where they mean the same.
_OPTIONS = {
    "vocab_size": "vocab_size",
    "type_vocab_size": "type_vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "embedding_size": "embedding_size",
    "hidden_size": "hidden_size",
    "encoder_ffn_dim": "intermediate_size",
    "ffn_groups": "num_groups",
    "activation_function": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
}


def _config(theirs: ConvBertConfig) -> SeqDyConvConfig:
    """Our configuration of the same encoder; what only starts or trains a model is left out."""
    for name in ("is_decoder", "add_cross_attention"):
        if getattr(theirs, name):
            raise ValueError(f"only encoders can be converted, got {name}=True")
    if theirs.conv_kernel_size % 2 == 0:
        raise ValueError(f"conv_kernel_size must be odd, as ConvBERT needs it, got {theirs.conv_kernel_size}")
    # Theirs has one head of each kind for each head_ratio heads, ours for two.
    heads = max(1, theirs.num_attention_heads // theirs.head_ratio)
    if theirs.hidden_size % (2 * heads):
        raise ValueError(
            f"hidden_size must be a multiple of {2 * heads}: {heads} heads attend and as many convolve, got "
            f"{theirs.hidden_size}"
        )
    try:
        return SeqDyConvConfig(
            **{ours: getattr(theirs, name) for ours, name in _OPTIONS.items()},
            encoder_layer_types="mixed_attention",
            encoder_kernel_sizes=[theirs.conv_kernel_size] * theirs.num_hidden_layers,
            encoder_attention_heads=2 * heads,
            encoder_position_type="learned",
            embedding_norm=True,
            scale_embedding=False,
            tie_word_embeddings=theirs.embedding_size == theirs.hidden_size,
            is_encoder_decoder=False,
        )
    except StrictDataclassError as error:  # not a ValueError itself
        raise ValueError(str(error.__cause__ or error)) from None


# Weights

_MODULES = {
    "embeddings.word_embeddings": "embedding.tokens",
    "embeddings.position_embeddings": "embedding.positions",
    "embeddings.token_type_embeddings": "embedding.token_types",
    "embeddings.LayerNorm": "embedding.norm",
    "embeddings_project": "embedding.project",
    "attention.self.key_conv_attn_layer.depthwise": "mixer.conv.depthwise",
    "attention.self.key_conv_attn_layer.pointwise": "mixer.conv.pointwise",
    "attention.self.key_conv_attn_layer": "mixer.conv.pointwise",  # its bias
    "attention.self.conv_kernel_layer": "mixer.conv.conv.generator",
    "attention.output.dense": "mixer.out_proj",
    "attention.output.LayerNorm": "mixer_residual.norm",
    "intermediate.dense": "ffn.in_proj",
    "output.dense": "ffn.out_proj",
    "output.LayerNorm": "ffn_residual.norm",
}
_IN_PROJ = ("query", "key", "value", "conv_out_layer")


def convert_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ``ConvBertModel`` by our names, in our shapes; views where nothing is joined."""
    ours, joined = {}, {}
    for key, tensor in theirs.items():
        path, kind = key.rsplit(".", 1)
        layer = ""
        if path.startswith("encoder.layer."):
            _, _, number, path = path.split(".", 3)
            layer = f"layers.{number}."
        if path.removeprefix("attention.self.") in _IN_PROJ:
            joined[layer, path.removeprefix("attention.self."), kind] = tensor
            continue
        if "key_conv_attn_layer" in path:  # both convolutions are those of torch, and the bias is a column
            tensor = tensor.squeeze(1) if path.endswith("depthwise") else tensor.squeeze(-1)
        elif tensor.dim() == 3:  # a grouped linear layer, whose matrices ours has the other way round
            tensor = tensor.transpose(1, 2)
        ours[f"{layer}{_MODULES[path]}.{kind}"] = tensor
    for layer, part, kind in joined:
        if part == _IN_PROJ[0]:
            parts = [joined[layer, name, kind] for name in _IN_PROJ]
            ours[f"{layer}mixer.in_proj.{kind}"] = torch.cat(parts)
    return ours
