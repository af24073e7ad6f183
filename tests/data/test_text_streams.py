"""Rows of tokens of documents that are read while training: the same from any place on, and as without a stream."""

import json
from itertools import pairwise

import pytest
from datasets import DatasetDict

from seqdyconv.data.language_modeling import DataArguments, load_documents, make_tokenizer, tokenize
from seqdyconv.data.tables import DataError
from seqdyconv.data.text_streams import StreamedBatches, StreamPosition, TextStream

TEXTS = [" ".join(["one", "two", "three", "four"][: 1 + number % 4] * (1 + number % 7)) for number in range(23)]


def arguments(folder, **options):
    values = {"shuffle_buffer": 1, "block_size": 8, "vocab_size": 280, "validation_split": None}
    values |= {"max_validation_samples": 3, **options}
    return DataArguments(dataset=str(folder), streaming=True, **values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    rows = [*TEXTS[:10], None, " ", *TEXTS[10:]]  # two without text
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return make_tokenizer(arguments(folder), load_documents(arguments(folder), ["train"])["train"])


def batches(folder, tokenizer, number=60, rows=3, **options):
    args = arguments(folder, **options)
    return StreamedBatches(TextStream(args), tokenizer, args.block_size, rows, number)


def tokens_of(batch):
    return [row["input_ids"] for row in batch]


def test_the_first_documents_of_train_validate_where_nothing_else_does(folder):
    texts = load_documents(arguments(folder))
    assert texts["validation"]["text"][:] == TEXTS[:3] and texts["train"]["text"][:] == TEXTS[3:]
    texts = load_documents(arguments(folder, tokenizer_documents=5), ["train"])
    assert list(texts) == ["train"] and texts["train"]["text"][:] == TEXTS[3:8]


def test_files_validate_in_place_of_train(folder, tmp_path):
    (tmp_path / "own.txt").write_text("eight\n\nnine\n")
    own = str(tmp_path / "own.txt")
    texts = load_documents(arguments(folder, validation_file=own, test_file=own))
    assert [texts[split]["text"][:] for split in ("validation", "test")] == [["eight", "nine"]] * 2
    assert texts["train"]["text"][:] == TEXTS
    assert list(load_documents(arguments(folder, validation_fraction=0))) == ["train"]


def test_training_documents_may_be_limited(folder):
    args = arguments(folder, max_train_samples=4)
    assert load_documents(args)["train"]["text"][:] == TEXTS[3:7]
    assert list(TextStream(args).documents(0, 0)) == TEXTS[3:7]


def test_any_number_of_documents_without_text_is_passed_over(tmp_path, tokenizer):
    rows = ["one", *[""] * 100, "two two two two"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    found = tokens_of(batches(tmp_path, tokenizer, validation_fraction=0)[0])
    assert tokenizer.decode(found[0]).startswith("</s>one</s>two")
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n' + '{"text": ""}\n' * 100)
    with pytest.raises(DataError, match="holds no text"):
        batches(tmp_path, tokenizer, max_validation_samples=1)[0]


def test_the_rows_are_those_of_all_documents_read_before(folder, tokenizer):
    args = arguments(folder)
    texts = DatasetDict({"train": load_documents(args)["train"]})
    expected = tokenize(texts, tokenizer, args)["train"]["input_ids"][:-1]  # the last one goes on with the next epoch
    streamed = batches(folder, tokenizer)
    found = [row for number in range(60) for row in tokens_of(streamed[number])]
    assert found[: len(expected)] == expected and len(found) == 180 > 2 * len(expected)
    assert all(one[-1] == other[0] and len(one) == 8 for one, other in pairwise(found))


@pytest.mark.parametrize("buffer", [1, 7])
def test_reading_goes_on_at_any_batch_and_some_may_be_left_out(folder, tokenizer, buffer):
    whole = batches(folder, tokenizer, shuffle_buffer=buffer)
    expected = [tokens_of(whole[number]) for number in range(60)]
    places = [whole.position(number) for number in range(60)]
    assert places[0] == StreamPosition() and places[-1].epoch >= 2
    assert len({place.document for place in places}) > 10 and any(place.token > 1 for place in places)
    for begin in range(0, 57, 4):
        again = batches(folder, tokenizer, shuffle_buffer=buffer)
        again.start_at(begin, places[begin])
        assert tokens_of(again[begin]) == expected[begin]
        assert tokens_of(again[begin + 3]) == expected[begin + 3]  # as one process of three
        assert again.position(begin + 3) == places[begin + 3]


def test_each_epoch_has_its_order(folder):
    stream = TextStream(arguments(folder, shuffle_buffer=50))
    first, second = (list(stream.documents(epoch, 0)) for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second) == sorted([*TEXTS[3:], "", ""])
    assert list(stream.documents(0, 4)) == first[4:]


def test_what_is_missing_is_one_line(folder):
    with pytest.raises(DataError, match=r"there is no test data: give test_file, as the data set .* has none"):
        load_documents(arguments(folder), ["test"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "r8"}, "streaming needs a dataset on the Hub"),
        ({"dataset": None, "train_file": "a.txt"}, "streaming needs a dataset on the Hub"),
        ({"join_documents": False}, "and join_documents: true"),
        ({"train_split": "nowhere"}, "has no split 'nowhere'; it has train"),
        ({"text_column": "words", "max_validation_samples": 3}, "words"),
        ({"test_split": "tset"}, "has no split 'tset'; it has train"),
        ({"test_fraction": 0.1}, "no test_fraction can be taken out of it: give test_file"),
        ({}, "has 25 documents, and the first 1000 are there to validate on: set max_validation_samples"),
    ],
    ids=str,
)
def test_what_can_not_be_is_one_line(folder, options, message):
    with pytest.raises(DataError, match=message):
        load_documents(DataArguments(**{"dataset": str(folder), "streaming": True, **options}))
