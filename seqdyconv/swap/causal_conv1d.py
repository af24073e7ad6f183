"""Short convolutions of Mamba, LFM2, Qwen3-Next and models like them, on our kernels."""

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import nn

from seqdyconv.functional.causal_conv1d import ACTIVATIONS, causal_conv1d_fn, causal_conv1d_update

_OURS: dict[str, Callable[..., Any]] = {
    "causal_conv1d_fn": causal_conv1d_fn,
    "causal_conv1d_update": causal_conv1d_update,
}


def swap_causal_conv1d(model: nn.Module) -> nn.Module:
    """Let a model of transformers run its short convolutions as :func:`seqdyconv.lightweight_conv1d`.

    Models with short convolutions call the package causal-conv1d, which needs a CUDA device, and where that is missing
    ``F.conv1d`` with a group for each channel, which is slow on CPUs. Weights, results and caches stay as they are.

    The two functions are those of the modelling code, so that all models of the same type in the process use ours from
    then on, until :func:`restore_causal_conv1d`. An export and activations other than SiLU take the model's own.

    Args:
        model: with layers of Mamba, Mamba-2, Falcon-Mamba, Jamba, Bamba, Zamba, LFM2, Qwen3-Next, Qwen3.5, Nemotron-H,
            Granite hybrid or whatever else calls ``causal_conv1d_fn``.

    Returns:
        The model.

    Raises:
        ValueError: it has no such layers.

    Example:
        >>> from transformers import MambaConfig, MambaModel
        >>> from seqdyconv.swap import restore_causal_conv1d, swap_causal_conv1d
        >>> config = MambaConfig(vocab_size=20, hidden_size=8, state_size=4, num_hidden_layers=1)
        >>> model = swap_causal_conv1d(MambaModel(config))
        >>> model = restore_causal_conv1d(model)
    """
    called = list(_called_by(model))
    if not called:
        raise ValueError(f"{type(model).__name__} has no layers that call causal_conv1d_fn or causal_conv1d_update")
    for module, name, function in called:
        if not hasattr(function, "replaced_by_seqdyconv"):
            setattr(module, name, _instead_of(function, _OURS[name]))
    return model


def restore_causal_conv1d(model: nn.Module) -> nn.Module:
    """Undo :func:`swap_causal_conv1d` for all models of a model's type.

    Returns:
        The model.
    """
    for module, name, function in _called_by(model):
        setattr(module, name, getattr(function, "replaced_by_seqdyconv", function))
    return model


def _called_by(model: nn.Module) -> Iterator[tuple[ModuleType, str, Callable[..., Any]]]:
    """The functions that classes of the model's layers find, each with its name and the module of Python it is in."""
    places = {cls.__module__ for layer in model.modules() for cls in type(layer).__mro__}
    for place in sorted(places):
        module = sys.modules.get(place)
        if module is not None and place.startswith("transformers."):
            yield from ((module, name, getattr(module, name)) for name in _OURS if hasattr(module, name))


def _instead_of(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """``ours`` under the names that ``theirs`` has for its arguments; what ours does not know is not for it."""
    taken = inspect.signature(ours).parameters
    names = {name: "x" if name == "hidden_states" else name for name in inspect.signature(theirs).parameters}

    @wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = {names.get(name, name): value for name, value in (*zip(names, args), *kwargs.items())}
        if torch.compiler.is_exporting() or given.get("activation") not in ACTIVATIONS:
            return theirs(*args, **kwargs)
        return ours(**{name: value for name, value in given.items() if name in taken})

    call.replaced_by_seqdyconv = theirs  # type: ignore[attr-defined]
    return call
