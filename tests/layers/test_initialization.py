"""Every layer starts the same whoever makes it: alone, or on the meta device and then filled as FSDP does."""

from itertools import chain

import pytest
import torch
from torch import nn

import seqdyconv
from seqdyconv import build_mixer
from seqdyconv.layers import ConvSubsampling
from seqdyconv.layers.attention import CrossAttention
from tests.layers.mixer_cases import option_cases

LAYERS = {
    "LightweightConv1d": lambda: seqdyconv.LightweightConv1d(12, 5, 3, bias=True),
    "DynamicConv1d": lambda: seqdyconv.DynamicConv1d(12, 5, 3, bias=True, generator_bias=True),
    "TaLKConv1d": lambda: seqdyconv.TaLKConv1d(12, 5, 3, bias=True),
    "DeformableConv1d": lambda: seqdyconv.DeformableConv1d(12, 8, 3, modulation=True),
    "DeformableDepthwiseConv1d": lambda: seqdyconv.DeformableDepthwiseConv1d(12, 3, 3, bias=True),
    "ShortConv1d": lambda: seqdyconv.ShortConv1d(12, 4, 3, bias=True, static_kernel=True, generator_bias=True),
    "ShortConv1d, rank": lambda: seqdyconv.ShortConv1d(12, 4, rank=2, generator_reduction=4),
    "SpanDynamicConv1d": lambda: seqdyconv.SpanDynamicConv1d(12, 5, 3),
    "TimeFeatureLightweightConv": lambda: seqdyconv.TimeFeatureLightweightConv(12, 5, 3, bias=True),
    "TimeFeatureDynamicConv": lambda: seqdyconv.TimeFeatureDynamicConv(12, 5, 3, generator_bias=True),
    "KernelAttentionConv1d": lambda: seqdyconv.KernelAttentionConv1d(12, 8, 3),
    "KernelAttentionConv2d": lambda: seqdyconv.KernelAttentionConv2d(4, 8, 3, num_kernels=1),
    "ODConv1d": lambda: seqdyconv.ODConv1d(12, 8, 3),
    "ODConv2d": lambda: seqdyconv.ODConv2d(4, 8, 3, norm="batch"),
    "ConvSubsampling": lambda: ConvSubsampling(8, 12, 4, num_kernels=2),
    "CrossAttention": lambda: CrossAttention(12, 3),
}
MIXERS = {
    case: lambda mixer=mixer, options=options: build_mixer(
        mixer, 12, 3, **({} if mixer == "self_attention" else {"kernel_size": 4}), **options
    )
    for case, (mixer, options) in option_cases().items()
}
every_layer = pytest.mark.parametrize("build", [*LAYERS.values(), *MIXERS.values()], ids=[*LAYERS, *MIXERS])


def start_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same_start(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@every_layer
@pytest.mark.parametrize("order", [list, reversed], ids=["parents first", "children first"])
def test_after_the_meta_device(build, order, draws_without_chance, nan_filled_memory):
    """What torch.distributed.fsdp does: memory and reset_parameters for each module with tensors of its own."""
    expected = start_of(build())
    with torch.device("meta"):
        layer = build()
    for module in order([*layer.modules()]):
        if any(True for _ in chain(module.parameters(recurse=False), module.buffers(recurse=False))):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()
    assert_same_start(start_of(layer), expected)


@every_layer
def test_reset_parameters_starts_the_whole_layer_anew(build, draws_without_chance):
    layer = build()
    expected = start_of(layer)
    with torch.no_grad():
        for tensor in chain(layer.parameters(), layer.buffers()):
            tensor.fill_(7)
    layer.reset_parameters()
    assert_same_start(start_of(layer), expected)


@every_layer
def test_draws_are_random_and_finite(build, nan_filled_memory):
    torch.manual_seed(0)
    first, second = start_of(build()), start_of(build())
    assert all(value.isfinite().all() for value in first.values())
    assert any(not torch.equal(first[name], second[name]) for name in first)
