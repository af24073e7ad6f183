"""What lightweight_conv1d, dynamic_conv1d and their step forms promise, for every backend."""

import inspect
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import seqdyconv.functional
from seqdyconv.functional import (
    dynamic_conv1d,
    dynamic_conv1d_step,
    lightweight_conv1d,
    lightweight_conv1d_step,
)
from seqdyconv.functional.conv import BACKENDS, left_padding
from tests.functional.backends import at_home, each, takes, within
from tests.helpers import assert_close, assert_matches, results_and_gradients

pytestmark = pytest.mark.usefixtures("nan_filled_memory")

OPS = {"lightweight": lightweight_conv1d, "dynamic": dynamic_conv1d}
STEPS = {"lightweight": lightweight_conv1d_step, "dynamic": dynamic_conv1d_step}
PADDINGS = ("same", "causal", 0, 2)

every_backend = each(BACKENDS)
every_op = pytest.mark.parametrize("kind", OPS)
property_test = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def make(
    kind, backend="reference", *, batch=2, time=9, channels=6, heads=3, kernel_size=4, dtype=torch.float64
) -> tuple[Tensor, ...]:
    """A random input, weight and bias, where the backend is at home."""
    generator = torch.Generator().manual_seed(batch + 7 * time + 31 * kernel_size)
    steps = (batch, time) if kind == "dynamic" else ()
    shapes = ((batch, time, channels), (*steps, heads, kernel_size), (channels,))
    tensors = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return at_home(BACKENDS[backend], *tensors)


class TestDefinition:
    @every_backend
    @every_op
    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("kernel_size, dilation", [(1, 1), (3, 1), (4, 1), (12, 1), (3, 2), (4, 3)])
    def test_is_the_sum_over_taps(self, kind, backend, padding, kernel_size, dilation):
        reach = (kernel_size - 1) * dilation
        padding = min(padding, reach) if isinstance(padding, int) else padding
        input, weight, bias = make(kind, backend, batch=2, time=6, channels=4, heads=2, kernel_size=kernel_size)
        output = OPS[kind](input, weight, bias, padding=padding, dilation=dilation, backend=backend)

        left = {"same": reach // 2, "causal": reach}.get(padding, padding)
        input, weight, bias = (tensor.double().cpu() for tensor in (input, weight, bias))
        expected = torch.zeros_like(input)
        for b, t, c in product(range(2), range(6), range(4)):
            kernel = weight[c // 2] if kind == "lightweight" else weight[b, t, c // 2]
            steps = ((k, t + k * dilation - left) for k in range(kernel_size))
            expected[b, t, c] = bias[c] + sum(kernel[k] * input[b, step, c] for k, step in steps if 0 <= step < 6)
        assert_close(output.cpu(), expected, within(output, 1e-12))

    @pytest.mark.parametrize("padding", PADDINGS)
    def test_left_padding_is_the_steps_before_the_sequence(self, padding):
        expected = {"same": 5, "causal": 10}.get(padding, padding)
        assert left_padding(padding, kernel_size=6, dilation=2) == expected


class TestIdentities:
    @every_backend
    @pytest.mark.parametrize("padding", PADDINGS)
    def test_dynamic_with_constant_kernels_is_lightweight(self, backend, padding):
        input, weight, bias = make("lightweight", backend)
        constant = weight.expand(*input.shape[:2], -1, -1)
        dynamic = dynamic_conv1d(input, constant, bias, padding=padding, backend=backend)
        assert_close(
            dynamic, lightweight_conv1d(input, weight, bias, padding=padding, backend=backend), within(dynamic)
        )

    @every_backend
    @pytest.mark.parametrize("dilation", [1, 2, 3])
    @pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7, 8])
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
    def test_one_channel_per_head_is_depthwise_conv1d(self, backend, kernel_size, dilation):
        input, weight, bias = make("lightweight", backend, time=20, channels=6, heads=6, kernel_size=kernel_size)
        depthwise = partial(F.conv1d, weight=weight[:, None], bias=bias, dilation=dilation, groups=6)
        ours = partial(lightweight_conv1d, input, weight, bias, dilation=dilation, backend=backend)
        assert_close(ours(padding="same"), depthwise(input.mT, padding="same").mT, within(input))
        past = F.pad(input.mT, ((kernel_size - 1) * dilation, 0))
        assert_close(ours(padding="causal"), depthwise(past).mT, within(input))

    @every_backend
    @every_op
    def test_is_linear_in_the_input_and_in_the_kernels(self, kind, backend):
        input, weight, _ = make(kind, backend)
        other_input, other_weight = input.flip(1), weight.flip(-1)
        op = partial(OPS[kind], backend=backend)
        mixed = op(2 * input - other_input, weight)
        assert_close(mixed, 2 * op(input, weight) - op(other_input, weight), within(mixed))
        mixed = op(input, 2 * weight - other_weight)
        assert_close(mixed, 2 * op(input, weight) - op(input, other_weight), within(mixed))

    @every_backend
    @every_op
    def test_causal_does_not_see_the_future(self, kind, backend):
        input, weight, bias = make(kind, backend, time=40)
        changed_input, changed_weight = input.clone(), weight.clone()
        changed_input[:, 21:] = torch.inf
        if kind == "dynamic":
            changed_weight[:, 21:] = 7
        op = partial(OPS[kind], bias=bias, padding="causal", backend=backend)
        if backend == "reference":
            assert torch.equal(op(changed_input, changed_weight)[:, :21], op(input, weight)[:, :21])
        changed_input[:, 21:] = 7
        assert torch.equal(op(changed_input, changed_weight)[:, :21], op(input, weight)[:, :21])

    @every_backend
    @every_op
    def test_rows_of_a_batch_are_independent(self, kind, backend):
        input, weight, bias = make(kind, backend, batch=3, time=40)
        alone = OPS[kind](input[1:2], weight[1:2] if kind == "dynamic" else weight, bias, backend=backend)
        assert_close(alone, OPS[kind](input, weight, bias, backend=backend)[1:2], within(alone))


@dataclass
class Case:
    batch: int
    time: int
    channels: int
    heads: int
    kernel_size: int
    dilation: int
    padding: Literal["causal", "same"] | int
    dtype: torch.dtype
    layouts: tuple[str, str]
    bias: bool


@st.composite
def cases(draw) -> Case:
    heads, kernel_size, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 20)), draw(st.integers(1, 3))
    reach = (kernel_size - 1) * dilation
    return Case(
        batch=draw(st.integers(0, 3)),
        time=draw(st.one_of(st.integers(1, 12), st.integers(1, 150))),
        channels=heads * draw(st.integers(1, 4)),
        heads=heads,
        kernel_size=kernel_size,
        dilation=dilation,
        padding=draw(st.one_of(st.sampled_from(["causal", "same"]), st.integers(0, reach))),
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])),
        layouts=(draw(st.sampled_from(sorted(LAYOUTS))), draw(st.sampled_from(sorted(LAYOUTS)))),
        bias=draw(st.booleans()),
    )


LAYOUTS = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "transposed": lambda tensor: tensor.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda tensor: torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0],
    "expanded": lambda tensor: tensor[:1].expand_as(tensor),
}


@every_backend
@every_op
@pytest.mark.parametrize("kernel_size, dilation, time", [(4, 1, 9), (4, 1, 4), (1, 1, 9), (3, 2, 40), (20, 1, 90)])
def test_valid_is_the_causal_operation_where_it_reads_no_zeros(kind, backend, kernel_size, dilation, time):
    """Of a dynamic one, the kernels are those of the steps that are left. Output and all gradients."""
    reach = (kernel_size - 1) * dilation

    def causal(input, weight, bias):
        weight = F.pad(weight, (0, 0, 0, 0, reach, 0)) if kind == "dynamic" else weight
        return OPS[kind](input, weight, bias, padding="causal", dilation=dilation, backend="reference")[:, reach:]

    input, weight, bias = make(kind, backend, time=time, kernel_size=kernel_size)
    weight = weight[:, reach:] if kind == "dynamic" else weight
    assert_matches(partial(OPS[kind], padding="valid", dilation=dilation, backend=backend), causal, input, weight, bias)


class TestSoftmax:
    """Kernels that are logits, made finished by the operation."""

    @every_backend
    @every_op
    @pytest.mark.parametrize("padding, dilation", [("same", 1), ("causal", 3), ("valid", 2)])
    def test_over_the_taps(self, kind, backend, padding, dilation):
        input, logits, bias = make(kind, backend, time=20)
        logits = 20 * (logits[:, : 20 - 3 * dilation] if (kind, padding) == ("dynamic", "valid") else logits)
        op = partial(OPS[kind], padding=padding, dilation=dilation)

        def apart(input, logits, bias):
            return op(input, logits.softmax(-1), bias, backend="reference")

        assert_matches(partial(op, softmax=True, backend=backend), apart, input, logits, bias)

    @every_backend
    @every_op
    def test_of_steps_and_of_packed_sequences(self, kind, backend):
        input, logits, _ = make(kind, backend, batch=1)
        kernels = logits.double().softmax(-1).to(logits)
        ends = torch.tensor([0, 4, 9], device=input.device)
        packed = partial(OPS[kind], input, cu_seqlens=ends, backend=backend)
        expected = packed(kernels)
        assert_close(packed(logits, softmax=True), expected, within(expected))
        step = partial(STEPS[kind], input, input[:, :3], backend=backend)
        expected = step(kernels)[0]
        assert_close(step(logits, softmax=True)[0], expected, within(expected))

    @every_backend
    @every_op
    def test_a_tap_that_is_ruled_out_counts_nothing(self, kind, backend):
        input, logits, _ = make(kind, backend)
        logits[..., 1] = -torch.inf
        output = OPS[kind](input, logits, softmax=True, backend=backend)
        input[:] = 1  # at steps that read no padding, the kernels sum to one
        assert output.isfinite().all()
        whole = OPS[kind](input, logits, softmax=True, backend=backend)[:, 1:-2]
        assert_close(whole, torch.ones_like(whole), within(whole))

    @each(BACKENDS, dtype=torch.float64, second_derivatives=True)
    @every_op
    def test_second_derivatives(self, kind, backend):
        arguments = make(kind, backend, batch=1, time=4, channels=2, heads=1, kernel_size=2)[:2]
        op = partial(OPS[kind], softmax=True, backend=backend)
        assert torch.autograd.gradgradcheck(op, [argument.requires_grad_() for argument in arguments], fast_mode=True)


class TestBackendsAgree:
    @every_backend
    @every_op
    @property_test
    @given(case=cases())
    def test_output_and_all_gradients(self, kind, backend, case):
        sizes = {"batch": case.batch, "time": case.time, "channels": case.channels, "heads": case.heads}
        input, weight, bias = make(kind, backend, **sizes, kernel_size=case.kernel_size, dtype=case.dtype)
        arguments = [LAYOUTS[case.layouts[0]](input), LAYOUTS[case.layouts[1]](weight)] + [bias] * case.bias
        op = partial(OPS[kind], padding=case.padding, dilation=case.dilation)
        assert_matches(partial(op, backend=backend), partial(op, backend="reference"), *arguments)

    @each(BACKENDS, but="reference")
    @every_op
    @pytest.mark.parametrize("kernel_size", [2, 15, 16, 17, 31, 32, 33, 100])
    @pytest.mark.parametrize("time", [1, 16, 47, 48, 49, 64, 96, 97, 400])
    def test_at_the_edges_of_blocks(self, kind, backend, kernel_size, time):
        arguments = make(kind, backend, time=time, kernel_size=kernel_size, dtype=torch.float32)
        op = partial(OPS[kind], padding="causal")
        assert_matches(partial(op, backend=backend), partial(op, backend="reference"), *arguments)

    @each(BACKENDS, but="reference")
    @every_op
    @pytest.mark.parametrize(
        "channels, kernel_size, dilation, dtype",
        [
            (40, 9, 2, torch.float32),
            (40, 9, 2, torch.bfloat16),
            (40, 9, 2, torch.float16),
            (300, 35, 1, torch.bfloat16),
        ],
        ids=str,
    )
    def test_heads_of_many_channels(self, kind, backend, channels, kernel_size, dilation, dtype):
        if not takes(BACKENDS[backend], dtype):
            pytest.skip(f"backend {backend} declares no {dtype}")
        sizes = {"batch": 1, "time": 40, "channels": channels, "heads": 2, "kernel_size": kernel_size}
        input, weight, _ = make(kind, backend, **sizes, dtype=dtype)
        ends = torch.tensor([0, 13, 13, 40], device=input.device)
        for options in ({}, {"softmax": True, "cu_seqlens": ends}):
            op = partial(OPS[kind], padding=7, dilation=dilation, **options)
            assert_matches(partial(op, backend=backend), partial(op, backend="reference"), input, weight)

    @every_op
    @pytest.mark.parametrize("kernel_size", [1, 2, 3, 8])
    def test_without_a_name_a_backend_is_chosen(self, kind, kernel_size):
        arguments = make(kind, kernel_size=kernel_size)
        assert_matches(OPS[kind], partial(OPS[kind], backend="reference"), *arguments)

    @each(BACKENDS, dtype=torch.bfloat16)
    @every_op
    def test_sums_of_half_precision_are_made_in_float32(self, kind, backend):
        # 4096 + 1 is 4096 in bfloat16 and float16: adding tap by tap in these types would stop there.
        input, weight, _ = make(
            kind, backend, batch=1, time=64, channels=1, heads=1, kernel_size=64, dtype=torch.bfloat16
        )
        input, weight = torch.ones_like(input), torch.ones_like(weight)
        input[0, 0] = 4096
        output = OPS[kind](input, weight, padding="causal", backend=backend)
        assert output[0, -1, 0] == torch.tensor(4096.0 + 63).bfloat16()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own use, on the first forward AD
class TestAutograd:
    @each(BACKENDS, dtype=torch.float64, second_derivatives=True, transforms=True)
    @every_op
    @pytest.mark.parametrize("dilation", [1, 2])
    def test_first_and_second_derivatives(self, kind, backend, dilation):
        arguments = make(kind, backend, batch=1, time=17, channels=2, heads=2, kernel_size=3)
        arguments = tuple(argument.requires_grad_() for argument in arguments)
        op = partial(OPS[kind], dilation=dilation, backend=backend)
        assert torch.autograd.gradcheck(op, arguments, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(op, arguments, fast_mode=True)

    @each(BACKENDS, transforms=True)
    @every_op
    def test_vmap_is_a_loop(self, kind, backend):
        inputs, weights, biases = map(torch.stack, zip(*(make(kind, backend, time=time) for time in (9, 9, 9))))
        inputs = inputs * torch.arange(1.0, 4).to(inputs)[:, None, None, None]
        op = partial(OPS[kind], backend=backend)
        expected = torch.stack([op(*arguments) for arguments in zip(inputs, weights, biases)])
        assert_close(torch.func.vmap(op)(inputs, weights, biases), expected, within(expected))
        shared = torch.stack([op(input, weights[0]) for input in inputs])
        assert_close(torch.func.vmap(op, in_dims=(0, None))(inputs, weights[0]), shared, within(shared))

    @each(BACKENDS, transforms=True)
    @every_op
    def test_jvp_is_the_product_rule(self, kind, backend):
        input, weight, _ = make(kind, backend)
        input_tangent, weight_tangent = input.flip(0), weight.flip(0)
        op = partial(OPS[kind], backend=backend)
        _, tangent = torch.func.jvp(op, (input, weight), (input_tangent, weight_tangent))
        assert_close(tangent, op(input_tangent, weight) + op(input, weight_tangent), within(tangent))

    @each(BACKENDS, transforms=True)
    @every_op
    def test_per_sample_gradients(self, kind, backend):
        input, weight, _ = make(kind, backend, batch=3)

        def loss(weight, row):
            return OPS[kind](row[None], weight, backend=backend).square().sum()

        weights = weight[:, None] if kind == "dynamic" else weight
        in_dims = (0 if kind == "dynamic" else None, 0)
        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=in_dims)(weights, input)
        for b, gradient in enumerate(gradients):
            row_weight = (weights[b] if kind == "dynamic" else weights).clone().requires_grad_()
            loss(row_weight, input[b]).backward()
            assert_close(gradient, row_weight.grad, within(gradient))


class TestCompilers:
    @every_backend
    @pytest.mark.parametrize(
        ("kind", "dynamic"), [("lightweight", False), ("dynamic", True)], ids=["lightweight", "dynamic, any size"]
    )
    def test_compiles_as_one_graph(self, kind, backend, dynamic):
        torch._dynamo.reset()
        op = partial(OPS[kind], backend=backend)
        compiled = torch.compile(op, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for batch, time in [(2, 9), (3, 70)] if dynamic else [(3, 70)]:
            reference = partial(OPS[kind], backend="reference")
            assert_matches(compiled, reference, *make(kind, backend, batch=batch, time=time, kernel_size=3))

    def test_dynamic_shapes_do_not_compile_for_every_length(self):
        torch._dynamo.reset()
        compilations = CompileCounter()
        compiled = torch.compile(dynamic_conv1d, fullgraph=True, dynamic=True, backend=compilations)
        for time in (40, 41, 64, 100, 101, 128, 2000):
            compiled(*make("dynamic", time=time, kernel_size=3))
        assert compilations.frame_count <= 3  # one block, whole blocks only, and a part of a block at the end

    @every_op
    @pytest.mark.parametrize("kernel_size", [1, 31])
    def test_exports_with_any_batch_and_length(self, kind, kernel_size):
        class Convolution(torch.nn.Module):
            def forward(self, input, weight, bias):
                return OPS[kind](input, weight, bias, padding="causal")

        batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
        steps = {0: batch, 1: time}
        shapes = {"input": steps, "weight": steps if kind == "dynamic" else None, "bias": None}
        arguments = make(kind, kernel_size=kernel_size)
        exported = torch.export.export(Convolution(), arguments, dynamic_shapes=shapes).module()
        for batch, time in [(1, 1), (2, 9), (3, 100)]:
            arguments = make(kind, batch=batch, time=time, kernel_size=kernel_size)
            assert_close(exported(*arguments), OPS[kind](*arguments, padding="causal"))


class TestPrecision:
    @each(BACKENDS, dtype=torch.bfloat16)
    @every_op
    def test_autocast_computes_in_its_dtype(self, kind, backend):
        arguments = make(kind, backend, dtype=torch.float32)
        low = [argument.bfloat16() for argument in arguments]
        with torch.autocast(arguments[0].device.type, dtype=torch.bfloat16):
            output = OPS[kind](*arguments, backend=backend)
            mixed = OPS[kind](arguments[0], *low[1:], backend=backend)
        assert output.dtype == torch.bfloat16
        assert torch.equal(output, OPS[kind](*low, backend=backend))
        assert torch.equal(output, mixed)

    @every_op
    def test_autocast_leaves_float64_alone(self, kind):
        arguments = make(kind)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = OPS[kind](*arguments)
        assert torch.equal(output, OPS[kind](*arguments))

    @every_backend
    @every_op
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_result_has_the_dtype_of_the_input(self, kind, backend, dtype):
        if not takes(BACKENDS[backend], dtype):
            pytest.skip(f"backend {backend} declares no {dtype}")
        assert OPS[kind](*make(kind, backend, dtype=dtype), backend=backend).dtype == dtype


class TestSteps:
    @every_backend
    @every_op
    @property_test
    @given(
        chunks=st.lists(st.integers(1, 24), min_size=1, max_size=5),
        kernel_size=st.integers(1, 20),
        dilation=st.integers(1, 3),
    )
    def test_any_chunking_is_the_causal_operation(self, kind, backend, chunks, kernel_size, dilation):
        arguments = make(kind, backend, time=sum(chunks), kernel_size=kernel_size)
        reach = (kernel_size - 1) * dilation

        def by_chunks(input, weight, bias):
            state, outputs = input.new_zeros(2, reach, 6), []
            for chunk in torch.arange(sum(chunks), device=input.device).split(chunks):
                kernels = weight[:, chunk] if kind == "dynamic" else weight
                options = {"dilation": dilation, "backend": backend}
                output, state = STEPS[kind](input[:, chunk], state, kernels, bias, **options)
                outputs.append(output)
            return torch.cat(outputs, dim=1), state

        def at_once(input, weight, bias):
            output = OPS[kind](input, weight, bias, padding="causal", dilation=dilation, backend="reference")
            return output, F.pad(input, (0, 0, reach, 0))[:, sum(chunks) :]

        assert_matches(by_chunks, at_once, *arguments)

    @every_op
    def test_gradients_reach_the_state(self, kind):
        input, weight, bias = make(kind, time=12)

        def continued(input, weight, bias):
            kernels = weight[:, 4:] if kind == "dynamic" else weight
            return STEPS[kind](input[:, 4:], input[:, 1:4], kernels, bias)[0]

        def at_once(input, weight, bias):
            return OPS[kind](input, weight, bias, padding="causal")[:, 4:]

        assert_matches(continued, at_once, input, weight, bias)

    @every_op
    def test_state_of_another_shape_is_refused(self, kind):
        input, weight, bias = make(kind)
        with pytest.raises(ValueError, match=r"state must be .* = \(2, 3, 6\), got \(2, 4, 6\)"):
            STEPS[kind](input, torch.zeros(2, 4, 6), weight, bias)

    @every_op
    def test_the_state_does_not_keep_the_chunk_in_memory(self, kind):
        input, weight, bias = make(kind, time=1000)
        _, state = STEPS[kind](input, input.new_zeros(2, 3, 6), weight, bias)
        assert state.untyped_storage().nbytes() == state.numel() * state.itemsize


class TestManners:
    @every_backend
    @every_op
    def test_tensors_of_the_caller_are_not_edited(self, kind, backend):
        arguments = make(kind, backend, time=40)
        before = [argument.clone() for argument in arguments]
        results_and_gradients(partial(OPS[kind], backend=backend), *arguments)
        state = arguments[0][:, :3].clone()
        STEPS[kind](arguments[0], state, *arguments[1:], backend=backend)
        assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, before))
        assert torch.equal(state, before[0][:, :3])

    @every_backend
    @every_op
    @pytest.mark.parametrize("kernel_size", [1, 4])
    def test_the_result_is_a_tensor_of_its_own(self, kind, backend, kernel_size):
        input, weight, _ = make(kind, backend, kernel_size=kernel_size)
        copy = input.clone()
        OPS[kind](input, weight, backend=backend).zero_()
        assert torch.equal(input, copy)

    @every_backend
    @every_op
    def test_is_deterministic(self, kind, backend):
        arguments = make(kind, backend, time=100, dtype=torch.float32)
        first, second = (results_and_gradients(partial(OPS[kind], backend=backend), *arguments) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


def shapes(kind, input=(2, 9, 6), weight=None, bias=(6,)):
    steps = (2, 9) if kind == "dynamic" else ()
    return torch.zeros(input), torch.zeros((*steps, *(weight or (3, 4)))), torch.zeros(bias)


class TestBadInput:
    """One line that says what was got and what is allowed, before any work."""

    @every_op
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"input": (9, 6)}, r"input must be .*\(B, T, C\).*got torch.float32 \(9, 6\)"),
            ({"input": (2, 0, 6)}, r"at least one time step.*got \(2, 0, 6\)"),
            ({"input": (2, 9, 0)}, r"one channel, got \(2, 9, 0\)"),
            ({"weight": (3, 0)}, r"weight must be .*K >= 1, got .*3, 0\)"),
            ({"weight": (0, 4)}, r"heads must divide the channels, got 0 heads and 6 channels"),
            ({"weight": (4, 4)}, r"heads must divide the channels, got 4 heads and 6 channels"),
            ({"weight": (3, 1, 4)}, r"weight must be \(.*H, K\), got"),
            ({"bias": (5,)}, r"bias must be \(C,\) = \(6,\), got \(5,\)"),
            ({"bias": (1, 6)}, r"bias must be \(C,\) = \(6,\), got \(1, 6\)"),
        ],
    )
    def test_shapes(self, kind, arguments, message):
        with pytest.raises(ValueError, match=message):
            OPS[kind](*shapes(kind, **arguments))

    @pytest.mark.parametrize("weight", [(1, 9, 3, 4), (2, 8, 3, 4)])
    def test_dynamic_kernels_of_another_batch_or_length(self, weight):
        with pytest.raises(
            ValueError, match=r"weight must be .* the output's \(B, T\) = \(2, 9\), got \(" + str(weight[0])
        ):
            dynamic_conv1d(torch.zeros(2, 9, 6), torch.zeros(weight))

    def test_kernels_of_the_other_operation(self):
        with pytest.raises(ValueError, match=r"weight must be \(B, T, H, K\), got \(3, 4\)"):
            dynamic_conv1d(torch.zeros(2, 9, 6), torch.zeros(3, 4))
        with pytest.raises(ValueError, match=r"weight must be \(H, K\), got \(2, 9, 3, 4\)"):
            lightweight_conv1d(torch.zeros(2, 9, 6), torch.zeros(2, 9, 3, 4))

    @every_op
    def test_dtypes(self, kind):
        input, weight, bias = shapes(kind)
        with pytest.raises(ValueError, match=r"input must be a floating-point .*, got torch.int64"):
            OPS[kind](input.long(), weight.long(), bias.long())
        with pytest.raises(ValueError, match=r"weight must have the input's dtype.*float32.*got torch.float64"):
            OPS[kind](input, weight.double(), bias)
        with pytest.raises(ValueError, match=r"bias must have the input's dtype.*float32.*got torch.float16"):
            OPS[kind](input, weight, bias.half())

    @every_op
    def test_dtypes_under_autocast(self, kind):
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            pytest.raises(ValueError, match=r"input must be a floating-point .*, got torch.int64"),
        ):
            OPS[kind](*(argument.long() for argument in shapes(kind)))

    @every_op
    def test_devices(self, kind):
        input, weight, bias = shapes(kind)
        with pytest.raises(ValueError, match=r"weight must have the input's .*device.* on cpu, got .* on meta"):
            OPS[kind](input, weight.to("meta"), bias)

    @every_op
    @pytest.mark.parametrize("padding", ["full", "Same", -1, 4, 1.5, True, None, (1, 2)], ids=repr)
    def test_padding(self, kind, padding):
        message = r'padding must be "causal", "same", "valid" or an int from 0 to .*= 3, got '
        with pytest.raises(ValueError, match=message):
            OPS[kind](*shapes(kind), padding=padding)

    @every_op
    def test_nothing_that_is_valid(self, kind):
        with pytest.raises(ValueError, match=r'more than .* = 16 steps where padding="valid", got 9'):
            OPS[kind](*shapes(kind, weight=(3, 17)), padding="valid")
        weight = torch.zeros(1, 6, 3, 4) if kind == "dynamic" else torch.zeros(3, 4)
        with pytest.raises(ValueError, match="cu_seqlens needs as many outputs as inputs"):
            OPS[kind](torch.zeros(1, 9, 6), weight, padding="valid", cu_seqlens=torch.tensor([0, 9]))

    @every_op
    def test_ends_of_sequences_on_another_device(self, kind):
        input, weight = torch.zeros(1, 9, 6), torch.zeros(1, 9, 3, 4) if kind == "dynamic" else torch.zeros(3, 4)
        with pytest.raises(ValueError, match="cu_seqlens must be on the input's device, cpu, got meta"):
            OPS[kind](input, weight, cu_seqlens=torch.tensor([0, 9], device="meta"))

    @every_op
    @pytest.mark.parametrize("dilation", [0, -1, 1.0, True, "2"], ids=repr)
    def test_dilation(self, kind, dilation):
        with pytest.raises(ValueError, match=r"dilation must be an int >= 1, got "):
            OPS[kind](*shapes(kind), dilation=dilation)

    @every_op
    def test_backend(self, kind):
        with pytest.raises(ValueError, match=r"backend must be None or one of reference, blocked.*, got 'fast'"):
            OPS[kind](*shapes(kind), backend="fast")


@every_backend
@every_op
@pytest.mark.parametrize("padding", ["same", "causal", 0, 6])
@pytest.mark.parametrize("lengths", [[5, 0, 1, 19], [5, 0, 6, 5]], ids=["in one row", "in rows of their own"])
def test_packed_sequences_are_convolved_alone(kind, padding, backend, lengths):
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    lengths = [length for length in lengths if length]
    input = torch.randn(1, sum(lengths), 6, generator=generator, dtype=torch.float64)
    shape = (1, sum(lengths), 3, 4) if kind == "dynamic" else (3, 4)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    tensors = at_home(BACKENDS[backend], input, weight, bias)
    op = partial(OPS[kind], padding=padding, dilation=2)

    def alone(input, weight, bias):
        weights = weight.split(lengths, dim=1) if kind == "dynamic" else [weight] * 3
        parts = zip(input.split(lengths, dim=1), weights)
        return torch.cat([op(part, kernels, bias, backend="reference") for part, kernels in parts], dim=1)

    packed = partial(op, cu_seqlens=ends.to(tensors[0].device), backend=backend)
    assert_matches(packed, alone, *tensors)


def test_public_names():
    assert seqdyconv.functional.__all__ == [
        "causal_conv1d_fn",
        "causal_conv1d_update",
        "deformable_conv1d",
        "deformable_depthwise_conv1d",
        "dynamic_conv1d",
        "dynamic_conv1d_step",
        "lightweight_conv1d",
        "lightweight_conv1d_step",
        "low_rank_conv1d",
        "low_rank_conv1d_step",
        "talk_conv1d",
        "talk_conv1d_step",
    ]
    for op in OPS.values():
        names = list(inspect.signature(op).parameters)
        assert names == ["input", "weight", "bias", "padding", "dilation", "softmax", "cu_seqlens", "backend"]
    for step in STEPS.values():
        names = list(inspect.signature(step).parameters)
        assert names == ["input", "state", "weight", "bias", "dilation", "softmax", "backend"]
