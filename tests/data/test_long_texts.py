"""Texts of any length take time with their length alone, and what can't be used of them is cut or refused."""

import logging
import random
import string
import time

import pytest
from datasets import Dataset, DatasetDict

from seqdyconv.data import text_rows, translation
from seqdyconv.data.long_texts import cut_words
from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from seqdyconv.data.tables import DataError
from seqdyconv.data.text_rows import LengthArguments
from seqdyconv.data.translation import DataArguments
from seqdyconv.data.word_tokenizers import train_word_tokenizer
from seqdyconv.runtime.long_texts import cut_text

TEXTS = ["the quick brown fox jumps over the lazy dog", "quick foxes and lazy dogs"] * 20


def test_a_text_is_cut_far_behind_its_last_token():
    assert cut_text("ab" * 100, 1) == "ab" * 50
    assert cut_text("x" + "ab" * 100, 1, "left") == "ab" * 50
    assert cut_text("ab", 1) == "ab"


def test_long_words_are_cut_for_training():
    kept = ["a b", "c" * 1000, "d " * 1000, "语" * 999 + "。" + "语" * 999]
    cut = [("x" * 1001 + " y", "x" * 1000 + " y"), ("." * 5000 + "语" * 5000, "." * 1000 + "语" * 1000)]
    assert list(cut_words([*kept, *(text for text, _ in cut)])) == [*kept, *(text for _, text in cut)]


@pytest.mark.parametrize(
    "train",
    [
        lambda texts: train_sentencepiece_tokenizer(texts, 290, "unigram"),
        lambda texts: train_sentencepiece_tokenizer(texts, 300, "bpe"),
        lambda texts: train_word_tokenizer(texts, 60, "wordpiece"),
        lambda texts: train_word_tokenizer(texts, 20, "word"),
    ],
    ids=["unigram", "bpe", "wordpiece", "word"],
)
def test_a_vocabulary_is_trained_on_a_line_without_a_space(train):
    random.seed(0)
    start = time.perf_counter()
    train([*TEXTS, "".join(random.choices(string.ascii_lowercase[:8], k=5_000_000))])  # with all of it: many minutes
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize(("long_texts", "rows"), [("truncate", 1), ("windows", 2)])
def test_classification_reads_the_first_tokens(long_texts, rows):
    tokenizer = train_word_tokenizer(TEXTS, 60)
    args = LengthArguments(max_length=8, long_texts=long_texts, window_stride=2, max_windows=2)
    data = DatasetDict({"test": Dataset.from_dict({"text": ["quick fox " * 100_000]})})
    whole = text_rows.tokenize(data, tokenizer, args)["test"]
    assert len(whole) == rows
    short = DatasetDict({"test": Dataset.from_dict({"text": ["quick fox " * 100]})})
    assert whole[:] == text_rows.tokenize(short, tokenizer, args)["test"][:]


class TestTranslation:
    def data(self, **splits):
        return DatasetDict({split: Dataset.from_dict({"source": s, "target": s}) for split, s in splits.items()})

    @pytest.fixture
    def tokenizer(self):
        return train_sentencepiece_tokenizer(TEXTS, 300, "bpe")

    def test_long_pairs_are_dropped_from_training(self, tokenizer, caplog):
        with caplog.at_level(logging.WARNING):
            rows = translation.tokenize(self.data(train=["fox", "f" * 2_000_000]), tokenizer, DataArguments())["train"]
        assert len(rows) == 1 and "Dropped 1 of 2 training pairs" in caplog.text

    def test_and_refused_elsewhere(self, tokenizer, monkeypatch):
        monkeypatch.setattr(translation, "LONGEST_TEXT", 100)
        for text in ("f" * 20_000, "fox " * 200):
            with pytest.raises(DataError, match="pair 2 of test has more than 100 tokens"):
                translation.tokenize(self.data(train=["fox"], test=["fox", text]), tokenizer, DataArguments())
