"""How what is put into other people's models starts: as it does alone."""

from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def keep_start(module: Module) -> Module:
    """Let transformers take a module of ours for initialised: it would draw linear layers as its own model does.

    A load that lacks weights of it raises anyway.
    """
    for part in module.modules():
        flagged: Any = part
        flagged._is_hf_initialized = True
    return module
