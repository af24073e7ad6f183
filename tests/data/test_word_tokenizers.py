"""Vocabularies of words and WordPieces: their ids, what they make of a text, and that they are the same every time."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from seqdyconv.data.word_tokenizers import SPECIAL_TOKENS, train_word_tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Quick foxes don't jump over dogs!", "Größe, the größe"]


@pytest.fixture(scope="module", params=["wordpiece", "word"])
def tokenizer(request):
    return train_word_tokenizer(TEXTS, 90, request.param, min_frequency=1)


def test_special_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(SPECIAL_TOKENS)
    ids = [tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id]
    assert [*ids, tokenizer.mask_token_id] == [0, 1, 2, 3, 4]
    first, second = [tokenizer(text)["input_ids"][1:-1] for text in TEXTS[:2]]
    assert tokenizer(TEXTS[0])["input_ids"] == [0, *first, 2]
    assert tokenizer(*TEXTS[:2])["input_ids"] == [0, *first, 2, *second, 2]
    assert tokenizer("the [MASK] dog", split_special_tokens=False)["input_ids"][2] == 4
    assert sorted(tokenizer.added_tokens_encoder) == sorted(SPECIAL_TOKENS)  # and nothing else is special
    assert tokenizer.decode(tokenizer("the dogs")["input_ids"], skip_special_tokens=True) == "the dogs"


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
@pytest.mark.parametrize("text", ["{}", "the {} dog", "the{}dog", "{}{}"])
def test_special_tokens_in_a_text_are_text(tokenizer, name, text, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        pieces = one.tokenize(text.format(name, name))
        assert not {"[CLS]", "[PAD]", "[SEP]", "[MASK]"}.intersection(pieces) and len(pieces) > 1
        assert one(text.format(name, name))["input_ids"].count(2) == 1


def test_a_batch_is_padded_with_a_mask(tokenizer):
    batch = tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert torch.equal(batch["attention_mask"].bool(), batch["input_ids"] != 1)


def test_case_and_signs(tokenizer):
    assert tokenizer("the DOG!")["input_ids"] == tokenizer("The dog !")["input_ids"]
    assert tokenizer.decode(tokenizer("Größe, the dog.")["input_ids"][1:-1]).split()[0].startswith("größe")
    cased = train_word_tokenizer(TEXTS, 90, lowercase=False)
    assert cased("the")["input_ids"] != cased("The")["input_ids"]


def test_words_or_subwords():
    words, pieces = (train_word_tokenizer(TEXTS, 90, kind, min_frequency=1) for kind in ("word", "wordpiece"))
    unknown = "quicker"
    assert words.tokenize(unknown) == ["[UNK]"]
    assert "".join(pieces.tokenize(unknown)).replace("##", "") == unknown


def test_rare_words_get_no_entry():
    tokenizer = train_word_tokenizer(TEXTS, 90, "word", min_frequency=2)
    assert tokenizer.convert_ids_to_tokens(range(5, len(tokenizer))) == ["the", "größe", "over", "quick"]


@pytest.mark.parametrize("kind", ["wordpiece", "word"])
def test_size(kind):
    assert len(train_word_tokenizer(TEXTS, 60, kind, min_frequency=1)) <= 60
    small = 20 if kind == "wordpiece" else 5
    with pytest.raises(ValueError, match=rf"vocab_size {small} is too small: .* need at least \d+"):
        train_word_tokenizer(TEXTS, small, kind)


@pytest.mark.parametrize("kind", ["wordpiece", "word"])
def test_is_the_same_every_time(kind):
    made = {train_word_tokenizer(iter(TEXTS), 70, kind, min_frequency=1).backend_tokenizer.to_str() for _ in range(4)}
    assert len(made) == 1


def test_loads_without_this_project(tmp_path):
    tokenizer = train_word_tokenizer(TEXTS, 90)
    tokenizer.save_pretrained(tmp_path)
    code = (
        "import sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]); "
        "print(t(sys.argv[2], sys.argv[2]).data, t.pad_token_id, t.mask_token, sep='|')"
    )
    command = [sys.executable, "-c", code, str(tmp_path), TEXTS[2]]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip() == f"{tokenizer(TEXTS[2], TEXTS[2]).data}|1|[MASK]"
