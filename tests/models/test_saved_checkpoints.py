"""Checkpoints that an earlier version saved load as they did, and compute what they did: see golden/saved/README.md."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seqdyconv.models import SeqDyConvForConditionalGeneration, SeqDyConvForCTC, SeqDyConvForSequenceClassification
from seqdyconv.swap import load_swapped
from tests.helpers import GOLDEN, assert_close

SAVED = GOLDEN / "saved"
MODELS = {
    "translation": SeqDyConvForConditionalGeneration,
    "text_classification": SeqDyConvForSequenceClassification,
    "speech_recognition": SeqDyConvForCTC,
}


def expected(name: str, kind: str) -> dict[str, Tensor]:
    tensors = load_file(SAVED / name / "expected.safetensors")
    return {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_finds_its_place_and_the_output_is_the_same(name):
    folder = SAVED / name
    model, found = MODELS[name].from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not any(found.values()), found
    inputs, outputs = expected(name, "input."), expected(name, "output.")
    with torch.no_grad():
        result = model(**inputs)
    assert_close(result.logits, outputs["logits"])
    if "loss" in outputs:
        assert_close(result.loss, outputs["loss"])
    if "tokens" in outputs:
        del inputs["decoder_input_ids"]
        tokens = model.generate(**inputs, num_beams=3, max_new_tokens=6, min_new_tokens=6)
        assert torch.equal(tokens, outputs["tokens"])


def test_swapped_model():
    """A loader of ours refuses missing and other weights itself."""
    model = load_swapped(SAVED / "swapped_bert", dtype=torch.float64)
    with torch.no_grad():
        assert_close(model(**expected("swapped_bert", "input.")).logits, expected("swapped_bert", "output.")["logits"])
    mixers = [layer.attention.self.mixer.conv for layer in model.bert.encoder.layer[::2]]
    assert mixers[0].weight_dropout == 0.1
    assert (mixers[1].conv.dilation, mixers[1].conv.renormalize) == (2, True)


def test_options_that_act_in_training_alone():
    model = SeqDyConvForConditionalGeneration.from_pretrained(SAVED / "translation")
    dynamic, lightweight, parallel, attention, _ = (layer.mixer for layer in model.encoder.layers)
    assert [mixer.conv.weight_dropout for mixer in (dynamic, lightweight, parallel)] == [0.1] * 3
    assert [mixer.input_dropout for mixer in (dynamic, lightweight)] == [0.15] * 2
    assert [mixer.attention_dropout for mixer in (parallel, attention)] == [0.2] * 2
    assert [mixer.glu for mixer in (dynamic, model.decoder.layers[0].mixer)] == [False, True]
    model = SeqDyConvForSequenceClassification.from_pretrained(SAVED / "text_classification")
    assert model.encoder.layers[2].mixer.conv.conv.weight_dropout == 0.2
    assert not model.encoder.layers[3].mixer.conv.conv.weight_softmax


@pytest.mark.parametrize("name", MODELS)
def test_the_configuration_keeps_what_was_saved(name, tmp_path):
    config = MODELS[name].config_class.from_pretrained(SAVED / name)
    config.save_pretrained(tmp_path)
    before = json.loads((SAVED / name / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    del before["transformers_version"]
    assert {key: after.get(key) for key in before} == before
