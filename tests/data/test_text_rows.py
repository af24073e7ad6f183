"""The rows that a model reads of texts: whole, cut off, in windows, of pairs."""

import pytest
from datasets import Dataset, DatasetDict
from tokenizers import processors
from transformers import AutoTokenizer

from seqdyconv.data.tables import DataError
from seqdyconv.data.text_rows import LengthArguments, tokenize
from seqdyconv.data.word_tokenizers import train_word_tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Quick foxes don't jump over dogs!", "Größe, the größe"]


@pytest.fixture(scope="module", params=["wordpiece", "word"])
def tokenizer(request):
    return train_word_tokenizer(TEXTS, 90, request.param, min_frequency=1)


def datasets(**columns):
    return DatasetDict({"test": Dataset.from_dict(columns)})


def test_one_row_per_text(tokenizer):
    rows = tokenize(datasets(text=[*TEXTS, ""], label=[0, 1, 0, 1]), tokenizer, LengthArguments())["test"]
    assert set(rows.column_names) == {"input_ids", "labels", "example"}
    assert rows["input_ids"][:] == [*tokenizer(TEXTS)["input_ids"], [0, 2]]
    assert rows["labels"][:] == [0, 1, 0, 1]
    assert rows["example"][:] == [0, 1, 2, 3]


def test_long_texts_are_truncated(tokenizer):
    (ids,) = tokenize(datasets(text=TEXTS[:1], label=[0]), tokenizer, LengthArguments(max_length=6))["test"][
        "input_ids"
    ]
    assert ids == [*tokenizer(TEXTS[0])["input_ids"][:5], 2]


def test_of_a_pair_the_longer_text_is_truncated(tokenizer):
    pairs = datasets(text=["the dog"], text_pair=["over " * 50], label=[1])
    (ids,) = tokenize(pairs, tokenizer, LengthArguments(max_length=12))["test"]["input_ids"]
    the, dog, over = (tokenizer.convert_tokens_to_ids(word) for word in ("the", "dog", "over"))
    assert ids == [0, *tokenizer("the dog")["input_ids"][1:-1], 2, *[over] * (len(ids) - ids.index(2) - 2), 2]
    assert len(ids) == 12 and the in ids and dog is not None


def test_windows_cover_the_text_and_share_tokens(tokenizer):
    texts = [TEXTS[0], "", " ".join(TEXTS)]
    args = LengthArguments(max_length=9, long_texts="windows", window_stride=2)
    rows = tokenize(datasets(text=texts, label=[0, 1, 1]), tokenizer, args)["test"]
    for index, (text, label) in enumerate(zip(texts, (0, 1, 1))):
        windows = [row for row in rows if row["example"] == index]
        assert all(row["labels"] == label and len(row["input_ids"]) <= 9 for row in windows)
        assert all(row["input_ids"][0] == 0 and row["input_ids"][-1] == 2 for row in windows)
        joined = windows[0]["input_ids"][1:-1]
        for window in windows[1:]:
            ids = window["input_ids"][1:-1]
            assert ids[:2] == joined[-2:]
            joined += ids[2:]
        assert joined == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert rows["example"][:] == sorted(rows["example"])


def test_windows_of_more_texts_than_a_batch(tokenizer):
    texts = [TEXTS[0]] * 1001
    args = LengthArguments(max_length=9, long_texts="windows", window_stride=0, max_windows=1)
    rows = tokenize(datasets(text=texts), tokenizer, args)["test"]
    assert rows["example"][:] == list(range(1001))


def test_texts_without_labels(tokenizer):
    rows = tokenize(datasets(text=TEXTS), tokenizer, LengthArguments())["test"]
    assert set(rows.column_names) == {"input_ids", "example"}


def test_type_ids_are_there_for_pairs_only(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    single = tokenize(datasets(text=["a"], label=[0]), tokenizer, LengthArguments())["test"]
    assert set(single.column_names) == {"input_ids", "labels", "example"}
    pairs = tokenize(datasets(text=["a"], text_pair=["b"], label=[0]), tokenizer, LengthArguments())["test"]
    assert pairs["token_type_ids"][:] == [[0, 0, 0, 1, 1]]


def test_no_row_is_empty_even_without_special_tokens():
    bare = train_word_tokenizer(TEXTS, 90)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    rows = tokenize(datasets(text=["", "the"], label=[0, 1]), bare, LengthArguments())["test"]
    assert [len(ids) for ids in rows["input_ids"]] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 2}, "max_length is 2, but the special tokens alone are 2"),
        ({"max_length": 513}, "max_length is 513, but the tokenizer's model takes at most 512"),
        ({"max_length": 9, "long_texts": "windows", "window_stride": 7}, "window_stride is 7, but must be below"),
    ],
)
def test_lengths_that_do_not_fit(minilm, arguments, message):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    with pytest.raises(DataError, match=message):
        tokenize(datasets(text=TEXTS), tokenizer, LengthArguments(**arguments))


def test_windows_of_pairs(tokenizer):
    with pytest.raises(DataError, match="windows is for single texts"):
        tokenize(datasets(text=["a"], text_pair=["b"]), tokenizer, LengthArguments(long_texts="windows"))
