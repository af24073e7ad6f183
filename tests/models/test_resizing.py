"""`resize_token_embeddings`: every table over the vocabulary goes along, and what it knew stays."""

import pytest
import torch

from seqdyconv.models import (
    SeqDyConvCausalLMConfig,
    SeqDyConvConfig,
    SeqDyConvForCausalLM,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvForMaskedLM,
    SeqDyConvForSequenceClassification,
    SeqDyConvForSpeechSeq2Seq,
    SeqDyConvModel,
    SeqDyConvSpeechConfig,
)

OLD = 20
SMALL = {
    "vocab_size": OLD,
    "hidden_size": 12,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "encoder_layer_types": ["dynamic_conv"],
    "encoder_kernel_sizes": [3],
    "decoder_layer_types": ["dynamic_conv"],
    "decoder_kernel_sizes": [3],
}
ENCODER = {"is_encoder_decoder": False}
UNSHARED = {"share_encoder_decoder_embeddings": False}
UNTIED = {"tie_word_embeddings": False}
MODELS = {
    "encoder": (SeqDyConvModel, ENCODER),
    "classifier": (SeqDyConvForSequenceClassification, ENCODER),
    "masked": (SeqDyConvForMaskedLM, ENCODER),
    "masked, untied": (SeqDyConvForMaskedLM, {**ENCODER, **UNTIED}),
    "shared": (SeqDyConvForConditionalGeneration, {}),
    "unshared": (SeqDyConvForConditionalGeneration, UNSHARED),
    "unshared, untied": (SeqDyConvForConditionalGeneration, {**UNSHARED, **UNTIED}),
    "unshared, factorised": (SeqDyConvForConditionalGeneration, {**UNSHARED, **UNTIED, "embedding_size": 8}),
    "causal": (SeqDyConvForCausalLM, {}),
    "causal, untied": (SeqDyConvForCausalLM, UNTIED),
    "speech": (SeqDyConvForSpeechSeq2Seq, {"is_encoder_decoder": True}),
}


def build(kind, options):
    torch.manual_seed(0)
    if kind in (SeqDyConvForCTC, SeqDyConvForSpeechSeq2Seq):
        return kind(SeqDyConvSpeechConfig(num_mel_bins=8, subsampling_channels=4, **SMALL, **options)).eval()
    if kind is SeqDyConvForCausalLM:
        return kind(SeqDyConvCausalLMConfig(**SMALL, **options)).eval()
    return kind(SeqDyConvConfig(**SMALL, **options)).eval()


def batch(kind, last):
    tokens = torch.tensor([[4, 5, 6, last, 2]])
    inputs = {"input_ids": tokens}
    if kind is SeqDyConvForSpeechSeq2Seq:
        inputs = {"input_features": torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))}
    if kind is SeqDyConvModel:
        return inputs
    return {**inputs, "labels": torch.tensor([1]) if kind is SeqDyConvForSequenceClassification else tokens}


@pytest.mark.parametrize(("kind", "options"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(
    ("size", "multiple", "expected"), [(30, None, 30), (15, None, 15), (30, 8, 32), (OLD, None, OLD)], ids=str
)
def test_all_tables_have_the_new_size_and_keep_their_rows(kind, options, size, multiple, expected, tmp_path):
    model = build(kind, options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = model.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    assert table.num_embeddings == model.config.vocab_size == expected

    kept = min(OLD, expected)
    for name, value in model.state_dict().items():
        over_vocabulary = before[name].shape[:1] == (OLD,)
        assert value.shape[0] == expected if over_vocabulary else value.shape == before[name].shape
        assert torch.equal(value[:kept], before[name][:kept]) if over_vocabulary else torch.equal(value, before[name])

    inputs = batch(kind, expected - 1)
    outputs = model(**inputs)
    if "labels" in inputs:
        outputs.loss.backward()
    if kind not in (SeqDyConvModel, SeqDyConvForSequenceClassification):
        assert outputs.logits.shape[-1] == expected
    if model.can_generate():
        assert model.generate(inputs[model.main_input_name], max_new_tokens=4, num_beams=2).max() < expected

    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs)[0], outputs[0])


@pytest.mark.parametrize("name", ["shared", "unshared", "speech"])
def test_the_encoder_alone_knows_its_new_size(name, tmp_path):
    model = build(*MODELS[name])
    model.resize_token_embeddings(70)
    model.encoder.save_pretrained(tmp_path)
    assert type(model.encoder).from_pretrained(tmp_path).config.vocab_size == 70


def test_two_vocabularies_are_not_resized_as_one():
    model = build(SeqDyConvForConditionalGeneration, {**UNSHARED, "encoder_vocab_size": 24})
    assert model.resize_token_embeddings().num_embeddings == 24
    with pytest.raises(ValueError, match="the encoder has 24 tokens of its own and the decoder 20"):
        model.resize_token_embeddings(30)
    assert (model.config.encoder_vocab_size, model.config.vocab_size) == (24, 20)


def test_a_recogniser_without_a_decoder_says_how():
    with pytest.raises(NotImplementedError, match=r"from_pretrained\(folder, vocab_size=N, ignore_mismatched_sizes"):
        build(SeqDyConvForCTC, {}).resize_token_embeddings(30)


def test_a_recogniser_without_a_decoder_gets_another_vocabulary_so(tmp_path):
    build(SeqDyConvForCTC, {}).save_pretrained(tmp_path)
    model = SeqDyConvForCTC.from_pretrained(tmp_path, vocab_size=30, ignore_mismatched_sizes=True)
    assert model(torch.randn(1, 40, 8)).logits.shape[-1] == 30
