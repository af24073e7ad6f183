"""What the convolutions of a model do with a given input, as tensors: their kernels, what they mix them
of, and where their taps read."""

import inspect
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqdyconv.errors import InputError
from seqdyconv.layers import (
    DeformableConv1d,
    DeformableDepthwiseConv1d,
    DynamicConv1d,
    KernelAttentionConv1d,
    KernelAttentionConv2d,
    LightweightConv1d,
    ODConv1d,
    ODConv2d,
)


class KernelRun(NamedTuple):
    """One run of one convolution."""

    name: str
    """Of the convolution in the model."""
    conv: LightweightConv1d | DynamicConv1d
    kernels: Tensor
    """(B, T, H, K)."""


class Sampling(NamedTuple):
    """Where the taps of a convolution read, and how much what they read counts."""

    positions: Tensor
    """(B, T, H, K), in steps of the convolution's input from 0; before and after the sequence are zeros."""
    weights: Tensor
    """(B, T, H, K): kernel times modulation, of a :class:`seqdyconv.DeformableConv1d` the norm of a tap's weights."""


class SamplingRun(NamedTuple):
    """One run of one deformable convolution."""

    name: str
    """Of the convolution in the model."""
    conv: DeformableConv1d | DeformableDepthwiseConv1d
    sampling: Sampling


def record_kernels(model: nn.Module, **inputs: Any) -> dict[str, Tensor]:
    """The kernels of every lightweight and dynamic convolution of a model for a given input.

    Args:
        model: any model with our layers somewhere in it, swapped ones too. It runs once, in eval mode and without
            gradients, and is left as it was.
        inputs: of the model, such as ``input_ids`` and ``attention_mask``. A decoder runs without its cache, unless
            ``use_cache`` says otherwise: steps with a cache are streamed, and only whole sequences are recorded.

    Returns:
        By the convolution's name in the model (B, T, H, K), softmax included: the kernel of head h at step t of
        sequence b; tap k reads the step t + k·dilation − P, where P is the convolution's ``left``. Kernels at padded
        steps mean nothing. Where a model runs one module several times, as ALBERT does, the later ones are named
        ``"name (run 2)"`` and so on.

    Raises:
        InputError: the model has no such convolution, or ran none of them.

    Example:
        >>> import torch
        >>> from seqdyconv import build_mixer
        >>> from seqdyconv.models import record_kernels
        >>> kernels = record_kernels(build_mixer("dynamic_conv", 16, 4, kernel_size=5), input=torch.randn(2, 10, 16))
        >>> {name: tuple(tensor.shape) for name, tensor in kernels.items()}
        {'conv': (2, 10, 4, 5)}
    """
    return {run.name: run.kernels for run in kernel_runs(model, inputs)}


def kernel_runs(model: nn.Module, inputs: dict[str, Any]) -> list[KernelRun]:
    """As :func:`record_kernels`, with the convolutions."""

    def read(conv: Any, input: Tensor, padding_mask: Tensor | None = None, **query: Tensor | None) -> Tensor:
        if isinstance(conv, DynamicConv1d):
            return conv.kernels(input, padding_mask=padding_mask, **query)
        if padding_mask is None:
            padding_mask = torch.zeros(input.shape[:2], dtype=torch.bool, device=input.device)
        kernels = conv.kernels(padding_mask).clone()  # never the parameter itself
        return kernels.expand(*input.shape[:2], *kernels.shape[-2:])

    return [KernelRun(*run) for run in record_runs(model, inputs, (LightweightConv1d, DynamicConv1d), read)]


def record_sampling(model: nn.Module, **inputs: Any) -> dict[str, Sampling]:
    """Where the taps of every deformable convolution of a model read for a given input.

    Args:
        model: any model with our layers somewhere in it, swapped ones too. It runs once, in eval mode and without
            gradients, and is left as it was.
        inputs: of the model, such as ``input_ids`` and ``attention_mask``. A decoder runs without its cache, unless
            ``use_cache`` says otherwise.

    Returns:
        By the convolution's name in the model, see :class:`Sampling`; H is the number of offset groups of a
        :class:`seqdyconv.DeformableConv1d`. What is at padded steps means nothing.

    Raises:
        InputError: the model has no such convolution, or ran none of them.

    Example:
        >>> import torch
        >>> from seqdyconv import build_mixer
        >>> from seqdyconv.models import record_sampling
        >>> found = record_sampling(build_mixer("deformable_conv", 16, 4, kernel_size=3), input=torch.randn(1, 10, 16))
        >>> found["conv"].positions[0, 5, 0].tolist()  # not trained yet
        [4.0, 5.0, 6.0]
    """
    return {run.name: run.sampling for run in sampling_runs(model, inputs)}


def sampling_runs(model: nn.Module, inputs: dict[str, Any]) -> list[SamplingRun]:
    """As :func:`record_sampling`, with the convolutions."""

    def read(conv: Any, input: Tensor, padding_mask: Tensor | None = None) -> Sampling:
        return Sampling(*conv.sampling(input, padding_mask=padding_mask))

    return [
        SamplingRun(*run) for run in record_runs(model, inputs, (DeformableConv1d, DeformableDepthwiseConv1d), read)
    ]


def record_mixtures(model: nn.Module, **inputs: Any) -> dict[str, Tensor]:
    """The weights with which each layer of a model that mixes kernels mixes them for a given input.

    Args:
        model: any model with ``KernelAttentionConv1d/2d`` or ``ODConv1d/2d`` in it. It runs once, in eval mode and
            without gradients, and is left as it was.
        inputs: of the model.

    Returns:
        By the convolution's name in the model (B, T', N), or (B, N, H', W') in two dimensions, of N kernels; an axis
        along which the mixture is the same has size 1.

    Raises:
        InputError: the model has no such convolution, or ran none of them.

    Example:
        >>> import torch
        >>> from seqdyconv import KernelAttentionConv1d
        >>> from seqdyconv.models import record_mixtures
        >>> layer = KernelAttentionConv1d(8, 8, 3, num_kernels=4)
        >>> record_mixtures(torch.nn.Sequential(layer), input=torch.randn(2, 10, 8))["0"].shape
        torch.Size([2, 1, 4])
    """

    def read(conv: Any, input: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return conv.mixture(input, padding_mask=padding_mask)

    kinds = (KernelAttentionConv1d, KernelAttentionConv2d, ODConv1d, ODConv2d)
    return {name: mixture for name, _, mixture in record_runs(model, inputs, kinds, read)}


@torch.no_grad()
def record_runs(
    model: nn.Module, inputs: dict[str, Any], kinds: tuple[type[nn.Module], ...], read: Callable[..., Any]
) -> list[tuple[str, Any, Any]]:
    """Run a model once, and read something of each run of its convolutions.

    Args:
        model: runs in eval mode and without gradients, and is left as it was.
        inputs: of the model.
        kinds: the classes of the convolutions.
        read: called with a convolution and what its ``forward`` was given, but for ``cu_seqlens``.

    Returns:
        For each run the convolution's name, the convolution, and what was read.

    Raises:
        InputError: the model has no such convolution, or ran none of them.
        ValueError: it ran one on packed sequences.
    """
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if not convolutions:
        raise InputError(
            f"the model must have a {' or a '.join(kind.__name__ for kind in kinds)}, got a "
            f"{type(model).__name__} without any"
        )
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs = {"use_cache": False} | inputs
    recorded: list[tuple[str, Any, Any]] = []
    runs = dict.fromkeys(convolutions, 0)
    thread = threading.get_ident()

    def record(name: str, conv: Any, *args: Any, cu_seqlens: Tensor | None = None, **kwargs: Any) -> None:
        if threading.get_ident() != thread:  # somebody else runs the model meanwhile
            return
        if cu_seqlens is not None:
            raise ValueError("kernels are recorded of padded batches: give the sequences without cu_seqlens")
        runs[name] += 1
        name = name if runs[name] == 1 else f"{name} (run {runs[name]})"
        recorded.append((name, conv, read(conv, *args, **kwargs)))

    training = {module: module.training for module in model.modules()}
    handles = [
        module.register_forward_hook(
            lambda module, args, kwargs, _, name=name: record(name, module, *args, **kwargs), with_kwargs=True
        )
        for name, module in convolutions.items()
    ]
    try:
        model.eval()
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    if not recorded:
        raise InputError(
            f"the model ran none of its {len(convolutions)} convolutions on a whole sequence, such as "
            f"{next(iter(convolutions))}"
        )
    return recorded
