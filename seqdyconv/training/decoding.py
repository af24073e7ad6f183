"""Generate with an encoder-decoder for many inputs: batches of similar length, results in the order of the input."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.models import SeqDyConvConfig
from seqdyconv.models.beams import beam_search, has_beam_search
from seqdyconv.models.export import end_tokens
from seqdyconv.models.loading import ModelError
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.runtime.search import Found, Hypothesis, output_limits


def batches_by_length(inputs: Sequence[Sequence[int]], arguments: DecodingArguments) -> list[list[int]]:
    """Indices of `inputs` in batches for :func:`generate_batch`; long ones, which need most memory, first."""
    if not inputs:
        return []
    bound = max(1, arguments.decoding_max_tokens // arguments.num_beams)
    return list(TokenBatchSampler([len(ids) for ids in inputs], bound, shuffle=False))[::-1]


def most_tokens(model: PreTrainedModel) -> float:
    """The most tokens of a text that an encoder-decoder has positions for; relative positions and ours have no end."""
    config: Any = model.config
    most = getattr(config, "max_position_embeddings", None)
    endless = isinstance(config, SeqDyConvConfig) and "learned" not in (
        config.encoder_position_type,
        config.decoder_position_type,
    )
    return math.inf if most is None or endless else most - getattr(config, "position_offset", 0)


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[Sequence[int]],
    arguments: DecodingArguments,
    nbest: int = 1,
    synced_gpus: bool = False,
) -> list[list[Hypothesis]]:
    """Generate for one batch.

    Args:
        model: An encoder-decoder in evaluation mode.
        tokenizer: Gives the padding and the texts.
        inputs: Token ids of each input, at least one each.
        arguments: How to search.
        nbest: Outputs per input, best first; at most `arguments.num_beams`.
        synced_gpus: Needed where the weights are sharded over processes.

    Returns:
        For each input its `nbest` hypotheses.

    Raises:
        ModelError: An input has more tokens than the model has positions for.
    """
    if not 1 <= nbest <= arguments.num_beams:
        raise ValueError(f"nbest must be between 1 and num_beams = {arguments.num_beams}, got {nbest}")
    longest, most = max(map(len, inputs)), most_tokens(model)
    if longest > most:
        raise ModelError(f"there is a text of {longest} tokens, and the model has positions for {most}: shorten it")
    limits = output_limits(inputs, arguments.max_length_factor, arguments.max_length_constant, most)
    if has_beam_search(model) and not synced_gpus:
        beams, penalty = arguments.num_beams, arguments.length_penalty
        found = beam_search(model, inputs, limits, num_beams=beams, length_penalty=penalty, nbest=nbest)  # type: ignore[arg-type]
    else:
        found = _generate(model, inputs, limits, arguments, nbest, synced_gpus)
    pad = model.config.pad_token_id
    outputs = [[token for token in one.tokens if token != pad] for each in found for one in each]
    texts = tokenizer.batch_decode(outputs, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    scores = [one.score for each in found for one in each]
    hypotheses = [Hypothesis(*values) for values in zip(texts, map(len, outputs), scores)]
    return [hypotheses[start : start + nbest] for start in range(0, len(hypotheses), nbest)]


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    inputs: Sequence[Sequence[int]],
    limits: list[int],
    arguments: DecodingArguments,
    nbest: int,
    synced_gpus: bool,
) -> list[list[Found]]:
    """What ``generate()`` of any model finds for one batch; padding may stand at the end of the tokens."""
    longest, pad = max(map(len, inputs)), model.config.pad_token_id
    input_ids = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in inputs], device=model.device)
    lengths = torch.tensor([len(ids) for ids in inputs], device=model.device)
    attention_mask = (torch.arange(longest, device=model.device) < lengths[:, None]).long()
    output: Any = model.generate(  # type: ignore[operator]
        input_ids=input_ids,
        attention_mask=attention_mask,
        num_beams=arguments.num_beams,
        length_penalty=arguments.length_penalty,
        num_return_sequences=nbest,
        max_new_tokens=max(limits),
        min_length=0,
        logits_processor=LogitsProcessorList([_LengthLimits(limits, arguments.num_beams, end_tokens(model)[0])]),
        do_sample=False,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=arguments.num_beams > 1,
        synced_gpus=synced_gpus,
    )
    # The first token is the start of the decoder, which may be the same token as the end of a sentence.
    sequences = output.sequences[:, 1:].tolist()
    scores = output.sequences_scores.tolist() if arguments.num_beams > 1 else [None] * len(sequences)
    found = [Found(*values) for values in zip(sequences, scores)]
    return [found[start : start + nbest] for start in range(0, len(found), nbest)]


class _LengthLimits(LogitsProcessor):
    """Ends each output at its own limit, so that it doesn't depend on what else is in the batch."""

    def __init__(self, limits: list[int], num_beams: int, end: int) -> None:
        self.limits = torch.tensor(limits).repeat_interleave(num_beams)
        self.least = min(limits)
        self.end = end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # input_ids begins with the decoder's start token: so its length is that of the output with the next token.
        length = input_ids.shape[1]
        if length < self.least:
            return scores
        ended = (self.limits <= length).to(scores.device)
        others = torch.arange(scores.shape[1], device=scores.device) != self.end
        return scores.masked_fill(ended[:, None] & others, -torch.inf)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[Sequence[int]],
    arguments: DecodingArguments,
    nbest: int = 1,
    on_batch: Callable[[int], object] | None = None,
) -> list[list[Hypothesis]]:
    """Generate for any number of inputs, in batches of similar length; results in the order of `inputs`.

    `on_batch` is called after each batch with its number of inputs. The other arguments are those of
    :func:`generate_batch`. The model is in evaluation mode meanwhile.
    """
    training = model.training
    model.eval()
    results: list[list[Hypothesis]] = [[] for _ in inputs]
    try:
        for batch in batches_by_length(inputs, arguments):
            hypotheses = generate_batch(model, tokenizer, [inputs[index] for index in batch], arguments, nbest)
            for index, found in zip(batch, hypotheses):
                results[index] = found
            if on_batch is not None:
                on_batch(len(batch))
    finally:
        model.train(training)
    return results
