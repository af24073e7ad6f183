"""Programs for inference without Python: ``torch.export`` of the encoder and of one decoding step.

Both take any batch size and any source length. A decoding step takes and returns the decoder's memory as tensors: those
of the stream states of its mixers, whose size a convolution keeps fixed, and the encoder's keys and values.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from seqdyconv.layers.states import AttentionState, map_state, tensors_of
from seqdyconv.models.modeling import SeqDyConvForConditionalGeneration, to_padding_mask


class EncoderProgram(nn.Module):
    """Source tokens to what every decoding step needs: keys and values of each decoder layer."""

    def __init__(self, model: SeqDyConvForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.decoder = model.decoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, S) tokens and mask → the encoder's output (B, S, D), and for each layer keys and values (B, S, 2·D)."""
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state
        padding_mask = to_padding_mask(attention_mask)
        layers: Any = self.decoder.layers
        return hidden, [torch.cat(layer.cross_attention.project(hidden, padding_mask), -1) for layer in layers]


class DecoderStepProgram(nn.Module):
    """One token of each sentence to the logits of the next."""

    def __init__(self, model: SeqDyConvForConditionalGeneration) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.lm_head = model.lm_head
        self.forms = self._initial_states(1)  # of the states: which tensors they are made of

    def initial_states(self, batch_size: int) -> list[Tensor]:
        """The states before the first token: the tensors of all mixers, one after the other."""
        return tensors_of(self._initial_states(batch_size))

    def _initial_states(self, batch_size: int) -> list[Any]:
        layers: Any = self.decoder.layers
        return [layer.mixer.initial_state(batch_size) for layer in layers]

    def forward(
        self, input_ids: Tensor, position: Tensor, attention_mask: Tensor, memory: list[Tensor], states: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Decode one token.

        Args:
            input_ids: (B, 1), the last token.
            position: (B, 1), how many tokens came before it.
            attention_mask: (B, S), 1 = keep, of the source.
            memory: for each layer (B, S, 2·D), from :class:`EncoderProgram`.
            states: from :meth:`initial_states` or the step before.

        Returns:
            Logits (B, V), and the states for the next step.
        """
        padding_mask = to_padding_mask(attention_mask)
        hidden = self.decoder.embedding.at(input_ids, position)
        following = []
        layers: Any = self.decoder.layers
        given = iter(states)
        for layer, form, keys_values in zip(layers, self.forms, memory):
            state = map_state(lambda _: next(given), form)
            mixed, state = layer.mixer.stream(layer.mixer_residual.enter(hidden), state)
            following += tensors_of(state)
            key, value = keys_values.chunk(2, dim=-1)
            hidden = layer.after_mixer(hidden, mixed, (key, value), padding_mask)
        hidden = hidden if self.decoder.norm is None else self.decoder.norm(hidden)
        return self.lm_head(hidden[:, -1]), following


def export_encoder(model: SeqDyConvForConditionalGeneration) -> ExportedProgram:
    """Export the encoder: source tokens to what every decoding step needs, for any batch size and source length.

    Args:
        model: of any mixers; it goes to eval mode.

    Returns:
        The program of :class:`EncoderProgram`: tokens and mask (B, S) → the encoder's output (B, S, D), and for each
        decoder layer keys and values (B, S, 2·D).

    Example:
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration, export_encoder
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_ffn_dim=32, decoder_ffn_dim=32,
        ...     encoder_kernel_sizes=[3], decoder_kernel_sizes=[3])
        >>> program = export_encoder(SeqDyConvForConditionalGeneration(config))
        >>> hidden, memory = program.module()(torch.tensor([[5, 6, 2]]), torch.ones(1, 3, dtype=torch.long))
        >>> hidden.shape, len(memory)
        (torch.Size([1, 3, 16]), 1)
    """
    tokens = torch.ones(2, 5, dtype=torch.long, device=model.device)
    config = model.config
    longest = config.max_position_embeddings - config.position_offset
    ends = config.encoder_position_type == "learned"
    shape = {0: Dim("batch", min=1), 1: Dim("source", min=1, max=longest if ends else None)}
    program = EncoderProgram(model).eval()
    with torch.no_grad():
        return torch.export.export(program, (tokens, torch.ones_like(tokens)), dynamic_shapes=(shape, shape))


def export_decoder_step(model: SeqDyConvForConditionalGeneration) -> ExportedProgram:
    """Export one decoding step, for any batch size, source length and number of steps so far.

    Args:
        model: of any mixers; it goes to eval mode.

    Returns:
        The program of :class:`DecoderStepProgram`: the last token and its position (B, 1), the source's mask (B, S),
        for each layer its keys and values (B, S, 2·D) and its mixer's state → logits (B, V) and the next states. The
        first states are those of ``DecoderStepProgram(model).initial_states(batch_size)``.
    """
    program = DecoderStepProgram(model).eval()
    batch, source, past = Dim("batch", min=1), Dim("source", min=1), Dim("past", min=0)
    layers, width = len(model.decoder.layers), 2 * model.config.hidden_size
    # Traced with some steps of the past, so that their number stays free: attention adds one to its state each step.
    growing = [grows for form in program.forms for grows in _growing(form)]
    states = [
        state.new_ones(2, 7, *state.shape[2:]) if grows else state
        for state, grows in zip(program.initial_states(2), growing)
    ]
    token = torch.ones(2, 1, dtype=torch.long, device=model.device)
    mask = torch.ones(2, 40, dtype=torch.long, device=model.device)
    memory = [torch.zeros(2, 40, width, dtype=model.dtype, device=model.device) for _ in range(layers)]
    with torch.no_grad():
        return torch.export.export(
            program,
            (token, torch.zeros_like(token), mask, memory, states),  # one tensor twice would become one input
            dynamic_shapes=(
                {0: batch},
                {0: batch},
                {0: batch, 1: source},
                [{0: batch, 1: source}] * layers,
                [{0: batch, 1: past} if grows else {0: batch} for grows in growing],
            ),
        )


def _growing(state: Any, grows: bool = False) -> list[bool]:
    """Of each tensor of a state, whether every step adds a row to it, as to those of attention."""
    if isinstance(state, Tensor):
        return [grows]
    return [each for part in state for each in _growing(part, isinstance(state, AttentionState))]
