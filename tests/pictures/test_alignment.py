"""plot_alignment."""

import warnings

import pytest
import torch
from matplotlib.image import imread

from seqdyconv.pictures import plot_alignment
from seqdyconv.runtime.words import Word


def test_the_picture_is_written(tmp_path):
    words = [Word("ahoj", 0.2, 0.5), Word("$x$", 0.6, 0.9)]
    figure = plot_alignment(torch.randn(100, 80), words, tmp_path / "alignment.png", title="two words")
    assert imread(tmp_path / "alignment.png").ndim == 3 and [path.name for path in tmp_path.iterdir()] == [
        "alignment.png"
    ]
    assert [text.get_text() for text in figure.axes[1].texts] == ["ahoj", "$x$"]


def test_any_utterance_becomes_a_picture(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_alignment(torch.zeros(1, 80), [], tmp_path / "short.png")
        words = [Word("nejneobhospodařovávatelnější", 0.1 * i, 0.1 * i + 0.05) for i in range(30)]
        figure = plot_alignment(torch.randn(300, 80), words, tmp_path / "long.pdf")
    assert figure.axes[1].texts[0].get_rotation() == 90 and figure.get_figwidth() <= 24


def test_an_hour_becomes_a_picture():
    figure = plot_alignment(torch.zeros(1, 80).expand(220_000, 80), [])
    assert figure.axes[0].get_xlim()[1] == pytest.approx(2200)


def test_bad_pictures_raise(tmp_path):
    with pytest.raises(ValueError, match=r"features must be \(T, F\) of at least one frame, got the shape \(0, 80\)"):
        plot_alignment(torch.zeros(0, 80), [])
    with pytest.raises(ValueError, match=r"path must end in one of .*png.*, got"):
        plot_alignment(torch.zeros(5, 80), [], tmp_path / "a.xyz")
