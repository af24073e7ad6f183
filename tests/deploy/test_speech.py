"""Programs of recognisers: raw samples to the logits that the model gives."""

import json

import onnxruntime
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from seqdyconv.deploy.graphs import ExportError, write_graph
from seqdyconv.deploy.speech import CTCProgram, StreamingCTCProgram, ctc_part, front_of, token_table
from seqdyconv.layers.mixers import mixers_with
from seqdyconv.models import SeqDyConvForSpeechSeq2Seq
from seqdyconv.speech import Recogniser
from seqdyconv.speech.tokenization import train_subword_tokenizer
from seqdyconv.swap import swap_self_attention
from tests.deploy.speech_models import drive, recogniser, streaming
from tests.swap.zoo import CASES

VARIANTS = {
    "usual": {},
    "no lookahead": {"lookahead": 0},
    "far lookahead, mixed kernels": {"lookahead": 7, "subsampling_kernels": 3},
    "less lookahead than it could have": {"lookahead": 7, "lookahead_ms": 120},
    "several kernel sizes": {"encoder_kernel_sizes": [3, [3, 11]]},
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


class TestTokens:
    def test_characters(self):
        tokens, special = token_table(recogniser())
        assert tokens == ["<pad>", "<s>", "</s>", "<unk>", "▁", *"abcdefg"] and special == [0, 1, 2, 3]

    def test_subwords(self):
        hears = recogniser(vocab_size=20)
        hears.tokenizer = train_subword_tokenizer(["the other", "then there"], vocab_size=18)
        tokens, special = token_table(hears)
        assert "▁the" in tokens and len(tokens) == 20 and {18, 19} < set(special)  # outputs that no token has

    def test_those_of_wav2vec(self, tmp_path):
        (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "|": 1, "A": 2, "B": 3, "<unk>": 4}))
        hears = recogniser(vocab_size=5)
        hears.tokenizer = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", bos_token=None, eos_token=None)
        assert token_table(hears) == (["<pad>", "▁", "A", "B", "<unk>"], [0, 4])


class TestDecoders:
    def test_of_a_joint_model_the_ctc_output_is_exported(self):
        decoder = {
            "decoder_kernel_sizes": [3],
            "decoder_layer_types": ["dynamic_conv"],
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 16,
        }
        config = recogniser().model.config
        config = type(config)(**{**config.to_dict(), **decoder, "is_encoder_decoder": True})
        joint = SeqDyConvForSpeechSeq2Seq(config).eval()
        hears = Recogniser(joint, recogniser().feature_extractor, recogniser().tokenizer)
        ctc, (note,) = ctc_part(hears)
        features = torch.randn(1, 30, 20)
        expected = joint.ctc_head(joint.encoder(features).last_hidden_state)
        torch.testing.assert_close(ctc.model(features).logits, expected)
        assert "decoder is left out" in note and ctc.decode_ids([5, 6]) == "ab"

    def test_whisper_is_one_line(self):
        sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60000, "pad_token_id": 0}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
        model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **heads))
        with pytest.raises(ExportError, match="writes text with a decoder, whose loop has no graph here"):
            ctc_part(Recogniser(model, WhisperFeatureExtractor(), None))

    def test_features_of_other_kinds_are_one_line(self):
        with pytest.raises(ExportError, match="features of WhisperFeatureExtractor can't be computed inside a graph"):
            front_of(WhisperFeatureExtractor())


class TestCTCProgram:
    """Of models of transformers; ours are in tests/runtime/test_recogniser.py."""

    @pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # inside transformers' WavLM
    @pytest.mark.parametrize("masked", [True, False], ids=["with mask", "without mask"])
    @pytest.mark.parametrize("family", [name for name, case in CASES.items() if case.head.endswith("ForCTC")])
    def test_samples_give_the_logits_of_each_family(self, family, masked):
        hears = Recogniser(CASES[family].model(head=True), Wav2Vec2FeatureExtractor(return_attention_mask=masked), None)
        if family == "wav2vec2-bert":
            config = hears.model.config
            config.feature_projection_input_dim = 160
            hears = Recogniser(type(hears.model)(config).eval(), SeamlessM4TFeatureExtractor(), None)
        # Without a mask transformers normalises the padding too, so that a text depends on its batch.
        check_batch(CTCProgram(hears).eval(), hears, [[4000, 700, 1500], [900]] if masked else [[900], [4000]])

    def test_a_graph_of_a_swapped_one_takes_any_batch_and_length(self, tmp_path):
        model = swap_self_attention(CASES["wav2vec2"].model(head=True), mixer="dynamic_conv", kernel_size=11).eval()
        hears = Recogniser(model, Wav2Vec2FeatureExtractor(return_attention_mask=True), None)
        inputs = {"samples": torch.zeros(2, 3000), "lengths": torch.tensor([3000, 2000])}
        axes = {"samples": {0: "batch", 1: "time"}, "lengths": {0: "batch"}}
        write_graph(CTCProgram(hears), tmp_path / "a.onnx", inputs, axes, ["logits", "output_lengths"])
        session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
        check_batch(
            lambda *given: map(torch.from_numpy, session.run(None, dict(zip(inputs, map(torch.Tensor.numpy, given))))),
            hears,
            [[4000, 700, 1500], [900]],
        )


def check_batch(run, hears, batches):
    for lengths in batches:
        batch = [torch.randn(size, generator=torch.Generator().manual_seed(size)) / 10 for size in lengths]
        inputs = hears.inputs(batch)
        with torch.no_grad():
            expected = hears.model(**inputs).logits
            logits, counts = run(pad_sequence(batch, batch_first=True), torch.tensor(lengths))
        assert torch.equal(counts, hears.output_lengths(inputs, expected.shape[1]))
        for found, row, count in zip(logits, expected, counts):
            torch.testing.assert_close(found[:count], row[:count], atol=1e-4, rtol=0)
