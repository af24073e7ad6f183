"""A cache keeps the state of any mixer, and does to all of its tensors what transformers asks of it."""

import pytest
import torch

from seqdyconv import build_mixer
from seqdyconv.layers import MIXERS
from seqdyconv.layers.states import RealInputs, tensors_of
from seqdyconv.models.cache import MixerState, decoder_cache
from tests.helpers import assert_close, randomize

OPTIONS = {name: {} if name == "self_attention" else {"kernel_size": 4} for name in MIXERS}
CASES = OPTIONS | {
    f"{name}, renormalized": OPTIONS[name] | {"renormalize": True} for name in ("dynamic_conv", "parallel")
}

every_mixer = pytest.mark.parametrize("name", CASES)


def build(name):
    return randomize(build_mixer(name.split(",")[0], 6, 3, causal=True, **CASES[name]).double())


def sequences(rows=3, time=8):
    return torch.randn(rows, time, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def go_on(mixer, input, kept: MixerState):
    """The outputs of the last steps of ``input``, of which the cache knows the first five."""
    return mixer.stream(input[:, 5:], kept.state)[0]


@every_mixer
@pytest.mark.parametrize(
    "change, order",
    [
        (lambda kept: kept.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda kept: kept.batch_select_indices(torch.tensor([1])), [1]),
        (lambda kept: kept.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
        (lambda kept: (kept.offload(), kept.prefetch()), [0, 1, 2]),
    ],
    ids=["reorder", "select", "repeat", "offload"],
)
def test_rows_go_where_they_are_sent(name, change, order):
    mixer, input, kept = build(name), sequences(), MixerState()
    kept.store(mixer.stream(input[:, :5], mixer.initial_state(3))[1], 5)
    change(kept)
    assert all(len(rows) == len(order) for rows in tensors_of(kept.state))
    assert_close(go_on(mixer, input[order], kept), mixer(input[order])[:, 5:])


def test_an_empty_one_stays_empty():
    kept = MixerState()
    for change in (lambda: kept.reorder_cache(torch.tensor([0])), kept.offload, kept.prefetch, kept.reset):
        change()
        assert kept.state is None and kept.get_seq_length() == 0


def test_a_whole_cache_repeats_and_selects():
    mixer, input, cache = build("parallel"), sequences(), decoder_cache(1)
    (layer,) = cache.self_attention_cache.layers
    layer.store(mixer.stream(input[:, :5], mixer.initial_state(3))[1], 5)
    cache.self_attention_cache.batch_repeat_interleave(2)
    cache.self_attention_cache.batch_select_indices(torch.tensor([5, 0]))
    assert_close(go_on(mixer, input[[2, 0]], layer), mixer(input[[2, 0]])[:, 5:])


def test_the_parts_of_a_state_have_names():
    attention = build("self_attention").initial_state(2)
    assert attention._fields == ("key", "value", "is_real") and attention.key.shape == (2, 0, 6)
    parallel = build("parallel").initial_state(2)
    assert parallel._fields == ("conv", "attention") and parallel.conv.shape == (2, 3, 6)
    mixed = build("mixed_attention").initial_state(2)
    assert mixed.conv._fields == ("source", "input") and mixed.attention.key.shape == (2, 0, 3)
    renormalized = build("dynamic_conv, renormalized").initial_state(2)
    assert isinstance(renormalized, RealInputs)
    assert not renormalized.is_real.any() and not renormalized.inputs.any()


def test_a_renormalizing_layer_wants_to_know_which_inputs_are_real():
    mixer = build("dynamic_conv, renormalized")
    with pytest.raises(ValueError, match="state must be RealInputs where the layer renormalizes, got Tensor"):
        mixer.stream(sequences(2), torch.zeros(2, 3, 6).double())
