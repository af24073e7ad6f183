"""Text classifiers and their teachers: what can't read the data, or reads them otherwise, is told before any work."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from seqdyconv.data.text_rows import LengthArguments, tokenize
from seqdyconv.data.word_tokenizers import train_word_tokenizer
from seqdyconv.models.loading import ModelError
from seqdyconv.swap import swap_self_attention
from seqdyconv.training.classifiers import ModelArguments, build_model, classify
from seqdyconv.training.distilling import DistillationArguments, make_teacher

TEXTS = ["the old word", "the old word and many more words of a text"]
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "pad_token_id": 1}
TOKENIZER = train_word_tokenizer(TEXTS * 3, 60)
LABELS = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
DATA = tokenize(DatasetDict({"train": Dataset.from_dict({"text": TEXTS})}), TOKENIZER, LengthArguments())


def bert(positions=64, kind=BertForSequenceClassification):
    return kind(BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=positions, **SIZES, **LABELS))


def roberta(positions):
    sizes = {"type_vocab_size": 1, "max_position_embeddings": positions, **SIZES}
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=len(TOKENIZER), **sizes, **LABELS))


def gpt2(positions=64):
    ids = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 2}
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": positions}
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=len(TOKENIZER), **sizes, **ids, **LABELS))


def save(folder, model, tokenizer=TOKENIZER):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def teacher_of(folder):
    args = DistillationArguments(teacher_name_or_path=folder, matching_weight=1.0)
    return make_teacher(bert(), TOKENIZER, DATA, args, "model")


SHORT = {"bert": lambda: bert(5), "roberta": lambda: roberta(7), "gpt2": lambda: gpt2(5)}


@pytest.mark.parametrize("make", SHORT.values(), ids=SHORT)
def test_a_model_with_too_few_positions_is_one_line(make, tmp_path):
    folder = save(tmp_path, make())
    longest = max(map(len, DATA["train"]["input_ids"]))
    message = f"can't read {longest} tokens at once: set max_length below"
    with pytest.raises(ModelError, match=message):
        build_model(ModelArguments(model_name_or_path=folder), TOKENIZER, ["no", "yes"], DATA)
    with pytest.raises(ModelError, match=message):
        teacher_of(folder)
    with pytest.raises(ModelError, match=message):
        classify(make().eval(), TOKENIZER, DATA["train"], 4)


def test_a_new_model_with_too_few_positions_is_one_line():
    sizes = {"hidden_size": 8, "ffn_dim": 8, "attention_heads": 2, "encoder_kernel_sizes": [3]}
    args = ModelArguments(**sizes, position_type="learned", max_position_embeddings=5)
    with pytest.raises(ModelError, match="learned positions end"):
        build_model(args, TOKENIZER, ["no", "yes"], DATA)


def test_a_swapped_encoder_gets_a_new_head(tmp_path):
    body = swap_self_attention(bert(kind=BertModel), layers=[1], kernel_size=3)
    model = build_model(ModelArguments(model_name_or_path=save(tmp_path, body)), TOKENIZER, ["a", "b", "c"], DATA)
    assert isinstance(model, BertForSequenceClassification) and model.config.id2label == {0: "a", 1: "b", 2: "c"}
    torch.testing.assert_close(model.bert.state_dict(), body.state_dict())


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path):
    other = train_word_tokenizer(["other words that fit as many rows"] * 3, 60)
    with pytest.raises(ModelError, match="another tokenizer"):
        teacher_of(save(tmp_path, bert(), other))


def test_a_teacher_without_a_padding_token_gets_that_of_the_tokenizer(tmp_path):
    teacher = teacher_of(save(tmp_path, gpt2()))
    assert np.isfinite(classify(teacher, TOKENIZER, DATA["train"], 4)).all()


def test_probabilities_that_are_nan_are_told():
    model = bert().eval()
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)
        model.bert.pooler.dense.bias.fill_(9)
    with pytest.raises(ModelError, match="NaN or infinite"):
        classify(model, TOKENIZER, DATA["train"], 4)
