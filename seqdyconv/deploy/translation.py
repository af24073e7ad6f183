"""Translation models as two graphs: the encoder, and one decoding step of a beam search.

They are the programs of ``seqdyconv.models.export``. Names of inputs and outputs:

======= ============================================================================================================
encoder ``input_ids``, ``attention_mask`` (batch, source) → ``bias`` (batch, 1, 1, source), and of each decoder layer
        ``key_0`` (batch, heads, width, source), ``value_0`` (batch, heads, source, width), ...
step    ``input_ids`` (batch, beams), ``position`` (1, 1), ``rows`` (batch, beams), ``scores`` (batch, beams), those of
        the encoder, ``state_0`` (rows, ...), ... → ``best_scores``, ``best_candidates`` (batch, M), ``ending`` (batch,
        beams), ``next_state_0`` (batch·beams, ...), ...
======= ============================================================================================================

The first states are zeros of one row, and of no steps where their number of steps is free.
"""

import copy
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from seqdyconv.deploy.folder import Written
from seqdyconv.deploy.graphs import ExportError, write_graph
from seqdyconv.models import SeqDyConvForConditionalGeneration
from seqdyconv.models.beams import has_beam_search
from seqdyconv.models.export import decoder_step_example, encoder_example
from seqdyconv.models.modeling import start_token
from seqdyconv.models.tokenization import SPECIAL_TOKENS, SeqDyConvTokenizer
from seqdyconv.runtime.tokenizer import TOKENIZER
from seqdyconv.runtime.translator import BEST, TARGET_TOKENIZER

_STEP = ("input_ids", "position", "rows", "scores", "bias")


class _Encoder(nn.Module):
    """The encoder's program with a flat output."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        bias, memory = self.program(input_ids, attention_mask)
        return [bias, *memory]


class _Step(nn.Module):
    """A step's program with flat inputs and outputs."""

    def __init__(self, program: nn.Module, memories: int) -> None:
        super().__init__()
        self.program = program
        self.split = len(_STEP) + memories

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        memory, states = list(inputs[len(_STEP) : self.split]), list(inputs[self.split :])
        *best, following = self.program(*inputs[: len(_STEP)], memory, states)
        return [*best, *following]


def write_translation(model: SeqDyConvForConditionalGeneration, folder: Path) -> Written:
    """Write the graphs of a translation model of ours.

    Args:
        model: of any mixers, in float32 on the CPU; it goes to evaluation mode.
        folder: to write ``encoder.onnx`` and ``step.onnx`` into.

    Returns:
        What ``export.json`` says of them.

    Raises:
        ExportError: a mixer can't be written as a graph, or the model's generation config asks for what the search of
            the runtime does not do.
    """
    model.eval()
    if not has_beam_search(model):
        asked = model.generation_config.to_diff_dict()
        raise ExportError(f"the runtime's search can't do all that the model's generation config asks for: {asked}")
    config = model.config
    memories = [f"{kind}_{layer}" for layer in range(len(config.decoder_kernel_sizes)) for kind in ("key", "value")]

    program, arguments, shapes = encoder_example(model)
    names: tuple[str, ...] = ("input_ids", "attention_mask")
    write_graph(
        _Encoder(program),
        folder / "encoder.onnx",
        dict(zip(names, arguments)),
        {name: _names(axes) for name, axes in zip(names, shapes)},
        ["bias", *memories],
        f"an encoder of {', '.join(dict.fromkeys(config.encoder_layer_types))}",
    )
    step, (*given, memory, states), (*axes, memory_axes, state_axes) = decoder_step_example(model)
    if any(state.any() for state in step.initial_states()):
        raise ExportError("a mixer of the decoder whose first state is not zeros can't be exported")
    # The table of the embeddings is read row by row, and is multiplied with: one would not do for both in 8 bits.
    step.lm_head = copy.deepcopy(step.lm_head)
    states_names = [f"state_{number}" for number in range(len(states))]
    names = (*_STEP, *memories, *states_names)
    write_graph(
        _Step(step, len(memories)),
        folder / "step.onnx",
        dict(zip(names, (*given, *memory, *states))),
        {name: _names(each) for name, each in zip(names, (*axes, *memory_axes, *state_axes))},
        [*BEST, *(f"next_{name}" for name in states_names)],
        f"a decoder of {', '.join(dict.fromkeys(config.decoder_layer_types))}",
    )
    learned = "learned" in (config.encoder_position_type, config.decoder_position_type)
    settings = {
        "start": start_token(model.generation_config),
        "ends": step.ends,
        "pad": config.pad_token_id,
        "source_vocabulary": model.encoder.embedding.tokens.num_embeddings,
        "vocabulary": model.lm_head.out_features,
        "layers": len(memories) // 2,
        "heads": config.decoder_attention_heads,
        "width": config.hidden_size // config.decoder_attention_heads,
        "most_tokens": config.max_position_embeddings - config.position_offset if learned else None,
    }
    return Written("translation", {"encoder": "encoder.onnx", "step": "step.onnx"}, settings)


def write_word_tokenizer(tokenizer: SeqDyConvTokenizer, folder: Path) -> dict[str, Any]:
    """Write a tokenizer of finished tokens as those of the runtime, one for each side; returns settings for it."""
    sides = (tokenizer.get_vocab(), tokenizer.get_target_vocab())
    for name, vocabulary in zip((TOKENIZER, TARGET_TOKENIZER), sides):
        words = {word: number for word, number in vocabulary.items() if word not in SPECIAL_TOKENS[:3]}
        unknown, end = (SPECIAL_TOKENS[number] for number in (3, 2))
        written = Tokenizer(WordLevel(words, unk_token=unknown))
        written.add_special_tokens([unknown])
        written.pre_tokenizer = WhitespaceSplit()
        written.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, vocabulary[end])])
        written.save(str(folder / name))
    return {"subword_marker": tokenizer.subword_marker}


def _names(axes: dict[int, Any]) -> dict[int, str]:
    return {axis: size.__name__ for axis, size in axes.items()}
