"""More learned positions than a model was trained with: without attention nothing else bounds the length of a text."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdyconv.errors import InputError
from seqdyconv.swap.description import own_configuration

WAYS = ("repeat", "interpolate", "zero")


def extend_positions(model: PreTrainedModel, length: int, how: str = "repeat") -> PreTrainedModel:
    """Give a model of learned positions as many as ``length``, in place; it saves and loads as any of its class.

    Args:
        model: of transformers, such as BERT or RoBERTa, swapped or not. One without a table of learned positions, whose
            texts may be of any length, stays as it is; so does one that has as many.
        length: the most tokens of a text.
        how: ``"repeat"``: the positions begin anew behind the last one, so texts that the model could read already give
            what they gave; ``"interpolate"``: the table is stretched, linearly between its rows; ``"zero"``: there are
            no positions any more, which the mixers must learn to do without.

    Returns:
        ``model``.

    Raises:
        ValueError: there is no such way; or fewer learned positions are in a table of another kind, as BART and the
            models of this package have it.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> model = BertModel(BertConfig(vocab_size=20, max_position_embeddings=4, **sizes)).eval()
        >>> extend_positions(model, 10)(torch.ones(1, 10, dtype=torch.long)).last_hidden_state.shape
        torch.Size([1, 10, 8])
    """
    if how not in WAYS:
        raise ValueError(f"positions must be extended by one of {', '.join(WAYS)}, got {how!r}")
    if short := [name for name, rows in _other_tables(model).items() if rows < length]:
        raise InputError(
            f"only tables called position_embeddings can be extended, but this {type(model).__name__} has its learned "
            f"positions in {', '.join(short)}"
        )
    own_configuration(model)
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if not isinstance(table, nn.Embedding):
            continue
        before = first_position(table)
        if length <= table.num_embeddings - before:
            continue
        rows = table.weight.data
        new: Any = nn.Embedding(before + length, rows.shape[1], table.padding_idx).to(rows.device, rows.dtype)
        new.weight.data = torch.cat([rows[:before], _extended(rows[before:], length, how)])
        new.weight.requires_grad_(table.weight.requires_grad)
        module.position_embeddings = new
        for name, buffer in module.named_buffers(recurse=False):  # the numbers of positions and types, a row of each
            if buffer.dim() == 2 and buffer.shape == (1, len(rows)):
                ends = torch.arange(before + length, device=buffer.device)[None]
                module.register_buffer(name, ends if buffer.any() else torch.zeros_like(ends), persistent=False)
        model.config.max_position_embeddings = before + length
    return model


def _other_tables(model: nn.Module) -> dict[str, int]:
    """By name, how many learned positions are in tables of other kinds than that of BERT and its kin."""
    return {
        name: module.num_embeddings - int(getattr(module, "offset", 0))
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module.weight.requires_grad  # those of sines need no gradient
        and name.rpartition(".")[2] in ("embed_positions", "positions", "wpe")
    }


def first_position(table: nn.Embedding) -> int:
    """The row of the first token: RoBERTa and its kin count from the row behind the padding's."""
    return 0 if table.padding_idx is None else table.padding_idx + 1


def number_of_positions(model: nn.Module) -> int | None:
    """The most tokens of a text that a model's table of learned positions has rows for; None where it has none."""
    tables = [getattr(module, "position_embeddings", None) for module in model.modules()]
    found = [table.num_embeddings - first_position(table) for table in tables if isinstance(table, nn.Embedding)]
    return min([*found, *_other_tables(model).values()], default=None)


def _extended(rows: Tensor, length: int, how: str) -> Tensor:
    if how == "zero":
        return rows.new_zeros(length, rows.shape[1])
    if how == "repeat":
        return rows[torch.arange(length, device=rows.device) % len(rows)]
    return F.interpolate(rows.T[None], length, mode="linear", align_corners=True)[0].T
