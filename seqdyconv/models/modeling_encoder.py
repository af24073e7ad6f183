"""Heads on the encoder: classes of texts and of tokens, answers in texts, choices, and masked language modelling.

All name the encoder ``encoder``, as the translation model does, so that each loads the encoder of any other.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from seqdyconv.functional.packing import unpack
from seqdyconv.layers.initialization import xavier_linear
from seqdyconv.layers.masking import zero_padding
from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.losses import IGNORED_LABEL, precise, token_loss
from seqdyconv.models.modeling import (
    SeqDyConvModel,
    SeqDyConvPreTrainedModel,
    one_input,
    output_linear,
    refuse_attention_maps,
    to_padding_mask,
)
from seqdyconv.models.packed import packed_sequences, refuse_packing


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
        # In float16 the sum of a long text would be infinite.
        total = hidden.sum(1, dtype=torch.promote_types(hidden.dtype, torch.float32))
        return (total / (~padding_mask).sum(1, keepdim=True).clamp(min=1)).to(hidden.dtype)
    if pooling == "max":
        largest = hidden.masked_fill(padding_mask[..., None], torch.finfo(hidden.dtype).min).amax(1)
        return largest.masked_fill(padding_mask.all(1, keepdim=True), 0)
    first = (~padding_mask).int().argmax(1)  # the lowest index of the largest
    return hidden.gather(1, first[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]


def encode_rows(
    encoder: SeqDyConvModel,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    cu_seqlens: Tensor | None,
    others: dict[str, Any],
) -> tuple[Any, Tensor, Tensor | None]:
    """The output of an encoder, its hidden states with one text in each row (B, T, D), and their padding mask (B, T).

    Args:
        encoder: the encoder.
        input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens: as in :meth:`SeqDyConvModel.forward`.
        others: its other arguments.
    """
    tokens = input_ids if inputs_embeds is None else inputs_embeds
    cu_seqlens = packed_sequences(tokens, attention_mask, cu_seqlens, others)
    encoded = encoder(input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens, return_dict=True, **others)
    if cu_seqlens is not None:
        return encoded, *unpack(encoded.last_hidden_state, cu_seqlens)
    return encoded, encoded.last_hidden_state, to_padding_mask(attention_mask)


def head_dropout(config: SeqDyConvConfig) -> float:
    """The dropout of what a head reads."""
    return config.dropout if config.classifier_dropout is None else config.classifier_dropout


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
        self.dropout = head_dropout(config)
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
        encoded, hidden, padding_mask = encode_rows(
            self.encoder, input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens, kwargs
        )
        pooled = pool(hidden, padding_mask, self.config.pooling)
        logits = self.classifier(F.dropout(pooled, self.dropout, self.training))
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, num_items_in_batch)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)

    def _loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        config: Any = self.config
        if config.problem_type is None and config.num_labels > 1 and labels.dtype in (torch.long, torch.int):
            config.problem_type = "single_label_classification"
        if config.problem_type == "single_label_classification":
            return token_loss(logits[:, None], labels.view(-1, 1), num_items_in_batch)
        loss: Tensor = self.loss_function(labels=labels, pooled_logits=precise(logits), config=config)
        return loss if num_items_in_batch is None else loss * labels.numel() / num_items_in_batch


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


class SeqDyConvForTokenClassification(SeqDyConvPreTrainedModel):
    """The encoder and a linear layer: a class for each token, such as the kind of name that it is part of.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForTokenClassification
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, is_encoder_decoder=False, num_labels=3)
        >>> model = SeqDyConvForTokenClassification(config).eval()
        >>> model(torch.tensor([[5, 6, 7, 2]]), labels=torch.tensor([[0, 2, 1, -100]])).logits.shape
        torch.Size([1, 4, 3])
    """

    config: SeqDyConvConfig
    accepts_loss_kwargs = True

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config.encoder_only())
        self.encoder = SeqDyConvModel(self.config)
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
    ) -> TokenClassifierOutput:
        """Logits of the L labels of each token.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens: as in :meth:`SeqDyConvModel.forward`.
            labels: (B, T) class numbers, −100 where they do not count.
            num_items_in_batch: the labels to divide the loss by, where the batch is a part of a larger one.

        Returns:
            ``loss``, the mean cross-entropy in nats per label, 0 where there is none; ``logits`` (B, T, L);
            ``hidden_states`` with ``output_hidden_states=True``.
        """
        encoded = self.encoder(
            input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens, return_dict=True, **kwargs
        )
        logits = self.classifier(F.dropout(encoded.last_hidden_state, head_dropout(self.config), self.training))
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


class SeqDyConvForQuestionAnswering(SeqDyConvPreTrainedModel):
    """The encoder and a linear layer: where in a text the answer to a question begins and ends.

    Question and text are one sequence, as in :class:`SeqDyConvForSequenceClassification`.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForQuestionAnswering
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, is_encoder_decoder=False)
        >>> model = SeqDyConvForQuestionAnswering(config).eval()
        >>> tokens, begin, end = torch.tensor([[5, 6, 2, 7, 8, 2]]), torch.tensor([3]), torch.tensor([4])
        >>> model(tokens, start_positions=begin, end_positions=end).start_logits.shape
        torch.Size([1, 6])
    """

    config: SeqDyConvConfig
    accepts_loss_kwargs = False

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config.encoder_only())
        self.encoder = SeqDyConvModel(self.config)
        self.qa_outputs = xavier_linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Logits of each token as the first and as the last of the answer.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens: as in :meth:`SeqDyConvModel.forward`;
                B texts packed into one row have rows of their own in the results, as long as the longest, T.
            start_positions, end_positions: (B,) the steps of the answer's first and last token, both or neither. Those
                that are no real step of their text, as of an answer that was cut away, do not count.

        Returns:
            ``loss``, the mean of both cross-entropies over the texts, in nats; ``start_logits`` and ``end_logits``
            (B, T), the smallest number of their type at padding; ``hidden_states`` with ``output_hidden_states=True``.
        """
        if (start_positions is None) != (end_positions is None):
            raise ValueError("the loss needs start_positions and end_positions, got one of them")
        encoded, hidden, padding_mask = encode_rows(
            self.encoder, input_ids, attention_mask, token_type_ids, inputs_embeds, cu_seqlens, kwargs
        )
        logits = self.qa_outputs(hidden)
        if padding_mask is not None:
            logits = logits.masked_fill(padding_mask[..., None], torch.finfo(logits.dtype).min)
        loss = None
        if start_positions is not None and end_positions is not None:
            labels = real_positions(torch.stack([start_positions, end_positions], -1), hidden, padding_mask)  # (B, 2)
            losses = [token_loss(logits[:, None, :, end], labels[:, end, None], None) for end in (0, 1)]
            loss = torch.stack(losses).mean()
        start_logits, end_logits = logits.unbind(-1)
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, hidden_states=encoded.hidden_states
        )


def real_positions(positions: Tensor, hidden: Tensor, padding_mask: Tensor | None) -> Tensor:
    """``positions`` (B, N) of steps of ``hidden`` (B, T, D), −100 where they are none or padded (B, T)."""
    time = hidden.shape[1]
    real = (positions >= 0) & (positions < time)
    if padding_mask is not None:
        real = real & ~padding_mask.gather(1, positions.clamp(0, time - 1))
    return positions.masked_fill(~real, IGNORED_LABEL)


class SeqDyConvForMultipleChoice(SeqDyConvPreTrainedModel):
    """The encoder, its real tokens pooled to one vector, and one number: which of several texts fits best.

    Each choice is one text with what it belongs to, such as a question, as in
    :class:`SeqDyConvForSequenceClassification`.

    Example:
        >>> import torch
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForMultipleChoice
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_kernel_sizes=[3, 7],
        ...     encoder_attention_heads=4, encoder_ffn_dim=32, is_encoder_decoder=False)
        >>> model = SeqDyConvForMultipleChoice(config).eval()
        >>> model(torch.tensor([[[5, 6, 2], [5, 7, 2], [5, 8, 2]]]), labels=torch.tensor([1])).logits.shape
        torch.Size([1, 3])
    """

    config: SeqDyConvConfig
    accepts_loss_kwargs = True

    def __init__(self, config: SeqDyConvConfig) -> None:
        super().__init__(config.encoder_only())
        self.encoder = SeqDyConvModel(self.config)
        self.classifier = xavier_linear(config.hidden_size, 1)
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
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput:
        """Logits of the C choices of each question.

        Args:
            input_ids, attention_mask, token_type_ids: (B, C, T), otherwise as in :meth:`SeqDyConvModel.forward`.
            inputs_embeds: (B, C, T, E).
            labels: (B,) the number of the right choice, −100 where it does not count.
            num_items_in_batch: the labels to divide the loss by, where the batch is a part of a larger one.

        Returns:
            ``loss``, the mean cross-entropy in nats per question; ``logits`` (B, C); ``hidden_states``, of (B·C, T, D),
            with ``output_hidden_states=True``.
        """
        refuse_packing(kwargs, "the choices of a question have rows of their own")
        given = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        refuse_attention_maps(self.config, kwargs)
        choices = one_input(input_ids, inputs_embeds, "encoder", "BCT").shape[1]
        rows = [None if tensor is None else tensor.flatten(0, 1) for tensor in given]
        encoded, hidden, padding_mask = encode_rows(self.encoder, rows[0], rows[1], rows[2], rows[3], None, kwargs)
        pooled = pool(hidden, padding_mask, self.config.pooling)
        logits = self.classifier(F.dropout(pooled, head_dropout(self.config), self.training)).view(-1, choices)
        loss = None if labels is None else token_loss(logits[:, None], labels[:, None], num_items_in_batch)
        return MultipleChoiceModelOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
