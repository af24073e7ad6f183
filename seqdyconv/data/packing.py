"""Training batches as one row of examples, one behind the other, instead of padded rows."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor


class PackingCollator:
    """Examples as one row (1, T) of tokens and ``cu_seqlens`` (N + 1,), where they begin and end.

    An example has ``input_ids``, perhaps ``token_type_ids``, and ``labels``: a number for the whole text, which gives
    ``labels`` (N,); or a list of target tokens, which gives ``labels`` (1, T'), ``decoder_cu_seqlens`` and
    ``decoder_input_ids``, as ``DataCollatorForSeq2Seq`` does.

    Args:
        model: What makes ``decoder_input_ids``, where it has a decoder.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        columns = {name: [example[name] for example in examples] for name in examples[0]}
        labels = columns.pop("labels")
        batch = {name: _row(values) for name, values in columns.items()}
        batch["cu_seqlens"] = _ends(columns["input_ids"])
        if not isinstance(labels[0], list):
            return {**batch, "labels": torch.tensor(labels)}
        ends = _ends(labels)
        decoder_input_ids = self.model.prepare_decoder_input_ids_from_labels(_row(labels), ends)
        return {
            **batch,
            "labels": _row(labels),
            "decoder_input_ids": decoder_input_ids,
            "decoder_cu_seqlens": ends,
        }


def _row(sequences: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([list(chain.from_iterable(sequences))])


def _ends(sequences: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([0, *map(len, sequences)]).cumsum(0)
