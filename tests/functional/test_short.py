"""What low_rank_conv1d and its step form promise, for every backend."""

import inspect
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv import dynamic_conv1d, low_rank_conv1d, low_rank_conv1d_step
from seqdyconv.functional import conv
from seqdyconv.functional.short import BACKENDS
from tests.functional.backends import at_home, each, within
from tests.helpers import assert_close, assert_matches

pytestmark = pytest.mark.usefixtures("nan_filled_memory")

every_backend = each(BACKENDS)


def make(
    backend="reference", *, batch=2, time=9, channels=6, rank=3, kernel_size=4, dtype=torch.float64
) -> tuple[Tensor, ...]:
    """A random input, coefficients and basis, where the backend is at home."""
    generator = torch.Generator().manual_seed(time + 31 * kernel_size)
    shapes = ((batch, time, channels), (batch, time, rank), (rank, channels, kernel_size))
    tensors = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return at_home(BACKENDS[backend], *tensors)


def all_at_once(input, coefficients, basis, padding):
    """The dynamic convolution whose kernels, one for each channel, are mixed of the basis."""
    kernels = torch.einsum("btr,rck->btck", coefficients, basis)
    return dynamic_conv1d(input, kernels, padding=padding, backend="reference")


@every_backend
@pytest.mark.parametrize("padding", ["causal", "same", 1])
@pytest.mark.parametrize("rank, kernel_size", [(1, 2), (3, 4), (2, 5), (2, 20)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_is_a_dynamic_convolution(backend, rank, kernel_size, padding, dtype):
    """Output and all gradients, and in each dtype."""
    tensors = make(backend, rank=rank, kernel_size=kernel_size, dtype=dtype)
    op = partial(low_rank_conv1d, padding=padding, backend=backend)
    assert_matches(op, partial(all_at_once, padding=padding), *tensors)
    assert op(*tensors).dtype == tensors[0].dtype


@every_backend
def test_steps_are_the_causal_operation(backend):
    def by_chunks(input, coefficients, basis):
        state, outputs = input.new_zeros(2, 3, 6), []
        for chunk, mix in zip(input.split([2, 1, 6], dim=1), coefficients.split([2, 1, 6], dim=1)):
            output, state = low_rank_conv1d_step(chunk, state, mix, basis, backend=backend)
            outputs.append(output)
        return torch.cat(outputs, dim=1), state

    def at_once(input, coefficients, basis):
        return all_at_once(input, coefficients, basis, "causal"), input[:, -3:] * 1

    assert_matches(by_chunks, at_once, *make(backend))


@every_backend
@pytest.mark.parametrize("lengths", [[5, 0, 1, 19], [5, 0, 6, 5]], ids=["in one row", "in rows of their own"])
def test_packed_sequences_are_convolved_alone(backend, lengths):
    input, coefficients, basis = make(backend, batch=1, time=sum(lengths))
    ends = torch.tensor([0, *lengths], device=input.device).cumsum(0)

    def alone(input, coefficients, basis):
        parts = zip(input.split(lengths, dim=1), coefficients.split(lengths, dim=1))
        return torch.cat([all_at_once(*part, basis, "same") for part in parts if part[0].shape[1]], dim=1)

    packed = partial(low_rank_conv1d, cu_seqlens=ends, backend=backend)
    assert_matches(packed, alone, input, coefficients, basis)


@every_backend
def test_valid_is_the_causal_operation_where_it_reads_no_zeros(backend):
    def causal(input, coefficients, basis):
        return all_at_once(input, F.pad(coefficients, (0, 0, 3, 0)), basis, "causal")[:, 3:]

    input, coefficients, basis = make(backend)
    op = partial(low_rank_conv1d, padding="valid", backend=backend)
    assert_matches(op, causal, input, coefficients[:, 3:], basis)


@each(BACKENDS, dtype=torch.bfloat16)
def test_autocast_computes_in_its_dtype(backend):
    tensors = make(backend, dtype=torch.float32)
    expected = low_rank_conv1d(*(tensor.bfloat16() for tensor in tensors), backend=backend)
    with torch.autocast(tensors[0].device.type, dtype=torch.bfloat16):
        output = low_rank_conv1d(*tensors, backend=backend)
        double = low_rank_conv1d(*(tensor.double() for tensor in tensors))
    assert output.dtype == torch.bfloat16 and torch.equal(output, expected)
    assert double.dtype == torch.float64


@each(BACKENDS, transforms=True)
def test_vmap_is_a_loop(backend):
    tensors = [torch.stack([tensor, 2 * tensor]) for tensor in make(backend)]
    op = partial(low_rank_conv1d, backend=backend)
    expected = torch.stack([op(*row) for row in zip(*tensors)])
    assert_close(torch.func.vmap(op)(*tensors), expected, within(expected))


@each(BACKENDS, dtype=torch.float64, second_derivatives=True)
def test_second_derivatives(backend):
    tensors = [tensor.requires_grad_() for tensor in make(backend, time=5, channels=2)]
    assert torch.autograd.gradgradcheck(partial(low_rank_conv1d, backend=backend), tensors, fast_mode=True)


class TestBadInput:
    @pytest.mark.parametrize(
        "input, coefficients, basis, message",
        [
            ((9, 6), (2, 9, 3), (3, 6, 4), r"input must be .* \(B, T, C\) .*got torch.float32 \(9, 6\)"),
            ((2, 0, 6), (2, 0, 3), (3, 6, 4), r"input must have at least one time step .*, got .*\(2, 0, 6\)"),
            ((2, 9, 6), (2, 9, 3), (3, 5, 4), r"basis must be \(rank, C, K\) with C = 6, .*, got \(3, 5, 4\)"),
            ((2, 9, 6), (2, 9, 3), (3, 6, 0), r"basis must be .* K >= 1, got \(3, 6, 0\)"),
            ((2, 9, 6), (2, 8, 3), (3, 6, 4), r"coefficients must be .* = \(2, 9, 3\), got \(2, 8, 3\)"),
        ],
    )
    def test_shapes(self, input, coefficients, basis, message):
        with pytest.raises(ValueError, match=message):
            low_rank_conv1d(torch.zeros(input), torch.zeros(coefficients), torch.zeros(basis))

    def test_dtypes_states_and_backends(self):
        input, coefficients, basis = make(dtype=torch.float32)
        with pytest.raises(ValueError, match=r"basis must have the input's dtype .*, got torch.float64"):
            low_rank_conv1d(input, coefficients, basis.double())
        with pytest.raises(ValueError, match=r"state must be \(B, K-1, C\) = \(2, 3, 6\), got \(2, 4, 6\)"):
            low_rank_conv1d_step(input, torch.zeros(2, 4, 6), coefficients, basis)
        with pytest.raises(ValueError, match=r"state must have the input's dtype, torch.float32, got torch.float64"):
            low_rank_conv1d_step(input, torch.zeros(2, 3, 6).double(), coefficients, basis)
        with pytest.raises(ValueError, match=r'more than .* = 3 steps where padding="valid", got 2'):
            low_rank_conv1d(input[:, :2], coefficients, basis, padding="valid")
        with pytest.raises(ValueError, match="cu_seqlens needs as many outputs as inputs"):
            ends = torch.tensor([0, 9])
            low_rank_conv1d(input[:1], coefficients[:1, 3:], basis, padding="valid", cu_seqlens=ends)
        with pytest.raises(ValueError, match=r"backend must be None or one of reference, .*tap_by_tap, got 'fast'"):
            low_rank_conv1d(input, coefficients, basis, backend="fast")


def test_public_names():
    names = ["input", "coefficients", "basis", "padding", "cu_seqlens", "backend"]
    assert list(inspect.signature(low_rank_conv1d).parameters) == names
    assert list(inspect.signature(low_rank_conv1d_step).parameters) == ["input", "state", *names[1:3], "backend"]
    assert list(BACKENDS) == [*conv.BACKENDS, "tap_by_tap"]
