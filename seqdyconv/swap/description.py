"""``config.seqdyconv``, which tells what of ours is in a model of others."""

import copy
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from seqdyconv.swap.guard import guard_configuration


def own_configuration(model: PreTrainedModel) -> None:
    """Let a model have a configuration that no other model shares, as one with layers of ours already does."""
    if hasattr(model.config, "seqdyconv"):
        return
    copied: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, PreTrainedConfig):
                vars(module)[name] = copy.deepcopy(value, copied)


def write_description(model: PreTrainedModel, told: dict[str, Any]) -> None:
    """Let the configuration tell this; nothing: let it be that of a plain model."""
    for part in model.modules():
        # An encoder may have a configuration of its own, which was copied from the model's when that was loaded.
        if isinstance(part, PreTrainedModel) and (part is model or hasattr(part.config, "seqdyconv")):
            if told:
                part.config.seqdyconv = told
            elif hasattr(part.config, "seqdyconv"):
                del part.config.seqdyconv
            guard_configuration(part.config, bool(told))
