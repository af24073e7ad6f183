"""The temperature of attention over kernels, annealed in training."""

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seqdyconv.layers import set_temperature


class TemperatureAnnealing(TrainerCallback):
    """Lowers the temperature of mixed kernels from step to step (DyConv: Chen et al. 2020, arXiv 1912.03458).

    At a high temperature all kernels get much the same weight, so all of them learn; at the end they may specialise.
    The temperature is a matter of the step alone, so a resumed training goes on with the right one. It is not saved
    with a model: ``end`` should be the one that the model is built with.

    Args:
        start, end: of the temperature, which falls linearly from one to the other.
        share: the part of the training that this takes, in (0, 1].

    Raises:
        ValueError: values that do not fit; at the start of a training, a model without such layers.

    Example:
        >>> from seqdyconv.training.annealing import TemperatureAnnealing
        >>> callback = TemperatureAnnealing(start=30, end=1, share=0.5)
        >>> [callback.temperature(step, max_steps=100) for step in (0, 25, 50, 99)]
        [30.0, 15.5, 1.0, 1.0]
    """

    def __init__(self, start: float = 30.0, end: float = 1.0, share: float = 0.1) -> None:
        for name, value in (("start", start), ("end", end)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share!r}")
        self.start = start
        self.end = end
        self.share = share

    def temperature(self, step: int, max_steps: int) -> float:
        """The temperature of a step, 0 to ``max_steps`` − 1."""
        done = min(1.0, step / (self.share * max_steps))
        return self.start + (self.end - self.start) * done

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is None or not set_temperature(model, self.start):
            raise ValueError("TemperatureAnnealing needs a model with attention over kernels, got one without")

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None:
            set_temperature(model, self.temperature(state.global_step, state.max_steps))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None:
            set_temperature(model, self.end)
