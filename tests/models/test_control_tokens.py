"""Loaded tokenizers read the names of their control tokens as text, whoever made them."""

import pytest
from transformers import AutoTokenizer

from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from seqdyconv.models.control_tokens import control_names
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.models.tokenization import SeqDyConvTokenizer
from tests.models.toy_tokenizers import OF_MODELS, TRAINED, make, trained


def control_ids_in(tokenizer, names):
    """Of texts with these names, alone and inside words."""
    control = set(tokenizer.convert_tokens_to_ids(names))
    texts = [text for name in names for text in (name, f"a {name} b", f"a{name}b", f"{name}{name}", f" {name}")]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [(text, sorted(control.intersection(ids))) for text, ids in zip(texts, rows) if control.intersection(ids)]


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("kind", [*TRAINED, *OF_MODELS, "marian"])
def test_names_in_a_text_give_no_control_ids(kind, tmp_path):
    make(kind, tmp_path).save_pretrained(tmp_path / "theirs")
    tokenizer = load_tokenizer(str(tmp_path / "theirs"))
    names = control_names(tokenizer)
    assert names and not control_ids_in(tokenizer, names)
    tokenizer.save_pretrained(tmp_path / "ours")
    assert not control_ids_in(load_tokenizer(str(tmp_path / "ours")), names)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "byte_bpe", "word", "joined", "bert", "gpt2"])
def test_it_is_saved_for_who_loads_it_without_us(kind, tmp_path):
    make(kind, tmp_path).save_pretrained(tmp_path / "theirs")
    load_tokenizer(str(tmp_path / "theirs")).save_pretrained(tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert not control_ids_in(tokenizer, control_names(tokenizer))


@pytest.mark.parametrize("kind", ["unigram", "bpe", "byte_bpe", "t5", "gpt2"])
def test_other_texts_are_read_as_before(kind, tmp_path):
    theirs = make(kind, tmp_path)
    theirs.save_pretrained(tmp_path)
    for text in ("das alte wort", "a < b > c", "x/s"):
        assert load_tokenizer(str(tmp_path))(text)["input_ids"] == theirs(text)["input_ids"]


def test_bytes_of_letters_without_a_piece_are_no_names(tmp_path):
    ours = train_sentencepiece_tokenizer(["eins zwei", "one two"], 280, "bpe")
    ours.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.backend_tokenizer.to_str() == ours.backend_tokenizer.to_str()


def test_words_that_the_user_added_stay(tmp_path):
    theirs = trained("unigram")
    theirs.add_tokens(["MODEL-X7"])
    theirs.save_pretrained(tmp_path)
    assert "MODEL-X7" in load_tokenizer(str(tmp_path)).tokenize("das MODEL-X7 alte")


def test_words_that_the_user_added_to_a_slow_one_stay(tmp_path):
    theirs = SeqDyConvTokenizer(["<s>", "<pad>", "</s>", "<unk>", "das"])
    theirs.add_tokens(["MODEL-X7"])
    theirs.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert not tokenizer.split_special_tokens and tokenizer("das")["input_ids"] == [4, 2]
