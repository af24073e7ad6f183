"""Texts that are given to the runtime: lists, in batches of at least one."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from seqdyconv.errors import InputError
from seqdyconv.runtime import Translator
from seqdyconv.runtime.folder import Exported
from seqdyconv.runtime.tokenizer import TextReader

SETTINGS = {"vocab_size": 3, "pad_token_id": 0, "filler_token_id": 0, "max_length": 8}


@pytest.fixture
def reader(tmp_path):
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "one": 1, "two": 2}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return TextReader(Exported(tmp_path, "classification", "float32", {"model": "model.onnx"}, SETTINGS))


def test_batches_hold_all_rows_long_ones_first(reader):
    rows = reader.read(["one", "two two two", ""])
    batches = list(reader.batches(rows, 2))
    assert [numbers for numbers, _ in batches] == [[1, 0], [2]]
    assert batches[0][1]["input_ids"].tolist() == [[2, 2, 2], [1, 0, 0]]
    assert batches[0][1]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(reader, size):
    with pytest.raises(InputError, match=f"batch_size must be at least 1, got {size}"):
        list(reader.batches(reader.read(["one"]), size))


def test_one_text_alone_is_refused_where_a_list_is_asked_for(reader):
    translator = Translator.__new__(Translator)
    for read in (reader.read, translator.translate, translator.search, translator.encode):
        with pytest.raises(InputError, match="texts must be a list, got one text: put it in brackets"):
            read("one two")
