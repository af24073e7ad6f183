"""Models for translation: a new one from its arguments, or any sequence-to-sequence model of a folder or the Hub."""

from dataclasses import dataclass, field
from typing import Any

from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
from seqdyconv.models.loading import ModelError, check_vocabulary, load_pretrained, load_tokenizer
from seqdyconv.training.loading import new_config, one_for_each, refuse_ignored

__all__ = ["ModelArguments", "ModelError", "build_config", "build_model", "load_model", "load_tokenizer"]


@dataclass
class ModelArguments:
    """The architecture. Keys without a side hold for encoder and decoder; the names are those of SeqDyConvConfig."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Fine-tune this model (a folder or a name on the Hub) instead of a new one."}
    )
    encoder_layer_types: list[str] = field(
        default_factory=lambda: ["dynamic_conv"],
        metadata={
            "help": "dynamic_conv, lightweight_conv, self_attention or parallel; one for all encoder layers or each."
        },
    )
    decoder_layer_types: list[str] = field(
        default_factory=lambda: ["dynamic_conv"], metadata={"help": "The same for the decoder layers."}
    )
    encoder_kernel_sizes: list[int] = field(
        default_factory=lambda: [3, 7, 15, 31, 31, 31, 31],
        metadata={"help": "Kernel size of each encoder layer; their number is that of the layers."},
    )
    decoder_kernel_sizes: list[int] = field(
        default_factory=lambda: [3, 7, 15, 31, 31, 31], metadata={"help": "The same for the decoder layers."}
    )
    hidden_size: int = field(default=512, metadata={"help": "Width of the model."})
    ffn_dim: int = field(default=1024, metadata={"help": "Width inside the feed-forward blocks."})
    attention_heads: int = field(default=4, metadata={"help": "Heads of convolution and attention."})
    conv_dim: int | None = field(default=None, metadata={"help": "Width of the convolutions; None is hidden_size."})
    glu: bool = field(default=True, metadata={"help": "Gated linear unit before each convolution."})
    normalize_before: bool = field(default=False, metadata={"help": "Pre-norm instead of post-norm."})
    position_type: str = field(default="sinusoidal", metadata={"help": "Positions: sinusoidal, learned or none."})
    max_position_embeddings: int = field(default=1024, metadata={"help": "Longest sequence with learned positions."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout on embeddings and before each residual sum."})
    attention_dropout: float = field(default=0.0, metadata={"help": "Dropout on attention weights."})
    activation_dropout: float = field(default=0.0, metadata={"help": "Dropout inside the feed-forward blocks."})
    input_dropout: float = field(default=0.0, metadata={"help": "Dropout on the inputs of the convolution blocks."})
    weight_dropout: float = field(default=0.0, metadata={"help": "DropConnect: dropout on the convolution kernels."})
    weight_softmax: bool = field(default=True, metadata={"help": "Softmax over the taps of the kernels."})
    config_overrides: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Any other field of SeqDyConvConfig, such as {"decoder_glu": false}.'}
    )


def build_model(args: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded, or both were given.
    """
    if args.model_name_or_path is not None:
        refuse_ignored(args, ["model_name_or_path"])
        model = load_model(args.model_name_or_path)
        check_vocabulary(model, tokenizer, args.model_name_or_path)
        return model
    return SeqDyConvForConditionalGeneration(build_config(args, tokenizer))


def build_config(args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> SeqDyConvConfig:
    """The configuration of a new model; without a tokenizer its vocabulary is the default, which checks the rest.

    Raises:
        ModelError: The architecture is impossible.
    """
    return new_config(SeqDyConvConfig, _config_fields(args, tokenizer), args.config_overrides)


def _config_fields(args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: getattr(args, name)
        for name in (
            "hidden_size",
            "max_position_embeddings",
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "input_dropout",
            "weight_dropout",
            "weight_softmax",
        )
    }
    for side in ("encoder", "decoder"):
        kernel_sizes = getattr(args, f"{side}_kernel_sizes")
        layer_types = one_for_each(getattr(args, f"{side}_layer_types"), kernel_sizes, side)
        values |= {f"{side}_layer_types": layer_types, f"{side}_kernel_sizes": kernel_sizes}
        for name in ("ffn_dim", "attention_heads", "conv_dim", "glu", "normalize_before", "position_type"):
            values[f"{side}_{name}"] = getattr(args, name)
    if tokenizer is not None:
        values |= {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "decoder_start_token_id": tokenizer.eos_token_id,
        }
    return values


def load_model(name_or_path: str) -> PreTrainedModel:
    """Load a sequence-to-sequence model in float32 in evaluation mode.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    return load_pretrained(AutoModelForSeq2SeqLM, name_or_path, "translation model")
