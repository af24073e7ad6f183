"""Swapped layers have no attention to return: their models refuse to give some, but while it is recorded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from seqdyconv.swap.hooks import remove_hooks
from seqdyconv.swap.replacement import swapped_attention


class _Attentions(threading.local):
    """Whether a model with swapped layers may be asked for its attentions, in each thread."""

    are_recorded = False


_attentions = _Attentions()


@contextmanager
def attention_recorded() -> Iterator[None]:
    """Inside, in this thread, a model with swapped layers may be asked for its attentions; swapped layers give None."""
    before, _attentions.are_recorded = _attentions.are_recorded, True
    try:
        yield
    finally:
        _attentions.are_recorded = before


def refuse_output_attentions(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook: raise ValueError where attentions are asked for, which swapped layers do not have."""
    asked = kwargs.get("output_attentions")
    if asked is None:
        asked = getattr(model.config, "output_attentions", False)
    if asked and not _attentions.are_recorded:
        raise ValueError(
            "output_attentions=True: swapped layers have no attention to return; see the kernels of a convolution with "
            "seqdyconv.models.record_kernels"
        )


def refuse_attentions_where_swapped(model: PreTrainedModel) -> None:
    """Let those parts of a model that hold swapped layers refuse to give attentions, and no others."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            remove_hooks(part, refuse_output_attentions)
            if swapped_attention(part):
                part.register_forward_pre_hook(refuse_output_attentions, with_kwargs=True)
