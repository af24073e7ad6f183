"""What the tests of operations and layers share: comparing a result and all gradients with a reference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"

# The largest error allowed, relative to the largest expected number (or to one, where all are smaller).
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_matches(function: Callable, reference: Callable, *inputs: Tensor, tolerance: float | None = None) -> None:
    """``function(*inputs)`` and the gradients of every input equal ``reference``'s on the same numbers in float64.

    Both return one tensor or a tuple of them. The tolerance is that of the first input's dtype.
    """
    actual = results_and_gradients(function, *inputs)
    expected = results_and_gradients(reference, *(input.double() for input in inputs))
    assert_all_close(actual, expected, tolerance or TOLERANCES[inputs[0].dtype])


def results_and_gradients(function: Callable, *inputs: Tensor) -> dict[str, Tensor]:
    """The results of ``function(*inputs)``, and the gradient of a fixed random mix of them by each input."""
    inputs = tuple(input.detach().requires_grad_() for input in inputs)  # detach keeps the strides
    results = function(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    gradients = torch.autograd.grad(results, inputs, [cotangent_like(result) for result in results])
    named = {f"result {i}": result.detach() for i, result in enumerate(results)}
    return named | {f"gradient of input {i}": gradient for i, gradient in enumerate(gradients)}


def cotangent_like(tensor: Tensor) -> Tensor:
    """Quarters from -2 to 2, exact in every dtype, and never contiguous."""
    generator = torch.Generator().manual_seed(tensor.numel())
    quarters = torch.randint(-8, 9, tensor.shape[::-1], generator=generator) / 4
    return quarters.to(tensor.device, tensor.dtype).permute(*reversed(range(tensor.dim())))


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, name)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10, name: str = "result") -> None:
    """Equal shapes, and no error above ``tolerance`` times the largest expected number (or one)."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if expected.numel():
        scale = max(1.0, expected.abs().max().item())
        error = (actual.double() - expected.double()).abs().max().item()
        assert error <= tolerance * scale, f"{name}: error {error:.3g} at numbers up to {scale:.3g}"


def golden(name: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a golden file, and its header: what the original layer was given and what it computed."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        header = {key: json.loads(value) if value[:1] == "{" else value for key, value in file.metadata().items()}
        return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118 it is no dict


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Redraw every parameter, so that none is left at a value that hides a mistake, and go to eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise / max(1, parameter.shape[-1]) ** 0.5)
    return module.eval()


def streamed_late(mixer: Any, input: Tensor, chunks: list[int]) -> Tensor:
    """What a mixer that looks ahead gives of chunks of (B, T, D), all its steps: a chunk of padding brings the last."""
    batch, _, dim = input.shape
    state, outputs = mixer.initial_state(batch), []
    for chunk in input.split(chunks, dim=1):
        output, state = mixer.stream(chunk, state)
        outputs.append(output)
    if late := mixer.lookahead:
        end = input.new_full((batch, late, dim), torch.nan)
        outputs.append(mixer.stream(end, state, torch.ones(batch, late, dtype=torch.bool))[0])
    return torch.cat(outputs, dim=1)[:, late:]
