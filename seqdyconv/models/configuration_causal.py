"""The configuration of the language model."""

from typing import Any

from huggingface_hub.dataclasses import strict

from seqdyconv.models.configuration import SeqDyConvConfig, Side


@strict
class SeqDyConvCausalLMConfig(SeqDyConvConfig):
    """Configuration of the language model: a decoder alone, of any causal mixers, which may differ from layer to layer.

    It has the options of :class:`SeqDyConvConfig` that begin with ``decoder_``, and those without a side; those of an
    encoder are not looked at. Layer norms come before each block, unless ``decoder_normalize_before=False``.

    Raises:
        StrictDataclassError: of huggingface_hub, as :class:`SeqDyConvConfig`.

    Example:
        >>> from seqdyconv.models import SeqDyConvCausalLMConfig
        >>> config = SeqDyConvCausalLMConfig(decoder_layer_types=["gated_short_conv", "gated_short_conv",
        ...     "self_attention"], decoder_kernel_sizes=[3, 3, 1], decoder_position_type="none")
        >>> config.sides, config.layer_options("decoder", 0)["causal"]
        (('decoder',), True)
    """

    model_type = "seqdyconv_causal_lm"
    attribute_map = {"num_attention_heads": "decoder_attention_heads"}

    decoder_normalize_before: bool = True
    share_encoder_decoder_embeddings: bool = False
    is_encoder_decoder: bool = False
    decoder_start_token_id: int | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("decoder",)

    def encoder_only(self) -> Any:
        raise ValueError("a language model has no encoder: load it with AutoModelForCausalLM")

    def validate_architecture(self) -> None:
        """Raise ValueError where options do not fit together; called at construction and before saving."""
        if self.is_encoder_decoder or self.encoder_vocab_size is not None or self.type_vocab_size:
            raise ValueError(
                "a language model has no encoder: leave is_encoder_decoder=False, encoder_vocab_size=None and "
                f"type_vocab_size=0, got {self.is_encoder_decoder}, {self.encoder_vocab_size} and "
                f"{self.type_vocab_size}"
            )
        super().validate_architecture()
