"""plot_mixtures."""

import pytest
import torch
from matplotlib.image import imread

from seqdyconv.pictures import plot_mixtures


def test_a_panel_shows_the_weights_of_a_layer(tmp_path):
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    means = {"DyConv": {"first": weights, "second": weights}, "ODConv": {"first": weights}}
    figure = plot_mixtures(means, tmp_path / "mixtures.png", classes="digit")
    assert imread(tmp_path / "mixtures.png").std() > 0.05
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["DyConv, first", "ODConv, first", "DyConv, second"]
    assert [text.get_text() for text in panels[0].texts] == ["0.30", "0.70", "1.00", "0.00"]
    assert panels[0].get_ylabel() == "digit" and panels[1].get_xlabel() == "kernel"


def test_a_class_without_inputs_stays_empty():
    (panel, *_) = plot_mixtures({"DyConv": {"first": torch.tensor([[0.3, 0.7], [torch.nan, torch.nan]])}}).axes
    assert panel.images[0].get_array().mask.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("means", [{}, {"DyConv": {}}], ids=str)
def test_nothing_to_draw_raises(means):
    with pytest.raises(ValueError, match="means must have a layer of each model, got none"):
        plot_mixtures(means)


def test_weights_of_any_dtype_that_belong_to_a_graph_are_drawn():
    weights = torch.full((3, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert len(plot_mixtures({"DyConv": {"conv": weights}}).axes[0].texts) == 6
