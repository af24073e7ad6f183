"""The configuration of all models."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from seqdyconv.layers import MIXERS, build_mixer, mixer_options, share_options
from seqdyconv.layers.checks import check_dropout
from seqdyconv.layers.options import check_names

Side = Literal["encoder", "decoder"]

# What a model decides about its mixers by other fields, or by where they stand.
_DECIDED = {
    "dim": "hidden_size",
    "num_heads": "{side}_attention_heads",
    "kernel_size": "{side}_kernel_sizes",
    "causal": "the model",
    "lookahead": "encoder_lookahead of a speech model",
    "device": "the model",
    "dtype": "the model",
}
POSITION_TYPES = ("sinusoidal", "learned", "none")
KernelSize = int | list[int] | tuple[int, ...]
KernelSizes = list[KernelSize] | tuple[KernelSize, ...]
POOLINGS = ("mean", "max", "first")


def as_in_json(size: Any) -> Any:
    """Several kernel sizes as the list that a file has, one as it is."""
    return list(size) if isinstance(size, (list, tuple)) else size


@dataclass(frozen=True)
class StackConfig:
    """The part of a configuration that one stack of layers, the encoder or the decoder, is built from."""

    layer_types: list[str]
    kernel_sizes: list[int | list[int]]
    attention_heads: int
    ffn_dim: int
    conv_dim: int
    glu: bool
    normalize_before: bool
    position_type: str


@strict
class SeqDyConvConfig(PreTrainedConfig):
    """Configuration of the models of lightweight and dynamic convolutions (Wu et al. 2019, arXiv 1901.10430).

    The defaults are the paper's base size. Encoder and decoder take a mixer by name for each of their layers, so
    convolutions and self-attention mix freely; the lists of a stack are as long as it has layers. Models without a
    decoder do not look at the options of a decoder; ``is_encoder_decoder=False`` says that there is none.

    Args:
        vocab_size: tokens of the decoder, and of the encoder where ``encoder_vocab_size`` is None.
        encoder_vocab_size: tokens of the encoder where it has a vocabulary of its own, which cannot be shared then.
        type_vocab_size: kinds of text in the encoder's input, such as the two of a pair; each has an embedding that
            ``token_type_ids`` choose. 0: none.
        hidden_size: D, the width of the embeddings and of every layer's input and output.
        encoder_layer_types, decoder_layer_types: a mixer's name (``"dynamic_conv"``, ``"self_attention"``, another of
            ``seqdyconv.layers.MIXERS``) for each layer, or one name for all.
        encoder_kernel_sizes, decoder_kernel_sizes: the kernel size of each layer, or several for one layer, such as
            ``[[7, 31], [7, 31], 31]``, see :class:`seqdyconv.LightweightConv1d`; a mixer without kernels, such as
            self-attention, does not get it.
        encoder_attention_heads, decoder_attention_heads: H of convolutions and attention; divides D and the
            convolution's width.
        encoder_ffn_dim, decoder_ffn_dim: the inner width of the feed-forward blocks.
        activation_function: of the feed-forward blocks, a name of transformers' ``ACT2FN``, such as ``"gelu"``.
        ffn_groups: G of the feed-forward blocks' linear layers, of which each reads and writes one G-th of the channels
            (Jiang et al. 2020, arXiv 2008.02496).
        layer_norm_eps: added to the variance in all layer norms.
        encoder_mixer_options, decoder_mixer_options: any options of the mixers, which
            :func:`seqdyconv.layers.mixer_options` lists: a mapping for all layers, of which each mixer gets those that
            it has, such as ``{"dilation": 2, "renormalize": True}``; or a list with a mapping, or None, for each layer.
            They come before what the fields below say to all mixers.
        encoder_conv_dim, decoder_conv_dim: C, the width of the convolutions; None: D.
        encoder_glu, decoder_glu: gate the input of the convolutions. This, the width and the dropouts below are shared:
            each mixer gets those that it has.
        encoder_normalize_before, decoder_normalize_before: layer norm before each block instead of after it.
        encoder_position_type, decoder_position_type: ``"sinusoidal"``, ``"learned"`` or ``"none"``.
        max_position_embeddings: rows of the learned table; sinusoidal positions have no end.
        position_offset: the number of the first position; 2 in models that come from fairseq.
        scale_embedding: multiply the token embeddings by √D.
        embedding_size: the width of the embeddings, of tokens, token types and positions, where a linear layer makes D
            of it; needs ``tie_word_embeddings=False``. None: D.
        embedding_norm: layer norm of the embeddings.
        share_encoder_decoder_embeddings: one table for encoder and decoder; needs ``tie_word_embeddings``.
        tie_word_embeddings: one table for the decoder's input and output.
        dropout: of embeddings and of each block's output, before it is added to the residual.
        attention_dropout: of attention weights, of self- and cross-attention.
        activation_dropout: of the feed-forward block's inner activations.
        input_dropout: of the input of the convolution blocks.
        weight_dropout: DropConnect, of the convolution kernels.
        weight_softmax: softmax-normalise the convolution kernels.
        pooling: how sequence classification makes one vector of the real tokens': their ``"mean"``, their ``"max"``
            channel by channel, or the ``"first"`` of them.
        classifier_dropout: of that vector; None: ``dropout``.
        is_encoder_decoder: there is a decoder, whose options are checked too.

    Raises:
        StrictDataclassError: of huggingface_hub: a value of the wrong type, or options that do not fit together; it
            names both what was got and what is allowed.

    Example:
        >>> from seqdyconv.models import SeqDyConvConfig
        >>> config = SeqDyConvConfig(encoder_layer_types="lightweight_conv", encoder_kernel_sizes=[3, 7, 15])
        >>> config.encoder_layer_types
        ['lightweight_conv', 'lightweight_conv', 'lightweight_conv']
    """

    model_type = "seqdyconv"
    attribute_map = {"num_attention_heads": "encoder_attention_heads"}

    vocab_size: int = 32000
    encoder_vocab_size: int | None = None
    hidden_size: int = 512
    encoder_layer_types: list[str] | str = "dynamic_conv"
    decoder_layer_types: list[str] | str = "dynamic_conv"
    encoder_kernel_sizes: KernelSizes = (3, 7, 15, 31, 31, 31, 31)
    decoder_kernel_sizes: KernelSizes = (3, 7, 15, 31, 31, 31)
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    encoder_mixer_options: Any = None
    decoder_mixer_options: Any = None
    encoder_conv_dim: int | None = None
    decoder_conv_dim: int | None = None
    encoder_glu: bool = True
    decoder_glu: bool = True
    encoder_normalize_before: bool = False
    decoder_normalize_before: bool = False
    encoder_position_type: str = "sinusoidal"
    decoder_position_type: str = "sinusoidal"
    max_position_embeddings: int = 1024
    position_offset: int = 0
    scale_embedding: bool = True
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    input_dropout: float | int = 0.0
    weight_dropout: float | int = 0.0
    weight_softmax: bool = True
    type_vocab_size: int = 0
    embedding_size: int | None = None
    embedding_norm: bool = False
    activation_function: str = "relu"
    ffn_groups: int = 1
    layer_norm_eps: float | int = 1e-5
    pooling: str = "mean"
    classifier_dropout: float | int | None = None
    is_encoder_decoder: bool = True
    use_cache: bool = True
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        for side in ("encoder", "decoder"):
            sizes = [as_in_json(size) for size in getattr(self, f"{side}_kernel_sizes")]
            types = getattr(self, f"{side}_layer_types")
            setattr(self, f"{side}_kernel_sizes", sizes)
            setattr(self, f"{side}_layer_types", [types] * len(sizes) if isinstance(types, str) else list(types))
        super().__post_init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> "SeqDyConvConfig":
        """Itself: ``generate`` asks here for the vocabulary of its output."""
        return self

    @property
    def sides(self) -> tuple[Side, ...]:
        """The stacks that a model of this configuration has."""
        return ("encoder", "decoder") if self.is_encoder_decoder else ("encoder",)

    def encoder_only(self) -> "SeqDyConvConfig":
        """The configuration of the encoder alone: itself where there is no decoder, else a changed copy."""
        if not self.is_encoder_decoder and self.encoder_vocab_size is None:
            return self
        config = copy.deepcopy(self)
        config.is_encoder_decoder = False
        config.vocab_size, config.encoder_vocab_size = self.encoder_vocab_size or self.vocab_size, None
        return config

    def stack(self, side: Side) -> StackConfig:
        """The options of one stack, without their prefix."""
        options = {name: getattr(self, f"{side}_{name}") for name in StackConfig.__dataclass_fields__}
        return StackConfig(**(options | {"conv_dim": options["conv_dim"] or self.hidden_size}))

    def layer_options(self, side: Side, layer: int) -> dict[str, Any]:
        """All options of the mixer of one layer, by the names that :func:`seqdyconv.build_mixer` takes."""
        stack = self.stack(side)
        mixer, own = stack.layer_types[layer], getattr(self, f"{side}_mixer_options")
        shared = {
            "kernel_size": stack.kernel_sizes[layer],
            "conv_dim": stack.conv_dim,
            "glu": stack.glu,
            "input_dropout": self.input_dropout,
            "weight_softmax": self.weight_softmax,
            "weight_dropout": self.weight_dropout,
            "attention_dropout": self.attention_dropout,
        }
        own = (own[layer] or {}) if isinstance(own, list) else share_options(mixer, own or {})
        return {**share_options(mixer, shared), **own, "causal": side == "decoder"}

    def _validate_mixer_options(self, side: Side) -> None:
        field, mixers = f"{side}_mixer_options", getattr(self, f"{side}_layer_types")
        given: Any = getattr(self, field)
        if given is None:
            self._validate_mixers(side, f"{side}_kernel_sizes", of_several_sizes=True)
            return
        for entry in given if isinstance(given, list) else [given]:
            if not isinstance(entry, dict) and (entry is not None or entry is given):
                raise ValueError(f"{field} must be a mapping, or a list of mappings and None, got {given!r}")
            for option in entry or {}:
                if option in _DECIDED:
                    raise ValueError(f"{field} can't have {option}: {_DECIDED[option].format(side=side)} decides it")
        if isinstance(given, dict):
            has = (option for mixer in mixers for option in mixer_options(mixer) if option not in _DECIDED)
            check_names(f"{', '.join(dict.fromkeys(mixers))} in {field}", given, dict.fromkeys(has))
        elif len(given) != len(mixers):
            raise ValueError(f"{field} needs one entry for each of {len(mixers)} layers, got {len(given)}")
        self._validate_mixers(side, field)

    def _validate_mixers(self, side: Side, field: str, of_several_sizes: bool = False) -> None:
        """Build the mixers, or those alone whose kernels are of several sizes."""
        stack = self.stack(side)
        for layer, mixer in enumerate(stack.layer_types):
            if of_several_sizes and not isinstance(stack.kernel_sizes[layer], list):
                continue
            try:
                with torch.device("meta"):  # the layer itself says whether they fit
                    build_mixer(mixer, self.hidden_size, stack.attention_heads, **self.layer_options(side, layer))
            except ValueError as error:
                raise ValueError(f"{field}, layer {layer + 1}: {error}") from None

    def _validate_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not value >= least:  # NaN is not
            optional = "None or " if type(self).__dataclass_fields__[name].default is None else ""
            raise ValueError(f"{name} must be {optional}>= {least}, got {value}")

    def validate_architecture(self) -> None:
        """Raise ValueError where options do not fit together; called at construction and before saving."""
        for name in ("vocab_size", "encoder_vocab_size", "hidden_size", "embedding_size", "max_position_embeddings"):
            self._validate_least(name, 1)
        for name in ("type_vocab_size", "position_offset", "layer_norm_eps"):
            self._validate_least(name, 0)
        for side in self.sides:
            for name in (f"{side}_ffn_dim", f"{side}_conv_dim"):
                self._validate_least(name, 1)
            stack = self.stack(side)
            if len(stack.layer_types) != len(stack.kernel_sizes) or not stack.layer_types:
                raise ValueError(
                    f"{side}_layer_types and {side}_kernel_sizes need one entry for each layer, got "
                    f"{len(stack.layer_types)} and {len(stack.kernel_sizes)}"
                )
            if unknown := sorted(set(stack.layer_types) - set(MIXERS)):
                raise ValueError(f"{side}_layer_types must be of {', '.join(MIXERS)}, got {', '.join(unknown)}")
            for size in stack.kernel_sizes:
                if min(size if isinstance(size, list) else [size], default=0) < 1:
                    raise ValueError(f"{side}_kernel_sizes must be >= 1, got {stack.kernel_sizes}")
            if stack.position_type not in POSITION_TYPES:
                raise ValueError(f"{side}_position_type must be of {POSITION_TYPES}, got {stack.position_type!r}")
            heads = stack.attention_heads
            if heads < 1 or self.hidden_size % heads or stack.conv_dim % heads:
                hint = "; is_encoder_decoder=False for a model without a decoder" if side != self.sides[0] else ""
                raise ValueError(
                    f"{side}_attention_heads must divide hidden_size and {side}_conv_dim, got {heads} heads for "
                    f"{self.hidden_size} and {stack.conv_dim}{hint}"
                )
            if self.ffn_groups < 1 or self.hidden_size % self.ffn_groups or stack.ffn_dim % self.ffn_groups:
                raise ValueError(
                    f"ffn_groups must divide hidden_size and {side}_ffn_dim, got {self.ffn_groups} groups for "
                    f"{self.hidden_size} and {stack.ffn_dim}"
                )
            self._validate_mixer_options(side)
        if self.activation_function not in ACT2FN:
            raise ValueError(
                f"activation_function must be of {', '.join(sorted(ACT2FN))}, got {self.activation_function!r}"
            )
        if self.embedding_size not in (None, self.hidden_size) and self.tie_word_embeddings:
            raise ValueError(
                f"embeddings of another size can't be the output's: embedding_size={self.embedding_size} with "
                f"hidden_size={self.hidden_size} needs tie_word_embeddings=False"
            )
        dropouts = ("dropout", "attention_dropout", "activation_dropout", "input_dropout", "weight_dropout")
        check_dropout(**{name: getattr(self, name) for name in dropouts})
        check_dropout(classifier_dropout=self.classifier_dropout or 0.0)
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be of {', '.join(POOLINGS)}, got {self.pooling!r}")
        vocabulary = min(self.vocab_size, self.encoder_vocab_size or self.vocab_size)
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < vocabulary:
            raise ValueError(f"pad_token_id must be None or in [0, {vocabulary}), got {self.pad_token_id}")
        if not self.is_encoder_decoder:
            return
        if self.share_encoder_decoder_embeddings and not self.tie_word_embeddings:
            raise ValueError(
                "share_encoder_decoder_embeddings=True shares the output too: it needs tie_word_embeddings=True"
            )
        if self.share_encoder_decoder_embeddings and self.encoder_vocab_size is not None:
            raise ValueError(
                "shared embeddings need one vocabulary: set share_encoder_decoder_embeddings=False or "
                f"encoder_vocab_size=None, got {self.encoder_vocab_size}"
            )
