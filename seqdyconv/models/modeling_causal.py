"""The language model: the decoder of ``modeling.py`` without an encoder, and an output over its vocabulary."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from seqdyconv.functional.packing import positions
from seqdyconv.models.configuration_causal import SeqDyConvCausalLMConfig
from seqdyconv.models.losses import IGNORED_LABEL, token_loss
from seqdyconv.models.modeling import (
    OwnCacheGenerationMixin,
    SeqDyConvDecoder,
    SeqDyConvPreTrainedModel,
    output_linear,
    to_padding_mask,
)
from seqdyconv.models.packed import packed_sequences


def next_token_labels(labels: Tensor, padding_mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """At each step the label of the next one: (B, T), −100 where one of the two is padded or the sequence ends.

    Args:
        labels: (B, T).
        padding_mask: (B, T) bool, True at padded steps.
        cu_seqlens: (N + 1,), where sequences packed into one row begin and end.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    if padding_mask is not None:
        padded = padding_mask | F.pad(padding_mask[:, 1:], (0, 1), value=True)
        following = following.masked_fill(padded, IGNORED_LABEL)
    if cu_seqlens is not None:
        begins = positions(cu_seqlens, labels.shape[1]) == 0
        following = following.masked_fill(F.pad(begins[1:], (0, 1), value=True), IGNORED_LABEL)
    return following


class SeqDyConvForCausalLM(SeqDyConvPreTrainedModel, OwnCacheGenerationMixin):
    """A language model: causal mixers, which may differ from layer to layer, and the logits of the next token.

    Trains with ``labels``, goes on with ``generate()`` (greedy, sampling, beam search; prompts of different lengths
    are padded on the left), saves and loads as every Hugging Face model. A convolution's part of the cache does not
    grow with the text.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvCausalLMConfig, SeqDyConvForCausalLM
        >>> config = SeqDyConvCausalLMConfig(vocab_size=50, hidden_size=16, decoder_attention_heads=4,
        ...     decoder_kernel_sizes=[3, 7], decoder_ffn_dim=32,
        ...     decoder_layer_types=["dynamic_conv", "self_attention"])
        >>> model = SeqDyConvForCausalLM(config).eval()
        >>> tokens = torch.tensor([[5, 6, 7, 8]])
        >>> model(tokens, labels=tokens).logits.shape
        torch.Size([1, 4, 50])
        >>> model.generate(tokens, max_new_tokens=4, min_new_tokens=4, num_beams=2).shape
        torch.Size([1, 8])
    """

    config: SeqDyConvCausalLMConfig  # the Auto classes read this annotation from the class itself
    config_class = SeqDyConvCausalLMConfig
    base_model_prefix = "decoder"
    accepts_loss_kwargs = True  # forward divides by num_items_in_batch where that is given
    _tied_weights_keys = {"lm_head.weight": "decoder.embedding.tokens.weight"}
    _is_stateful = True  # a state can't go back some steps, as assisted decoding wants it

    def __init__(self, config: SeqDyConvCausalLMConfig) -> None:
        super().__init__(config)
        self.decoder = SeqDyConvDecoder(config)
        self.lm_head: nn.Linear = output_linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cu_seqlens: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token at each step.

        Args:
            input_ids: (B, T).
            attention_mask: (B, past + T), 1 = keep, of the tokens in the cache too.
            cache: what the model remembers of the calls before.
            inputs_embeds: (B, T, D), or the embedding size, rows of the embedding table, instead of ``input_ids``.
            labels: (B, T), most often ``input_ids``, −100 where they do not count: the label of a step is that of the
                token that stands there, the model shifts them. The loss is the mean cross-entropy, in nats per token,
                of all tokens that have one before them, in their own sequence; padding has no part in it.
            use_cache: return a ``cache``; never with ``labels`` or packed sequences.
            num_items_in_batch: the tokens to divide the loss by, where the batch is a part of a larger one.
            cu_seqlens: (N + 1,) int, where N sequences packed into one row, (1, T), begin and end, instead of a mask;
                to train, not to ``generate()``.
            logits_to_keep: compute the logits of that many last steps alone, or of the steps of these numbers; 0: of
                all. Not with ``labels``.
            kwargs: batches of transformers' ``DataCollatorWithFlattening`` tell by other names where packed sequences
                begin: ``cu_seq_lens_q``, ``position_ids`` that restart, or ``seq_idx``.

        Returns:
            ``loss``, ``logits`` (B, T, V), ``cache``, and ``hidden_states`` of all layers with
            ``output_hidden_states=True``.

        Raises:
            ValueError: no tokens, a mask of another shape, packed sequences that do not fit, a cache that is not of
                this model, or labels of which some have no logits.
        """
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError(f"labels need the logits of all steps, logits_to_keep=0, got {logits_to_keep}")
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        cu_seqlens = packed_sequences(tokens, attention_mask, cu_seqlens, kwargs)
        decoded = self.decoder(
            input_ids,
            attention_mask=attention_mask,
            cache=cache,
            use_cache=use_cache if labels is None else False,
            cu_seqlens=cu_seqlens,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(decoded.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            padding_mask = to_padding_mask(attention_mask)
            loss = token_loss(logits, next_token_labels(labels, padding_mask, cu_seqlens), num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, cache=decoded.cache, hidden_states=decoded.hidden_states
        )
