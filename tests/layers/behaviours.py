"""What everything that mixes time steps promises, layer or mixer: subclass ``MixesTime`` and give a ``build`` fixture.

``build(causal=..., dtype=..., seed=...)`` returns a module from (B, T, 6) to (B, T, 6) with random parameters and no
dropout. ``CompilesAndExports`` is apart since it takes seconds: each mixer goes through it, each layer that is in no
mixer, and one rich option of each.
"""

import copy
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from seqdyconv.layers.states import map_state, tensors_of
from tests.helpers import assert_all_close, assert_close

WIDTH = 6
both_directions = pytest.mark.parametrize("causal", [False, True], ids=["two-sided", "causal"])


def sentences(*lengths: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, WIDTH, generator=generator, dtype=dtype) for length in lengths]


def padded(rows: list[Tensor], left: list[int], right: list[int], filler: float) -> tuple[Tensor, Tensor]:
    """The rows with ``left`` and ``right`` padded steps, filled up on the right to one length; and the mask."""
    time = max(len(row) + before + after for row, before, after in zip(rows, left, right))
    batch = torch.full((len(rows), time, WIDTH), filler, dtype=rows[0].dtype)
    mask = torch.ones(len(rows), time, dtype=torch.bool)
    for b, (row, before) in enumerate(zip(rows, left)):
        batch[b, before : before + len(row)] = row
        mask[b, before : before + len(row)] = False
    return batch, mask


def stream(module: nn.Module, input: Tensor, chunks: list[int]) -> Tensor:
    state, outputs = module.initial_state(len(input)), []
    for chunk in input.split(chunks, dim=1):
        output, state = module.stream(chunk, state)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


class MixesTime:
    @both_directions
    @pytest.mark.parametrize("filler", [1e30, torch.nan], ids=str)
    def test_padding_changes_nothing(self, build, causal, filler):
        """Valid outputs and all gradients are those of each sentence alone, whatever stands in the padding."""
        module = build(causal=causal)
        lengths = (3, 8, 10, 53)
        rows, cotangents = sentences(*lengths), sentences(*lengths, seed=1)
        alone = [row.clone().requires_grad_() for row in rows]
        expected = [module(row[None])[0] for row in alone]
        loss = sum((output * cotangent).sum() for output, cotangent in zip(expected, cotangents))
        expected_gradients = torch.autograd.grad(loss, [*module.parameters(), *alone])

        batch, mask = padded(rows, left=[50, 0, 3, 0], right=[0, 45, 40, 0], filler=filler)
        batch.requires_grad_()
        output = module(batch, padding_mask=mask)
        actual = [row[~padding] for row, padding in zip(output, mask)]
        loss = sum((output * cotangent).sum() for output, cotangent in zip(actual, cotangents))
        *gradients, input_gradient = torch.autograd.grad(loss, [*module.parameters(), batch])
        gradients += [row[~padding] for row, padding in zip(input_gradient, mask)]

        for one, other in zip(actual, expected):
            assert_close(one, other)
        for one, other in zip(gradients, expected_gradients):
            assert_close(one, other)
        assert (input_gradient[mask] == 0).all()

    @both_directions
    @pytest.mark.parametrize("lengths", [(3, 8, 0, 1, 10), (3, 1, 0, 1, 40)], ids=["of like lengths", "one long"])
    def test_packed_sequences_are_each_alone(self, build, causal, lengths):
        """In one row with cu_seqlens, outputs and all gradients are those of each sentence alone; one is empty."""
        module = build(causal=causal)
        rows, cotangents = sentences(*lengths), sentences(*lengths, seed=1)
        alone = [row.clone().requires_grad_() for row in rows if len(row)]
        expected = torch.cat([module(row[None])[0] for row in alone])
        leaves = [*module.parameters()]
        expected_gradients = torch.autograd.grad((expected * torch.cat(cotangents)).sum(), [*leaves, *alone])

        packed = torch.cat(rows)[None].requires_grad_()
        output = module(packed, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0))
        loss = (output[0] * torch.cat(cotangents)).sum()
        *gradients, input_gradient = torch.autograd.grad(loss, [*leaves, packed])
        assert_close(output[0], expected)
        for one, other in zip([*gradients, *input_gradient[0].split([*map(len, alone)])], expected_gradients):
            assert_close(one, other)

    def test_bad_packing(self, build):
        module, mask = build(causal=False), torch.zeros(1, 9).bool()
        for batch, cu_seqlens, padding_mask, message in (
            (1, torch.tensor([0, 9]), mask, "padding_mask and cu_seqlens exclude each other"),
            (2, torch.tensor([0, 9]), None, r"packed sequences are one row, \(1, T, C\), got \(2, 9, 6\)"),
            (1, torch.tensor([0, 4]), None, r"cu_seqlens must rise from 0 to T = 9, got \[0, 4\]"),
            (1, torch.tensor([0, 5, 4, 9]), None, r"cu_seqlens must rise from 0 to T = 9, got \[0, 5, 4, 9\]"),
            (1, torch.tensor([0.0, 9.0]), None, r"cu_seqlens must be int32 or int64 .*, got torch.float32 \(2,\)"),
        ):
            with pytest.raises(ValueError, match=message):
                module(torch.zeros(batch, 9, WIDTH).double(), padding_mask=padding_mask, cu_seqlens=cu_seqlens)

    @both_directions
    def test_a_mask_without_padding_changes_nothing(self, build, causal):
        module, input = build(causal=causal), torch.stack(sentences(9, 9))
        mask = torch.zeros(2, 9, dtype=torch.bool)
        assert_close(module(input, padding_mask=mask), module(input))

    @both_directions
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
    def test_a_row_of_padding_alone_stays_finite(self, build, causal, dtype):
        module = build(causal=causal, dtype=dtype)
        input = torch.stack(sentences(9, 9, dtype=dtype)).requires_grad_()
        mask = torch.tensor([[True], [False]]).expand(2, 9)
        output = module(input, padding_mask=mask)
        assert output.dtype == dtype and output.isfinite().all()
        gradients = torch.autograd.grad(output.sum(), [input, *module.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)

    @both_directions
    def test_any_batch_and_length(self, build, causal):
        module = build(causal=causal)
        for batch, time in ((0, 5), (2, 1), (1, 2), (2, 70)):
            input, mask = torch.zeros(batch, time, WIDTH).double(), torch.zeros(batch, time, dtype=torch.bool)
            assert module(input).shape == (batch, time, WIDTH)
            assert module(input, padding_mask=mask).shape == (batch, time, WIDTH)

    def test_causal_does_not_see_the_future(self, build):
        module, input = build(causal=True), torch.stack(sentences(30, 30))
        changed = input.clone()
        changed[:, 17:] = 100
        assert_close(module(changed)[:, :17], module(input)[:, :17])
        assert not torch.allclose(module(changed)[:, 17:], module(input)[:, 17:])

    def test_two_sided_sees_the_future(self, build):
        module, input = build(causal=False), torch.stack(sentences(9, 9))
        changed = input.clone()
        changed[:, 5:] += 1
        assert not torch.allclose(module(changed)[:, 4], module(input)[:, 4])

    @settings(
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=15,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(chunks=st.lists(st.integers(1, 12), min_size=1, max_size=6))
    def test_any_chunking_streams_the_full_forward(self, build, chunks):
        module, input = build(causal=True), torch.stack(sentences(sum(chunks), sum(chunks)))
        assert_close(stream(module, input, chunks), module(input))

    @settings(
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=15,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4))
    def test_right_padded_rows_continue_from_their_last_real_step(self, build, lengths):
        """Each chunk has rows of different lengths, also of none; padding takes no time."""
        module = build(causal=True)
        pieces = [[sentences(*(row[b] for row in lengths), seed=b)[i] for i in range(len(lengths))] for b in range(2)]
        state, outputs = module.initial_state(2), ([], [])
        for chunk in zip(*pieces):
            batch = pad_sequence([*chunk, torch.zeros(1, WIDTH).double()], batch_first=True, padding_value=torch.nan)[
                :2
            ]
            mask = torch.arange(batch.shape[1]) >= torch.tensor([len(row) for row in chunk])[:, None]
            output, state = module.stream(batch, state, mask)
            for b, row in enumerate(chunk):
                outputs[b].append(output[b, : len(row)])
        for b in range(2):
            if sum(map(len, pieces[b])):
                assert_close(torch.cat(outputs[b]), module(torch.cat(pieces[b])[None])[0])

    def test_left_padded_rows_stream(self, build):
        module = build(causal=True)
        rows = sentences(5, 12)
        batch, mask = padded(rows, [7, 0], [0, 0], torch.nan)
        state, outputs = module.initial_state(2), []
        for chunk in (slice(0, 3), slice(3, 9), slice(9, 12)):
            output, state = module.stream(batch[:, chunk], state, mask[:, chunk])
            outputs.append(output)
        output = torch.cat(outputs, dim=1)
        for b, row in enumerate(rows):
            assert_close(output[b, ~mask[b]], module(row[None])[0])

    def test_states_of_rows_can_be_reordered(self, build):
        module, input = build(causal=True), torch.stack(sentences(6, 6, 6))
        order = torch.tensor([2, 0, 0])
        _, state = module.stream(input, module.initial_state(3))
        next_steps = torch.stack(sentences(2, 2, 2, seed=1))
        output, _ = module.stream(next_steps, map_state(lambda rows: rows[order], state))
        assert_close(output, module(torch.cat([input[order], next_steps], dim=1))[:, 6:])

    def test_the_state_does_not_keep_the_chunk_in_memory(self, build):
        module = build(causal=True)
        _, state = module.stream(torch.stack(sentences(200, 200)), module.initial_state(2))
        for rows in tensors_of(state):
            assert rows.untyped_storage().nbytes() == rows.numel() * rows.itemsize

    def test_a_two_sided_module_does_not_stream(self, build):
        module = build(causal=False)
        with pytest.raises(ValueError, match=r"only a causal layer streams.*got"):
            module.stream(torch.stack(sentences(3, 3)), module.initial_state(2))

    def test_a_state_of_another_shape_is_refused(self, build):
        module = build(causal=True)
        with pytest.raises(ValueError, match=r"state must be .*got \(2, "):
            module.stream(torch.stack(sentences(3, 3, 3)), module.initial_state(2))

    def test_a_state_of_another_kind_is_refused(self, build):
        with pytest.raises(ValueError, match=r"state must be .*got (NoneType|list)"):
            build(causal=True).stream(torch.stack(sentences(3, 3)), None)

    @both_directions
    def test_gradients_of_input_and_parameters(self, build, causal):
        module = build(causal=causal)
        names = [name for name, _ in module.named_parameters()]
        mask = torch.tensor([[False] * 5 + [True] * 2, [True] + [False] * 6])

        def function(input, *parameters):
            arguments = {"padding_mask": mask}
            output = torch.func.functional_call(module, dict(zip(names, parameters)), (input,), arguments)
            return output * ~mask[..., None]

        inputs = [torch.stack(sentences(7, 7)).requires_grad_(), *module.parameters()]
        with sdpa_kernel(SDPBackend.MATH):  # the one attention of torch with second derivatives
            assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
            assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)

    def test_strided_input(self, build):
        module, input = build(causal=False), torch.stack(sentences(9, 9))
        assert_close(module(input.transpose(0, 2).contiguous().transpose(0, 2)), module(input))

    def test_the_callers_tensors_are_not_edited(self, build):
        module, input = build(causal=True), torch.stack(sentences(9, 9))
        mask = torch.arange(9) > torch.tensor([[8], [4]])
        state = module.stream(input, module.initial_state(2))[1]
        tensors = [input, mask, *tensors_of(state), *module.parameters()]
        before = [tensor.clone() for tensor in tensors]
        module(input, padding_mask=mask).sum().backward()
        module.stream(input, state, mask)
        for one, other in zip(tensors, before):
            assert torch.equal(one, other)

    def test_autocast(self, build):
        module, input = build(causal=False, dtype=torch.float32), torch.stack(sentences(9, 9, dtype=torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = module(input)
        assert output.dtype == torch.bfloat16
        assert_close(output, module(input), 0.05)

    def test_state_dict_round_trip(self, build):
        module, other, input = build(causal=False), build(causal=False, seed=1), torch.stack(sentences(9, 9))
        assert not torch.equal(module(input), other(input))
        other.load_state_dict(module.state_dict(), strict=True)
        assert torch.equal(module(input), other(input))

    def test_reset_parameters_draws_anew(self, build):
        module = build(causal=False)
        before = copy.deepcopy(module.state_dict())
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        assert all(not torch.equal(before[name], value) for name, value in module.state_dict().items())

    def test_bad_input(self, build):
        module = build(causal=True, dtype=torch.float32)
        for input, mask, message in (
            (torch.zeros(9, 6), None, r"input must be .*C = 6, got \(9, 6\)"),
            (torch.zeros(2, 9, 5), None, r"input must be .*C = 6, got \(2, 9, 5\)"),
            (torch.zeros(2, 0, 6), None, r"input must be .*T >= 1.*, got \(2, 0, 6\)"),
            (
                torch.zeros(2, 9, 6).double(),
                None,
                "input must have the layer's dtype, torch.float32, got torch.float64",
            ),
            (torch.zeros(2, 9, 6), torch.zeros(2, 9), r"padding_mask must be bool .*, got torch.float32 \(2, 9\)"),
            (torch.zeros(2, 9, 6), torch.zeros(2, 8).bool(), r"padding_mask must be .* = \(2, 9\).*, got .*\(2, 8\)"),
            (torch.zeros(2, 9, 6), torch.zeros(9).bool(), r"padding_mask must be .*, got .*\(9,\)"),
        ):
            with pytest.raises(ValueError, match=message):
                module(input, padding_mask=mask)
            with pytest.raises(ValueError, match=message):
                module.stream(input, module.initial_state(2), mask)


class CompilesAndExports:
    def test_compiles_as_one_graph(self, build):
        torch._dynamo.reset()
        module = build(causal=True)
        input, mask = torch.stack(sentences(40, 40)), torch.arange(40) > torch.tensor([[39], [20]])
        compile_ = partial(torch.compile, fullgraph=True, backend="eager")  # exports go through fake tensors

        def results(forward, stream):
            state = module.initial_state(2)
            with torch.no_grad():
                output, following = stream(input[:, :1], state, mask[:, :1])
            parts = {f"state {number}": rows.double() for number, rows in enumerate(tensors_of(following))}
            return {"output": forward(input, padding_mask=mask), "output of a step": output, **parts}

        actual, expected = results(compile_(module), compile_(module.stream)), results(module, module.stream)
        assert_all_close(actual, expected, 1e-12)

    def test_exports_with_any_batch_and_length(self, build):
        module = build(causal=False)
        steps = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
        arguments = (torch.stack(sentences(9, 9)),), {"padding_mask": torch.zeros(2, 9, dtype=torch.bool)}
        shapes = {"input": steps, "padding_mask": steps}
        exported = torch.export.export(module, *arguments, dynamic_shapes=shapes).module()
        for time in (2, 9, 50):
            input, mask = torch.stack(sentences(time, time, time)), torch.arange(time) > torch.tensor([[60], [5], [0]])
            actual, expected = (run(input, padding_mask=mask)[~mask] for run in (exported, module))
            assert_close(actual, expected)
