"""record_kernels and plot_kernels."""

import copy
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from seqdyconv import LightweightConv1d, build_mixer
from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForSequenceClassification,
    plot_kernels,
    record_kernels,
)
from seqdyconv.swap import swap_self_attention
from tests.helpers import assert_close

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "kernels", "are", "wide", "$$", "##ly"]
TEXT = "the kernels are wide $$"


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        model_max_length=20,
    )


def translation_model(**options):
    torch.manual_seed(0)
    default = {
        "encoder_layer_types": ["dynamic_conv", "lightweight_conv", "self_attention", "dynamic_conv"],
        "encoder_kernel_sizes": [3, 4, 3, 9],
        "decoder_kernel_sizes": [5],
        "dropout": 0.0,
    }
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 8,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
    }
    return SeqDyConvForConditionalGeneration(SeqDyConvConfig(**(sizes | default | options)))


def swapped_bert(num_layers=2, **options):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=20,
    )
    return swap_self_attention(BertForSequenceClassification(config), kernel_size=5, **options)


class TestRecordKernels:
    def test_encoder_and_decoder(self):
        source, target = torch.randint(4, 10, (2, 7)), torch.randint(4, 10, (2, 3))
        kernels = record_kernels(translation_model(), input_ids=source, decoder_input_ids=target)
        assert {name: tuple(kernel.shape) for name, kernel in kernels.items()} == {
            "encoder.layers.0.mixer.conv": (2, 7, 4, 3),
            "encoder.layers.1.mixer.conv": (2, 7, 4, 4),
            "encoder.layers.3.mixer.conv": (2, 7, 4, 9),
            "decoder.layers.0.mixer.conv": (2, 3, 2, 5),
        }
        for kernel in kernels.values():
            assert not kernel.requires_grad
            assert_close(kernel.sum(-1), torch.ones(kernel.shape[:-1]), 1e-5)
        lightweight = kernels["encoder.layers.1.mixer.conv"]
        assert_close(lightweight, lightweight[:1, :1].expand_as(lightweight))

    def test_a_swapped_model(self):
        model = swapped_bert(layers=[1])
        kernels = record_kernels(model, input_ids=torch.randint(4, 10, (2, 7)))
        assert [tuple(kernel.shape) for kernel in kernels.values()] == [(2, 7, 2, 5)]
        assert all("layer.1." in name and isinstance(model.get_submodule(name), nn.Module) for name in kernels)

    @pytest.mark.parametrize("mixer", ["dynamic_conv", "lightweight_conv"])
    @pytest.mark.parametrize("renormalize", [False, True])
    def test_they_are_what_the_layer_convolves_with(self, mixer, renormalize):
        """Each channel of the input an impulse at another step: the output is the kernel as seen from there."""
        conv = build_mixer(mixer, 9, 1, kernel_size=4, renormalize=renormalize).conv.double()
        kernels = record_kernels(conv, input=torch.eye(9)[None].double())[""]
        output = conv(torch.eye(9)[None].double())[0]
        for step in range(9):
            for tap in range(4):
                if 0 <= step + tap - conv.left < 9:
                    assert_close(output[step, step + tap - conv.left], kernels[0, step, 0, tap])

    def test_padding_is_known(self):
        mask = torch.arange(9) >= torch.tensor([[9], [5]])
        model = build_mixer("lightweight_conv", 8, 2, kernel_size=5, renormalize=True)
        kernels = record_kernels(model, input=torch.randn(2, 9, 8), padding_mask=mask)["conv"]
        assert (kernels[1, 4, :, 3:] == 0).all() and (kernels[0, 4] > 0).all()

    def test_the_model_is_left_as_it_was(self):
        model = translation_model(weight_dropout=0.9).train()
        model.encoder.layers[0].eval()
        modes = [module.training for module in model.modules()]
        inputs = {"input_ids": torch.randint(4, 10, (2, 7)), "decoder_input_ids": torch.randint(4, 10, (2, 3))}
        kernels = record_kernels(model, **inputs)
        assert all((kernel > 0).all() for kernel in kernels.values())  # none dropped
        with pytest.raises(ValueError, match="decoder needs"):
            record_kernels(model, input_ids=inputs["input_ids"])
        assert modes == [module.training for module in model.modules()]
        assert not any(module._forward_hooks for module in model.modules())
        assert model(**inputs).logits.requires_grad

    def test_a_module_that_runs_twice(self):
        layer = LightweightConv1d(8, 3, 2)
        twice = nn.Sequential(layer, nn.ReLU(), layer)
        assert list(record_kernels(twice, input=torch.randn(1, 5, 8))) == ["0", "0 (run 2)"]

    def test_no_convolution(self):
        with pytest.raises(ValueError, match=r"must have a LightweightConv1d or a DynamicConv1d, got a Linear without"):
            record_kernels(nn.Linear(3, 3), input=torch.zeros(1, 3))

    def test_none_that_ran(self):
        model = translation_model(encoder_layer_types="self_attention")
        source = torch.randint(4, 10, (2, 7))
        with pytest.raises(ValueError, match=r"ran none of its 1 convolutions on a whole sequence, such as decoder"):
            record_kernels(model, input_ids=source, decoder_input_ids=source, use_cache=True)


def panels(figure):
    """The axes that show kernels, in the order of reading."""
    return [axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"]


def shown(axis):
    return np.ma.filled(axis.images[0].get_array().astype(float), np.nan)


class TestPlotKernels:
    def test_a_panel_shows_the_kernels_by_offset_and_token(self, tokenizer):
        model = translation_model()
        figure = plot_kernels(model, TEXT, tokenizer)
        ids = tokenizer(TEXT, return_tensors="pt").input_ids
        kernels = record_kernels(model.encoder, input_ids=ids)
        assert len(panels(figure)) == 3 * 4
        weights = shown(panels(figure)[1])  # layer 0, head 1, K = 3
        expected = kernels["layers.0.mixer.conv"][0, :, 1].T.numpy().copy()
        expected[0, 0] = expected[2, -1] = np.nan  # outside of the text
        np.testing.assert_allclose(weights, expected)
        assert panels(figure)[1].images[0].get_extent() == [-0.5, 6.5, -1.5, 1.5]
        assert [axis.get_title() for axis in panels(figure)[:4]] == [f"head {head}" for head in range(4)]

    def test_taps_that_never_meet_the_text_are_left_out(self, tokenizer):
        figure = plot_kernels(translation_model(), "the", tokenizer)  # three tokens, K = 9
        assert shown(panels(figure)[-1]).shape == (5, 3)
        assert panels(figure)[-1].images[0].get_extent() == [-0.5, 2.5, -2.5, 2.5]

    def test_all_panels_share_one_scale(self, tokenizer):
        figure = plot_kernels(translation_model(), TEXT, tokenizer)
        limits = {axis.images[0].get_clim() for axis in panels(figure)}
        assert limits == {(0, max(np.nanmax(shown(axis)) for axis in panels(figure)))}

    def test_kernels_below_zero_get_a_diverging_scale(self, tokenizer):
        figure = plot_kernels(translation_model(weight_softmax=False), TEXT, tokenizer)
        low, high = panels(figure)[0].images[0].get_clim()
        assert low == -high < 0

    def test_tokens_stand_below_the_lowest_panels_and_special_ones_are_dimmed(self, tokenizer):
        figure = plot_kernels(translation_model(), TEXT + " ##ly new", tokenizer)
        labels = panels(figure)[-1].get_xticklabels()
        assert [label.get_text() for label in labels] == ["[CLS]", *TEXT.split(), "##ly", "[UNK]", "[SEP]"]
        assert [label.get_color() == "0.6" for label in labels] == [True, *[False] * 7, True]
        assert not any(label.get_text() for label in panels(figure)[0].get_xticklabels())

    def test_labels_do_not_overlap(self, tokenizer):
        figure = plot_kernels(translation_model(), " ".join([TEXT] * 3), tokenizer)
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in panels(figure)[-1].get_xticklabels()]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))

    def test_many_heads_and_layers_are_cut_down_to_those_the_title_counts(self, tokenizer):
        types = ["dynamic_conv"] * 5
        model = translation_model(encoder_layer_types=types, encoder_kernel_sizes=[3] * 5, encoder_attention_heads=8)
        figure = plot_kernels(model, TEXT, tokenizer)
        assert figure.get_suptitle() == "Kernels of SeqDyConvForConditionalGeneration\n4 of 5 layers, 4 of 8 heads"
        rows = [axis.get_ylabel() for axis in panels(figure)[::4]]
        assert rows == ["layer 0", "layer 1", "layer 3", "layer 4"]
        every = plot_kernels(model, TEXT, tokenizer, layers=[4], heads=range(8))
        assert len(panels(every)) == 8 and every.get_suptitle().endswith("\n1 of 5 layers")

    def test_heads_of_a_long_text_stand_below_each_other(self, tokenizer):
        tokenizer = copy.copy(tokenizer)
        tokenizer.model_max_length = 40
        figure = plot_kernels(translation_model(), " ".join([TEXT] * 6), tokenizer, layers=[3])
        assert [axis.get_ylabel() for axis in panels(figure)] == ["layer 3\nhead 0", "layer 3\nhead 1"]

    def test_a_swapped_model_with_its_layer_numbers(self, tokenizer):
        figure = plot_kernels(swapped_bert(4, layers=[1, 3]), TEXT, tokenizer)
        assert [axis.get_ylabel() for axis in panels(figure)[::2]] == ["layer 1", "layer 3"]

    def test_our_encoder_with_a_head(self, tokenizer):
        config = SeqDyConvConfig(
            vocab_size=len(WORDS),
            hidden_size=8,
            encoder_ffn_dim=8,
            encoder_attention_heads=2,
            encoder_layer_types="parallel",
            encoder_kernel_sizes=[3, 5],
        )
        figure = plot_kernels(SeqDyConvForSequenceClassification(config), TEXT, tokenizer)
        assert [axis.get_ylabel() for axis in panels(figure)[::2]] == ["layer 0", "layer 1"]
        assert figure.get_suptitle() == "Kernels of SeqDyConvForSequenceClassification"

    def test_a_pair_of_texts(self, tokenizer):
        figure = plot_kernels(swapped_bert(), ("the kernels", "are wide"), tokenizer)
        labels = [label.get_text() for label in panels(figure)[-1].get_xticklabels()]
        assert labels == ["[CLS]", "the", "kernels", "[SEP]", "are", "wide", "[SEP]"]

    @pytest.mark.parametrize("suffix, start", [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
    def test_writes_a_file_of_the_suffixes_type(self, tokenizer, tmp_path, suffix, start):
        path = tmp_path / f"kernels.{suffix}"
        plot_kernels(translation_model(), TEXT, tokenizer, path=path)
        assert path.read_bytes().startswith(start) and list(tmp_path.iterdir()) == [path]

    def test_the_tokenizer_beside_the_model(self, tokenizer, tmp_path):
        translation_model().save_pretrained(tmp_path)
        model = SeqDyConvForConditionalGeneration.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"no tokenizer beside the model .*: pass tokenizer="):
            plot_kernels(model, TEXT)
        tokenizer.save_pretrained(tmp_path)
        assert len(panels(plot_kernels(model, TEXT))) == 12
        with pytest.raises(ValueError, match=r"not loaded by from_pretrained\): pass tokenizer="):
            plot_kernels(translation_model(), TEXT)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"layers": [0, 2]}, r"layers must be of 0, 1, 3, got \[0, 2\]"),
            ({"layers": []}, r"layers must be of 0, 1, 3, got \[\]"),
            ({"heads": [4]}, r"heads must be of 0, 1, 2, 3, got \[4\]"),
            ({"text": " "}, r"text must be a text or a pair of texts, not empty, got ' '"),
            ({"text": 5}, r"text must be a text or a pair of texts, not empty, got 5"),
            ({"text": ("a", "b", "c")}, r"text must be a text or a pair of texts"),
            ({"text": "the " * 19}, r"text must have at most the tokenizer's 20 tokens, got 21"),
            ({"path": "kernels.doc"}, r"path must end in one of .*\.pdf.*, got 'kernels.doc'"),
            ({"path": "kernels"}, r"path must end in one of"),
            ({"path": "no/such/folder/kernels.pdf"}, r"path must be in a folder that exists"),
        ],
        ids=str,
    )
    def test_bad_arguments(self, tokenizer, arguments, message):
        with pytest.raises(ValueError, match=message):
            plot_kernels(translation_model(), **{"text": TEXT, "tokenizer": tokenizer} | arguments)

    def test_without_matplotlib(self, tokenizer, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r'pip install "seqdyconv\[recipes\]"'):
            plot_kernels(translation_model(), TEXT, tokenizer)
