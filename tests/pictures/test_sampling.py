"""plot_sampling."""

import sys

import numpy as np
import pytest
import torch

from seqdyconv import DeformableConv1d
from seqdyconv.errors import InputError
from seqdyconv.models import record_sampling
from seqdyconv.pictures import plot_sampling
from tests.helpers import randomize
from tests.models.recorded import deformable_model, speech_model, swapped_bert

TEXT = "the kernels are wide $$"
FEATURES = torch.randn(103, 16, generator=torch.Generator().manual_seed(0))


def panels(figure):
    """The axes with dots, in the order of reading."""
    return [axis for axis in figure.axes if axis.collections and axis.get_label() != "<colorbar>"]


def dots(axis):
    """Where the dots are, (number, 2), and their areas."""
    last = axis.collections[-1]
    return np.asarray(last.get_offsets()), last.get_sizes()


class TestPlotOverTokens:
    def test_a_panel_shows_what_each_token_reads(self, tokenizer):
        model = deformable_model()
        figure = plot_sampling(model, TEXT, tokenizer)
        found = record_sampling(model.encoder, input_ids=tokenizer(TEXT, return_tensors="pt").input_ids)
        assert [axis.get_title() for axis in panels(figure)] == [
            f"layer {layer}, head {head}" for layer in (0, 2) for head in range(4)
        ]
        positions, weights = found["layers.2.mixer.conv"]
        places, areas = dots(panels(figure)[5])  # layer 2, head 1
        np.testing.assert_allclose(places[:, 0], np.repeat(np.arange(7), 6))
        np.testing.assert_allclose(places[:, 1], positions[0, :, 1].flatten())
        shares = weights[0, :, 1].abs().flatten().numpy()
        np.testing.assert_allclose(areas / areas.max(), shares / shares.max(), rtol=1e-5)

    def test_unmoved_taps_are_marked(self, tokenizer):
        figure = plot_sampling(deformable_model(), TEXT, tokenizer, layers=[0], heads=[0])
        unmoved = np.asarray(panels(figure)[0].collections[0].get_offsets())
        assert unmoved[:6].tolist() == [[0, -1], [0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]

    def test_tokens_stand_on_both_axes_and_special_ones_are_dimmed(self, tokenizer):
        shown = panels(plot_sampling(deformable_model(), TEXT, tokenizer))
        for labels in (shown[-1].get_xticklabels(), shown[4].get_yticklabels()):  # two rows of four
            assert [label.get_text() for label in labels] == ["[CLS]", *TEXT.split(), "[SEP]"]
            assert [label.get_color() == "0.6" for label in labels] == [True, *[False] * 5, True]

    def test_all_panels_share_one_scale(self, tokenizer):
        figure = plot_sampling(deformable_model(), TEXT, tokenizer)
        ((low, high),) = {axis.collections[-1].get_clim() for axis in panels(figure)}
        assert low == -high and max(dots(axis)[1].max() for axis in panels(figure)) == pytest.approx(26)

    def test_layers_and_heads_are_chosen_and_counted(self, tokenizer):
        figure = plot_sampling(deformable_model(), TEXT, tokenizer, layers=[2], heads=[0, 3])
        assert [axis.get_title() for axis in panels(figure)] == ["layer 2, head 0", "layer 2, head 3"]
        title = "Where SeqDyConvForConditionalGeneration reads\n1 of 2 layers, 2 of 4 heads"
        assert figure.get_suptitle() == title

    def test_a_swapped_model(self, tokenizer):
        model = swapped_bert(layers=[1], mixer="deformable_conv", kernel_size=3, modulation=True)
        figure = plot_sampling(model, ("the kernels", "are wide"), tokenizer)
        assert [axis.get_title() for axis in panels(figure)] == ["layer 1, head 0", "layer 1, head 1"]


class TestPlotOverFeatures:
    def test_a_panel_shows_what_some_steps_read(self):
        model = speech_model()
        figure = plot_sampling(model, FEATURES, steps=[3, 20])
        found = record_sampling(model, input_features=FEATURES[None])
        assert [axis.get_ylabel() for axis in panels(figure)] == ["layer 0", "layer 1"]
        positions, _ = found["encoder.layers.1.mixer.conv"]
        axis = panels(figure)[1]
        assert len(axis.collections) == 2 * 2  # two steps, two heads
        places, _ = dots(axis)
        np.testing.assert_allclose(places[:, 0], (positions[0, 20, 1] + 0.5) * 0.04, rtol=1e-5)  # four frames each
        assert ((places[:, 1] > 2) & (places[:, 1] < 6)).all()  # the lower half is that of head 1
        assert axis.images[0].get_extent() == [0, 1.03, 0, 16]
        assert [line.get_xdata()[0] for line in axis.lines] == pytest.approx([3.5 * 0.04, 20.5 * 0.04])

    def test_steps_are_drawn_in_every_panel_whatever_they_come_in(self):
        figure = plot_sampling(speech_model(), FEATURES, steps=iter([3, 20]))
        assert [len(axis.lines) for axis in panels(figure)] == [2, 2]

    def test_features_may_belong_to_a_graph(self):
        features = FEATURES.clone().requires_grad_()
        assert len(panels(plot_sampling(speech_model(), features, steps=[3]))) == 2

    def test_five_steps_are_drawn_of_many(self):
        axis = panels(plot_sampling(speech_model(), FEATURES, heads=[1]))[0]
        assert len(axis.lines) == 5
        assert [label.get_text() for label in axis.get_yticklabels()] == ["head 1"]

    def test_of_a_layer(self):
        layer = randomize(DeformableConv1d(16, 4, 3, padding=1, offset_groups=2, clamp=False))
        figure = plot_sampling(layer, FEATURES, seconds_per_feature=0.5)
        assert len(panels(figure)) == 1 and panels(figure)[0].get_xlim() == (0, 51.5)
        assert figure.get_suptitle() == "Where DeformableConv1d reads"


class TestFiles:
    @pytest.mark.parametrize("suffix, start", [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
    def test_writes_a_file_of_the_suffixes_type(self, tokenizer, tmp_path, suffix, start):
        path = tmp_path / f"sampling.{suffix}"
        for input in (TEXT, FEATURES):
            model = deformable_model() if input is TEXT else speech_model()
            plot_sampling(model, input, tokenizer, layers=[0], heads=[0], path=path)
            assert path.read_bytes().startswith(start) and list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"layers": [1]}, r"layers must be of 0, 2, got \[1\]"),
            ({"heads": [4]}, r"heads must be of 0, 1, 2, 3, got \[4\]"),
            ({"input": " "}, r"text must be a text or a pair of texts, not empty, got ' '"),
            ({"input": torch.zeros(3)}, r"features must be \(T, F\), neither of them 0, got \(3,\)"),
            ({"path": "sampling.doc"}, r"path must end in one of .*\.pdf.*, got 'sampling.doc'"),
        ],
        ids=str,
    )
    def test_bad_arguments(self, tokenizer, arguments, message):
        with pytest.raises(InputError, match=message):
            plot_sampling(deformable_model(), **{"input": TEXT, "tokenizer": tokenizer} | arguments)

    def test_a_step_that_is_not_there(self):
        with pytest.raises(ValueError, match=r"steps must be of 0, 1, .*25, got \[26\]"):
            plot_sampling(speech_model(), FEATURES, steps=[26])

    def test_without_matplotlib(self, tokenizer, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r'pip install "seqdyconv\[recipes\]"'):
            plot_sampling(deformable_model(), TEXT, tokenizer)
