"""Search for the outputs of a translation model in torch, without the caches and the generality of ``generate()``.

It finds what ``generate()`` finds, to the last token, and costs the model's own operations and little else.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqdyconv.models.export import DecoderStepProgram, EncoderProgram, end_tokens
from seqdyconv.models.modeling import SeqDyConvForConditionalGeneration, start_token
from seqdyconv.runtime.search import Array, Found, search

# What a search here knows, gets by itself or has no use for; all else that a generation config may ask for is not.
_KNOWN = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("num_beams", "length_penalty", "num_return_sequences", "max_length", "max_new_tokens", "min_length", "use_cache"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),  # the search samples nothing
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("_from_model_config", "transformers_version"),
}


def has_beam_search(model: Any) -> bool:
    """Whether :func:`beam_search` finds what ``generate()`` would: a model of ours that asks for nothing special."""
    if type(model) is not SeqDyConvForConditionalGeneration or model.training:
        return False
    asked = model.generation_config.to_diff_dict()
    # A token may be 0, which is no less asked for.
    if any((value or name.endswith("token_id")) and name not in _KNOWN for name, value in asked.items()):
        return False
    return isinstance(start_token(model.generation_config), int) and asked.get("eos_token_id") is not None


def beam_search(
    model: SeqDyConvForConditionalGeneration,
    inputs: Sequence[Sequence[int]],
    limits: Sequence[int],
    *,
    num_beams: int,
    length_penalty: float = 1.0,
    nbest: int = 1,
) -> list[list[Found]]:
    """Outputs for one batch, the same as those of ``generate()``.

    Args:
        model: for which :func:`has_beam_search` is true.
        inputs: token ids of each source, at least one each.
        limits: the most tokens of each output.
        num_beams, length_penalty, nbest: as in :func:`seqdyconv.runtime.search.search`.

    Returns:
        For each source ``nbest`` outputs, best first.
    """
    with torch.inference_mode():
        return search(
            _Step(model, inputs),
            limits,
            num_beams=num_beams,
            start=start_token(model.generation_config),
            ends=end_tokens(model),
            vocabulary=model.lm_head.out_features,
            length_penalty=length_penalty,
            nbest=nbest,
        )


class _Step:
    """The model as a step of a search."""

    def __init__(self, model: SeqDyConvForConditionalGeneration, inputs: Sequence[Sequence[int]]) -> None:
        self.device = model.device
        self.program = DecoderStepProgram(model)
        self.states = self.program.initial_states()
        self.position = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        longest = max(map(len, inputs))
        pad = model.config.pad_token_id or 0  # any token: the mask hides it
        tokens = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in inputs], device=self.device)
        lengths = torch.tensor([len(ids) for ids in inputs], device=self.device)
        padded = min(map(len, inputs)) < longest
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long() if padded else None
        self.bias, self.memory = EncoderProgram(model)(tokens, mask)

    def __call__(self, tokens: Array, rows: Array, scores: Array, kept: Array | None) -> tuple[Array, Array, Array]:
        if kept is not None:
            sentences = self._tensor(kept)
            self.memory = [each.index_select(0, sentences) for each in self.memory]
            self.bias = None if self.bias is None else self.bias.index_select(0, sentences)
        *best, self.states = self.program(
            self._tensor(tokens),
            self.position,
            self._tensor(rows),
            self._tensor(scores),
            self.bias,
            self.memory,
            self.states,
        )
        self.position = self.position + 1
        totals, candidates, ending = (each.cpu().numpy() for each in best)
        return totals, candidates, ending

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device)
