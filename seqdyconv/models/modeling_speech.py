"""Speech models: feature frames to a quarter as many steps, an encoder of our layers, CTC, and maybe a decoder.

Read from top to bottom: the Conformer-like block, streaming of one block, the encoder, CTC, the model with a decoder.

- Subsampling moves padding to the right, so step t of every row is at the frames 4t and around.
- With ``encoder_lookahead`` in the configuration all layers but the mixers are causal, and these look a number of steps
  ahead: :meth:`SeqDyConvSpeechModel.stream` then gives, chunk by chunk, what ``forward`` gives of the whole. How
  many of these steps are used can change at any time: :meth:`SeqDyConvSpeechModel.set_lookahead`.
- CTC (Graves et al. 2006, https://doi.org/10.1145/1143844.1143891) has the blank ``config.pad_token_id``.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncoderDecoderCache, GenerationConfig, LogitsProcessorList
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, Seq2SeqLMOutput
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from seqdyconv.functional.conv import Padding
from seqdyconv.layers import ConvMixer, LightweightConv1d
from seqdyconv.layers.checks import check_state_kind
from seqdyconv.layers.initialization import reset_children, xavier_linear
from seqdyconv.layers.kernel_sizes import KernelSize
from seqdyconv.layers.subsampling import ConvSubsampling, SubsamplingState
from seqdyconv.models.configuration_speech import ENCODER_BLOCKS, SeqDyConvSpeechConfig
from seqdyconv.models.joint_decoding import CTCPrefixLogitsProcessor
from seqdyconv.models.losses import IGNORED_LABEL, ctc_loss, precise, token_loss
from seqdyconv.models.modeling import (
    EmbeddingTable,
    FeedForward,
    Residual,
    SeqDyConvDecoder,
    SeqDyConvEncoderLayer,
    SeqDyConvGenerationMixin,
    SeqDyConvPreTrainedModel,
    check_mask,
    layer_mixer,
    output_linear,
    refuse_attention_maps,
    sinusoidal_positions,
    to_padding_mask,
)
from seqdyconv.models.packed import refuse_packing
from seqdyconv.models.streaming import BlockState, RunBlock, initial_block_state, share_lookahead, stream_block


class NormalizedDepthwiseConv(LightweightConv1d):
    """The middle of a Conformer's convolution module: depthwise convolution, norm, SiLU, (batch, time, channels).

    The norm is a layer norm, which sees one step alone, where the paper has batch norm, which padding would touch.
    """

    def __init__(self, channels: int, kernel_size: KernelSize, padding: Padding, eps: float) -> None:
        super().__init__(channels, kernel_size, channels, padding=padding, weight_softmax=False, bias=True)
        self.norm = nn.LayerNorm(channels, eps)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        reset_children(self)

    def _forward(self, input: Tensor, padding_mask: Tensor | None, query: Tensor | None = None) -> Tensor:
        return F.silu(self.norm(super()._forward(input, padding_mask, query)))

    def _stream(self, window: Tensor, query: Tensor | None = None) -> Tensor:
        return F.silu(self.norm(super()._stream(window, query)))


class SeqDyConvConformerLayer(GradientCheckpointingLayer):
    """Half a feed-forward block, a mixer, a convolution module, half a feed-forward block, a norm.

    The block of Gulati et al. 2020 (https://arxiv.org/abs/2005.08100) with any mixer where self-attention is.
    """

    def __init__(self, config: SeqDyConvSpeechConfig, layer: int) -> None:
        super().__init__()
        stack, dim = config.stack("encoder"), config.hidden_size
        self.first_ffn = FeedForward(config, stack, F.silu)
        self.first_ffn_residual = Residual(config, normalize_before=True)
        self.mixer = layer_mixer(config, "encoder", layer)
        self.mixer_residual = Residual(config, normalize_before=True)
        padding: Padding = "same" if config.encoder_lookahead is None else "causal"
        conv = NormalizedDepthwiseConv(dim, config.conformer_kernel_size, padding, config.layer_norm_eps)
        self.conv = ConvMixer(dim, conv)
        self.conv_residual = Residual(config, normalize_before=True)
        self.last_ffn = FeedForward(config, stack, F.silu)
        self.last_ffn_residual = Residual(config, normalize_before=True)
        self.norm = nn.LayerNorm(dim, config.layer_norm_eps)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        hidden = self.before_mixer(hidden)
        mixed = self.mixer(self.mixer_residual.enter(hidden), padding_mask=padding_mask)
        hidden = self.mixer_residual.leave(hidden, mixed)
        convolved = self.conv(self.conv_residual.enter(hidden), padding_mask=padding_mask)
        return self.after_conv(hidden, convolved)

    def initial_state(self, batch_size: int) -> tuple[BlockState, ...]:
        """The states before the first chunk."""
        return initial_block_state(self.mixer, batch_size), initial_block_state(self.conv, batch_size)

    def stream(
        self, hidden: Tensor, state: tuple[BlockState, ...], run: RunBlock
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        """The steps that are due (B, T', D) after the next chunk (B, T, D), and the next states."""
        mixer_state, conv_state = state
        hidden, mixed, mixer_state = run(self.mixer, self.mixer_residual.enter, self.before_mixer(hidden), mixer_state)
        hidden, convolved, conv_state = run(
            self.conv, self.conv_residual.enter, self.mixer_residual.leave(hidden, mixed), conv_state
        )
        return self.after_conv(hidden, convolved), (mixer_state, conv_state)

    def before_mixer(self, hidden: Tensor) -> Tensor:
        """Half a feed-forward block."""
        return self.first_ffn_residual.leave(hidden, 0.5 * self.first_ffn(self.first_ffn_residual.enter(hidden)))

    def after_conv(self, hidden: Tensor, convolved: Tensor) -> Tensor:
        """The rest of the layer, once the convolution module has given ``convolved``."""
        hidden = self.conv_residual.leave(hidden, convolved)
        return self.norm(
            self.last_ffn_residual.leave(hidden, 0.5 * self.last_ffn(self.last_ffn_residual.enter(hidden)))
        )


LAYERS = dict(zip(ENCODER_BLOCKS, (SeqDyConvEncoderLayer, SeqDyConvConformerLayer), strict=True))


class SpeechState(NamedTuple):
    """What the encoder remembers between the chunks of a stream: tensors whose size does not grow with it."""

    subsampling: SubsamplingState
    layers: tuple[tuple[BlockState, ...], ...]
    """For each layer the states of its mixer and, in a conformer, of its convolution module."""


@dataclass
class SpeechEncoderOutput(BaseModelOutput):
    """What the encoder returns.

    Args:
        last_hidden_state: (B, T', D).
        hidden_states: with ``output_hidden_states=True`` the input of the first layer and the outputs of all.
        attention_mask: (B, T'), True = keep; None where nothing is padded.
        intermediate: (B, T', D) of each of the configuration's ``intermediate_ctc_layers``, normalised as the last one.
    """

    attention_mask: Tensor | None = None
    intermediate: tuple[Tensor, ...] | None = None


@dataclass
class SpeechSeq2SeqOutput(Seq2SeqLMOutput):
    """What the model with a decoder returns.

    Args:
        ctc_logits: (B, T', V), where there were labels; what is padded means nothing.
    """

    ctc_logits: Tensor | None = None


class SeqDyConvSpeechPreTrainedModel(SeqDyConvPreTrainedModel):
    """What Hugging Face asks of all our speech models."""

    config: SeqDyConvSpeechConfig
    config_class = SeqDyConvSpeechConfig
    main_input_name = "input_features"
    input_modalities = "audio"
    _no_split_modules = ["SeqDyConvEncoderLayer", "SeqDyConvConformerLayer", "SeqDyConvDecoderLayer"]

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError(
            "a speech encoder has no token embeddings: for another vocabulary load the model with "
            "from_pretrained(folder, vocab_size=N, ignore_mismatched_sizes=True)"
        )

    def output_lengths(self, attention_mask: Tensor) -> Tensor:
        """How many steps of the output are real, (B,), where ``attention_mask`` (B, T) says which frames are."""
        return self.base_model.subsampling.output_lengths((attention_mask != 0).sum(1))


class SeqDyConvSpeechModel(SeqDyConvSpeechPreTrainedModel):
    """The speech encoder, (B, T, F) feature frames → (B, ⌈T/4⌉, D): subsampling and encoder layers.

    Alone, under ``AutoModel``, or inside a model with a head or a decoder, whose checkpoints it loads.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvSpeechConfig, SeqDyConvSpeechModel
        >>> config = SeqDyConvSpeechConfig(vocab_size=30, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, subsampling_channels=4)
        >>> SeqDyConvSpeechModel(config)(torch.randn(1, 50, 80)).last_hidden_state.shape
        torch.Size([1, 13, 16])
    """

    config: SeqDyConvSpeechConfig  # the Auto classes read this annotation from the class itself
    _can_record_outputs = {"hidden_states": list(LAYERS.values())}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^lm_head\.", r"^ctc_head\."]  # of the models that hold one

    def __init__(self, config: SeqDyConvSpeechConfig) -> None:
        super().__init__(config.encoder_only())
        stack = config.stack("encoder")
        self.subsampling = ConvSubsampling(
            config.num_mel_bins,
            config.hidden_size,
            config.subsampling_channels,
            causal=config.encoder_lookahead is not None,
            num_kernels=config.subsampling_kernels,
        )
        if stack.position_type == "learned":
            std = config.hidden_size**-0.5
            self.positions = EmbeddingTable(config.max_position_embeddings, config.hidden_size, std=std)
        build = LAYERS[config.encoder_block]
        self.layers: Any = nn.ModuleList(build(config, layer) for layer in range(len(stack.layer_types)))
        # The conformer's layers end in a norm of their own.
        final_norm = stack.normalize_before and config.encoder_block == "transformer"
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if final_norm else None
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> SpeechEncoderOutput:
        """Encode a batch of utterances.

        Args:
            input_features: (B, T, F) frames.
            attention_mask: (B, T), 1 = keep. Real frames may stand on either side; the output's stand on the left.

        Returns:
            A :class:`SpeechEncoderOutput`. The output at padded steps means nothing.

        Raises:
            ValueError: frames or a mask of another shape, or packed utterances.
        """
        refuse_attention_maps(self.config, kwargs)
        refuse_packing(kwargs, "a speech model takes each utterance in a row of its own")
        check_mask(attention_mask, input_features, 0, "attention_mask")
        hidden, padding_mask = self.subsampling(input_features, to_padding_mask(attention_mask))
        hidden = F.dropout(self._add_positions(hidden), self.config.dropout, self.training)
        intermediate = []
        for number, layer in enumerate(self.layers, 1):
            hidden = self._drop_layer(hidden, layer(hidden, padding_mask))
            if number in self.config.intermediate_ctc_layers:
                intermediate.append(self._normalize(hidden))
        return SpeechEncoderOutput(
            last_hidden_state=self._normalize(hidden),
            attention_mask=None if padding_mask is None else ~padding_mask,
            intermediate=tuple(intermediate) or None,
        )

    @property
    def lookahead(self) -> int:
        """How many steps late the output of a stream comes: the sum over the layers."""
        self._check_streaming()
        return sum(layer.mixer.lookahead for layer in self.layers)

    def set_lookahead(self, steps: int | None = None) -> int:
        """From now on look at most that many steps ahead, in :meth:`forward` and :meth:`stream`.

        The layers share them as evenly as may be, the first ones take what is over. Of each layer the taps further
        ahead are left out, all else is as it was: the same weights, at another latency. The configuration, and so what
        is saved, stays as it is. A stream begins anew.

        Args:
            steps: of all layers together, ≥ 0; None: as far as the configuration's ``encoder_lookahead`` lets them.

        Returns:
            How many it looks ahead now: no more than the layers can, and no fewer than dilated kernels must.

        Raises:
            ValueError: a model without ``encoder_lookahead``, or fewer than 0 steps.

        Example:
            >>> from seqdyconv.models import SeqDyConvSpeechConfig, SeqDyConvSpeechModel
            >>> model = SeqDyConvSpeechModel(SeqDyConvSpeechConfig(hidden_size=16, encoder_kernel_sizes=[7] * 3,
            ...     encoder_attention_heads=4, encoder_lookahead=3, encoder_position_type="none"))
            >>> model.lookahead, model.set_lookahead(4), [layer.mixer.lookahead for layer in model.layers]
            (9, 4, [2, 1, 1])
        """
        self._check_streaming()
        if steps is not None and steps < 0:
            raise ValueError(f"steps must be at least 0, got {steps}")
        lookaheads = [layer.mixer.lookaheads for layer in self.layers]
        most = sum(possible[-1] for possible in lookaheads)
        for layer, share in zip(self.layers, share_lookahead(most if steps is None else steps, lookaheads)):
            layer.mixer.set_lookahead(share)
        return self.lookahead

    def initial_state(self, batch_size: int) -> SpeechState:
        """The state before the first chunk of ``batch_size`` utterances that go in step."""
        self._check_streaming()
        layers = tuple(layer.initial_state(batch_size) for layer in self.layers)
        return SpeechState(self.subsampling.initial_state(batch_size), layers)

    def stream(self, input_features: Tensor, state: SpeechState, flush: bool = False) -> tuple[Tensor, SpeechState]:
        """Encode the next chunk; all chunks together give what :meth:`forward` gives of the whole.

        Under ``torch.no_grad()`` or ``torch.inference_mode()`` memory does not grow with the stream.

        Args:
            input_features: (B, T, F), any number of frames, also none.
            state: of :meth:`initial_state` or the last call.
            flush: this is the last chunk: give the steps that still wait for what comes after them.

        Returns:
            The steps that are due (B, T', D), one for each fourth frame and ``lookahead`` steps late, so T' may be 0;
            and the next state, after ``flush`` that of a new utterance.

        Raises:
            ValueError: a model without ``encoder_lookahead``, or frames of another shape.
        """
        self._check_streaming()
        check_state_kind(state, SpeechState)
        batch, dim = input_features.shape[0], self.config.hidden_size
        if input_features.shape[1] > 0:
            hidden, subsampling = self.subsampling.stream(input_features, state.subsampling)
        else:
            hidden, subsampling = input_features.new_zeros(batch, 0, dim), state.subsampling
        layers = []
        for layer, layer_state in zip(self.layers, state.layers):
            hidden, layer_state = layer.stream(hidden, layer_state, partial(stream_block, flush=flush))
            layers.append(layer_state)
        following = self.initial_state(batch) if flush else SpeechState(subsampling, tuple(layers))
        return self._normalize(hidden), following

    def _check_streaming(self) -> None:
        if self.config.encoder_lookahead is None:
            raise ValueError("the model streams only if its configuration says encoder_lookahead >= 0, got None")

    def _drop_layer(self, before: Tensor, after: Tensor) -> Tensor:
        """What comes before a layer for utterances (B, T, D) that leave it out, else what comes after it.

        All are computed, so that each weight has a gradient, for which several processes wait.
        """
        if not (self.training and self.config.encoder_layerdrop):
            return after
        left_out = torch.rand(len(after), 1, 1, device=after.device) < self.config.encoder_layerdrop
        return torch.where(left_out, before.to(after.dtype), after)

    def _normalize(self, hidden: Tensor) -> Tensor:
        return hidden if self.norm is None else self.norm(hidden)

    def _add_positions(self, hidden: Tensor) -> Tensor:
        kind = self.config.encoder_position_type
        if kind == "none":
            return hidden
        steps = torch.arange(hidden.shape[1], device=hidden.device) + self.config.position_offset
        if kind == "sinusoidal":
            return hidden + sinusoidal_positions(steps[None], hidden.shape[2]).to(hidden.dtype)
        if hidden.shape[1] + self.config.position_offset > self.positions.num_embeddings:
            raise ValueError(
                f"learned positions end at max_position_embeddings = {self.positions.num_embeddings}, got an utterance "
                f"of {hidden.shape[1]} steps"
            )
        return hidden + self.positions(steps)


class SeqDyConvForCTC(SeqDyConvSpeechPreTrainedModel):
    """The speech encoder and a linear layer to the vocabulary, trained by CTC (Graves et al. 2006,
    https://doi.org/10.1145/1143844.1143891).

    ``from_pretrained(folder, is_encoder_decoder=False)`` takes both from a :class:`SeqDyConvForSpeechSeq2Seq`.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvForCTC, SeqDyConvSpeechConfig
        >>> config = SeqDyConvSpeechConfig(vocab_size=30, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, subsampling_channels=4)
        >>> model = SeqDyConvForCTC(config).eval()
        >>> attention_mask = (torch.arange(50) < torch.tensor([[50], [30]])).long()
        >>> labels = torch.tensor([[5, 6, 6], [7, -100, -100]])
        >>> model(torch.randn(2, 50, 80), attention_mask, labels=labels).logits.shape
        torch.Size([2, 13, 30])
        >>> model.output_lengths(attention_mask)
        tensor([13,  8])
    """

    config: SeqDyConvSpeechConfig
    accepts_loss_kwargs = True  # forward divides by num_items_in_batch where that is given
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^lm_head\."]

    def __init__(self, config: SeqDyConvSpeechConfig) -> None:
        super().__init__(config)
        if config.is_encoder_decoder:  # the pipeline tries this class first, and must not lose the decoder
            raise ValueError(
                "the configuration is that of a model with a decoder, SeqDyConvForSpeechSeq2Seq; is_encoder_decoder="
                "False makes, or loads, its encoder with CTC alone"
            )
        self.encoder = SeqDyConvSpeechModel(config)
        self.ctc_head = xavier_linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits of the tokens and the blank at each step.

        Args:
            input_features, attention_mask: as in :meth:`SeqDyConvSpeechModel.forward`.
            labels: (B, L) tokens, −100 where they do not count, see :func:`ctc_loss`.
            num_items_in_batch: the labels to divide the loss by, where the batch is a part of a larger one.

        Returns:
            ``loss``, the CTC loss in nats per label, with ``intermediate_ctc_layers`` mixed with theirs; ``logits``
            (B, T', V), of which :meth:`output_lengths` are real, blanks after them; ``hidden_states`` with
            ``output_hidden_states=True``.

        Raises:
            ValueError: frames, a mask or labels that do not fit.
        """
        encoded = self.encoder(input_features, attention_mask, return_dict=True, **kwargs)
        logits = self.ctc_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = encoder_ctc_loss(self.config, self.ctc_head, encoded, logits, labels, num_items_in_batch)
        if encoded.attention_mask is not None:  # who reads padded steps too, as pipelines do, finds blanks there
            blank = logits.new_full(logits.shape[-1:], -1e4)
            blank[self.config.pad_token_id] = 0
            logits = torch.where(encoded.attention_mask[..., None], logits, blank)
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)

    def initial_state(self, batch_size: int) -> SpeechState:
        """The state before the first chunk, see :meth:`SeqDyConvSpeechModel.initial_state`."""
        return self.encoder.initial_state(batch_size)

    def stream(self, input_features: Tensor, state: SpeechState, flush: bool = False) -> tuple[Tensor, SpeechState]:
        """Logits (B, T', V) of the steps that are due after the next chunk, see :meth:`SeqDyConvSpeechModel.stream`."""
        hidden, state = self.encoder.stream(input_features, state, flush)
        return self.ctc_head(hidden), state


class SeqDyConvForSpeechSeq2Seq(SeqDyConvSpeechPreTrainedModel, SeqDyConvGenerationMixin):
    """The speech encoder with CTC, and the decoder of lightweight and dynamic convolutions: hybrid CTC/attention
    (Watanabe et al. 2017, https://doi.org/10.1109/JSTSP.2017.2763455).

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvForSpeechSeq2Seq, SeqDyConvSpeechConfig
        >>> config = SeqDyConvSpeechConfig(vocab_size=30, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     decoder_kernel_sizes=[3, 7], encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=32,
        ...     decoder_ffn_dim=32, subsampling_channels=4, is_encoder_decoder=True)
        >>> model = SeqDyConvForSpeechSeq2Seq(config).eval()
        >>> model(torch.randn(1, 50, 80), labels=torch.tensor([[5, 6, 2]])).logits.shape
        torch.Size([1, 3, 30])
        >>> options = {"ctc_weight": 0.4, "num_beams": 4, "max_new_tokens": 3, "min_new_tokens": 3}
        >>> model.generate(torch.randn(1, 50, 80), **options).shape
        torch.Size([1, 4])
    """

    config: SeqDyConvSpeechConfig  # the Auto classes read this annotation from the class itself
    accepts_loss_kwargs = True  # forward divides by num_items_in_batch where that is given
    _is_stateful = True  # a state can't go back some steps, as assisted decoding wants it
    _tied_weights_keys = {"lm_head.weight": "decoder.embedding.tokens.weight"}

    def __init__(self, config: SeqDyConvSpeechConfig) -> None:
        super().__init__(config)
        if not config.is_encoder_decoder:
            raise ValueError("a model with a decoder needs a configuration with is_encoder_decoder=True, got False")
        self.encoder = SeqDyConvSpeechModel(config)
        self.ctc_head = xavier_linear(config.hidden_size, config.vocab_size)
        self.decoder = SeqDyConvDecoder(config)
        self.lm_head = output_linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embedding.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.embedding.tokens = value  # type: ignore[assignment]

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """CTC's output is over the vocabulary of the decoder."""
        embeddings: Any = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        old = self.ctc_head
        new = self._get_resized_lm_head(old, embeddings.num_embeddings, mean_resizing=mean_resizing)
        self.ctc_head = new.requires_grad_(old.weight.requires_grad)
        self.encoder.config.vocab_size = embeddings.num_embeddings  # a configuration of its own
        return embeddings

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: SpeechEncoderOutput | None = None,
        cache: EncoderDecoderCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> SpeechSeq2SeqOutput:
        """Logits of the next token at each step of the decoder.

        Args:
            input_features: (B, T, F) frames; not needed where ``encoder_outputs`` are given.
            attention_mask: (B, T), 1 = keep, of the frames.
            decoder_input_ids: (B, L); made from ``labels`` where None.
            decoder_attention_mask: (B, past + L), 1 = keep. Padding on the right needs none.
            encoder_outputs: of an earlier call of the encoder.
            cache: what the decoder remembers of the calls before.
            labels: (B, L) tokens and the end of the sentence, −100 where they do not count. CTC gets them without the
                tokens that begin and end a sentence, see :func:`ctc_loss`.
            use_cache: return a ``cache``; never with ``labels``.
            num_items_in_batch: the labels to divide the losses by, where the batch is a part of a larger one.

        Returns:
            ``loss``, in nats per label the configuration's ``ctc_weight`` times the CTC loss plus the rest of one times
            the cross-entropy; ``logits`` (B, L, V), ``cache``, ``encoder_last_hidden_state`` (B, T', D), from which
            ``model.ctc_head`` makes the logits of CTC, with ``labels`` these too, ``ctc_logits`` (B, T', V); and the
            hidden states of all layers with ``output_hidden_states=True``.

        Raises:
            ValueError: no frames, no target, a mask of another shape, or another output than the encoder's.
        """
        if encoder_outputs is None:
            if input_features is None:
                raise ValueError("the encoder needs input_features or encoder_outputs, got neither")
            encoder_outputs = self.encoder(input_features, attention_mask, return_dict=True, **kwargs)
        encoded = check_encoded(encoder_outputs)
        ctc_logits = None if labels is None else self.ctc_head(encoded.last_hidden_state)
        decoded = self.decode(
            encoded,
            encoder_attention_mask=encoded.attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            cache=cache,
            labels=labels,
            use_cache=use_cache,
            loss=lambda logits, labels: self._joint_loss(encoded, ctc_logits, logits, labels, num_items_in_batch),
            **kwargs,
        )
        return SpeechSeq2SeqOutput(**decoded, ctc_logits=ctc_logits)

    def _joint_loss(
        self,
        encoded: SpeechEncoderOutput,
        ctc_logits: Any,
        logits: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:
        config = self.config
        attention = token_loss(logits, labels, num_items_in_batch, config.label_smoothing)
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        marks = [token for token in (config.bos_token_id, *ends) if token is not None]
        spoken = labels.masked_fill(torch.isin(labels, torch.tensor(marks, device=labels.device)), IGNORED_LABEL)
        ctc = encoder_ctc_loss(config, self.ctc_head, encoded, ctc_logits, spoken, num_items_in_batch)
        return config.ctc_weight * ctc + (1 - config.ctc_weight) * attention

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *args: Any,
        ctc_weight: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Transcribe; all else is ``transformers``' ``generate()``.

        Args:
            inputs: (B, T, F) frames, also as ``input_features``.
            generation_config, logits_processor, args, kwargs: as ``transformers`` has them. Without a limit of the
                length there are at most as many new tokens as encoder steps.
            ctc_weight: of CTC in the scores of tokens (Watanabe et al. 2017); None: that of the generation
                configuration, or else of the model's configuration. 0: the decoder alone.

        Returns:
            As ``transformers``: the tokens (B, L), or an output object.
        """
        given = [vars(config) for config in (generation_config, self.generation_config) if config is not None]

        def option(name: str) -> Any:
            return next((options[name] for options in (kwargs, *given) if options.get(name) is not None), None)

        if ctc_weight is None:
            ctc_weight = option("ctc_weight")
        if ctc_weight is None:
            ctc_weight = self.config.ctc_weight
        features = kwargs.pop("input_features", inputs)
        encoded = kwargs.pop("encoder_outputs", None)
        if encoded is None:
            if features is None:
                raise ValueError("generate needs input_features or encoder_outputs, got neither")
            encoded = self.encoder(features, kwargs.get("attention_mask"), return_dict=True)
        encoded = check_encoded(encoded)
        if option("max_length") is None and option("max_new_tokens") is None:
            kwargs["max_new_tokens"] = encoded.last_hidden_state.shape[1]
        processors = LogitsProcessorList(logits_processor or [])
        if ctc_weight != 0:
            processors.append(
                CTCPrefixLogitsProcessor(
                    precise(self.ctc_head(encoded.last_hidden_state)).log_softmax(-1),
                    self.config.pad_token_id,  # type: ignore[arg-type]
                    option("eos_token_id"),
                    ctc_weight,
                    None if encoded.attention_mask is None else encoded.attention_mask.sum(1),
                )
            )
        return super().generate(None, generation_config, processors, *args, encoder_outputs=encoded, **kwargs)


def check_encoded(encoded: Any) -> Any:
    """An encoder's output; raises ValueError for one without the mask of its steps, which that of the frames is not."""
    if not isinstance(encoded, SpeechEncoderOutput):
        raise ValueError(
            f"encoder_outputs must be the SpeechEncoderOutput of the encoder, got {type(encoded).__name__}"
        )
    return encoded


def encoder_ctc_loss(
    config: SeqDyConvSpeechConfig,
    head: nn.Module,
    encoded: SpeechEncoderOutput,
    logits: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None,
) -> Tensor:
    """The CTC loss of ``logits``, mixed with that of inner layers (Lee & Watanabe 2021, arXiv 2102.03216)."""
    lengths = None if encoded.attention_mask is None else encoded.attention_mask.sum(1)

    def loss(logits: Tensor) -> Tensor:
        return ctc_loss(
            logits,
            labels,
            blank=config.pad_token_id,  # type: ignore[arg-type]
            lengths=lengths,
            num_items_in_batch=num_items_in_batch,
        )

    if not encoded.intermediate:
        return loss(logits)
    inner = torch.stack([loss(head(hidden)) for hidden in encoded.intermediate]).mean()
    return (1 - config.intermediate_ctc_weight) * loss(logits) + config.intermediate_ctc_weight * inner
