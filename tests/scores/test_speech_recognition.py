"""Error rates of speech recognition: counted over the corpus, by kind of error and by speaker."""

import pytest
from matplotlib.image import imread

from seqdyconv.scores.speech_recognition import (
    count_errors,
    draw_errors,
    error_counts,
    report,
    score,
    score_by,
    write_split,
)

REFERENCES = ["a b c d", "one two", "ne"]
PREDICTIONS = ["a x c", "one two three", "ne"]  # one substitution, one deletion; one insertion; right


def test_rates_are_of_the_whole_corpus_and_the_sum_of_their_parts():
    scores = score(PREDICTIONS, REFERENCES)
    assert scores["wer"] == pytest.approx(100 * 3 / 7)
    for kind in ("substitutions", "deletions", "insertions"):
        assert scores[f"wer_{kind}"] == pytest.approx(100 / 7)
    assert scores["cer"] == pytest.approx(100 * 9 / 16)  # b → x, " d" deleted, " three" inserted; 7 + 7 + 2 characters
    assert scores["cer_insertions"] == pytest.approx(100 * 6 / 16)
    assert scores["sentence_error_rate"] == pytest.approx(100 * 2 / 3)


def test_white_space_does_not_count_but_case_does():
    assert score([" a   b\t"], ["a b"])["cer"] == 0
    assert score(["A b"], ["a b"])["wer"] == 50


@pytest.mark.parametrize("name, unit", [("wer", "word"), ("cer", "character")])
def test_errors_that_are_drawn_are_those_that_are_scored(name, unit):
    predictions, references = ["a  b", " b\u3000c"], ["a b", "b d"]
    counts, rate = error_counts(predictions, references, unit)
    assert rate(counts.sum(0)) == pytest.approx(score(predictions, references)[name])


def test_empty_texts():
    assert score(["", ""], ["a b", ""])["wer"] == 100
    assert score(["x", "a b"], ["", "a b"])["wer_insertions"] == 50
    assert score([""], [""])["wer"] == 0
    assert score(["x y"], [""])["wer"] == 200


def test_speakers_are_ordered_by_words():
    scores = score_by(["ann", "bob", "ann"], PREDICTIONS, REFERENCES)
    assert list(scores) == ["ann", "bob"]
    assert scores["ann"]["words"] == 5 and scores["ann"]["utterances"] == 2
    assert scores["ann"]["wer"] == 40 and scores["bob"]["wer"] == 50


def test_errors_are_counted_word_by_word():
    errors = count_errors(["x y a", "x b c c"], ["a b a", "a b c"])
    assert errors.substitutions == [(("a", "x"), 2), (("b", "y"), 1)]
    assert errors.deletions == [] and errors.insertions == [("c", 1)]
    assert count_errors(["abb"], ["aba"], "character").substitutions == [(("a", "b"), 1)]


def test_the_report_names_speakers_and_errors():
    text = report(PREDICTIONS, REFERENCES, ["ann", "bob", "ann"])
    for part in ("ann", "42.86", "b → x", "three", "␣", "words most often missed"):
        assert part in text
    assert "none" in report(["a"], ["a"])


@pytest.mark.parametrize("speakers", [None, ["ann", "bob", "ann"]])
def test_a_split_becomes_files(tmp_path, speakers):
    scores = write_split(tmp_path, "test", PREDICTIONS, REFERENCES, speakers, "Test")
    expected = score(PREDICTIONS, REFERENCES)
    assert scores.items() >= expected.items()
    assert scores.keys() - expected.keys() == {"wer_low", "wer_high", "cer_low", "cer_high"}
    assert scores["cer_low"] <= scores["cer"] <= scores["cer_high"]
    assert (tmp_path / "test_predictions.txt").read_text(encoding="utf-8").split("\n")[1] == "one two three"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "test_errors.png",
        "test_predictions.txt",
        "test_references.txt",
        "test_report.txt",
    ]
    assert imread(tmp_path / "test_errors.png").ndim == 3


def test_a_picture_without_errors_or_with_many_speakers(tmp_path):
    draw_errors(["a"], ["a"], None, tmp_path / "a.png", "none wrong")
    draw_errors(["a" * 500], ["b" * 500], None, tmp_path / "c.png", "words that fill no line")
    draw_errors(["a $x$"] * 40, ["b c"] * 40, [f"s{i}" for i in range(40)], tmp_path / "b.png", "all wrong")
    assert imread(tmp_path / "b.png").shape[0] > imread(tmp_path / "a.png").shape[0]


def test_numbers_that_differ_raise():
    with pytest.raises(ValueError, match="as many predictions as references, and at least one, got 1 and 2"):
        score(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="got 0 and 0"):
        score([], [])
    with pytest.raises(ValueError, match="a group for each utterance, got 1 for 3"):
        score_by(["ann"], PREDICTIONS, REFERENCES)
    with pytest.raises(ValueError, match="unit must be word or character, got 'syllable'"):
        count_errors(["a"], ["a"], "syllable")
