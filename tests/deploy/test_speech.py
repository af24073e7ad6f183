"""Programs of recognisers: raw samples to the logits that the model gives."""

import pytest
import torch

from seqdyconv.deploy.graphs import ExportError
from seqdyconv.deploy.speech import StreamingCTCProgram
from seqdyconv.layers.mixers import mixers_with
from tests.deploy.speech_models import drive, recogniser, streaming

VARIANTS = {
    "usual": {},
    "no lookahead": {"lookahead": 0},
    "far lookahead, mixed kernels": {"lookahead": 7, "subsampling_kernels": 3},
    "conformer": {"encoder_block": "conformer"},
    "post-norm": {"encoder_normalize_before": False},
    "renormalised": {"encoder_mixer_options": {"renormalize": True}},
    "short window": {"features": {"frame_length": 10.0, "frame_shift": 5.0}},
    "window longer than a step": {"features": {"frame_length": 50.0}, "lookahead": 1},
}
LENGTHS = [1, 399, 400, 401, 560, 640, 1039, 1040, 1041, 1680, 3000, 6789]


def check_stream(hears, program, run, number):
    """Every length, in random chunks, gives what the model gives of the whole, and blanks around it."""
    states = list(program.initial_states(1).values())
    for seed, length in enumerate(LENGTHS, number):
        samples = torch.randn(length, generator=torch.Generator().manual_seed(seed)) / 10
        with torch.no_grad():
            whole = hears.model(hears.feature_extractor.features(samples)[None]).logits[0]
            found = drive(run, states, program.step, program.padding, program.late, samples, seed)
        inside = slice(program.late, program.late + len(whole))
        torch.testing.assert_close(found[inside], whole, atol=1e-4 * float(whole.abs().max()), rtol=0)
        outside = torch.cat([found[: program.late], found[inside.stop :]])
        assert (outside.argmax(1) == 0).all() and (outside[:, 1:] == -1e4).all()


class TestStreamingProgram:
    @pytest.mark.parametrize("mixer", mixers_with("lookahead"))
    def test_any_mixer_gives_what_the_model_gives_of_the_whole(self, mixer):
        hears = streaming(encoder_layer_types=mixer)
        program = StreamingCTCProgram(hears).eval()
        check_stream(hears, program, program, 0)

    @pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
    def test_so_does_any_architecture(self, variant):
        hears = streaming(**variant)
        program = StreamingCTCProgram(hears).eval()
        check_stream(hears, program, program, 100)

    def test_streams_beside_each_other_are_as_alone(self):
        hears = streaming()
        program = StreamingCTCProgram(hears).eval()
        chunks = torch.randn(2, 3, program.step, generator=torch.Generator().manual_seed(0)) / 10
        lengths = torch.tensor([3 * program.step, 700])
        with torch.no_grad():
            both = program(chunks, lengths, *program.initial_states(2).values())
            alone = program(chunks[1:], lengths[1:], *program.initial_states(1).values())
        for one, other in zip(both, alone):
            torch.testing.assert_close(one[1:], other, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(
        ("hears", "message"),
        [
            (recogniser, "encoder_lookahead"),
            (lambda: streaming({"normalize": "utterance"}), "needs the whole utterance"),
        ],
        ids=["of the whole", "normalised by utterance"],
    )
    def test_what_hears_the_whole_does_not_stream(self, hears, message):
        with pytest.raises(ExportError, match=message):
            StreamingCTCProgram(hears())
