"""Linear layers as others leave them: quantized, pruned, parametrised. What a model then computes is known."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests.helpers import assert_close


class Int8Linear(nn.Linear):
    """As 8-bit layers of bitsandbytes: weights in int8, a scale for each row."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.to(input.dtype) * self.scale.to(input.dtype), self.bias)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def scales(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-8) / 127


def int8(model: nn.Module) -> nn.Module:
    for layer in linear_layers(model):
        scale = scales(layer)
        layer.weight = nn.Parameter((layer.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        layer.__class__, layer.scale = Int8Linear, scale
    return model


def rounded(model: nn.Module) -> nn.Module:
    """The floats that :func:`int8` keeps."""
    for layer in linear_layers(model):
        scale = scales(layer)
        layer.weight = nn.Parameter((layer.weight.detach() / scale).round() * scale)  # no more tied to an embedding
    return model


def dynamic(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)


def each_layer(change: Callable[[nn.Linear], Any]) -> Callable[[nn.Module], nn.Module]:
    def change_all(model: nn.Module) -> nn.Module:
        for layer in linear_layers(model):
            change(layer)
        return model

    return change_all


# The change, the model of plain layers that it must agree with, and how well.
CHANGES: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[nn.Module], nn.Module], float]] = {
    "int8": (int8, rounded, 1e-4),
    "dynamically quantized": (dynamic, rounded, 0.2),
    "pruned": (each_layer(lambda layer: prune.identity(layer, "weight")), nn.Module.eval, 1e-6),
    "weight norm": (each_layer(parametrizations.weight_norm), nn.Module.eval, 1e-4),
}
every_change = pytest.mark.parametrize("change", CHANGES)
without_deprecations = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning", "ignore:.*TypedStorage:UserWarning"
)


def assert_still_computes(model: nn.Module, run: Callable[[Any], Tensor], change: str) -> None:
    """What ``run(model)`` gives stays what it was, once all linear layers of the model are changed."""
    apply, plain, tolerance = CHANGES[change]
    changed = apply(copy.deepcopy(model.eval()))
    assert not [layer for layer in linear_layers(changed) if not hasattr(layer, "weight_orig")]
    with torch.no_grad():
        expected = run(plain(copy.deepcopy(model)))
        assert_close(run(changed), expected, tolerance * max(1.0, expected.abs().max().item()))
