"""Checkpoints of ConvBERT: its numbers, all its options, padding that does not leak, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForSequenceClassification,
    ConvBertModel,
    ConvBertTokenizer,
)

from seqdyconv.models import SeqDyConvForSequenceClassification, load_convbert
from seqdyconv.models.convbert import convert_weights
from tests.helpers import assert_close, golden, randomize

SIZES = {
    "vocab_size": 41,
    "hidden_size": 24,
    "embedding_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 36,
    "max_position_embeddings": 40,
    "conv_kernel_size": 5,
}
OPTIONS = {
    "default": {},
    "narrow embeddings": {"embedding_size": 10},
    "wide embeddings": {"embedding_size": 30, "pad_token_id": 0},
    "grouped": {"num_groups": 3, "embedding_size": 8},
    "one head of each": {"head_ratio": 7},
    "all heads of both": {"head_ratio": 1, "num_attention_heads": 3},
    "heads that do not divide the width": {"num_attention_heads": 5, "head_ratio": 2},
    "long kernel": {"conv_kernel_size": 21},
    "one tap": {"conv_kernel_size": 1},
    "activation, eps": {"hidden_act": "gelu_new", "layer_norm_eps": 0.1, "pad_token_id": None},
    "three types": {"type_vocab_size": 3, "num_hidden_layers": 3},
}


def convbert(kind=ConvBertModel, seed=0, **options):
    torch.manual_seed(seed)
    model = kind(ConvBertConfig(**SIZES | options)).double()
    return randomize(model, seed)


def texts(*lengths):
    """Tokens and types (B, T) of texts padded on the right with token 1, and their mask."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(2, 41, mask.shape, generator=generator).masked_fill(~mask, 1)
    return {
        "input_ids": tokens,
        "token_type_ids": torch.randint(0, 2, mask.shape, generator=generator),
        "attention_mask": mask.long(),
    }


@pytest.fixture(scope="module")
def numbers():
    return golden("convbert_01")


@pytest.fixture(scope="module")
def model(numbers, tmp_path_factory):
    """Ours, of a folder with the weights of the file."""
    tensors, header = numbers
    folder = tmp_path_factory.mktemp("convbert")
    state = {key[6:]: tensor for key, tensor in tensors.items() if key.startswith("state.")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(header["config"]))
    return load_convbert(folder).model


class TestGolden:
    def test_hidden_states(self, numbers, model):
        tensors, _ = numbers
        output = model(
            tensors["input_ids"], token_type_ids=tensors["token_type_ids"], output_hidden_states=True, return_dict=True
        )
        assert_close(output.last_hidden_state, tensors["out"], 1e-10)
        for number, hidden in enumerate(output.hidden_states):
            assert_close(hidden, tensors[f"hidden_states.{number}"], 1e-10)

    def test_texts_shorter_than_a_kernel(self, numbers, model):
        tensors, _ = numbers
        assert_close(model(tensors["input_ids_short"]).last_hidden_state, tensors["out_short"], 1e-10)

    def test_gradients(self, numbers, model):
        tensors, _ = numbers
        output = model(tensors["input_ids"], token_type_ids=tensors["token_type_ids"]).last_hidden_state
        output.backward(tensors["cotangent"])
        expected = convert_weights({key[5:]: tensor for key, tensor in tensors.items() if key.startswith("grad.")})
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert_close(gradient, expected[name], 1e-10, name)


class TestOptions:
    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_without_padding_it_is_theirs(self, options):
        theirs = convbert(**options)
        ours, batch = load_convbert(theirs).model, texts(9, 9)
        expected = theirs(**batch, output_hidden_states=True).hidden_states
        for one, other in zip(ours(**batch, output_hidden_states=True).hidden_states, expected, strict=True):
            assert_close(one, other)
        assert_close(ours(batch["input_ids"]).last_hidden_state, theirs(batch["input_ids"]).last_hidden_state)

    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_padding_changes_nothing_but_theirs(self, options):
        theirs = convbert(**options)
        ours, batch = load_convbert(theirs).model, texts(9, 4)
        padded = ours(**batch).last_hidden_state
        alone = [
            ours(
                input_ids=batch["input_ids"][b : b + 1, :time], token_type_ids=batch["token_type_ids"][b : b + 1, :time]
            ).last_hidden_state[0]
            for b, time in enumerate((9, 4))
        ]
        for b, expected in enumerate(alone):
            assert_close(padded[b, : len(expected)], expected)
        if options.get("conv_kernel_size") != 1:
            assert (theirs(**batch).last_hidden_state[1, :4] - alone[1]).abs().max() > 0.01

    def test_dropouts_are_theirs(self):
        theirs = convbert(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2, classifier_dropout=0.4)
        config = load_convbert(theirs).model.config
        assert (config.dropout, config.attention_dropout, config.classifier_dropout) == (0.3, 0.2, 0.4)
        assert load_convbert(theirs).model.layers[0].mixer.attention_dropout == 0.2

    def test_gradients(self):
        theirs = convbert(num_groups=2, embedding_size=10)
        ours, batch = load_convbert(theirs).model, texts(9, 9)
        for model in (theirs, ours):
            model(**batch).last_hidden_state.square().sum().backward()
        expected = convert_weights({name: parameter.grad for name, parameter in theirs.named_parameters()})
        for name, parameter in ours.named_parameters():
            assert_close(parameter.grad, expected[name], name=name)


class TestModels:
    def test_is_converted_as_it_is_and_left_so(self):
        theirs = convbert()
        before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
        ours = load_convbert(theirs).model
        assert not ours.training and {parameter.dtype for parameter in ours.parameters()} == {torch.float64}
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.add_(1)
        assert all(torch.equal(tensor, before[name]) for name, tensor in theirs.state_dict().items())

    @pytest.mark.parametrize("kind", [ConvBertForMaskedLM, ConvBertForSequenceClassification])
    def test_of_any_head(self, kind, tmp_path):
        theirs, batch = convbert(kind), texts(9, 9)
        expected = theirs.convbert(**batch).last_hidden_state
        assert_close(load_convbert(theirs).model(**batch).last_hidden_state, expected)
        theirs.save_pretrained(tmp_path)
        assert_close(load_convbert(tmp_path).model(**batch).last_hidden_state, expected)

    def test_dtype_is_the_checkpoints(self, tmp_path):
        convbert().bfloat16().save_pretrained(tmp_path)
        assert load_convbert(tmp_path).model.dtype == torch.bfloat16

    def test_in_several_files(self, tmp_path):
        theirs, batch = convbert(), texts(9, 9)
        theirs.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        assert_close(load_convbert(str(tmp_path)).model(**batch).last_hidden_state, theirs(**batch).last_hidden_state)

    @pytest.mark.parametrize("options", [{}, {"embedding_size": 10, "num_groups": 3}], ids=str)
    def test_saved_and_loaded_it_is_the_same(self, tmp_path, options):
        ours, batch = load_convbert(convbert(**options)).model, texts(9, 4)
        ours.save_pretrained(tmp_path)
        again = AutoModel.from_pretrained(tmp_path, dtype=torch.float64)
        assert_close(again(**batch).last_hidden_state, ours(**batch).last_hidden_state)
        expected = ours.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())

    def test_trains_under_a_new_head(self, tmp_path):
        ours, batch = load_convbert(convbert(embedding_size=10)).model, texts(9, 4)
        ours.save_pretrained(tmp_path)
        model = SeqDyConvForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64, num_labels=3)
        assert torch.equal(model.encoder.embedding.tokens.weight, ours.embedding.tokens.weight)
        model(**batch, labels=torch.tensor([0, 2])).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_the_tokenizer_comes_along(self, tmp_path):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "old", "bridge"]
        convbert(vocab_size=len(words)).save_pretrained(tmp_path / "theirs")
        assert load_convbert(tmp_path / "theirs").tokenizer is None
        (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(words))
        ConvBertTokenizer(str(tmp_path / "theirs" / "vocab.txt")).save_pretrained(tmp_path / "theirs")
        model, tokenizer = load_convbert(tmp_path / "theirs")
        expected = [2, 5, 6, 7, 3]
        assert tokenizer("The old bridge")["input_ids"] == expected
        model.save_pretrained(tmp_path / "ours")
        tokenizer.save_pretrained(tmp_path / "ours")
        assert AutoTokenizer.from_pretrained(tmp_path / "ours")("The old bridge")["input_ids"] == expected


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    convbert().save_pretrained(folder)
    return folder


class TestRefused:
    @pytest.fixture
    def folder(self, saved, tmp_path):
        return shutil.copytree(saved, tmp_path / "checkpoint")

    def edit(self, folder, **values):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"model_type": "bert"}, "the model_type must be 'convbert', got 'bert'"),
            ({"model_type": None}, "can't load a ConvBERT from .* has model type"),
            ({"id2label": [1]}, "can't load a ConvBERT from"),
            ({"head_ratio": "two"}, "can't load a ConvBERT from .*head_ratio"),
            ({"hidden_size": float("nan")}, "hidden_size in config.json must be a number, got nan"),
            ({"num_hidden_layers": 10**12}, "num_hidden_layers in config.json must be at most 1000, got"),
            ({"is_decoder": True}, "only encoders can be converted, got is_decoder=True"),
            ({"conv_kernel_size": 4}, "conv_kernel_size must be odd, .*, got 4"),
            ({"hidden_act": "swoosh"}, "activation_function must be of .*gelu.*, got 'swoosh'"),
            ({"num_attention_heads": 16}, "hidden_size must be a multiple of 16: 8 heads .*, got 24"),
            ({"intermediate_size": 40}, "weights can't be loaded"),
            ({"num_hidden_layers": 3}, "weights are missing: encoder.layer.2.attention"),
            ({"num_hidden_layers": 1}, "no place for the weights .*encoder.layer.1.attention"),
            ({"hidden_dropout_prob": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ],
        ids=str,
    )
    def test_configurations(self, folder, options, message):
        self.edit(folder, **options)
        with pytest.raises(ValueError, match=message) as error:
            load_convbert(folder)
        assert str(error.value).count(str(folder)) == 1 and "\n" not in str(error.value)

    def test_cross_attention(self):
        theirs = convbert(is_decoder=True, add_cross_attention=True)
        with pytest.raises(ValueError, match="only encoders can be converted, got is_decoder=True"):
            load_convbert(theirs)

    def test_missing_weights(self, folder):
        state = load_file(folder / "model.safetensors")
        del state["encoder.layer.1.attention.self.query.bias"]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"weights are missing: encoder.layer.1.attention.self.query.bias"):
            load_convbert(folder)

    def test_a_truncated_file(self, folder):
        data = (folder / "model.safetensors").read_bytes()
        for size in (0, 5, 1000, len(data) - 8):
            (folder / "model.safetensors").write_bytes(data[:size])
            with pytest.raises(ValueError, match=r"checkpoint: the weights can't be loaded: \w+"):
                load_convbert(folder)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(ValueError, match=r"model.safetensors"):
            load_convbert(folder)

    def test_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"there is no model folder .*nowhere"):
            load_convbert(tmp_path / "nowhere")

    def test_another_model(self):
        theirs = BertModel(
            BertConfig(vocab_size=41, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        )
        with pytest.raises(ValueError, match="must be a ConvBERT of transformers, got BertModel"):
            load_convbert(theirs)
        with pytest.raises(TypeError):
            load_convbert(nn.Linear(2, 2))
