"""The padding that an attention mask of transformers tells of."""

from typing import Any

import torch
from torch import Tensor


def padding_from_attention_mask(mask: Any, *, is_product: bool = False) -> Tensor | None:
    """The padding (B, T), bool, True where padded, that an attention mask of transformers tells of.

    A step may attend to itself unless it is padding, in sliding windows too: the diagonal of the mask says which are.

    Args:
        mask: (B, T), not zero at real steps; or (B, 1, 1, T) or (B, 1, T, T): bool or int, and not zero where a step
            may attend; or float, and added to the scores: zero where it may. None: no padding.
        is_product: float masks of four dimensions too are not zero where a step may attend.

    Raises:
        ValueError: what is no tensor, such as the ``BlockMask`` of flex attention, or has other dimensions.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        flex = ', as flex attention has it: load the model with attn_implementation="sdpa"'
        raise ValueError(
            f"a swapped layer can't read the padding from a {type(mask).__name__}"
            f"{flex if type(mask).__name__ == 'BlockMask' else ''}"
        )
    if mask.dim() not in (2, 4):
        raise ValueError(
            "a swapped layer reads the padding from a mask (B, T), (B, 1, 1, T) or (B, 1, T, T), got "
            f"{tuple(mask.shape)}"
        )
    if mask.dim() == 4:
        mask, is_added = mask[:, 0, 0] if mask.shape[2] == 1 else _diagonal(mask[:, 0]), _is_added(mask, is_product)
        return mask != 0 if is_added else mask == 0
    return mask == 0


def hides_neighbours(mask: Any, padding_mask: Tensor | None, side: int, *, is_product: bool = False) -> bool:
    """Whether an attention mask hides more than padding from a step: its neighbour on one side, if both are real.

    Those of packed sequences do so on both sides; those of causal encoders, and of such that look a limited number of
    steps ahead, hide the next step; those of windows on both sides do not.

    Args:
        mask: as above; of a decoder of one call alone, without steps before it.
        padding_mask: what it tells of.
        side: 1: the next step, −1: the one before.
        is_product: as above.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 4 or min(mask.shape[2:]) < 2:
        return False
    neighbours = mask[:, 0].diagonal(side, dim1=1, dim2=2)
    hidden = neighbours != 0 if _is_added(mask, is_product) else neighbours == 0
    if padding_mask is not None:
        hidden = hidden & ~padding_mask[:, 1:] & ~padding_mask[:, :-1]
    return bool(hidden.any())


def _is_added(mask: Tensor, is_product: bool) -> bool:
    return mask.is_floating_point() and not is_product


def _diagonal(mask: Tensor) -> Tensor:
    """(B, T, T) → (B, T)."""
    if not torch.onnx.is_in_onnx_export():
        return mask.diagonal(dim1=1, dim2=2)
    # ONNX has no diagonal but through T · T products, more work than the rest of a swapped layer where T is large.
    time = mask.shape[2]
    return mask.flatten(1).index_select(1, torch.arange(time, device=mask.device) * (time + 1))
