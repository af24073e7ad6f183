"""The architecture of a new model as arguments of a recipe, named as the fields of its configuration."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import psutil
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from seqdyconv.errors import first_line
from seqdyconv.layers import MIXERS, mixer_options
from seqdyconv.models import SeqDyConvConfig
from seqdyconv.models.configuration import POSITION_TYPES
from seqdyconv.models.loading import ModelError, vocabulary_size
from seqdyconv.ranges import Count, Dropout, KernelSize, OneOf, Options, check_value
from seqdyconv.training.arguments import declared_defaults, from_json

Mixer = Annotated[str, OneOf(*MIXERS)]

# What a model says to its mixers, whatever their options are.
_OF_THE_MODEL = ("kernel_size", "causal", "lookahead")


def layer_types_help(stack: str) -> dict[str, Any]:
    """The help of a key with the mixers of a stack of layers."""
    return {"help": f"The mixers of the {stack}, one name for all layers or one for each: {', '.join(MIXERS)}."}


def kernel_sizes_help(stack: str) -> dict[str, Any]:
    """The help of a key with the kernel sizes of a stack of layers."""
    return {"help": f"Kernel size of the {stack}'s layers, one for each, or several ([7,31])."}


def mixer_options_help(stack: str) -> dict[str, Any]:
    """The help of a key with options of the mixers, as the mixers declare them."""
    options = (
        f"{name}: {', '.join(option for option in mixer_options(name) if option not in _OF_THE_MODEL)}"
        for name in MIXERS
    )
    return {
        "help": f"Options of the {stack}'s mixers (JSON on the command line): a mapping for all layers, of which each "
        f"mixer gets those that it has, or a list with a mapping or null for each layer. {'; '.join(options)}."
    }


@dataclass
class ArchitectureArguments(Options):
    """A pretrained model, or the architecture of a new one; keys without a side hold for all stacks of layers."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Fine-tune this model (a folder or a name on the Hub) instead of a new one."}
    )
    hidden_size: Count = field(default=SeqDyConvConfig.hidden_size, metadata={"help": "Width of the model."})
    ffn_dim: Count = field(default=1024, metadata={"help": "Width inside the feed-forward blocks."})
    attention_heads: Count = field(default=4, metadata={"help": "Heads of convolution and attention."})
    conv_dim: Count | None = field(default=None, metadata={"help": "Width of the convolutions; None is hidden_size."})
    glu: bool = field(
        default=SeqDyConvConfig.encoder_glu, metadata={"help": "Gated linear unit before each convolution."}
    )
    normalize_before: bool = field(
        default=SeqDyConvConfig.encoder_normalize_before, metadata={"help": "Pre-norm instead of post-norm."}
    )
    position_type: Annotated[str, OneOf(*POSITION_TYPES)] = field(
        default=SeqDyConvConfig.encoder_position_type, metadata={"help": "Positions: sinusoidal, learned or none."}
    )
    max_position_embeddings: Count = field(
        default=SeqDyConvConfig.max_position_embeddings, metadata={"help": "Longest sequence with learned positions."}
    )
    dropout: Dropout = field(
        default=SeqDyConvConfig.dropout, metadata={"help": "Dropout on embeddings and before each residual sum."}
    )
    attention_dropout: Dropout = field(
        default=SeqDyConvConfig.attention_dropout, metadata={"help": "Dropout on attention weights."}
    )
    activation_dropout: Dropout = field(
        default=SeqDyConvConfig.activation_dropout, metadata={"help": "Dropout inside the feed-forward blocks."}
    )
    input_dropout: Dropout = field(
        default=SeqDyConvConfig.input_dropout, metadata={"help": "Dropout on the inputs of the convolution blocks."}
    )
    weight_dropout: Dropout = field(
        default=SeqDyConvConfig.weight_dropout, metadata={"help": "DropConnect: dropout on the convolution kernels."}
    )
    weight_softmax: bool = field(
        default=SeqDyConvConfig.weight_softmax, metadata={"help": "Softmax over the taps of the kernels."}
    )
    config_overrides: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Any other field of the configuration, such as {"scale_embedding": false}.'}
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if item.name.endswith("_mixer_options"):
                setattr(self, item.name, from_json(getattr(self, item.name), item.name))
            if item.name.endswith("_kernel_sizes"):
                setattr(self, item.name, _of_layers(getattr(self, item.name)))
        super().__post_init__()

    def config(
        self,
        config_class: type[PreTrainedConfig] = SeqDyConvConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        encoder: bool = True,
        decoder: bool = False,
        **values: Any,
    ) -> Any:
        """The configuration of a new model.

        A key sets the field of its name; one without a side, such as ffn_dim, that of the encoder and of the decoder.
        None leaves a field as it is by default.

        Args:
            config_class: The class of the configuration.
            tokenizer: It gives the numbers of the special tokens and the size of the vocabulary; None leaves the
                default ones, which is good enough to check the rest.
            encoder, decoder: Whether the model has one.
            values: Other fields.

        Raises:
            ModelError: The architecture is impossible, or config_overrides names no field.
        """
        fields = {item.name for item in dataclasses.fields(config_class)}
        sides = [side for side, there in (("encoder", encoder), ("decoder", decoder)) if there]
        found: dict[str, Any] = {"is_encoder_decoder": encoder and decoder}
        for item in dataclasses.fields(self):
            if (value := getattr(self, item.name)) is None or (item.name.startswith("decoder_") and not decoder):
                continue
            if item.name.endswith("_layer_types"):
                side = item.name.removesuffix("_layer_types")
                value = one_for_each(value, getattr(self, f"{side}_kernel_sizes"), side)
            names = (item.name, *(f"{side}_{item.name}" for side in sides))
            found |= {name: value for name in names if name in fields}
        found |= special_tokens(tokenizer)
        return new_config(config_class, {**found, **values}, self.config_overrides)


@dataclass
class EncoderArguments(ArchitectureArguments):
    """The architecture of an encoder."""

    encoder_layer_types: list[Mixer] = field(
        default_factory=lambda: ["dynamic_conv"], metadata=layer_types_help("encoder")
    )
    encoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [3, 7, 15, 31, 31, 31, 31], metadata=kernel_sizes_help("encoder")
    )
    encoder_mixer_options: dict[str, Any] | str | list[Any] | None = field(
        default=None, metadata=mixer_options_help("encoder")
    )


@dataclass
class DecoderArguments(ArchitectureArguments):
    """The architecture of a decoder."""

    decoder_layer_types: list[Mixer] = field(
        default_factory=lambda: ["dynamic_conv"], metadata=layer_types_help("decoder")
    )
    decoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [3, 7, 15, 31, 31, 31], metadata=kernel_sizes_help("decoder")
    )
    decoder_mixer_options: dict[str, Any] | str | list[Any] | None = field(
        default=None, metadata=mixer_options_help("decoder")
    )


@dataclass
class EncoderDecoderArguments(DecoderArguments, EncoderArguments):
    """The architecture of an encoder-decoder."""


def _of_layers(sizes: list[Any]) -> list[Any]:
    """The kernel sizes of all layers, which may stand in one word of a command line: ``[[7,31],15]``."""
    whole = len(sizes) == 1 and isinstance(sizes[0], list) and any(isinstance(size, list) for size in sizes[0])
    return sizes[0] if whole else sizes


def special_tokens(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """The fields of a configuration that a tokenizer decides; none without one."""
    if tokenizer is None:
        return {}
    return {
        "vocab_size": vocabulary_size(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def refuse_ignored(args: Any, used: Sequence[str]) -> None:
    """Raise ModelError where a field of `args` that a pretrained model decides itself, all but `used`, was set."""
    for name, default in declared_defaults(args).items():
        if name not in used and getattr(args, name) != default:
            raise ModelError(f"{name} has no effect with model_name_or_path, whose model has its own")


def new_config(
    config_class: type[PreTrainedConfig], values: Mapping[str, Any], overrides: Mapping[str, Any] | str | None
) -> Any:
    """A configuration of `values`, then `overrides` (a mapping, or one as JSON).

    Raises:
        ModelError: An override is no field of `config_class`, or the architecture is impossible.
    """
    parsed = from_json(overrides or {}, "config_overrides")
    if not isinstance(parsed, Mapping):
        raise ModelError(f"config_overrides must be a mapping of fields of {config_class.__name__}, got {parsed!r}")
    check_value("config_overrides", parsed)
    known = {item.name for item in dataclasses.fields(config_class)}
    for key in parsed:
        if key not in known:
            raise ModelError(f"config_overrides names {key!r}, which is no field of {config_class.__name__}")
    try:
        return config_class(**{**values, **parsed})
    except StrictDataclassError as error:
        raise ModelError(f"this model can't be built: {first_line(error.__cause__ or error)}") from None


def check_size(make: Callable[[], nn.Module]) -> None:
    """Refuse a model that this machine can't hold; it is made without memory for its weights.

    Raises:
        ModelError: Its weights and their gradients in float32 are more than the memory.
    """
    try:
        with torch.device("meta"):
            model = make()
    except (RuntimeError, OverflowError) as error:  # of sizes that no computer has
        raise ModelError(f"this model can't be built: {first_line(error)}") from None
    size, memory = 8 * sum(parameter.numel() for parameter in model.parameters()), psutil.virtual_memory().total
    if size > memory:
        raise ModelError(
            f"this model can't be built: it has {size // 8:,} parameters, {size / 1e9:,.0f} GB with gradients, and "
            f"this machine {memory / 1e9:,.0f} GB of memory"
        )


def one_for_each(names: list[str], sizes: Sequence[int], side: str) -> list[str]:
    """The layer types of a stack with those kernel `sizes`, where a single name stands for all layers.

    Raises:
        ModelError: There are other numbers of both.
    """
    if len(names) == 1:
        return names * len(sizes)
    if len(names) != len(sizes):
        raise ModelError(
            f"{side}_layer_types names {len(names)} layers and {side}_kernel_sizes {len(sizes)}: "
            "give one name, or one for each kernel size"
        )
    return names
