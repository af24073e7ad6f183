"""Pretrained models and tokenizers: what is loaded, and one line for what cannot be."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from seqdyconv.models.loading import ModelError, check_model_folder, check_vocabulary, load_pretrained, load_tokenizer

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
HEAD = AutoModelForSequenceClassification


@pytest.fixture
def folder(tmp_path):
    BertForSequenceClassification(BertConfig(**SIZES)).bfloat16().save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def fails(match, *args, **options):
    with pytest.raises(ModelError, match=match) as caught:
        load_pretrained(*args, "classifier", **options)
    assert "\n" not in str(caught.value)


class TestLoadPretrained:
    def test_in_float32_and_evaluation_mode(self, folder):
        model = load_pretrained(HEAD, str(folder), "classifier")
        assert type(model) is BertForSequenceClassification and not model.training
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}

    def test_options_reach_the_model(self, folder):
        assert load_pretrained(HEAD, str(folder), "classifier", hidden_dropout_prob=0.3).dropout.p == 0.3

    @pytest.mark.parametrize("pooler", [True, False])
    def test_a_new_head(self, tmp_path, pooler):
        BertModel(BertConfig(**SIZES), add_pooling_layer=pooler).save_pretrained(tmp_path)
        fails("missing keys .*classifier.bias", HEAD, str(tmp_path))
        model = load_pretrained(HEAD, str(tmp_path), "classifier", new_head=True, num_labels=5)
        assert model.classifier.weight.shape == (5, 8)

    def test_a_new_head_of_another_size(self, folder):
        fails("mismatched keys classifier.bias, classifier.weight$", HEAD, str(folder), num_labels=5)
        model = load_pretrained(HEAD, str(folder), "classifier", new_head=True, num_labels=5)
        assert model.classifier.weight.shape == (5, 8)

    def test_weights_that_are_missing(self, folder):
        change_weights(folder, lambda weights: weights.pop("bert.embeddings.word_embeddings.weight"))
        for new_head in (False, True):
            fails("don't fit its config.json: missing keys .*word_embeddings", HEAD, str(folder), new_head=new_head)

    def test_weights_that_are_too_many(self, folder):
        change_weights(folder, lambda weights: weights.update({"bert.more.weight": torch.zeros(1)}))
        for new_head in (False, True):
            fails("unexpected keys bert.more.weight$", HEAD, str(folder), new_head=new_head)

    def test_long_lists_are_cut(self, folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
        fails(r"missing keys \S+, \S+, \S+ and 13 more$", HEAD, str(folder))

    def test_weights_that_are_cut_off(self, folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        fails("can't load a classifier from ", HEAD, str(folder))

    def test_another_kind_of_model(self, folder):
        fails("can't load a classifier from .*: Unrecognized configuration", AutoModelForSeq2SeqLM, str(folder))

    def test_a_broken_configuration(self, folder):
        (folder / "config.json").write_text("{")
        fails("config.json is no JSON$", HEAD, str(folder))


class TestCheckFolder:
    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(ModelError, match=r"holds no model \(no config.json in it\)$"):
            check_model_folder(str(tmp_path))

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    def test_a_folder_with_one(self, tmp_path, name):
        (tmp_path / name).write_text("{}")
        check_model_folder(str(tmp_path))

    @pytest.mark.parametrize("name", ["./runs/none", "/runs/none", "runs/of/none"])
    def test_what_can_only_be_a_folder(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelError, match=f"^there is no model folder {name}$"):
            check_model_folder(name)

    @pytest.mark.parametrize("name", ["bert-base-uncased", "someone/model"])
    def test_what_may_be_a_name_on_the_hub(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        check_model_folder(name)


def make_tokenizer(size):
    tokenizer = Tokenizer(models.WordLevel({f"word{index}": index for index in range(size)}, unk_token="word0"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="word0")


class TestTokenizer:
    def test_loads(self, tmp_path):
        make_tokenizer(5).save_pretrained(tmp_path)
        tokenizer = load_tokenizer(str(tmp_path))
        assert len(tokenizer) == 5 and tokenizer("word3")["input_ids"] == [3]

    def test_a_broken_file(self, tmp_path):
        make_tokenizer(5).save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(ModelError, match=r"^can't load the tokenizer of ") as caught:
            load_tokenizer(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_with_more_entries_than_the_model(self):
        model = BertModel(BertConfig(**SIZES))
        check_vocabulary(model, make_tokenizer(20), "tiny")
        check_vocabulary(model, make_tokenizer(7), "tiny")
        with pytest.raises(ModelError, match=r"^the tokenizer has 21 entries, more than the 20 embeddings of tiny"):
            check_vocabulary(model, make_tokenizer(21), "tiny")


def test_the_path_may_be_a_file(tmp_path):
    Path(tmp_path, "model").touch()
    fails("model is a file, not the folder of a model$", HEAD, str(tmp_path / "model"))
