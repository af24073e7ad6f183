"""Programs for inference without Python: the encoder, and one decoding step of a beam search.

Each is one ``nn.Module``, which ``torch.export``, an export to ONNX and the search in torch itself share. They take any
number of sentences and beams, and any source length. A step takes and returns the decoder's memory as tensors: those of
the stream states of its mixers, whose size a convolution keeps fixed. The encoder gives keys and values as the steps
read them, once for all beams of a sentence.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from seqdyconv.functional.appending import select_rows
from seqdyconv.layers.states import AttentionState, map_state, tensors_of
from seqdyconv.models.modeling import SeqDyConvForConditionalGeneration, to_padding_mask


class EncoderProgram(nn.Module):
    """Source tokens to what every decoding step needs: keys and values of each decoder layer."""

    def __init__(self, model: SeqDyConvForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.decoder = model.decoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor | None, list[Tensor]]:
        """Encode B sentences.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), 1 = keep; None where nothing is padded.

        Returns:
            What the steps add to the scores of their attention, (B, 1, 1, S), None without a mask. And for each decoder
            layer keys (B, H, R, S) and values (B, H, S, R), one after the other, where D = H·R.
        """
        hidden = self.encoder(input_ids, attention_mask, return_dict=True).last_hidden_state
        padding_mask = to_padding_mask(attention_mask)
        attentions: Any = [layer.cross_attention for layer in self.decoder.layers]
        bias = None if padding_mask is None else attentions[0].step_bias(padding_mask, hidden.dtype)
        return bias, [x for attention in attentions for x in attention.step_memory(hidden, padding_mask)]


class DecoderStepProgram(nn.Module):
    """One token of each beam to the best candidates for the next.

    Args:
        model: of any mixers, in evaluation mode.
        ends: the end tokens; the first one is that whose score is given. None: those of the model's configuration.
    """

    def __init__(self, model: SeqDyConvForConditionalGeneration, ends: Sequence[int] | None = None) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.lm_head = model.lm_head
        layers: Any = model.decoder.layers
        self.forms = [layer.mixer.initial_state(1) for layer in layers]  # of the states: what tensors they are made of
        self.ends = end_tokens(model) if ends is None else list(ends)

    def initial_states(self) -> list[Tensor]:
        """The states before the first token: the tensors of all mixers, one after the other, in one row for all."""
        return tensors_of(self.forms)

    def forward(
        self,
        input_ids: Tensor,
        position: Tensor,
        rows: Tensor,
        scores: Tensor,
        bias: Tensor | None,
        memory: list[Tensor],
        states: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Decode one token of K beams of B sentences.

        Args:
            input_ids: (B, K), the last token of each beam.
            position: (1, 1), how many tokens came before it.
            rows: (B, K), which row of ``states`` each beam continues.
            scores: (B, K) float32, the log-probability of each beam so far.
            bias: (B, 1, 1, S), of :class:`EncoderProgram`.
            memory: keys and values of each layer, from there too.
            states: from :meth:`initial_states` or the step before.

        Returns:
            The best candidates of each sentence from the best on, M = (1 + number of end tokens)·K: their scores (B, M)
            and themselves (B, M), a beam's number times V plus a token. The scores (B, K) of ending each beam now. And
            the next states, of B·K rows.
        """
        hidden = self.decoder.embedding.at(input_ids.view(-1, 1), position)  # (B·K, 1, D)
        following: list[Tensor] = []
        layers: Any = self.decoder.layers
        given, order = iter(states), rows.flatten()
        for layer, form, key, value in zip(layers, self.forms, memory[::2], memory[1::2]):
            state = map_state(lambda _: select_rows(next(given), order), form)
            hidden, state = layer.step(hidden, state, key, value, bias)
            following += tensors_of(state)
        hidden = hidden if self.decoder.norm is None else self.decoder.norm(hidden)
        logits = self.lm_head(hidden).view(*input_ids.shape, -1).float()
        return *self.choose(logits, scores), following

    def choose(self, logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidates and the scores of ending, as :meth:`forward` returns them, from logits (B, K, V)."""
        beams, vocabulary = logits.shape[1:]
        number = (1 + len(self.ends)) * beams
        few = isinstance(number, int) and number > vocabulary  # a symbol in an export, which is for no more beams
        best, tokens = logits.topk(vocabulary if few else number)
        # Those of a sentence are among those of its beams, so that only these need the logarithm of the sum of all.
        # The best one's probability has it too, and a softmax is the faster way to it.
        scores = scores + logits.softmax(-1).gather(-1, tokens[..., :1])[..., 0].log() - best[..., 0]
        candidates = tokens + torch.arange(beams, device=tokens.device)[:, None] * vocabulary
        totals, chosen = (best + scores[..., None]).flatten(1).topk(number)
        return totals, candidates.flatten(1).gather(1, chosen), logits[..., self.ends[0]] + scores


def end_tokens(model: Any) -> list[int]:
    """The tokens that end an output; the one that a model writes is the first."""
    ends: Any = getattr(model.generation_config, "eos_token_id", None)
    ends = model.config.eos_token_id if ends is None else ends
    if ends is None:
        raise ValueError("a search needs a configuration with eos_token_id, got None")
    return [ends] if isinstance(ends, int) else list(ends)


def export_encoder(model: SeqDyConvForConditionalGeneration) -> ExportedProgram:
    """Export the encoder: source tokens to what every decoding step needs, for any batch size and source length.

    Args:
        model: of any mixers; it goes to eval mode.

    Returns:
        The program of :class:`EncoderProgram`: tokens and mask (B, S) → what is added to the scores of attention
        (B, 1, 1, S), and for each decoder layer keys (B, H, R, S) and values (B, H, S, R).

    Example:
        >>> from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration, export_encoder
        >>> config = SeqDyConvConfig(vocab_size=50, hidden_size=16, encoder_ffn_dim=32, decoder_ffn_dim=32,
        ...     encoder_kernel_sizes=[3], decoder_kernel_sizes=[3], decoder_attention_heads=2)
        >>> program = export_encoder(SeqDyConvForConditionalGeneration(config))
        >>> bias, (key, value) = program.module()(torch.tensor([[5, 6, 2]]), torch.ones(1, 3, dtype=torch.long))
        >>> bias.shape, key.shape, value.shape
        (torch.Size([1, 1, 1, 3]), torch.Size([1, 2, 8, 3]), torch.Size([1, 2, 3, 8]))
    """
    program, arguments, shapes = encoder_example(model)
    with torch.no_grad():
        return torch.export.export(program, arguments, dynamic_shapes=shapes)


def export_decoder_step(model: SeqDyConvForConditionalGeneration) -> ExportedProgram:
    """Export one decoding step, for any number of sentences and beams, source length and number of steps so far.

    Args:
        model: of any mixers; it goes to eval mode.

    Returns:
        The program of :class:`DecoderStepProgram`, whose arguments and results are described there. The first states
        are those of ``DecoderStepProgram(model).initial_states()``. For one beam take its
        ``module(check_guards=False)``: the guards were written for several, the graph is right for any number.
    """
    program, arguments, shapes = decoder_step_example(model)
    with torch.no_grad():
        return torch.export.export(program, arguments, dynamic_shapes=shapes)


def encoder_example(
    model: SeqDyConvForConditionalGeneration,
) -> tuple[EncoderProgram, tuple[Any, ...], tuple[Any, ...]]:
    """The encoder's program, arguments to trace it with, and which of their sizes are free."""
    config = model.config
    longest = config.max_position_embeddings - config.position_offset
    ends = config.encoder_position_type == "learned"
    # Long enough for several blocks of a convolution, since one would be taken for all.
    tokens = torch.ones(2, min(150, longest) if ends else 150, dtype=torch.long, device=model.device)
    shape = {0: Dim("batch", min=1), 1: Dim("source", min=1, max=longest if ends else None)}
    return EncoderProgram(model).eval(), (tokens, torch.ones_like(tokens)), (shape, shape)


def decoder_step_example(
    model: SeqDyConvForConditionalGeneration,
) -> tuple[DecoderStepProgram, tuple[Any, ...], tuple[Any, ...]]:
    """The same of a decoding step."""
    program = DecoderStepProgram(model).eval()
    config = model.config
    most = config.vocab_size // (1 + len(program.ends))
    batch, beams, source = Dim("batch", min=1), Dim("beams", min=1, max=most), Dim("source", min=1)
    rows, past = Dim("rows", min=1), Dim("past", min=0)
    # Traced with some steps of the past, so that their number stays free: attention adds one to its state each step.
    growing = [grows for form in program.forms for grows in _growing(form)]
    states = [
        state.new_ones(5, 7, *state.shape[2:]) if grows else state.expand(5, *state.shape[1:]).clone()
        for state, grows in zip(program.initial_states(), growing)
    ]
    heads, width = config.decoder_attention_heads, config.hidden_size // config.decoder_attention_heads
    token = torch.ones(2, 3, dtype=torch.long, device=model.device)
    like: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
    memory = [torch.zeros(2, heads, *size, **like) for size in ((width, 40), (40, width))] * len(model.decoder.layers)
    arguments = (
        token,
        token.new_zeros(1, 1),
        token.clone(),  # one tensor twice would become one input
        torch.zeros(2, 3, device=model.device),
        torch.zeros(2, 1, 1, 40, **like),
        [x.clone() for x in memory],
        states,
    )
    each = {0: batch, 1: beams}
    shapes: tuple[Any, ...] = (
        each,
        {},
        each,
        each,
        {0: batch, 3: source},
        [{0: batch, 3: source}, {0: batch, 2: source}] * len(model.decoder.layers),
        [{0: rows, 1: past} if grows else {0: rows} for grows in growing],
    )
    return program, arguments, shapes


def _growing(state: Any, grows: bool = False) -> list[bool]:
    """Of each tensor of a state, whether every step adds a row to it, as to those of attention."""
    if isinstance(state, Tensor):
        return [grows]
    return [each for part in state for each in _growing(part, isinstance(state, AttentionState))]
