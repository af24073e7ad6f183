"""The configuration of the speech models."""

from typing import Any

from huggingface_hub.dataclasses import strict

from seqdyconv.layers.checks import check_dropout
from seqdyconv.layers.kernel_sizes import kernel_sizes_of
from seqdyconv.layers.mixers import mixers_with
from seqdyconv.models.configuration import KernelSize, SeqDyConvConfig, Side, as_in_json

ENCODER_BLOCKS = ("transformer", "conformer")


@strict
class SeqDyConvSpeechConfig(SeqDyConvConfig):
    """Configuration of the speech models: feature frames → subsampling → encoder layers → CTC, and maybe a decoder.

    Its encoder has all options of :class:`SeqDyConvConfig` but those of a vocabulary: there is nothing to embed, so
    nothing is shared with the decoder. The blank of CTC is ``pad_token_id``.

    Args:
        num_mel_bins: F, the width of a feature frame.
        subsampling_channels: of the two convolutions that make one step of four frames.
        subsampling_kernels: how many kernels attention mixes in these convolutions; 1: they are plain.
        encoder_block: ``"transformer"``: a mixer and a feed-forward block; ``"conformer"`` (Gulati et al. 2020, arXiv
            2005.08100): half a feed-forward block, a mixer, a convolution module, half a feed-forward block. The
            conformer normalises before each part whatever ``encoder_normalize_before`` says, and its activation is
            SiLU whatever ``activation_function`` says.
        conformer_kernel_size: of the depthwise convolution in the convolution module; or several, each for as many
            channels, see :class:`seqdyconv.LightweightConv1d`.
        encoder_lookahead: None: each layer sees the whole utterance, kernels are symmetric. L ≥ 0: the mixer of each
            layer sees L steps ahead, or as many as its kernel is long, and all else is causal: the model can stream.
            Needs convolutions as mixers and ``encoder_position_type="none"``.
        encoder_layerdrop: how often in training a layer is left out, which each utterance draws for itself (stochastic
            depth, Huang et al. 2016, arXiv 1603.09382; LayerDrop, Fan et al. 2019, arXiv 1909.11556).
        intermediate_ctc_layers: the layers, counted from 1, after which a CTC loss is taken too (Lee & Watanabe 2021,
            arXiv 2102.03216), by the same output layer.
        intermediate_ctc_weight: the part of the CTC loss that is the mean of theirs.
        ctc_weight: of a model with a decoder: the part of CTC in the loss, and in the scores of ``generate()``.
        label_smoothing: of the decoder's cross-entropy.
        inputs_to_logits_ratio: audio samples for each step of the logits: four times the hop of the features.

    Raises:
        StrictDataclassError: of huggingface_hub, as :class:`SeqDyConvConfig`.

    Example:
        >>> from seqdyconv.models import SeqDyConvSpeechConfig
        >>> config = SeqDyConvSpeechConfig(vocab_size=66, hidden_size=192, encoder_kernel_sizes=[31] * 6,
        ...     encoder_attention_heads=4, encoder_lookahead=2, encoder_position_type="none")
        >>> config.encoder_layer_types[0], config.encoder_block
        ('dynamic_conv', 'transformer')
    """

    model_type = "seqdyconv_speech"

    num_mel_bins: int = 80
    subsampling_channels: int = 64
    subsampling_kernels: int = 1
    encoder_block: str = "transformer"
    conformer_kernel_size: KernelSize = 31
    encoder_lookahead: int | None = None
    encoder_layerdrop: float | int = 0.0
    intermediate_ctc_layers: list[int] | tuple[int, ...] = ()
    intermediate_ctc_weight: float | int = 0.3
    ctc_weight: float | int = 0.3
    label_smoothing: float | int = 0.0
    inputs_to_logits_ratio: int = 640
    share_encoder_decoder_embeddings: bool = False
    is_encoder_decoder: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.intermediate_ctc_layers = list(self.intermediate_ctc_layers)
        self.conformer_kernel_size = as_in_json(self.conformer_kernel_size)
        super().__post_init__(**kwargs)

    def layer_options(self, side: Side, layer: int) -> dict[str, Any]:
        options = super().layer_options(side, layer)
        if side == "encoder" and self.encoder_lookahead is not None:
            options["lookahead"] = self.encoder_lookahead
        return options

    def validate_architecture(self) -> None:
        """Raise ValueError where options do not fit together; called at construction and before saving."""
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id is the blank of CTC, it must be in [0, {self.vocab_size}), got {self.pad_token_id}"
            )
        super().validate_architecture()
        sizes = (
            "num_mel_bins",
            "subsampling_channels",
            "subsampling_kernels",
            "inputs_to_logits_ratio",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        kernel_sizes = kernel_sizes_of(self.conformer_kernel_size)
        if self.hidden_size % len(kernel_sizes):
            raise ValueError(
                f"hidden_size must be a multiple of the number of kernel sizes, got {self.hidden_size} for "
                f"conformer_kernel_size {self.conformer_kernel_size}"
            )
        for name in ("intermediate_ctc_weight", "ctc_weight", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        check_dropout(encoder_layerdrop=self.encoder_layerdrop)
        if self.encoder_block not in ENCODER_BLOCKS:
            raise ValueError(f"encoder_block must be of {', '.join(ENCODER_BLOCKS)}, got {self.encoder_block!r}")
        if self.share_encoder_decoder_embeddings or self.encoder_vocab_size is not None or self.type_vocab_size:
            raise ValueError(
                "a speech encoder has no tokens: set share_encoder_decoder_embeddings=False, encoder_vocab_size=None "
                f"and type_vocab_size=0, got {self.share_encoder_decoder_embeddings}, {self.encoder_vocab_size} and "
                f"{self.type_vocab_size}"
            )
        inner = range(1, len(self.encoder_layer_types))
        if wrong := [layer for layer in self.intermediate_ctc_layers if layer not in inner]:
            raise ValueError(
                f"intermediate_ctc_layers must be from 1 to {len(inner)}, before the last layer, got {wrong}"
            )
        if self.encoder_lookahead is not None:
            self._validate_streaming()

    def _validate_streaming(self) -> None:
        if self.encoder_lookahead < 0:  # type: ignore[operator]
            raise ValueError(f"encoder_lookahead must be None or >= 0, got {self.encoder_lookahead}")
        able = mixers_with("lookahead")
        if others := sorted(set(self.encoder_layer_types) - set(able)):
            raise ValueError(
                f"encoder_lookahead needs layers that stream in constant memory, encoder_layer_types of "
                f"{', '.join(able)}, got {', '.join(others)}"
            )
        if self.encoder_position_type != "none":
            raise ValueError(
                'encoder_lookahead needs encoder_position_type="none", since a stream has no end to its positions, '
                f"got {self.encoder_position_type!r}"
            )
