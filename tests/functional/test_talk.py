"""What talk_conv1d and its step form promise, for every backend."""

import inspect
from dataclasses import dataclass
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from seqdyconv import dynamic_conv1d, talk_conv1d, talk_conv1d_step
from seqdyconv.functional import conv, talk
from seqdyconv.functional.backends import choose
from seqdyconv.functional.talk import BACKENDS, windows
from tests.functional.backends import at_home, each, within
from tests.helpers import assert_close, assert_matches, results_and_gradients

pytestmark = pytest.mark.usefixtures("nan_filled_memory")

REACHES = [(3, 2), (5, 0), (0, 4), (0, 0), (20, 31)]

every_backend = each(BACKENDS)
every_reach = pytest.mark.parametrize("reach", REACHES, ids=str)
property_test = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def make(
    reach, backend="reference", *, batch=2, time=9, channels=6, heads=3, dtype=torch.float64
) -> tuple[Tensor, ...]:
    """A random input, and extents of both sides from a step too short to a step too long, where it is at home."""
    generator = torch.Generator().manual_seed(batch + 7 * time + 31 * sum(reach))
    input = torch.randn(batch, time, channels, generator=generator, dtype=torch.float64)
    shares = torch.rand(2, batch, time, heads, generator=generator, dtype=torch.float64)
    left, right = (share * (most + 2) - 1 for share, most in zip(shares, reach))
    return at_home(BACKENDS[backend], *(tensor.to(dtype) for tensor in (input, left, right)))


def op(reach, backend=None, **options):
    return partial(talk_conv1d, max_left=reach[0], max_right=reach[1], backend=backend, **options)


class TestDefinition:
    @every_backend
    @every_reach
    def test_is_the_weighted_sum_of_a_window(self, reach, backend):
        """A step counts by how much of it is in the window: the current one in full, one at distance d on a side of
        extent e by e + 1 − d, at least nothing and at most in full."""
        input, left, right = make(reach, backend, time=6, channels=4, heads=2)
        expected = torch.zeros_like(input)
        for b, t, c in product(range(2), range(6), range(4)):
            before, after = (side[b, t, c // 2].clamp(0, most) for side, most in zip((left, right), reach))
            for s in range(6):
                extent = before if s < t else after
                share = (extent + 1 - abs(s - t)).clamp(0, 1)
                expected[b, t, c] += share * input[b, s, c] / (sum(reach) + 1)
        output = op(reach, backend)(input, left, right)
        assert_close(output, expected, within(output, 1e-12))

    @every_backend
    @every_reach
    def test_is_a_difference_of_interpolated_prefix_sums(self, reach, backend):
        input, left, right = make(reach, backend, batch=1, time=30, channels=2, heads=2)
        sums = F.pad(input[0].cumsum(0), (0, 0, 1, 0)).T  # sums[c, i] is that of the steps before i

        def at(step: Tensor) -> Tensor:
            step = step.clamp(0, 30)
            floor = step.floor().long()
            low, high = sums.gather(1, floor), sums.gather(1, (floor + 1).clamp(max=30))
            return low + (step - floor) * (high - low)

        step = torch.arange(30, device=input.device)
        before, after = (side[0].T.clamp(0, most) for side, most in zip((left, right), reach))
        expected = (at(step + after + 1) - at(step - before)) / (sum(reach) + 1)
        output = op(reach, backend)(input, left, right)[0]
        assert_close(output.T, expected, within(output, 1e-12))

    def test_windows_are_kernels(self):
        kernels = windows(torch.tensor([[[2.25], [3.0]]]), torch.tensor([[[1.5], [0.0]]]), (3, 2))
        expected = torch.tensor([[0.25, 1, 1, 1, 1, 0.5], [1, 1, 1, 1, 0, 0]])
        assert_close(6 * kernels[0, :, 0], expected, 1e-6)

    @every_backend
    @every_reach
    def test_is_a_dynamic_convolution(self, reach, backend):
        input, left, right = make(reach, backend)
        kernels = windows(left.clamp(0, reach[0]), right.clamp(0, reach[1]), reach)
        expected = dynamic_conv1d(input, kernels, padding=reach[0])
        assert_close(op(reach, backend)(input, left, right), expected, within(expected))


class TestIdentities:
    @every_backend
    @every_reach
    @pytest.mark.parametrize("time", [1, 9, 400])
    def test_the_longest_windows_are_a_box_filter(self, reach, backend, time):
        input, left, right = make(reach, backend, time=time)
        full = op(reach, backend)(input, torch.full_like(left, reach[0]), torch.full_like(right, reach[1]))
        expected = F.avg_pool1d(F.pad(input.mT, reach), sum(reach) + 1, stride=1).mT
        assert_close(full, expected, within(full))

    @every_backend
    @every_reach
    def test_no_extents_are_the_current_step(self, reach, backend):
        input, left, right = make(reach, backend)
        output = op(reach, backend)(input, torch.zeros_like(left), torch.zeros_like(right))
        assert_close(output, input / (sum(reach) + 1), within(output))

    @every_backend
    def test_extents_beyond_the_most_are_the_most(self, backend):
        input, left, right = make((3, 2), backend)
        beyond = op((3, 2), backend)(input, left + 100, right - 100)
        most = op((3, 2), backend)(input, torch.full_like(left, 3), torch.zeros_like(right))
        assert_close(beyond, most, within(most))

    @every_backend
    def test_windows_that_reach_over_the_whole_sequence_sum_it(self, backend):
        input, left, _ = make((9, 9), backend)
        everything = torch.full_like(left, 9)
        output = op((9, 9), backend)(input, everything, everything)
        assert_close(output, input.sum(1, keepdim=True).expand_as(input) / 19, within(output))

    @every_backend
    @pytest.mark.parametrize("time", [40, 400])
    def test_no_right_extents_do_not_see_the_future(self, backend, time):
        input, left, right = make((5, 0), backend, time=time)
        changed, shorter = input.clone(), left.clone()
        changed[:, 21:], shorter[:, 21:] = torch.nan, 0
        outputs = [op((5, 0), backend)(*tensors, right)[:, :21] for tensors in ((input, left), (changed, shorter))]
        if backend not in ("reference", "prefix_sums"):  # the others may multiply the future by zero
            outputs[1] = op((5, 0), backend)(changed.nan_to_num(7.0), shorter, right)[:, :21]
        assert torch.equal(*outputs)

    @every_backend
    def test_rows_of_a_batch_are_independent(self, backend):
        tensors = make((3, 2), backend, batch=3, time=400)
        alone = op((3, 2), backend)(*(tensor[1:2] for tensor in tensors))
        assert_close(alone, op((3, 2), backend)(*tensors)[1:2], within(alone))


class TestDerivativesByTheExtents:
    @every_backend
    @pytest.mark.parametrize(
        "extent, step",
        [(-0.5, None), (0.0, 1), (0.4, 1), (1.0, 2), (1.3, 2), (2.9, 3), (3.0, 3), (3.1, None)],
    )
    def test_is_the_step_at_the_windows_end(self, backend, extent, step):
        """At a whole number the next step, which a longer window would take in; at the most the last; none outside."""
        (input,) = at_home(BACKENDS[backend], torch.arange(1.0, 12).double().square()[None, :, None])
        left, right = (torch.full_like(input, extent, requires_grad=True) for _ in range(2))
        output = op((3, 3), backend)(input, left, right)[0, 5, 0]
        for side, sign in zip(torch.autograd.grad(output, (left, right)), (-1, 1)):
            expected = torch.zeros_like(input)
            if step:
                expected[0, 5] = input[0, 5 + sign * step] / 7
            assert_close(side, expected, within(side))

    @every_backend
    def test_not_a_number_stays_one(self, backend):
        """And reads nothing outside the input."""
        input, left, right = make((3, 2), backend)
        left[0, 4] = torch.nan
        output = op((3, 2), backend)(input, left, right)
        nowhere = output.isnan()
        assert nowhere[0, 4].all() and nowhere.sum() == 6


@dataclass
class Case:
    batch: int
    time: int
    channels: int
    heads: int
    reach: tuple[int, int]
    dtype: torch.dtype
    layout: str


@st.composite
def cases(draw) -> Case:
    heads = draw(st.integers(1, 4))
    return Case(
        batch=draw(st.integers(0, 3)),
        time=draw(st.one_of(st.integers(1, 12), st.integers(1, 300))),
        channels=heads * draw(st.integers(1, 4)),
        heads=heads,
        reach=(draw(st.integers(0, 25)), draw(st.integers(0, 25))),
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])),
        layout=draw(st.sampled_from(sorted(LAYOUTS))),
    )


LAYOUTS = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "transposed": lambda tensor: tensor.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda tensor: torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0],
    "expanded": lambda tensor: tensor[:1].expand_as(tensor),
}


class TestBackendsAgree:
    @every_backend
    @property_test
    @given(case=cases())
    def test_output_and_all_gradients(self, backend, case):
        sizes = {"batch": case.batch, "time": case.time, "channels": case.channels, "heads": case.heads}
        tensors = make(case.reach, backend, **sizes, dtype=case.dtype)
        tensors = [LAYOUTS[case.layout](tensor) for tensor in tensors]
        assert_matches(op(case.reach, backend), op(case.reach, "reference"), *tensors)

    @each(BACKENDS, but="reference")
    @pytest.mark.parametrize("reach", [(15, 0), (7, 8), (8, 8), (0, 16), (40, 23)], ids=str)
    @pytest.mark.parametrize("time", [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257])
    def test_at_the_edges_of_blocks(self, backend, reach, time):
        tensors = make(reach, backend, time=time, dtype=torch.float32)
        assert_matches(op(reach, backend), op(reach, "reference"), *tensors)

    @each(BACKENDS, dtype=torch.bfloat16)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_extents_may_be_finer_than_the_input(self, backend, dtype):
        input, left, right = make((3, 2), backend)
        low = input.bfloat16()
        output = op((3, 2), backend)(low, left.to(dtype), right.to(dtype))
        assert output.dtype == torch.bfloat16
        assert_close(output, op((3, 2), "reference")(low.double(), left, right), 1e-2)

    def test_the_fastest_depends_on_the_length_of_the_windows(self):
        portable = {name: BACKENDS[name] for name in ("reference", "blocked", "prefix_sums")}
        lengths = {length: choose(portable, None, torch.zeros(2, 9, 6), (2, 9, 3, length)) for length in (5, 31, 255)}
        assert lengths == {5: BACKENDS["reference"], 31: BACKENDS["blocked"], 255: BACKENDS["prefix_sums"]}


class TestPrecision:
    @pytest.mark.parametrize("mean", [0.0, 3.0])
    @pytest.mark.parametrize("reach", [(15, 15), (127, 127), (1000, 0)], ids=str)
    def test_sums_do_not_lose_precision_on_a_long_sequence(self, reach, mean):
        """Also where the mean is not zero: there one float32 cumsum over 100,000 steps is off by 2e-3."""
        input, left, right = make(reach, batch=1, time=100_000, channels=2, heads=1)
        input = (input + mean).float()
        exact = op(reach, "prefix_sums")(input.double(), left, right)
        assert_close(op(reach, "prefix_sums")(input, left.float(), right.float()), exact, 1e-5)

    def test_float64_prefix_sums_are_exact_enough_to_judge_by(self):
        tensors = make((100, 27), batch=1, time=5000, channels=2, heads=1)
        assert_close(*(op((100, 27), name)(*tensors) for name in ("prefix_sums", "reference")), 1e-13)

    def test_a_large_number_is_forgotten_after_a_few_windows(self):
        tensors = make((7, 8), time=2000, dtype=torch.float32)
        loud = tensors[0].clone()
        loud[:, 100] = 1e30
        quiet = op((7, 8), "prefix_sums")(*tensors)
        assert torch.equal(op((7, 8), "prefix_sums")(loud, *tensors[1:])[:, 300:], quiet[:, 300:])

    @each(BACKENDS, dtype=torch.bfloat16)
    def test_sums_are_made_in_float32(self, backend):
        input, full = torch.ones(1, 64, 1, dtype=torch.bfloat16), torch.full((1, 64, 1), 63.0)
        input[0, 0] = 4096
        input, full = at_home(BACKENDS[backend], input, full)
        output = op((63, 0), backend)(input, full, torch.zeros_like(full))
        assert output[0, -1, 0] == torch.tensor((4096.0 + 63) / 64).bfloat16()

    @each(BACKENDS, dtype=torch.bfloat16)
    def test_autocast_computes_in_its_dtype(self, backend):
        input, left, right = make((3, 2), backend, dtype=torch.float32)
        expected = op((3, 2), backend)(input.bfloat16(), left, right)
        with torch.autocast(input.device.type, dtype=torch.bfloat16):
            output = op((3, 2), backend)(input, left, right)
            double = op((3, 2), backend)(input.double(), left, right)
        assert output.dtype == torch.bfloat16 and torch.equal(output, expected)
        assert double.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own use, on the first forward AD
class TestAutograd:
    @each(BACKENDS, dtype=torch.float64, second_derivatives=True, transforms=True)
    @every_reach
    def test_first_and_second_derivatives(self, reach, backend):
        arguments = tuple(
            tensor.requires_grad_() for tensor in make(reach, backend, batch=1, time=17, channels=4, heads=2)
        )
        assert torch.autograd.gradcheck(op(reach, backend), arguments, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(op(reach, backend), arguments, fast_mode=True)

    @each(BACKENDS, dtype=torch.float64, second_derivatives=True)
    def test_second_derivatives_across_blocks(self, backend):
        arguments = tuple(
            tensor.requires_grad_() for tensor in make((2, 1), backend, batch=1, time=150, channels=2, heads=1)
        )
        assert torch.autograd.gradgradcheck(op((2, 1), backend), arguments, fast_mode=True)

    @each(BACKENDS, transforms=True)
    @pytest.mark.parametrize("time", [9, 150])
    def test_vmap_is_a_loop(self, backend, time):
        rows = [make((3, 2), backend, time=time, batch=batch)[0][:1] for batch in (1, 2, 3)]
        _, left, right = make((3, 2), backend, time=time, batch=3)
        arguments = torch.stack(rows), left[:, None], right[:, None]
        function = op((3, 2), backend)
        expected = torch.stack([function(*tensors) for tensors in zip(*arguments)])
        assert_close(torch.func.vmap(function)(*arguments), expected)
        shared = torch.stack([function(row, *(side[0] for side in arguments[1:])) for row in rows])
        assert_close(torch.func.vmap(function, (0, None, None))(arguments[0], *(x[0] for x in arguments[1:])), shared)

    @each(BACKENDS, transforms=True)
    def test_per_sample_gradients(self, backend):
        arguments = [tensor[:, None] for tensor in make((3, 2), backend, batch=3)]

        def loss(*tensors):
            return op((3, 2), backend)(*tensors).square().sum()

        gradients = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(*arguments)
        for b in range(3):
            leaves = [tensor[b].clone().requires_grad_() for tensor in arguments]
            for one, other in zip(gradients, torch.autograd.grad(loss(*leaves), leaves)):
                assert_close(one[b], other)


class TestCompilers:
    @every_backend
    @pytest.mark.parametrize("time", [9, 150])
    def test_compiles_as_one_graph(self, backend, time):
        torch._dynamo.reset()
        function = op((2, 1), backend)
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")
        assert_matches(compiled, op((2, 1), "reference"), *make((2, 1), backend, time=time))

    def test_does_not_compile_for_every_length(self):
        torch._dynamo.reset()
        compilations, function = CompileCounter(), op((2, 1), "prefix_sums")
        compiled = torch.compile(function, fullgraph=True, backend=compilations)
        for time in (150, 170, 200, 1000):
            assert_close(compiled(*make((2, 1), time=time)), function(*make((2, 1), time=time)))
        assert compilations.frame_count == 2  # once for the first length, once for any

    @pytest.mark.parametrize("reach", [(2, 1), (40, 40)], ids=str)
    def test_exports_with_any_batch_and_length(self, reach):
        class Convolution(torch.nn.Module):
            def forward(self, input, left, right):
                return op(reach)(input, left, right)

        steps = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
        shapes = {"input": steps, "left": steps, "right": steps}
        exported = torch.export.export(Convolution(), make(reach), dynamic_shapes=shapes).module()
        for batch, time in [(1, 1), (2, 9), (3, 100), (1, 1000)]:
            tensors = make(reach, batch=batch, time=time)
            assert_close(exported(*tensors), op(reach)(*tensors))


class TestSteps:
    @every_backend
    @property_test
    @given(chunks=st.lists(st.integers(1, 24), min_size=1, max_size=5), most=st.integers(0, 20))
    def test_any_chunking_is_the_causal_operation(self, backend, chunks, most):
        tensors = make((most, 0), backend, time=sum(chunks))

        def by_chunks(input, left, right):
            state, outputs = input.new_zeros(2, most, 6), []
            for chunk in zip(*(tensor.split(chunks, dim=1) for tensor in (input, left, right))):
                sides = {"max_left": most, "max_right": 0, "backend": backend}
                output, state = talk_conv1d_step(chunk[0], state, *chunk[1:], **sides)
                outputs.append(output)
            return torch.cat(outputs, dim=1), state

        def at_once(input, left, right):
            return op((most, 0), "reference")(input, left, right), F.pad(input, (0, 0, most, 0))[:, sum(chunks) :]

        assert_matches(by_chunks, at_once, *tensors)

    @every_backend
    def test_a_look_ahead_is_late_by_that(self, backend):
        input, left, right = make((3, 2), backend, time=12)
        expected = op((3, 2), backend)(input, left, right)
        step = partial(talk_conv1d_step, max_left=3, max_right=2, backend=backend)
        output, state = step(input[:, 5:9], input[:, :5], left[:, 3:7], right[:, 3:7])
        assert_close(output, expected[:, 3:7], within(output))
        assert torch.equal(state, input[:, 4:9])

    def test_state_of_another_shape_or_dtype_is_refused(self):
        input, left, right = make((3, 2))
        with pytest.raises(ValueError, match=r"state must be .* = \(2, 5, 6\), got \(2, 4, 6\)"):
            talk_conv1d_step(input, torch.zeros(2, 4, 6), left, right, max_left=3, max_right=2)
        with pytest.raises(ValueError, match=r"state must have the input's dtype, torch.float64, got torch.float32"):
            talk_conv1d_step(input, torch.zeros(2, 5, 6), left, right, max_left=3, max_right=2)

    def test_the_state_does_not_keep_the_chunk_in_memory(self):
        input, left, right = make((3, 2), time=1000)
        _, state = talk_conv1d_step(input, input.new_zeros(2, 5, 6), left, right, max_left=3, max_right=2)
        assert state.untyped_storage().nbytes() == state.numel() * state.itemsize


@every_backend
@pytest.mark.parametrize("time", [9, 150])
def test_valid_is_the_part_whose_windows_are_inside(backend, time):
    def inside(input, left, right):
        left, right = (F.pad(side, (0, 0, 3, 2)) for side in (left, right))
        return op((3, 2), "reference")(input, left, right)[:, 3:-2]

    input, left, right = make((3, 2), backend, time=time)
    assert_matches(op((3, 2), backend, padding="valid"), inside, input, left[:, 3:-2], right[:, 3:-2])


class TestManners:
    @every_backend
    def test_tensors_of_the_caller_are_not_edited(self, backend):
        tensors = make((3, 2), backend, time=40)
        before = [tensor.clone() for tensor in tensors]
        results_and_gradients(op((3, 2), backend), *tensors)
        assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before))

    @every_backend
    @pytest.mark.parametrize("reach", [(0, 0), (3, 2)], ids=str)
    def test_the_result_is_a_tensor_of_its_own(self, backend, reach):
        input, left, right = make(reach, backend)
        copy = input.clone()
        op(reach, backend)(input, left, right).zero_()
        assert torch.equal(input, copy)

    @every_backend
    def test_is_deterministic(self, backend):
        tensors = make((3, 2), backend, time=100, dtype=torch.float32)
        first, second = (results_and_gradients(op((3, 2), backend), *tensors) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


class TestBadInput:
    """One line that says what was got and what is allowed, before any work."""

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"input": torch.zeros(9, 6)}, r"input must be .*\(B, T, C\).*got torch.float32 \(9, 6\)"),
            ({"input": torch.zeros(2, 9, 6).long()}, r"input must be a floating-point .*got torch.int64"),
            ({"input": torch.zeros(2, 0, 6)}, r"at least one time step.*got \(2, 0, 6\)"),
            ({"left": torch.zeros(2, 9)}, r"left must be .*\(B, T, H\).*= \(2, 9\), got torch.float32 \(2, 9\)"),
            ({"left": torch.zeros(2, 8, 3)}, r"left must be .*\(B, T\) = \(2, 9\), got torch.float32 \(2, 8, 3\)"),
            ({"right": torch.zeros(1, 9, 3)}, r"right must be .*\(B, T\) = \(2, 9\), got torch.float32 \(1, 9, 3\)"),
            ({"right": torch.zeros(2, 9, 3).long()}, r"right must be a floating-point .*, got torch.int64"),
            ({"right": torch.zeros(2, 9, 3, device="meta")}, r"right must be on the input's device, cpu, got meta"),
            ({"left": torch.zeros(2, 9, 4)}, r"heads must divide the channels, got 4 heads and 6 channels"),
            ({"left": torch.zeros(2, 9, 0)}, r"heads must divide the channels, got 0 heads and 6 channels"),
            ({"right": torch.zeros(2, 9, 2)}, r"left and right must have the same heads, got 3 and 2"),
            ({"padding": "causal"}, r"padding must be \"same\" or \"valid\", got 'causal'"),
            ({"padding": "valid"}, r"left must be .* the output's \(B, T\) = \(2, 4\), got .* \(2, 9, 3\)"),
            ({"padding": "valid", "max_left": 7}, r"more than max_left \+ max_right = 9 steps .*, got 9"),
            ({"max_left": -1}, r"max_left must be an int >= 0, got -1"),
            ({"max_right": 2.0}, r"max_right must be an int >= 0, got 2.0"),
            ({"max_right": True}, r"max_right must be an int >= 0, got True"),
            ({"backend": "fast"}, r"backend must be None or one of reference, blocked, .*prefix_sums, got 'fast'"),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(value),
    )
    def test_is_refused(self, changed, message):
        good = {"input": torch.zeros(2, 9, 6), "left": torch.zeros(2, 9, 3), "right": torch.zeros(2, 9, 3)}
        with pytest.raises(ValueError, match=message):
            talk_conv1d(**good | {"max_left": 3, "max_right": 2} | changed)


@every_backend
@every_reach
def test_packed_sequences_are_averaged_alone(reach, backend):
    lengths, ends = [5, 1, 9], torch.tensor([0, 5, 5, 6, 15])  # the second one is empty
    tensors = make(reach, backend, batch=1, time=15)

    def alone(*tensors):
        parts = zip(*(tensor.split(lengths, dim=1) for tensor in tensors))
        return torch.cat([op(reach, "reference")(*part) for part in parts], dim=1)

    assert_matches(op(reach, backend, cu_seqlens=ends.to(tensors[0].device)), alone, *tensors)


def test_public_names():
    names = ["input", "left", "right", "max_left", "max_right", "padding", "cu_seqlens", "backend"]
    assert list(inspect.signature(talk_conv1d).parameters) == names
    names = ["input", "state", "left", "right", "max_left", "max_right", "backend"]
    assert list(inspect.signature(talk_conv1d_step).parameters) == names
    assert list(talk.BACKENDS) == [*conv.BACKENDS, "prefix_sums"]
