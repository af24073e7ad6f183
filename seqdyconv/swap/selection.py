"""Which layers to swap: greedily, the least harmful first, until the model has lost too much."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seqdyconv.swap.choice import Layers, select_layers
from seqdyconv.swap.own_models import refuse_own
from seqdyconv.swap.replacement import SwappedAttention, swapped_attention
from seqdyconv.swap.restoring import restore_self_attention
from seqdyconv.swap.swapping import attention_modules, put_in, swap_self_attention


@dataclass(frozen=True)
class Selection:
    """What a greedy choice of layers found.

    Args:
        layers: the numbers of the layers to swap, the least harmful first.
        qualities: the model's quality without a swap, then after each of ``layers``.
        rejected: the layer and quality of the swap that would have lost too much; None where all layers may go.
    """

    layers: list[int]
    qualities: list[float]
    rejected: tuple[int, float] | None


def choose_layers(
    model: Any,
    quality: Callable[[Any], float],
    *,
    max_loss: float,
    layers: Layers = None,
    adapt: Callable[[Any], None] | None = None,
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    progress: Callable[[str], None] | None = None,
    **swap_options: Any,
) -> Selection:
    """Choose the layers to swap: in each round the one whose swap harms least, while the loss of quality is allowed.

    Candidates are swapped in a copy and restored, so ``model`` stays as it is; swap it with
    ``layers=choose_layers(...).layers`` afterwards. N layers cost up to N·(N + 1)/2 measurements.

    Args:
        model: a Hugging Face model that does its task.
        quality: of a model, higher is better, such as the accuracy on a held-out set: not the test set.
        max_loss: how much less than the quality of ``model`` is allowed, in its unit.
        layers: the candidates, as for :func:`swap_self_attention`; None: all that are not swapped yet.
        adapt: trains the copy in place after each swap that was chosen, for example a short distillation; its quality
            is measured after that.
        calibration: batches for the start of the kernels; attention is averaged on the model as it is in each round.
        progress: is told of each round in one line.
        swap_options: of :func:`swap_self_attention`.

    Raises:
        ValueError: ``max_loss`` below 0, or a swap that cannot work.

    Example::

        chosen = choose_layers(model, accuracy_on_validation, max_loss=0.01, mixer="dynamic_conv", kernel_size=15)
        swap_self_attention(model, layers=chosen.layers, mixer="dynamic_conv", kernel_size=15)
    """
    if max_loss < 0:
        raise ValueError(f"max_loss must be >= 0, got {max_loss}")
    refuse_own(model, "name the layers, for none can be restored after a trial")
    batches = None if calibration is None else list(calibration)
    candidates = select_layers(layers, attention_modules(model, swap_options.get("pattern")))
    current = copy.deepcopy(model)
    chosen: list[int] = []
    qualities = [quality(current)]
    while candidates:
        best: tuple[float, int, SwappedAttention] | None = None
        for number in candidates:
            attention = attention_modules(current, swap_options.get("pattern"))[number]
            swap_self_attention(current, layers=[number], calibration=batches, **swap_options)
            measured, trial = quality(current), swapped_attention(current)[number]
            restore_self_attention(current, {number: attention}, layers=[number])
            if best is None or measured > best[0]:
                best = measured, number, trial
        assert best is not None, "there is at least one candidate"
        measured, number, trial = best
        put_in(current, {number: trial})
        if adapt is not None:
            adapt(current)
            measured = quality(current)
        if measured < qualities[0] - max_loss:
            return Selection(chosen, qualities, (number, measured))
        if progress is not None:
            progress(f"swapped layer {number}: quality {measured:.4f}, {measured - qualities[0]:+.4f} in all")
        chosen.append(number)
        qualities.append(measured)
        candidates.remove(number)
    return Selection(chosen, qualities, None)
