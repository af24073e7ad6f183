"""Heads on the encoder: sequence classification and masked language modelling.

Both name the encoder ``encoder``, as the translation model does, so that each loads the encoder of any other.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from seqdyconv.functional.packing import unpack
from seqdyconv.layers.initialization import xavier_linear
from seqdyconv.layers.masking import zero_padding
from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.losses import IGNORED_LABEL, precise, token_loss
from seqdyconv.models.modeling import (
    SeqDyConvModel,
    SeqDyConvPreTrainedModel,
    output_linear,
    to_padding_mask,
)
from seqdyconv.models.packed import packed_sequences


def pool(hidden: Tensor, padding_mask: Tensor | None, pooling: str) -> Tensor:
    """One vector (B, D) of the real steps of ``hidden`` (B, T, D): zeros where there are none.

    Args:
        hidden: (B, T, D).
        padding_mask: (B, T) bool, True at padded steps.
        pooling: ``"mean"``, ``"max"`` of each channel, or ``"first"``.
    """
    if padding_mask is None:
        padding_mask = torch.zeros_like(hidden[..., 0], dtype=torch.bool)
    hidden = zero_padding(hidden, padding_mask)
    if pooling == "mean":
        return hidden.sum(1) / (~padding_mask).sum(1, keepdim=True).clamp(min=1)
    if pooling == "max":
        largest = hidden.masked_fill(padding_mask[..., None], torch.finfo(hidden.dtype).min).amax(1)
        return largest.masked_fill(padding_mask.all(1, keepdim=True), 0)
    first = (~padding_mask).int().argmax(1)  # the lowest index of the largest
    return hidden.gather(1, first[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]


class SeqDyConvForSequenceClassification(SeqDyConvPreTrainedModel):
    """The encoder, its real tokens pooled to one vector, and a linear layer: classes or numbers for whole texts.

    A pair of texts is one sequence with a separator between them; with ``type_vocab_size=2`` in the configuration
    ``token_type_ids`` tell them apart too.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForSequenceClassification
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, is_encoder_decoder=False,
        ...     id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
        >>> model = SeqDyConvForSequenceClassification(config).eval()
        >>> tokens, mask = torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        >>> model(tokens, mask, labels=torch.tensor([0, 1])).logits.shape
        torch.Size([2, 2])
    """

    config: SeqDyConvConfig  # the Auto classes read this annotation from the class itself
    accepts_loss_kwargs = True  # forward divides by num_items_in_batch where that is given

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config.encoder_only())
        self.encoder = SeqDyConvModel(self.config)
        self.dropout = config.dropout if config.classifier_dropout is None else config.classifier_dropout
        self.classifier = xavier_linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits of the L labels of each text.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens: as in :meth:`SeqDyConvModel.forward`;
                B texts packed into one row have B labels too.
            labels: by the configuration's ``problem_type``, which the first labels decide where it is None:
                ``"single_label_classification"``: (B,) class numbers, −100 where they do not count;
                ``"multi_label_classification"``: (B, L) zeros and ones, as floats;
                ``"regression"``: (B,) or (B, L) floats, as L = 1 always means.
            num_items_in_batch: the labels to divide the loss by, where the batch is a part of a larger one.

        Returns:
            ``loss``, the mean cross-entropy (of a label against its absence with several labels) in nats, or the mean
            squared error; ``logits`` (B, L); ``hidden_states`` with ``output_hidden_states=True``.
        """
        cu_seqlens = packed_sequences(
            input_ids if inputs_embeds is None else inputs_embeds, attention_mask, cu_seqlens, kwargs
        )
        encoded = self.encoder(
            input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens, return_dict=True, **kwargs
        )
        hidden, padding_mask = encoded.last_hidden_state, to_padding_mask(attention_mask)
        if cu_seqlens is not None:
            hidden, padding_mask = unpack(hidden, cu_seqlens)
        pooled = pool(hidden, padding_mask, self.config.pooling)
        logits = self.classifier(F.dropout(pooled, self.dropout, self.training))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=precise(logits), config=self.config)
            if num_items_in_batch is not None:
                loss = loss * (labels != IGNORED_LABEL).sum() / num_items_in_batch
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


class SeqDyConvForMaskedLM(SeqDyConvPreTrainedModel):
    """The encoder and an output over its vocabulary: which tokens were masked.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForMaskedLM
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, is_encoder_decoder=False)
        >>> model = SeqDyConvForMaskedLM(config).eval()
        >>> model(torch.tensor([[5, 4, 7, 2]]), labels=torch.tensor([[-100, 6, -100, -100]])).logits.shape
        torch.Size([1, 4, 50])
    """

    config: SeqDyConvConfig
    accepts_loss_kwargs = True
    _tied_weights_keys = {"lm_head.weight": "encoder.embedding.tokens.weight"}

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config.encoder_only())
        self.encoder = SeqDyConvModel(self.config)
        self.lm_head = output_linear(self.config.hidden_size, self.config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits of the token at each step.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens: as in :meth:`SeqDyConvModel.forward`.
            labels: (B, T) the tokens that stood there, −100 where they do not count.
            num_items_in_batch: the labels to divide the loss by, where the batch is a part of a larger one.

        Returns:
            ``loss``, the mean cross-entropy in nats per label, 0 where there is none; ``logits`` (B, T, V);
            ``hidden_states`` with ``output_hidden_states=True``.
        """
        encoded = self.encoder(
            input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens, return_dict=True, **kwargs
        )
        logits = self.lm_head(encoded.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
