"""Streaming of the speech models: chunks of any length give what the whole gives, in constant memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqdyconv import DynamicConv1d, build_mixer
from seqdyconv.layers.mixers import mixers_with
from seqdyconv.models import SeqDyConvForCTC, SeqDyConvSpeechConfig, SeqDyConvSpeechModel
from tests.helpers import randomize, streamed_late

BINS = 10
SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_mel_bins": BINS,
    "subsampling_channels": 3,
    "encoder_kernel_sizes": [3, 1, 31],
    "encoder_layer_types": ["dynamic_conv", "lightweight_conv", "dynamic_conv"],
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "encoder_position_type": "none",
    "conformer_kernel_size": 9,
}
every_block = pytest.mark.parametrize("block", ["transformer", "conformer"])
examples = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
chunk_lengths = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any)


def build(kind=SeqDyConvForCTC, dtype: torch.dtype = torch.float64, **options):
    config = SeqDyConvSpeechConfig(**(SMALL | options))
    return randomize(kind(config)).to(dtype)


def frames(length: int, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, length, BINS, generator=torch.Generator().manual_seed(length), dtype=dtype)


def stream(model, features: Tensor, chunks: list[int]) -> list[Tensor]:
    """The outputs of the chunks, the last of which is flushed."""
    state, outputs = model.initial_state(len(features)), []
    for number, chunk in enumerate(features.split(chunks, dim=1), 1):
        output, state = model.stream(chunk, state, flush=number == len(chunks))
        outputs.append(output)
    return outputs


@pytest.mark.parametrize("mixer", mixers_with("lookahead"))
@pytest.mark.parametrize("lookahead", [0, 4])
def test_every_mixer_that_looks_ahead_streams(mixer, lookahead):
    model, features = build(encoder_layer_types=mixer, encoder_lookahead=lookahead), frames(60)
    chunks = stream(model, features, [7, 1, 30, 22])
    torch.testing.assert_close(torch.cat(chunks, dim=1), model(features).logits, rtol=0, atol=1e-10)


@every_block
@pytest.mark.parametrize("kernels", [1, 3])
@pytest.mark.parametrize("lookahead", [0, 1, 4])
@examples
@given(chunks=chunk_lengths)
def test_any_chunking_gives_the_logits_of_the_whole(block, kernels, lookahead, chunks):
    model = build(encoder_block=block, encoder_lookahead=lookahead, subsampling_kernels=kernels)
    features = frames(sum(chunks))
    whole = model(features).logits
    torch.testing.assert_close(torch.cat(stream(model, features, chunks), dim=1), whole, rtol=0, atol=1e-10)


@every_block
@pytest.mark.parametrize("options", [{}, {"encoder_normalize_before": True}], ids=["post-norm", "pre-norm"])
def test_single_precision_is_as_good(block, options):
    model = build(SeqDyConvSpeechModel, torch.float32, encoder_block=block, encoder_lookahead=4, **options)
    features = frames(700, dtype=torch.float32)
    streamed = torch.cat(stream(model, features, [7] * 100), dim=1)
    torch.testing.assert_close(streamed, model(features).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_the_output_is_as_late_as_the_layers_look_ahead(lookahead):
    model = build(SeqDyConvSpeechModel, encoder_lookahead=lookahead)
    # No layer looks further ahead than its kernel, of 3, 1 and 31 taps, reaches.
    assert model.lookahead == min(lookahead, 2) + 0 + lookahead
    counts = [output.shape[1] for output in stream(model, frames(80), [4] * 20)]
    assert counts == [0] * min(19, model.lookahead) + [1] * (19 - model.lookahead) + [1 + model.lookahead]


def test_the_lookahead_is_used():
    model, features = (
        build(encoder_lookahead=1, encoder_kernel_sizes=[7], encoder_layer_types="dynamic_conv"),
        frames(80),
    )
    changed = features.clone()
    changed[:, 41:] += 1  # step 11 is the first that reads one of them, and step 10 looks one step ahead
    before, after = model(features).logits, model(changed).logits
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10], after[:, 10])


class TestChosenLookahead:
    """One set of weights at many latencies: taps that are too far ahead are left out."""

    @every_block
    @pytest.mark.parametrize("steps", [0, 1, 3, 8, 9, None])
    def test_streams_what_it_gives_of_the_whole_and_hears_no_more(self, block, steps):
        model, features = build(encoder_block=block, encoder_lookahead=4, encoder_kernel_sizes=[31, 5, 9]), frames(100)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        whole = model(features).logits
        ahead = model.encoder.set_lookahead(steps)
        assert ahead == model.encoder.lookahead == (12 if steps is None else steps)
        found = model(features).logits
        chunks = stream(model, features, [7, 1, 42, 50])
        torch.testing.assert_close(torch.cat(chunks, dim=1), found, rtol=0, atol=1e-10)
        changed = torch.cat([features[:, :61], features[:, 61:] + 1], dim=1)  # step 16 is the first to read these
        assert (model(changed).logits - found).abs().sum((0, 2)).nonzero()[0] == 16 - ahead
        assert model.config.encoder_lookahead == 4 and before.keys() == model.state_dict().keys()
        model.encoder.set_lookahead()
        assert torch.equal(model(features).logits, whole)

    def test_layers_share_it_evenly_and_the_first_take_what_is_over(self):
        model = build(SeqDyConvSpeechModel, encoder_lookahead=4)  # of 3, 1 and 31 taps: at most 2, 0 and 4 steps
        found = {}
        for steps in (0, 1, 2, 3, 5, 99):
            assert model.set_lookahead(steps) == min(steps, 6)
            found[steps] = [layer.mixer.lookahead for layer in model.layers]
        assert found == {0: [0, 0, 0], 1: [1, 0, 0], 2: [1, 0, 1], 3: [2, 0, 1], 5: [2, 0, 3], 99: [2, 0, 4]}

    def test_dilated_layers_look_ahead_in_their_own_steps(self):
        options = {"encoder_layer_types": "dynamic_conv", "encoder_mixer_options": {"dilation": 2}}
        model = build(SeqDyConvSpeechModel, encoder_lookahead=3, encoder_kernel_sizes=[9, 9], **options)
        assert [model.set_lookahead(steps) for steps in (0, 2, 3, 4, 5, 6, None)] == [2, 2, 2, 4, 4, 6, 6]

    def test_a_loaded_model_looks_as_far_as_its_configuration_says(self, tmp_path):
        model = build(encoder_lookahead=4).float()
        model.encoder.set_lookahead(1)
        model.save_pretrained(tmp_path)
        assert SeqDyConvForCTC.from_pretrained(tmp_path).encoder.lookahead == 6

    @pytest.mark.parametrize(
        ("options", "steps", "message"),
        [({}, 0, "only if its configuration says"), ({"encoder_lookahead": 1}, -1, "steps must be at least 0, got -1")],
    )
    def test_what_is_impossible_is_refused(self, options, steps, message):
        with pytest.raises(ValueError, match=message):
            build(SeqDyConvSpeechModel, **options).set_lookahead(steps)


def test_after_flushing_a_new_utterance_starts():
    model = build(encoder_lookahead=2)
    state = model.stream(frames(30), model.initial_state(2), flush=True)[1]
    output, _ = model.stream(frames(50), state, flush=True)
    torch.testing.assert_close(output, model(frames(50)).logits)


def test_what_waits_can_be_flushed_without_new_frames_and_nothing_waits_in_nothing():
    model, features = build(encoder_lookahead=2), frames(30)
    first, state = model.stream(features, model.initial_state(2))
    rest, state = model.stream(features[:, :0], state, flush=True)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), model(features).logits)
    assert model.stream(features[:, :0], state, flush=True)[0].shape == (2, 0, 20)


def storage(state) -> int:
    """The bytes that a state keeps in memory, all of the storage behind each tensor."""
    return state.untyped_storage().nbytes() if isinstance(state, Tensor) else sum(map(storage, state))


@every_block
@torch.no_grad()
def test_the_state_does_not_grow(block):
    model = build(encoder_block=block, encoder_lookahead=4, subsampling_kernels=3)
    state, sizes = model.initial_state(2), []
    for length in 2 * (100, 3, 3, 3, 400, 3):
        _, state = model.stream(frames(length), state)
        sizes.append(storage(state))
    assert sizes[6:] == sizes[:6]


def test_a_model_of_whole_utterances_does_not_stream():
    model = build()
    with pytest.raises(ValueError, match="streams only if its configuration says encoder_lookahead >= 0, got None"):
        model.initial_state(1)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="state must be a SpeechState, got NoneType"):
        build(encoder_lookahead=0).stream(torch.zeros(1, 4, BINS).double(), None)


def test_frames_of_another_width_are_refused():
    model = build(encoder_lookahead=0)
    with pytest.raises(ValueError, match=r"input must be .*C = 10, got \(1, 9, 8\)"):
        model.stream(torch.zeros(1, 9, 8).double(), model.initial_state(1))


class TestMixersThatLookAhead:
    """A convolution with ``lookahead``: its output of a chunk is that of the whole, so many steps late."""

    OPTIONS = {
        "default": {},
        "renormalized": {"renormalize": True},
        "dilated": {"dilation": 3, "renormalize": True},
        "one tap": {"kernel_size": 1},
    }

    def build(self, name, options, lookahead):
        mixer = build_mixer(name, 6, 3, **({"kernel_size": 5} | options), lookahead=lookahead, dtype=torch.float64)
        return randomize(mixer)

    @pytest.mark.parametrize("name", ["lightweight_conv", "dynamic_conv"])
    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    @pytest.mark.parametrize("lookahead", [0, 1, 4, 9])
    def test_stream_late(self, name, options, lookahead):
        mixer = self.build(name, options, lookahead)
        assert mixer.lookahead == min(lookahead, mixer.conv.reach)
        input = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.testing.assert_close(streamed_late(mixer, input, [3, 1, 1, 15]), mixer(input), rtol=0, atol=1e-10)

    def test_a_query_is_that_of_the_steps_of_the_output(self):
        layer = randomize(DynamicConv1d(6, 5, 3, padding=2, query_dim=4, dtype=torch.float64))
        input, query = torch.randn(2, 20, 6, dtype=torch.float64), torch.randn(2, 20, 4, dtype=torch.float64)
        late = F.pad(query, (0, 0, 2, 0))
        first, state = layer.stream(input, layer.initial_state(2), query=late[:, :20])
        rest, _ = layer.stream(input[:, :2], state, torch.ones(2, 2, dtype=torch.bool), query=late[:, 20:])
        whole = layer(input, query=query)
        torch.testing.assert_close(torch.cat([first[:, 2:], rest], dim=1), whole, rtol=0, atol=1e-10)

    def test_a_causal_mixer_is_one_that_looks_no_step_ahead(self):
        ahead = self.build("dynamic_conv", {}, 0)
        causal = build_mixer("dynamic_conv", 6, 3, kernel_size=5, causal=True, dtype=torch.float64)
        causal.load_state_dict(ahead.state_dict())
        input = torch.randn(2, 20, 6, dtype=torch.float64)
        assert ahead(input).equal(causal(input))

    @pytest.mark.parametrize("options", [{"lookahead": -1}, {"lookahead": 1, "causal": True}])
    def test_options_that_contradict_are_refused(self, options):
        with pytest.raises(ValueError, match="lookahead must be >= 0 and causal False, got"):
            build_mixer("dynamic_conv", 6, 3, kernel_size=5, **options)

    @pytest.mark.parametrize("name", ["self_attention", "parallel"])
    def test_attention_has_none(self, name):
        with pytest.raises(ValueError, match=f"no option lookahead of {name}; options are .*attention_dropout"):
            build_mixer(name, 6, 3, lookahead=1)
