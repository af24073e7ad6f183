"""CTC decoding: greedy and beam search, compared with sums over all paths."""

import builtins
import itertools
import math
from collections import defaultdict

import pytest
import torch

from seqdyconv.runtime.words import collapse
from seqdyconv.speech.ctc import CTCBeamSearch, ctc_greedy, greedy_transcripts, word_times
from seqdyconv.speech.language_model import read_vocabulary, train_ngram_model
from seqdyconv.speech.tokenization import train_character_tokenizer, train_subword_tokenizer

TEXTS = ["ab b", "b ab", "ab ab a"]
CHARACTERS = train_character_tokenizer(TEXTS)  # <pad> <s> </s> <unk> ▁ a b
SUBWORDS = train_subword_tokenizer(TEXTS, 10)  # <pad> <s> </s> <unk> a b ▁ ▁a ▁ab ▁b
EVERYTHING = {"beam_size": 10_000, "beam_threshold": 1e3, "token_threshold": 1e3, "n_best": 10_000}


def random_logits(tokenizer, time, seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, time, len(tokenizer), generator=generator)
    logits[..., [tokenizer.bos_token_id, tokenizer.eos_token_id]] = -1e3  # are never recognised
    return logits


def all_texts(tokenizer, logits):
    """log p of each token sequence, summed over all paths."""
    table = logits[0].log_softmax(-1).tolist()
    sums = defaultdict(float)
    for path in itertools.product(range(len(tokenizer)), repeat=len(table)):
        sums[tuple(collapse(path))] += math.exp(sum(row[label] for row, label in zip(table, path)))
    return {tokens: math.log(value) for tokens, value in sums.items() if value > 1e-300}


def best_by_text(tokenizer, scores):
    best = {}
    for tokens, score in scores.items():
        text = tokenizer.decode(list(tokens), skip_special_tokens=True, group_tokens=False).strip()
        best[text] = max(score, best.get(text, -math.inf))
    return best


def check_equal(found, expected):
    scores = {one.text: one.score for one in found}
    assert len(scores) == len(found) and scores.keys() == expected.keys()
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    for text, score in scores.items():
        assert score == pytest.approx(expected[text], abs=1e-4), text


def spelled_with(tokenizer, tokens, words):
    """Whether the tokens spell words of the list with single boundaries between them."""
    text = "".join(tokenizer.convert_ids_to_tokens(list(tokens))).removeprefix("▁").removesuffix("▁")
    return text == "" or all(word in words for word in text.split("▁"))


# Greedy


def test_collapse_removes_repeats_then_blanks():
    assert collapse([0, 5, 5, 0, 5, 6, 6, 0]) == [5, 5, 6]
    assert collapse([7, 1, 1, 7, 7, 1], blank=7) == [1, 1]
    assert collapse([]) == collapse([0, 0]) == []
    assert collapse(torch.tensor([1, 1, 2])) == [1, 2]


def test_greedy_reads_no_frame_beyond_the_length():
    logits = random_logits(CHARACTERS, 6, batch=3)
    logits[1, 4:] = math.nan
    logits[2] = math.nan
    expected = [ctc_greedy(logits[:1])[0], ctc_greedy(logits[1:2, :4])[0], []]
    assert ctc_greedy(logits, torch.tensor([6, 4, 0])) == expected
    assert [one.tokens for one in greedy_transcripts(CHARACTERS, logits, [6, 4, 0])] == expected
    search = CTCBeamSearch(CHARACTERS)
    assert search(logits, [6, 4, 0])[1] == search(logits[1:2, :4])[0]


def test_greedy_transcripts_have_score_and_frames():
    labels = [4, 5, 5, 0, 5, 4, 4, 6]  # "▁a" would begin with a boundary
    logits = torch.nn.functional.one_hot(torch.tensor([labels]), 7) * 5.0
    (best,) = greedy_transcripts(CHARACTERS, logits)
    assert best.text == "aa b" and best.tokens == [4, 5, 5, 4, 6]
    assert best.frames == [0, 1, 4, 5, 7] and [span.end for span in best.spans] == [1, 3, 5, 7, 8]
    assert best.score == pytest.approx(8 * logits[0].log_softmax(-1).max().item(), abs=1e-5)
    assert CTCBeamSearch(CHARACTERS)(logits)[0][0][:2] == best[:2]


@pytest.mark.parametrize("decode", [greedy_transcripts, lambda tokenizer, *args: CTCBeamSearch(tokenizer)(*args)[0]])
def test_no_frames_give_no_text(decode):
    for logits, lengths in ((torch.zeros(1, 0, 7), None), (torch.zeros(1, 3, 7), [0])):
        (best,) = decode(CHARACTERS, logits, lengths)
        assert best.text == "" and best.tokens == [] and best.spans == [] and best.score == 0


def test_words_have_times():
    labels = [0, 5, 5, 6, 0, 4, 0, 6, 6, 0]
    logits = torch.nn.functional.one_hot(torch.tensor([labels]), 7) * 9.0
    (best,) = greedy_transcripts(CHARACTERS, logits)
    words = word_times(best, CHARACTERS, seconds_per_frame=0.04, offset=1.0)
    assert [word.text for word in words] == ["ab", "b"]
    assert [(word.start, word.end) for word in words] == [pytest.approx((1.04, 1.16)), pytest.approx((1.28, 1.36))]
    assert all(0.9 < word.score < 1 for word in words)


# Beam search against all paths


@pytest.mark.parametrize("tokenizer", [CHARACTERS, SUBWORDS], ids=["characters", "subwords"])
def test_beam_search_sums_over_all_paths(tokenizer):
    logits = random_logits(tokenizer, 4)
    expected = all_texts(tokenizer, logits)
    found = CTCBeamSearch(tokenizer, **EVERYTHING)(logits)[0]
    check_equal(found, best_by_text(tokenizer, expected))


@pytest.mark.parametrize("tokenizer, unit", [(CHARACTERS, "character"), (SUBWORDS, "token")])
def test_token_model_and_token_score_are_added(tokenizer, unit, tmp_path):
    model = train_ngram_model(TEXTS, 3, tmp_path / "model.arpa", unit, tokenizer if unit == "token" else None)
    logits = random_logits(tokenizer, 3, seed=1)
    expected = {
        tokens: score
        + 0.7 * math.log(10) * model.score(tokenizer.convert_ids_to_tokens(list(tokens)))
        + 0.3 * len(tokens)
        for tokens, score in all_texts(tokenizer, logits).items()
    }
    search = CTCBeamSearch(
        tokenizer, language_model=tmp_path / "model.arpa", lm_weight=0.7, token_score=0.3, **EVERYTHING
    )
    check_equal(search(logits)[0], best_by_text(tokenizer, expected))


@pytest.mark.parametrize("with_model", [False, True], ids=["words", "words and model"])
@pytest.mark.parametrize("tokenizer", [CHARACTERS, SUBWORDS], ids=["characters", "subwords"])
def test_word_list_word_model_and_word_score(tokenizer, with_model, tmp_path):
    words = {"ab", "b", "bab"}
    model = train_ngram_model(["ab b", "b ab ab"], 2, tmp_path / "model.arpa")
    logits = random_logits(tokenizer, 4, seed=2)
    expected = {}
    for tokens, score in all_texts(tokenizer, logits).items():
        if spelled_with(tokenizer, tokens, words):
            said = tokenizer.decode(list(tokens), group_tokens=False).split()
            bonus = 0.6 * math.log(10) * model.score(said) if with_model else 0.0
            expected[tokens] = score + bonus + 1.5 * len(said)
    options = {"language_model": tmp_path / "model.arpa", "lm_weight": 0.6} if with_model else {}
    found = CTCBeamSearch(tokenizer, words=words, word_score=1.5, **options, **EVERYTHING)(logits)[0]
    check_equal(found, best_by_text(tokenizer, expected))


# Beam search as used


def test_a_language_model_decides_between_likely_texts(tmp_path):
    tokenizer = train_character_tokenizer(["the fish sees", "bc"])
    text = tokenizer("the fish")["input_ids"]
    logits = torch.zeros(1, len(text), len(tokenizer))
    logits[0, range(len(text)), text] = 8.0
    logits[0, 4, tokenizer.convert_tokens_to_ids("b")] = 8.5  # sounds like "bish"
    train_ngram_model(["the fish sees", "the fish"], 4, tmp_path / "characters.arpa", unit="character")
    train_ngram_model(["the fish sees", "the fish"], 2, tmp_path / "words.arpa")
    words = read_vocabulary(tmp_path / "words.arpa")
    assert CTCBeamSearch(tokenizer)(logits)[0][0].text == "the bish"
    assert CTCBeamSearch(tokenizer, words=words)(logits)[0][0].text == "the fish"
    for options in (
        {"language_model": tmp_path / "characters.arpa"},
        {"language_model": tmp_path / "words.arpa", "words": [*words, "bish"]},
    ):
        search = CTCBeamSearch(tokenizer, lm_weight=1.0, n_best=2, **options)
        assert search(logits)[0][0].text == "the fish"
    assert word_times(search(logits)[0][0], tokenizer)[1].start == pytest.approx(0.16)


def test_with_a_word_list_no_other_word_is_ever_said():
    for seed in range(5):
        for beam_size in (1, 3):
            search = CTCBeamSearch(SUBWORDS, words=["ab", "bab"], beam_size=beam_size, n_best=3)
            for one in search(random_logits(SUBWORDS, 12, seed))[0]:
                assert set(one.text.split()) <= {"ab", "bab"}


def test_a_batch_equals_its_utterances_and_runs_repeat():
    logits = random_logits(CHARACTERS, 12, seed=3, batch=3)
    search = CTCBeamSearch(CHARACTERS, n_best=4)
    results = search(logits, [12, 5, 9])
    assert results == search(logits, [12, 5, 9])
    for index, length in enumerate((12, 5, 9)):
        assert search(logits[index : index + 1, :length])[0] == results[index]


def test_long_and_extreme_logits_do_not_vanish():
    logits = random_logits(CHARACTERS, 2000, seed=4)
    assert math.isfinite(CTCBeamSearch(CHARACTERS, beam_size=4)(logits)[0][0].score)
    certain = torch.full((1, 50, 7), -math.inf)
    certain[0, :, 5] = 0
    assert CTCBeamSearch(CHARACTERS)(certain)[0][0].text == "a"
    assert CTCBeamSearch(CHARACTERS, words=["b"])(certain)[0][0].text == ""


def test_labels_beyond_the_vocabulary_are_not_said():
    logits = torch.zeros(1, 3, 9)
    logits[..., 8] = 5.0
    assert CTCBeamSearch(CHARACTERS)(logits)[0][0].tokens != [8]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beam_size": 0}, "beam_size must be a whole number of at least 1, got 0"),
        ({"n_best": 1.5}, "n_best must be a whole number of at least 1, got 1.5"),
        ({"token_threshold": 0}, "token_threshold must be above 0, got 0"),
        ({"lm_weight": -1}, "lm_weight must be at least 0"),
        ({"lm_weight": math.nan}, "lm_weight must be at least 0"),
        ({"word_score": 1.0}, "word_score needs a word list"),
        ({"token_score": 1.0, "words": ["ab"]}, "token_score goes without a word list"),
        ({"words": "ab"}, "must be a list of words, got one string"),
        ({"words": []}, "words must have a word, got none"),
        ({"words": ["a b"]}, "words must be single words, got 'a b'"),
        ({"words": ["xyz"]}, "words must have one that the tokens can spell, got 1 such as 'xyz'"),
        ({"language_model": "no/such.arpa"}, r"language_model must be a file, got no/such\.arpa"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        CTCBeamSearch(CHARACTERS, **options)


def test_words_that_cannot_be_spelled_are_told(caplog):
    CTCBeamSearch(CHARACTERS, words=["ab", "ba", "xyz"])
    assert "1 of 3 words can't be spelled with the model's tokens, such as 'xyz'" in caplog.text


def test_a_language_model_of_other_units_raises(tmp_path):
    train_ngram_model(["three words here"], 2, tmp_path / "words.arpa")
    with pytest.raises(ValueError, match=r"must be of the units searched for .* only 0 are among these"):
        CTCBeamSearch(CHARACTERS, language_model=tmp_path / "words.arpa")
    (tmp_path / "no.arpa").write_text("hello")
    with pytest.raises(ValueError, match=r"must be an ARPA file: line 1: .* is missing"):
        CTCBeamSearch(CHARACTERS, language_model=tmp_path / "no.arpa")


def test_without_flashlight_only_the_language_model_is_missing(tmp_path, monkeypatch):
    train_ngram_model(TEXTS, 2, tmp_path / "model.arpa", unit="character")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("flashlight"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    CTCBeamSearch(CHARACTERS, words=["ab"])
    with pytest.raises(ImportError, match="needs flashlight-text"):
        CTCBeamSearch(CHARACTERS, language_model=tmp_path / "model.arpa")


@pytest.mark.parametrize(
    "logits, lengths, message",
    [
        (torch.zeros(3, 7), None, r"logits must be \(B, T, V\), got the shape \(3, 7\)"),
        (torch.zeros(2, 3, 7), [3], "lengths must be 2 numbers from 0 to 3"),
        (torch.zeros(1, 3, 7), [4], "lengths must be 1 numbers from 0 to 3"),
        (torch.zeros(1, 3, 5), None, "a label for each of 7 tokens, got 5"),
        (torch.full((1, 3, 7), math.nan), None, "logits must be numbers, got NaN"),
    ],
)
def test_bad_logits_raise(logits, lengths, message):
    with pytest.raises(ValueError, match=message):
        CTCBeamSearch(CHARACTERS)(logits, lengths)
    if "label" not in message and "NaN" not in message:
        with pytest.raises(ValueError, match=message):
            ctc_greedy(logits, lengths)
