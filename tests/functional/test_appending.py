"""The inputs of a stream: what appending gives is what concatenation gives, whichever state it goes on from."""

import copy
import io
import threading

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdyconv import dynamic_conv1d_step
from seqdyconv.functional.appending import append_inputs, select_rows


def concatenated(state, input):
    window = torch.cat([state, input], dim=1)
    return window, window[:, input.shape[1] :]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def is_view_of_same(one, other):
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(0, 20),
    moves=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40), st.booleans()), min_size=1, max_size=30),
)
@torch.no_grad()
def test_any_number_of_streams_may_go_on_from_any_state(steps, moves):
    """Each move goes on from one of the states so far, by a chunk, or by some of its rows."""
    states = [noise(2, steps, 3)]
    expected = [states[0].clone()]
    for number, (back, time, reordered) in enumerate(moves):
        at = max(0, len(states) - 1 - back)
        if reordered:
            rows = torch.tensor([number % 2, 0])
            states.append(select_rows(states[at], rows))
            expected.append(expected[at][rows])
        else:
            chunk = noise(2, time, 3, seed=number)
            window, following = append_inputs(states[at], chunk)
            whole, last = concatenated(expected[at], chunk)
            assert torch.equal(window, whole)
            states.append(following)
            expected.append(last)
    for state, right in zip(states, expected):  # nothing was written over
        assert torch.equal(state, right)


@torch.no_grad()
def test_a_step_copies_neither_state_nor_window():
    state = append_inputs(torch.zeros(1, 30, 2), noise(1, 1, 2))[1]
    moved = 0
    for _ in range(300):
        window, following = append_inputs(state, noise(1, 1, 2))
        assert is_view_of_same(window, following)
        moved += not is_view_of_same(state, following)
        state = following
    assert moved == 10  # of 300 steps


@torch.no_grad()
def test_a_long_chunk_is_not_kept():
    state = append_inputs(torch.zeros(1, 3, 2), noise(1, 1000, 2))[1]
    assert state.untyped_storage().nbytes() == 3 * 2 * 4


def test_gradients_go_through():
    state, chunk = noise(1, 4, 2).requires_grad_(), noise(1, 1, 2, seed=1).requires_grad_()
    first, state_1 = append_inputs(state, chunk)
    second, _ = append_inputs(state_1, chunk)
    (first.square().sum() + second.square().sum()).backward()
    whole = torch.cat([state.detach(), chunk.detach()], 1)
    torch.testing.assert_close(state.grad[:, 1:], 4 * whole[:, 1:4])
    torch.testing.assert_close(state.grad[:, :1], 2 * whole[:, :1])


def test_inference_mode_and_its_end():
    with torch.inference_mode():
        state = append_inputs(torch.zeros(1, 4, 2), noise(1, 1, 2))[1]
        state = append_inputs(state, noise(1, 1, 2))[1]
    with torch.no_grad():
        window, _ = append_inputs(state, noise(1, 1, 2))
    assert torch.equal(window, torch.cat([state, noise(1, 1, 2)], dim=1))


@torch.no_grad()
def test_a_chunk_of_another_dtype_or_a_copy_of_a_state_starts_anew():
    state = append_inputs(torch.zeros(1, 4, 2), noise(1, 1, 2))[1]
    window, _ = append_inputs(state, noise(1, 1, 2).double())
    assert window.dtype == torch.float64 and torch.equal(window[:, :4], state.double())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    for same in (copy.deepcopy(state), torch.load(file, weights_only=True)):
        assert torch.equal(append_inputs(same, noise(1, 1, 2))[0], append_inputs(state, noise(1, 1, 2))[0])


@torch.no_grad()
def test_threads_may_go_on_from_one_state():
    weight = torch.full((1, 1, 1, 5), 1.0)
    state = append_inputs(torch.zeros(1, 4, 1), torch.ones(1, 1, 1))[1]
    wrong = []

    def go_on(number):
        mine = state
        for step in range(1, 200):
            output, mine = dynamic_conv1d_step(torch.full((1, 1, 1), float(number)), mine, weight)
            if step > 5 and output.item() != 5 * number:
                wrong.append(output.item())

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
