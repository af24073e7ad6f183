"""Weights that must not get into a model without the modules they belong to.

Whoever loads them so is stopped twice. ``from_pretrained`` reads ``fusion_config`` of the configuration, and raises for
what it does not know, with the text that is written there. Whatever loads a state into modules, such as a Trainer that
resumes, finds one number under the name of each weight that is gone, and stops at the wrong shape.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from seqdyconv.layers.states import initial_zeros

FUSION = "this model has layers of seqdyconv; load it with seqdyconv.swap.load_swapped"
"""What ``from_pretrained`` is asked to fuse: the end of its message."""


def guard_configuration(config: PreTrainedConfig, guarded: bool) -> None:
    """Let ``from_pretrained`` refuse what is saved with a configuration, or not any more."""
    fusions = {name: value for name, value in (getattr(config, "fusion_config", None) or {}).items() if name != FUSION}
    if guarded:
        fusions[FUSION] = True
    if fusions:
        config.fusion_config = fusions
    elif hasattr(config, "fusion_config"):
        del config.fusion_config


def guard_weights(model: nn.Module) -> None:
    """Let a state of each module with a ``guarded_weight`` have one number under the name of that weight."""
    for module in _guarded(model).values():
        if _add_guard not in module._state_dict_hooks.values():
            module.register_state_dict_post_hook(_add_guard)
            module.register_load_state_dict_pre_hook(_drop_guard)


def guard_names(model: nn.Module) -> list[str]:
    """What these numbers are called in the state of a model."""
    return [f"{name}.{module.guarded_weight}" for name, module in _guarded(model).items()]


def _guarded(model: nn.Module) -> dict[str, Any]:
    names = [name for name, module in model.named_modules() if hasattr(type(module), "guarded_weight")]
    return {name: model.get_submodule(name) for name in names}


def _add_guard(module: Any, state: dict[str, Tensor], prefix: str, local_metadata: Any) -> None:
    new, number = initial_zeros(module, 1), vars(module).get("guard")
    if number is None or (number.dtype, number.device) != (new.dtype, new.device):
        number = module.guard = new
    state[prefix + module.guarded_weight] = number


def _drop_guard(module: Any, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    state.pop(prefix + module.guarded_weight, None)
