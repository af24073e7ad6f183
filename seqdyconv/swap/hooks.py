"""Hooks that are known by their function: they survive copies of a model and pickle, which handles of hooks do not."""

from collections.abc import Callable
from typing import Any

from torch import nn


def remove_hooks(module: nn.Module, *functions: Callable[..., Any]) -> None:
    """Take these functions out of the forward hooks and forward pre-hooks of a module."""
    for hooks, *settings in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called),
    ):
        for key in [key for key, hook in hooks.items() if hook in functions]:
            del hooks[key]
            for setting in settings:
                setting.pop(key, None)
