"""Forced alignment: the best path through known tokens, as word times and subtitles."""

import itertools
import math

import pytest
import torch

from seqdyconv.runtime.words import Word, collapse, to_rows, to_srt
from seqdyconv.speech.alignment import align, align_words
from seqdyconv.speech.tokenization import train_character_tokenizer, train_subword_tokenizer


def random_log_probs(time, size, seed=0):
    return torch.randn(time, size, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@pytest.mark.parametrize("targets", [[1, 2], [1, 1], [2, 1, 2], [1, 2, 2], [2]], ids=str)
@pytest.mark.parametrize("blank", [0, 3])
def test_the_alignment_is_the_best_path(targets, blank):
    log_probs = random_log_probs(6, 4)
    paths = [path for path in itertools.product(range(4), repeat=6) if collapse(path, blank) == targets]
    best = max(paths, key=lambda path: sum(row[label] for row, label in zip(log_probs.tolist(), path)))
    aligned = align(log_probs, torch.tensor(targets), blank)
    assert [one.token for one in aligned] == targets
    labels = [blank] * 6
    for token, start, end, score in aligned:
        labels[start:end] = [token] * (end - start)
        assert score == pytest.approx(log_probs[start:end, token].mean().item(), abs=1e-5)
    assert tuple(labels) == best


def test_every_frame_may_be_needed():
    assert [one[:3] for one in align(random_log_probs(3, 3), [1, 1])] == [(1, 0, 1), (1, 2, 3)]
    assert [one[:3] for one in align(random_log_probs(2, 3), [1, 2])] == [(1, 0, 1), (2, 1, 2)]
    assert align(random_log_probs(2, 3), []) == align(torch.zeros(0, 3), []) == []


def test_impossible_labels_keep_the_alignment_finite():
    log_probs = torch.full((3, 3), -math.inf)
    log_probs[:, 1] = 0
    assert [one[:3] for one in align(log_probs, [1])] == [(1, 0, 3)]
    assert all(math.isfinite(one.score) for one in align(log_probs, [1, 2]))


@pytest.mark.parametrize(
    "log_probs, targets, message",
    [
        (torch.zeros(2, 3), [1, 1], "2 tokens need at least 3 frames, got 2"),
        (torch.zeros(0, 3), [1], "1 tokens need at least 1 frames, got 0"),
        (torch.zeros(1, 2, 3), [1], r"must be \(T, V\), got the shape \(1, 2, 3\)"),
        (torch.zeros(2, 3), [0], r"the 3 labels other than the blank 0, got \[0\]"),
        (torch.zeros(2, 3), [3], r"the 3 labels other than the blank 0, got \[3\]"),
        (torch.full((2, 3), math.nan), [1], "must be numbers, got NaN"),
    ],
)
def test_what_cannot_be_aligned_raises(log_probs, targets, message):
    with pytest.raises(ValueError, match=message):
        align(log_probs, targets)


@pytest.mark.parametrize("train", [train_character_tokenizer, lambda texts: train_subword_tokenizer(texts, 12)])
def test_words_of_a_text_have_times_and_scores(train):
    tokenizer = train(["ab ba", "ba ab"])
    ids = tokenizer("ab ba")["input_ids"]
    log_probs = torch.full((2 * len(ids), len(tokenizer)), -5.0)
    log_probs[range(0, len(log_probs), 2), ids] = math.log(0.5)
    log_probs[1::2, 0] = 0.0
    words = align_words(tokenizer, log_probs, " ab  ba ", seconds_per_frame=0.1, offset=2.0)
    assert [word.text for word in words] == ["ab", "ba"]
    second = next(i for i, token in enumerate(ids) if i and "▁" in tokenizer.convert_ids_to_tokens(token))
    begins = second if tokenizer.convert_ids_to_tokens(ids[second]) != "▁" else second + 1
    assert words[1].start == pytest.approx(2 + 0.2 * begins)
    assert words[1].end == pytest.approx(2 + 0.2 * len(ids) - 0.1)
    assert words[0].score == pytest.approx(0.5, abs=1e-4)


def test_characters_that_the_tokenizer_lacks_stay_in_the_text():
    tokenizer = train_character_tokenizer(["ab"])
    assert [word.text for word in align_words(tokenizer, random_log_probs(9, 7), "aß b")] == ["aß", "b"]
    assert align_words(tokenizer, random_log_probs(9, 7), "") == []


# Subtitles


def test_rows_are_rounded_for_json():
    assert to_rows([Word("a", 0.1 + 0.2, 1 / 3, 2 / 3)]) == [{"text": "a", "start": 0.3, "end": 0.333, "score": 0.6667}]


def test_subtitles_are_numbered_and_timed():
    words = [Word("dobrý", 0.52, 0.8), Word("den", 0.92, 1.2), Word("zase", 3599.9996, 3661.5)]
    assert to_srt(words) == ("1\n00:00:00,520 --> 00:00:01,200\ndobrý den\n\n2\n01:00:00,000 --> 01:01:01,500\nzase\n")
    assert to_srt([]) == ""


def test_lines_end_by_length_time_or_silence():
    def lines(words, **limits):
        return [block.split("\n")[2] for block in to_srt(words, **limits).split("\n\n")]

    words = [Word("four", i, i + 0.9) for i in range(12)]
    assert lines(words) == ["four four four four four"] * 2 + ["four four"]
    assert lines(words, max_characters=9) == ["four four"] * 6
    assert lines([Word("a" * 50, 0, 1), Word("b", 1, 2)]) == ["a" * 50, "b"]
    assert lines([Word("a", 0, 1), Word("b", 2.5, 3)]) == ["a", "b"]
