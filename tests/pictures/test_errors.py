"""plot_errors."""

import pytest

from seqdyconv.pictures import plot_errors

RATES = {
    "word error rate (%)": {"all": {"wrong": 8.0, "missed": 2.0}, "ann": {"wrong": 300.0, "missed": 0.0}},
    "character error rate (%)": {"all": {"wrong": 3.0, "missed": 1.0}, "ann": {"wrong": 0.0, "missed": 0.0}},
}
ERRORS = {"words": [("a → b", "wrong", 3), ("$x$ → ∅", "missed", 1)], "characters": []}


def test_bars_are_stacked_by_kind_and_their_sum_is_written():
    words, characters, *_ = plot_errors(RATES, ERRORS).axes
    assert [text.get_text() for text in words.texts] == [" 10.0", " 300.0"]
    assert [(bar.get_x(), bar.get_width()) for bar in words.patches] == [(0, 8), (0, 300), (8, 2), (300, 0)]
    assert [label.get_text() for label in words.get_yticklabels()] == ["all", "ann"]
    assert words.get_xlabel() == "word error rate (%)" and characters.get_xlabel() == "character error rate (%)"


def test_a_rate_of_few_words_does_not_stretch_the_axis():
    words = plot_errors(RATES, ERRORS).axes[0]
    assert words.get_xlim()[1] < 150 and all(text.get_position()[0] < 150 for text in words.texts)


def test_errors_have_the_colours_of_their_kinds():
    words, _, errors, none = plot_errors(RATES, ERRORS).axes
    assert [bar.get_facecolor() for bar in errors.patches] == [
        words.patches[0].get_facecolor(),
        words.patches[2].get_facecolor(),
    ]
    assert [label.get_text() for label in errors.get_yticklabels()] == ["a → b", "$x$ → ∅"]
    assert [text.get_text() for text in none.texts] == ["none"]


def test_panels_that_do_not_match_raise():
    with pytest.raises(ValueError, match="as many panels of rates as of errors, got 2 and 1"):
        plot_errors(RATES, {"words": []})
    with pytest.raises(ValueError, match="got 0 and 0"):
        plot_errors({}, {})
