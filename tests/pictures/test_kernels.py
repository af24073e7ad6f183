"""plot_kernels."""

import copy
import sys
from itertools import pairwise

import numpy as np
import pytest

from seqdyconv.errors import InputError
from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForSequenceClassification,
    record_kernels,
)
from seqdyconv.pictures import plot_kernels
from tests.models.recorded import WORDS, swapped_bert, translation_model

TEXT = "the kernels are wide $$"


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
        figure = plot_kernels(translation_model(), TEXT, tokenizer, heads=[0, 2])
        limits = {axis.images[0].get_clim() for axis in panels(figure)}
        assert limits == {(0, max(np.nanmax(shown(axis)) for axis in panels(figure)))}

    def test_kernels_below_zero_get_a_diverging_scale(self, tokenizer):
        figure = plot_kernels(translation_model(weight_softmax=False), TEXT, tokenizer, layers=[0], heads=[0])
        low, high = panels(figure)[0].images[0].get_clim()
        assert low == -high < 0

    def test_tokens_stand_below_the_lowest_panels_and_special_ones_are_dimmed(self, tokenizer):
        figure = plot_kernels(translation_model(), TEXT + " ##ly new", tokenizer, layers=[0, 3], heads=[0])
        labels = panels(figure)[-1].get_xticklabels()
        assert [label.get_text() for label in labels] == ["[CLS]", *TEXT.split(), "##ly", "[UNK]", "[SEP]"]
        assert [label.get_color() == "0.6" for label in labels] == [True, *[False] * 7, True]
        assert not any(label.get_text() for label in panels(figure)[0].get_xticklabels())

    def test_labels_do_not_overlap(self, tokenizer):
        figure = plot_kernels(translation_model(), " ".join([TEXT] * 3), tokenizer, layers=[0], heads=[0, 1])
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

    def test_kernels_over_features_have_no_panel(self, tokenizer):
        figure = plot_kernels(translation_model(encoder_layer_types="lightweight_conv_2d"), TEXT, tokenizer)
        assert [axis.get_ylabel() for axis in panels(figure)[::4]] == [f"layer {layer}" for layer in range(4)]
        assert [shown(axis).shape for axis in panels(figure)[::4]] == [(3, 7), (4, 7), (3, 7), (9, 7)]

    def test_a_pair_of_texts(self, tokenizer):
        figure = plot_kernels(swapped_bert(), ("the kernels", "are wide"), tokenizer)
        labels = [label.get_text() for label in panels(figure)[-1].get_xticklabels()]
        assert labels == ["[CLS]", "the", "kernels", "[SEP]", "are", "wide", "[SEP]"]

    def test_a_decoder_over_what_it_reads(self, tokenizer):
        model = translation_model()
        figure = plot_kernels(model, TEXT, tokenizer, target="wide kernels")
        labels = tokenizer(text_target="wide kernels", return_tensors="pt").input_ids
        read = model.prepare_decoder_input_ids_from_labels(labels=labels)
        kernels = record_kernels(model, **tokenizer(TEXT, return_tensors="pt"), decoder_input_ids=read)
        expected = kernels["decoder.layers.0.mixer.conv"][0, :, 1].T[1:].numpy().copy()  # 4 tokens, K = 5
        expected[[0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 0]] = np.nan  # before the start
        np.testing.assert_allclose(shown(panels(figure)[1]), expected)
        strings = [label.get_text() for label in panels(figure)[1].get_xticklabels()]
        assert strings == tokenizer.convert_ids_to_tokens(read[0].tolist()) and strings[1:3] == ["[CLS]", "wide"]
        assert figure.get_suptitle() == "Kernels of the decoder of SeqDyConvForConditionalGeneration"

    def test_a_target_needs_a_decoder_with_convolutions(self, tokenizer):
        with pytest.raises(InputError, match="with an encoder and a decoder, got a BertForSequenceClassification"):
            plot_kernels(swapped_bert(), TEXT, tokenizer, target="wide")
        with pytest.raises(InputError, match="target must not be empty, got ' '"):
            plot_kernels(translation_model(), TEXT, tokenizer, target=" ")
        with pytest.raises(InputError, match="must have convolutions over tokens there"):
            plot_kernels(translation_model(decoder_layer_types="self_attention"), TEXT, tokenizer, target="wide")

    @pytest.mark.parametrize("suffix, start", [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
    def test_writes_a_file_of_the_suffixes_type(self, tokenizer, tmp_path, suffix, start):
        path = tmp_path / f"kernels.{suffix}"
        plot_kernels(translation_model(), TEXT, tokenizer, layers=[0], heads=[0], path=path)
        assert path.read_bytes().startswith(start) and list(tmp_path.iterdir()) == [path]

    def test_the_tokenizer_beside_the_model(self, tokenizer, tmp_path):
        translation_model().save_pretrained(tmp_path)
        model = SeqDyConvForConditionalGeneration.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"no tokenizer beside the model .*: pass tokenizer="):
            plot_kernels(model, TEXT)
        tokenizer.save_pretrained(tmp_path)
        assert len(panels(plot_kernels(model, TEXT, layers=[0]))) == 4
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
        with pytest.raises(InputError, match=message):
            plot_kernels(translation_model(), **{"text": TEXT, "tokenizer": tokenizer} | arguments)

    def test_without_matplotlib(self, tokenizer, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r'pip install "seqdyconv\[recipes\]"'):
            plot_kernels(translation_model(), TEXT, tokenizer)
