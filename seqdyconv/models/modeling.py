"""Encoder, decoder and translation model of lightweight and dynamic convolutions (Wu et al. 2019, arXiv 1901.10430).

Read from top to bottom: positions, the feed-forward block, one encoder layer, one decoder layer, the two stacks, the
model. What a layer does to mix time steps is a mixer, chosen by name (``seqdyconv.layers.mixers``). The encoder by
itself is the base model of ``modeling_encoder.py`` too.

- Models take Hugging Face's ``attention_mask`` (1 = keep); layers take the ``padding_mask`` (True = padding) that
  ``to_padding_mask`` makes of it.
- Positions count real tokens only, so that padding on either side changes nothing.
- Instead of a mask, ``cu_seqlens`` tells where sequences packed into one row, (1, T), begin and end.
- A decoder step needs the stream state of each mixer: the cache holds these, not keys and values.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPast, Seq2SeqLMOutput
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from seqdyconv.functional.packing import positions as packed_positions
from seqdyconv.layers import build_mixer
from seqdyconv.layers.attention import CrossAttention
from seqdyconv.layers.initialization import starting, xavier_linear, zero_bias
from seqdyconv.models.cache import (
    check_cache,
    cross_attention_memory,
    decoder_cache,
    keep_cross_attention_memory,
    mixer_states,
)
from seqdyconv.models.configuration import SeqDyConvConfig, Side, StackConfig
from seqdyconv.models.losses import IGNORED_LABEL, token_loss
from seqdyconv.models.packed import check_packed_sides, packed_sequences, refuse_other_packing
from seqdyconv.models.streaming import BlockState, RunBlock, initial_block_state


def sinusoidal_positions(positions: Tensor, dim: int) -> Tensor:
    """(B, T) position numbers → (B, T, D) sines, then cosines, of D/2 wave lengths from 2π to 10000·2π."""
    half = dim // 2
    frequency = torch.exp(torch.arange(half, device=positions.device) * -(math.log(10000) / max(half - 1, 1)))
    angle = positions[..., None].float() * frequency
    waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return F.pad(waves, (0, 1)) if dim % 2 else waves


def refuse_attention_maps(config: SeqDyConvConfig, arguments: dict[str, Any]) -> None:
    """Raise ValueError where ``arguments``, or else the configuration, ask for ``output_attentions``."""
    if arguments.get("output_attentions", config.output_attentions):
        raise ValueError("output_attentions=True is not supported: convolutions have no attention maps")


def to_padding_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Hugging Face's ``attention_mask`` (B, T), 1 or True = keep, to a ``padding_mask``, True = padding."""
    return None if attention_mask is None else attention_mask == 0


class EmbeddingTable(nn.Embedding):
    """A table of embeddings that starts from a normal distribution, and at zero where padding is."""

    def __init__(self, rows: int, width: int, *, std: float, padding_idx: int | None = None) -> None:
        self.std = std  # the next line draws with it
        super().__init__(rows, width, padding_idx)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.padding_idx is not None:
            nn.init.zeros_(self.weight[self.padding_idx])


def output_linear(*sizes: int, **options: Any) -> nn.Linear:
    """The layer to the vocabulary, which starts as the embeddings do that it may be tied to: N(0, 1/D)."""
    return starting(normal_weight, nn.Linear, *sizes, **options)


def normal_weight(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    zero_bias(layer)


class Embedding(nn.Module):
    """Token embeddings plus those of token types, if any, scaled by √D; plus positions; dropped out.

    With ``embedding_norm`` they go through a layer norm first, and a linear layer makes D of another embedding size.
    """

    def __init__(self, config: SeqDyConvConfig, vocab_size: int, position_type: str, type_vocab_size: int = 0) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.scale = math.sqrt(config.hidden_size) if config.scale_embedding else 1.0
        self.dropout = config.dropout
        self.position_type = position_type
        self.position_offset = config.position_offset
        std = config.hidden_size**-0.5
        self.tokens = EmbeddingTable(vocab_size, width, std=std, padding_idx=config.pad_token_id)
        self.token_types = EmbeddingTable(type_vocab_size, width, std=std) if type_vocab_size else None
        if position_type == "learned":
            self.positions = EmbeddingTable(config.max_position_embeddings, width, std=std)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps) if config.embedding_norm else None
        self.project = xavier_linear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(
        self,
        tokens: Tensor,
        padding_mask: Tensor | None,
        past: int = 0,
        token_type_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Embed (B, T) tokens, the last T of past + T; ``padding_mask`` (B, past + T). Returns (B, T, D)."""
        length = past + tokens.shape[1]
        if cu_seqlens is not None:
            positions = packed_positions(cu_seqlens, length)[None]
            length = int(cu_seqlens.diff().max()) if self.position_type == "learned" else length
        elif padding_mask is None:
            positions = torch.arange(past, length, device=tokens.device)[None]
        else:
            positions = ((~padding_mask).cumsum(1) - 1).clamp(min=0)[:, past:]
        if self.position_type == "learned" and length + self.position_offset > self.positions.num_embeddings:
            if padding_mask is not None:
                length = int((~padding_mask).sum(1).max())  # padding has no position of its own
            if length + self.position_offset > self.positions.num_embeddings:
                raise ValueError(
                    f"learned positions end at max_position_embeddings = {self.positions.num_embeddings}, got a "
                    f"sequence of {length} tokens"
                )
        return self.at(tokens, positions, token_type_ids)

    def at(self, tokens: Tensor, positions: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed (B, T) tokens that stand at ``positions`` (B or 1, T), the first token's being 0. Returns (B, T, D).

        ``tokens`` may be rows of the table already, (B, T, D). Tokens without a type are of type 0.
        """
        hidden = self.tokens(tokens) if tokens.dim() == 2 else tokens
        if self.token_types is not None:
            # Asked for even where all are of type 0: who offloads or adapts the table does so where it is called.
            hidden = hidden + self.token_types(positions.new_zeros(1) if token_type_ids is None else token_type_ids)
        hidden = hidden * self.scale
        positions = positions + self.position_offset
        if self.position_type == "sinusoidal":
            hidden = hidden + sinusoidal_positions(positions, hidden.shape[2]).to(hidden.dtype)
        elif self.position_type == "learned":
            hidden = hidden + self.positions(positions)
        if self.norm is not None:
            hidden = self.norm(hidden)
        hidden = F.dropout(hidden, self.dropout, self.training)
        return hidden if self.project is None else self.project(hidden)


class GroupedLinear(nn.Module):
    """G linear layers side by side, each of its own part of the channels: (..., D) → (..., D')."""

    def __init__(self, dim: int, output_dim: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, output_dim // groups, dim // groups))
        self.bias = nn.Parameter(torch.empty(output_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = math.sqrt(6 / (self.weight.shape[1] + self.weight.shape[2]))  # Xavier's, of each linear layer
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        parts = input.unflatten(-1, (len(self.weight), -1))
        return torch.einsum("...gi,goi->...go", parts, self.weight).flatten(-2) + self.bias


def grouped_linear(dim: int, output_dim: int, groups: int) -> nn.Module:
    """A linear layer, grouped where there are several groups."""
    return xavier_linear(dim, output_dim) if groups == 1 else GroupedLinear(dim, output_dim, groups)


class FeedForward(nn.Module):
    """Linear, the configuration's activation or another one, linear; the linear layers may be grouped."""

    def __init__(
        self, config: SeqDyConvConfig, stack: StackConfig, activation: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.activation = ACT2FN[config.activation_function] if activation is None else activation
        self.in_proj = grouped_linear(config.hidden_size, stack.ffn_dim, config.ffn_groups)
        self.out_proj = grouped_linear(stack.ffn_dim, config.hidden_size, config.ffn_groups)
        self.activation_dropout = config.activation_dropout

    def forward(self, input: Tensor) -> Tensor:
        inner = self.activation(self.in_proj(input))
        return self.out_proj(F.dropout(inner, self.activation_dropout, self.training))


class Residual(nn.Module):
    """Layer norm, dropout and residual connection around a block: norm before the block, or after the sum."""

    def __init__(self, config: SeqDyConvConfig, normalize_before: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.normalize_before = normalize_before
        self.dropout = config.dropout

    def enter(self, hidden: Tensor) -> Tensor:
        """What the block gets."""
        return self.norm(hidden) if self.normalize_before else hidden

    def leave(self, hidden: Tensor, output: Tensor) -> Tensor:
        """What comes after the block: ``hidden`` went in before :meth:`enter`, ``output`` came out of the block."""
        hidden = hidden + F.dropout(output, self.dropout, self.training)
        return hidden if self.normalize_before else self.norm(hidden)


def layer_mixer(config: SeqDyConvConfig, side: Side, layer: int) -> Any:
    """The mixer of one layer of the encoder or the decoder."""
    stack = config.stack(side)
    options = config.layer_options(side, layer)
    return build_mixer(stack.layer_types[layer], config.hidden_size, stack.attention_heads, **options)


class SeqDyConvEncoderLayer(GradientCheckpointingLayer):
    """A mixer and a feed-forward block."""

    def __init__(self, config: SeqDyConvConfig, layer: int) -> None:
        super().__init__()
        stack = config.stack("encoder")
        self.mixer = layer_mixer(config, "encoder", layer)
        self.mixer_residual = Residual(config, stack.normalize_before)
        self.ffn = FeedForward(config, stack)
        self.ffn_residual = Residual(config, stack.normalize_before)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        mixed = self.mixer(self.mixer_residual.enter(hidden), padding_mask=padding_mask, cu_seqlens=cu_seqlens)
        return self.after_mixer(hidden, mixed)

    def initial_state(self, batch_size: int) -> tuple[BlockState, ...]:
        """The state before the first chunk: that of the mixer."""
        return (initial_block_state(self.mixer, batch_size),)

    def stream(
        self, hidden: Tensor, state: tuple[BlockState, ...], run: RunBlock
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        """The steps that are due (B, T', D) after the next chunk (B, T, D), and the next state."""
        hidden, mixed, mixer_state = run(self.mixer, self.mixer_residual.enter, hidden, state[0])
        return self.after_mixer(hidden, mixed), (mixer_state,)

    def after_mixer(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the layer, once the mixer has given ``mixed``."""
        hidden = self.mixer_residual.leave(hidden, mixed)
        return self.ffn_residual.leave(hidden, self.ffn(self.ffn_residual.enter(hidden)))


class SeqDyConvDecoderLayer(GradientCheckpointingLayer):
    """A causal mixer, attention to the encoder where the model has one, and a feed-forward block."""

    cross_attention: CrossAttention | None

    def __init__(self, config: SeqDyConvConfig, layer: int) -> None:
        super().__init__()
        stack = config.stack("decoder")
        self.layer = layer
        self.mixer = layer_mixer(config, "decoder", layer)
        self.mixer_residual = Residual(config, stack.normalize_before)
        self.cross_attention = None
        if config.is_encoder_decoder:
            self.cross_attention = CrossAttention(
                config.hidden_size, stack.attention_heads, attention_dropout=config.attention_dropout
            )
            self.cross_residual = Residual(config, stack.normalize_before)
        self.ffn = FeedForward(config, stack)
        self.ffn_residual = Residual(config, stack.normalize_before)

    def forward(
        self,
        hidden: Tensor,
        padding_mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_padding_mask: Tensor | None,
        cache: EncoderDecoderCache | Cache | None = None,
        cu_seqlens: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        if cache is None:
            own = None if cu_seqlens is None else cu_seqlens[0]
            mixed = self.mixer(self.mixer_residual.enter(hidden), padding_mask=padding_mask, cu_seqlens=own)
        else:
            mixed = self._stream(self.mixer_residual.enter(hidden), padding_mask, cache)
        if self.cross_attention is None:
            return self._after_mixer(hidden, mixed)
        key, value = self._memory(encoder_hidden_states, encoder_padding_mask, cache)
        attend = partial(
            self.cross_attention, key=key, value=value, padding_mask=encoder_padding_mask, cu_seqlens=cu_seqlens
        )
        return self._after_mixer(hidden, mixed, attend)

    def step(
        self, hidden: Tensor, state: Any, key: Tensor, value: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Decode one token of each of K beams of each sentence, in evaluation mode and without a cache.

        Args:
            hidden: (B·K, 1, D).
            state: of the mixer, with B·K rows.
            key, value, bias: as in :meth:`seqdyconv.layers.attention.CrossAttention.step`, one for all beams.

        Returns:
            (B·K, 1, D), and the mixer's next state.
        """
        mixed, state = self.mixer.stream(self.mixer_residual.enter(hidden), state)
        assert self.cross_attention is not None
        attend = partial(self.cross_attention.step, key=key, value=value, bias=bias)
        return self._after_mixer(hidden, mixed, attend), state

    def _after_mixer(self, hidden: Tensor, mixed: Tensor, attend: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        hidden = self.mixer_residual.leave(hidden, mixed)
        if attend is not None:
            hidden = self.cross_residual.leave(hidden, attend(self.cross_residual.enter(hidden)))
        return self.ffn_residual.leave(hidden, self.ffn(self.ffn_residual.enter(hidden)))

    def _memory(self, encoded: Any, padding_mask: Tensor | None, cache: Any) -> tuple[Tensor, Tensor]:
        """The encoder's keys and values: those of the cache, which gets them at the first step."""
        kept = None if cache is None else cross_attention_memory(cache, self.layer)
        if kept is not None:
            return kept
        assert self.cross_attention is not None
        memory = self.cross_attention.project(encoded, padding_mask)
        if cache is not None:
            keep_cross_attention_memory(cache, self.layer, memory)
        return memory

    def _stream(self, hidden: Tensor, padding_mask: Tensor | None, cache: EncoderDecoderCache | Cache) -> Tensor:
        kept = mixer_states(cache)[self.layer]
        state = self.mixer.initial_state(hidden.shape[0]) if kept.state is None else kept.state
        mixed, state = self.mixer.stream(hidden, state, padding_mask)
        kept.store(state, hidden.shape[1])
        return mixed


class SeqDyConvPreTrainedModel(PreTrainedModel):
    """Initialisation and what Hugging Face asks of all our models."""

    config: SeqDyConvConfig
    base_model: Any  # what has the embedding: the encoder, or the decoder by itself
    config_class = SeqDyConvConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SeqDyConvEncoderLayer", "SeqDyConvDecoderLayer"]

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.embedding.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.embedding.tokens = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Every module knows its start itself; transformers calls this after it did so for the module's children."""
        if type(module) is nn.Embedding:  # the rows that resize_token_embeddings(..., mean_resizing=False) adds
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)
            return
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            tensors = [*module.parameters(), *module.buffers()]
            # What came from a checkpoint stays, also where the module, or its parts, come from there in part alone.
            loaded = [(x, x.clone()) for x in tensors if getattr(x, "_is_hf_initialized", False)]
            reset()
            for tensor, value in loaded:
                tensor.copy_(value)


class SeqDyConvModel(SeqDyConvPreTrainedModel):
    """The encoder, embeddings and encoder layers, (B, T) tokens → (B, T, D): the base model of all others.

    Alone, under ``AutoModel``, or inside a model with a head or a decoder, whose checkpoints it loads. Its
    configuration is that of an encoder alone, see :meth:`SeqDyConvConfig.encoder_only`.

    The output at padded tokens means nothing; that at real tokens does not depend on them.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvModel
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, is_encoder_decoder=False)
        >>> SeqDyConvModel(config)(torch.tensor([[5, 6, 7, 2]])).last_hidden_state.shape
        torch.Size([1, 4, 16])
    """

    config: SeqDyConvConfig
    _can_record_outputs = {"hidden_states": SeqDyConvEncoderLayer}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]  # the other half of a translation model

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config.encoder_only())
        stack = config.stack("encoder")
        self.embedding = Embedding(self.config, self.config.vocab_size, stack.position_type, config.type_vocab_size)
        self.layers = nn.ModuleList(SeqDyConvEncoderLayer(config, layer) for layer in range(len(stack.layer_types)))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if stack.normalize_before else None
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode a batch of token sequences.

        Args:
            input_ids: (B, T) tokens.
            attention_mask: (B, T), 1 = keep.
            token_type_ids: (B, T), which text of a pair a token is of; 0 where None. Without ``type_vocab_size`` in
                the configuration the model does not look at them.
            inputs_embeds: (B, T, D), or the embedding size, rows of the embedding table, instead of ``input_ids``.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row, (1, T), begin and end, instead of a mask:
                sequence n is the tokens from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.
            kwargs: batches of transformers' ``DataCollatorWithFlattening`` tell the same by other names, of which one
                is enough: ``cu_seq_lens_q``, ``position_ids`` that restart, or ``seq_idx``.

        Returns:
            ``last_hidden_state`` (B, T, D), and the hidden states of all layers with ``output_hidden_states=True``.

        Raises:
            ValueError: not exactly one of ``input_ids`` and ``inputs_embeds``, a mask of another shape, or
                ``cu_seqlens`` that do not fit.
        """
        refuse_attention_maps(self.config, kwargs)
        tokens = one_input(input_ids, inputs_embeds, "encoder")
        check_mask(attention_mask, tokens, 0, "attention_mask")
        cu_seqlens = packed_sequences(tokens, attention_mask, cu_seqlens, kwargs)
        padding_mask = to_padding_mask(attention_mask)
        hidden = self.embedding(tokens, padding_mask, token_type_ids=token_type_ids, cu_seqlens=cu_seqlens)
        for layer in self.layers:
            hidden = layer(hidden, padding_mask, cu_seqlens)
        return BaseModelOutput(last_hidden_state=hidden if self.norm is None else self.norm(hidden))


class SeqDyConvDecoder(SeqDyConvPreTrainedModel):
    """Embeddings and decoder layers: (B, T) tokens and, if any, (B, S, D) encoder output → (B, T, D)."""

    _can_record_outputs = {"hidden_states": SeqDyConvDecoderLayer}

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config)
        stack = config.stack("decoder")
        self.embedding = Embedding(config, config.vocab_size, stack.position_type)
        self.layers = nn.ModuleList(SeqDyConvDecoderLayer(config, layer) for layer in range(len(stack.layer_types)))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if stack.normalize_before else None
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache: EncoderDecoderCache | Cache | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        encoder_cu_seqlens: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Decode the next T tokens.

        Args:
            input_ids: (B, T).
            encoder_hidden_states: (B, S, D), where the model has an encoder.
            attention_mask: (B, past + T), 1 = keep, of the tokens in the cache too.
            encoder_attention_mask: (B, S), 1 = keep.
            cache: of the calls before; None starts one where ``use_cache`` says so.
            use_cache: None: as the configuration says, without packed sequences. With activation checkpointing, which
                runs a layer twice, training starts no cache.
            cu_seqlens, encoder_cu_seqlens: (N + 1,) int, where N sequences packed into one row begin and end, here and
                in the encoder's output, instead of masks and without a cache.
            inputs_embeds: (B, T, D), or the embedding size, rows of the embedding table, instead of ``input_ids``.

        Returns:
            ``last_hidden_state`` (B, T, D) and ``cache``.

        Raises:
            ValueError: not exactly one of ``input_ids`` and ``inputs_embeds``, another number of sources, a mask of
                another shape, packed sequences that do not fit, or a cache that is not of this model, or would get the
                steps of layers twice.
        """
        refuse_attention_maps(self.config, kwargs)
        refuse_other_packing(kwargs, "cu_seqlens and encoder_cu_seqlens")
        tokens = one_input(input_ids, inputs_embeds, "decoder")
        has_encoder = encoder_hidden_states is not None
        if has_encoder != self.config.is_encoder_decoder:
            wanted = "needs" if self.config.is_encoder_decoder else "has no encoder and takes no"
            raise ValueError(f"the decoder {wanted} encoder_hidden_states")
        source = None
        if encoder_hidden_states is not None:
            if len(encoder_hidden_states) != len(tokens):
                raise ValueError(
                    f"sources and targets must be as many, got {len(encoder_hidden_states)} and {len(tokens)}"
                )
            check_mask(encoder_attention_mask, encoder_hidden_states, 0, "attention_mask of the encoder's output")
            source = (encoder_hidden_states, encoder_attention_mask, encoder_cu_seqlens)
        if use_cache is None:
            use_cache = self.config.use_cache and cu_seqlens is None and encoder_cu_seqlens is None
        packed = check_packed_sides((tokens, attention_mask, cu_seqlens), source, cache is not None or use_cache)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            use_cache = False
            if cache is not None:
                raise ValueError(
                    "activation checkpointing runs each layer again, which would add its steps to the cache once more: "
                    "train without a cache"
                )
        if cache is None and use_cache:
            cache = decoder_cache(len(self.layers), has_encoder=has_encoder)
        past = 0
        if cache is not None:
            check_cache(cache, len(self.layers))
            past = cache.get_seq_length()
        check_mask(attention_mask, tokens, past, "decoder attention_mask" if has_encoder else "attention_mask")
        padding_mask, encoder_padding_mask = to_padding_mask(attention_mask), to_padding_mask(encoder_attention_mask)
        hidden = self.embedding(tokens, padding_mask, past, cu_seqlens=None if packed is None else packed[0])
        new_padding = None if padding_mask is None else padding_mask[:, past:]
        for layer in self.layers:
            hidden = layer(hidden, new_padding, encoder_hidden_states, encoder_padding_mask, cache, packed)
        hidden = hidden if self.norm is None else self.norm(hidden)
        return BaseModelOutputWithPast(last_hidden_state=hidden, cache=cache)


def start_token(config: Any) -> Any:
    """The token that stands before the first one of an output, by a configuration of a model or of ``generate()``."""
    start = config.decoder_start_token_id
    return getattr(config, "bos_token_id", None) if start is None else start


class OwnCacheGenerationMixin(GenerationMixin):
    """``generate()`` of a model whose ``forward`` makes the cache: it holds stream states, not keys and values."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


class SeqDyConvGenerationMixin(OwnCacheGenerationMixin):
    """What ``generate()`` and ``Trainer`` ask of a model with an encoder and our decoder."""

    config: SeqDyConvConfig

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """Labels (B, T), −100 where they do not count → the decoder's input, one step later, in each sequence."""
        start: Any = start_token(self.config)
        if start is None:
            raise ValueError(
                "labels need a configuration with decoder_start_token_id or bos_token_id, got None for both"
            )
        shifted = F.pad(labels[:, :-1], (1, 0), value=start)
        if cu_seqlens is not None:
            shifted = shifted.masked_fill(packed_positions(cu_seqlens, labels.shape[1]) == 0, start)
        ignored, pad = shifted == IGNORED_LABEL, self.config.pad_token_id
        if pad is None:
            if ignored.any():
                raise ValueError("labels of -100 need a configuration with pad_token_id, got None")
            return shifted
        return shifted.masked_fill(ignored, pad)

    def decode(
        self,
        encoded: BaseModelOutput,
        *,
        encoder_attention_mask: Tensor | None,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        cache: EncoderDecoderCache | None,
        labels: Tensor | None,
        use_cache: bool | None,
        loss: Callable[[Tensor, Tensor], Tensor],
        cu_seqlens: Tensor | None = None,
        encoder_cu_seqlens: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """The second half of ``forward``: from the encoder's output to logits and loss; arguments as there.

        Args:
            encoded: what the encoder gave.
            encoder_attention_mask: (B, S), 1 = keep, of the encoder's steps.
            loss: what logits (B, T, V) and labels (B, T) cost.
            cu_seqlens, encoder_cu_seqlens: as in :meth:`SeqDyConvDecoder.forward`.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise ValueError("the decoder needs decoder_input_ids or labels, got neither")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels, cu_seqlens)
        model: Any = self
        decoded = model.decoder(
            decoder_input_ids,
            encoded.last_hidden_state,
            attention_mask=decoder_attention_mask,
            encoder_attention_mask=encoder_attention_mask,
            cache=cache,
            use_cache=use_cache if labels is None else False,
            cu_seqlens=cu_seqlens,
            encoder_cu_seqlens=encoder_cu_seqlens,
            inputs_embeds=decoder_inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = model.lm_head(decoded.last_hidden_state)
        return Seq2SeqLMOutput(
            loss=None if labels is None else loss(logits, labels),
            logits=logits,
            cache=decoded.cache,
            decoder_hidden_states=decoded.hidden_states,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
        )


class SeqDyConvForConditionalGeneration(SeqDyConvPreTrainedModel, SeqDyConvGenerationMixin):
    """Encoder and decoder with an output over the vocabulary: translation and other text-to-text tasks.

    Trains with ``labels``, decodes with ``generate()`` (greedy, sampling, beam search), saves and loads as every
    Hugging Face model.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     decoder_kernel_sizes=[3, 7], encoder_attention_heads=4, decoder_attention_heads=4,
        ...     encoder_ffn_dim=32, decoder_ffn_dim=32)
        >>> model = SeqDyConvForConditionalGeneration(config).eval()
        >>> source = torch.tensor([[5, 6, 7, 2]])
        >>> model(source, labels=torch.tensor([[8, 9, 2]])).logits.shape
        torch.Size([1, 3, 50])
        >>> model.generate(source, max_new_tokens=4, min_new_tokens=4, num_beams=2).shape
        torch.Size([1, 5])
    """

    config: SeqDyConvConfig  # the Auto classes read this annotation from the class itself
    accepts_loss_kwargs = True  # forward divides by num_items_in_batch where that is given
    _is_stateful = True  # a state can't go back some steps, as assisted decoding wants it

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config)
        if not config.is_encoder_decoder:
            raise ValueError("a model with a decoder needs a configuration with is_encoder_decoder=True, got False")
        self.encoder = SeqDyConvModel(config)
        self.decoder = SeqDyConvDecoder(config)
        self.lm_head = output_linear(config.hidden_size, config.vocab_size, bias=False)
        self._tied_weights_keys = {"lm_head.weight": "decoder.embedding.tokens.weight"}
        if config.share_encoder_decoder_embeddings:
            shared = "encoder.embedding.tokens.weight"
            self._tied_weights_keys = {"decoder.embedding.tokens.weight": shared, "lm_head.weight": shared}
        self.post_init()

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Encoder, decoder and output have one vocabulary, whether they share its table or not."""
        own = self.config.encoder_vocab_size
        if own is not None and (new_num_tokens, pad_to_multiple_of) != (None, None):
            raise ValueError(
                f"resize_token_embeddings resizes one vocabulary, but the encoder has {own} tokens of its own and the "
                f"decoder {self.config.vocab_size}: make a model of the new sizes, and copy the rows that stay"
            )
        embeddings: Any = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if not self.config.share_encoder_decoder_embeddings:
            old = self.decoder.embedding.tokens
            new = self._get_resized_embeddings(old, embeddings.num_embeddings, mean_resizing=mean_resizing)
            self.decoder.embedding.tokens = new.requires_grad_(old.weight.requires_grad)  # type: ignore[assignment]
        self.encoder.config.vocab_size = embeddings.num_embeddings  # a configuration of its own
        return embeddings

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Any, ...] | None = None,
        cache: EncoderDecoderCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cu_seqlens: Tensor | None = None,
        decoder_cu_seqlens: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits of the next token at each step of the decoder.

        Args:
            input_ids: (B, S) source tokens; not needed where ``encoder_outputs`` are given.
            attention_mask: (B, S), 1 = keep.
            decoder_input_ids: (B, T); made from ``labels`` where None.
            decoder_attention_mask: (B, past + T), 1 = keep. Padding on the right needs none.
            encoder_outputs: of an earlier call of the encoder, also as a tuple.
            cache: what the decoder remembers of the calls before.
            labels: (B, T), −100 where they do not count: the loss is then their mean cross-entropy in nats per token.
            use_cache: return a ``cache``; never with ``labels``.
            num_items_in_batch: the tokens to divide the loss by, where the batch is a part of a larger one.
            cu_seqlens, decoder_cu_seqlens: (N + 1,) int, where N sources packed into one row, (1, S), and their N
                targets in one row, (1, T), begin and end, instead of masks; to train, not to ``generate()``.
            inputs_embeds, decoder_inputs_embeds: (B, S, D) and (B, T, D), or the embedding size, rows of the embedding
                tables, instead of ``input_ids`` and ``decoder_input_ids``.

        Returns:
            ``loss``, ``logits`` (B, T, V), ``cache``, ``encoder_last_hidden_state`` (B, S, D), and the hidden states
            of all layers with ``output_hidden_states=True``.

        Raises:
            ValueError: no source, no target, a mask of another shape, or packed sequences that do not fit.
        """
        refuse_other_packing(kwargs, "cu_seqlens and decoder_cu_seqlens")
        if encoder_outputs is None:
            if input_ids is None and inputs_embeds is None:
                raise ValueError("the encoder needs input_ids or encoder_outputs, got neither")
            encoder_outputs = self.encoder(
                input_ids,
                attention_mask,
                inputs_embeds=inputs_embeds,
                cu_seqlens=cu_seqlens,
                return_dict=True,
                **kwargs,
            )
        if isinstance(encoder_outputs, tuple):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        return self.decode(
            encoder_outputs,
            encoder_attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            cache=cache,
            labels=labels,
            use_cache=use_cache,
            loss=lambda logits, labels: token_loss(logits, labels, num_items_in_batch),
            cu_seqlens=decoder_cu_seqlens,
            encoder_cu_seqlens=cu_seqlens,
            decoder_inputs_embeds=decoder_inputs_embeds,
            **kwargs,
        )


def one_input(input_ids: Tensor | None, inputs_embeds: Tensor | None, side: Side, axes: str = "BT") -> Tensor:
    """The one of the two that is given, (B, T) or (B, T, D), or with other ``axes`` than B and T, a letter each.

    Raises:
        ValueError: both are given, or neither, or it has other axes.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError(
            f"the {side} needs input_ids or inputs_embeds, got {'both' if input_ids is not None else 'neither'}"
        )
    name, axes = ("input_ids", axes) if inputs_embeds is None else ("inputs_embeds", f"{axes}D")
    tokens: Tensor = input_ids if inputs_embeds is None else inputs_embeds  # type: ignore[assignment]
    if tokens.dim() != len(axes):
        raise ValueError(f"{name} must be ({', '.join(axes)}), got {tuple(tokens.shape)}")
    return tokens


def check_mask(attention_mask: Tensor | None, tokens: Tensor, past: int, name: str) -> None:
    """Raise ValueError unless the mask, if any, is (B, past + T), ``tokens`` being (B, T, ...)."""
    expected = (tokens.shape[0], past + tokens.shape[1])
    if attention_mask is not None and attention_mask.shape != expected:
        cached = f", the {past} tokens in the cache included" if past else ""
        raise ValueError(f"{name} must be (B, T) = {expected}{cached}, got {tuple(attention_mask.shape)}")
