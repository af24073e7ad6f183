"""Vocabularies of subwords: their ids, that nothing is unknown or lost, and that they are the same every time."""

import re
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer

TEXTS = [
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Die Menüs Datei - Öffnen und Datei - Schließen (siehe S. 12) öffnen bzw. schließen Dateien.",
    "The menus File - Open and File - Close (see p. 12) open and close files.",
]
VOCAB_SIZE = 315


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train_sentencepiece_tokenizer(TEXTS, VOCAB_SIZE, kind) for kind in ("unigram", "bpe")}


@pytest.fixture(params=["unigram", "bpe"])
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def test_ids(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4, 259]) == [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<0x00>",
        "<0xFF>",
    ]
    ids = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert ids == [0, 1, 2, 3]
    assert len(tokenizer) == VOCAB_SIZE


@pytest.mark.parametrize("text", [*TEXTS, "a  b", "neu ☃ 漢字 e\u0301 <0x41>", "a\tb", "don't , do ( that )", ""])
def test_decode_is_exact(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == 2 and 3 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


CONTROL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>", "[CLS]", "<0x41>", "▁", "\ue000", "\ue000\ue001", "\ue000\ue002")


@pytest.mark.parametrize("name", CONTROL)
@pytest.mark.parametrize("text", ["{}", "a {} b", "ein {}altes{} Wort", "{}{}", "x{}1"])
def test_names_of_tokens_in_a_text_are_text(tokenizer, name, text, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = text.format(name, name)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        *ids, end = one(text)["input_ids"]
        assert end == 2 and not {0, 1, 2, 3}.intersection(ids)
        assert one.decode([*ids, end], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_names_of_tokens_in_the_training_texts_are_text(kind):
    text = "ein <s>altes</s> Wort▁und <pad> <unk> <0x41>"
    tokenizer = train_sentencepiece_tokenizer([*TEXTS, *[text] * 50], VOCAB_SIZE, kind)
    ids = tokenizer(text)["input_ids"][:-1]
    assert not {0, 1, 2, 3}.intersection(ids) and tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<0x00>"]) == [0, 1, 2, 3, 4]


def test_pieces_do_not_mix_letters_digits_and_signs(tokenizer):
    for piece in tokenizer.convert_ids_to_tokens(range(260, VOCAB_SIZE)):
        assert re.fullmatch(r"▁?([^\W\d_]*|\d*|[^\w▁]*)", piece)


def test_both_sides_and_padding(tokenizer):
    batch = tokenizer(TEXTS[:2], text_target=TEXTS[2:], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    shorter = int(batch["attention_mask"].sum(1).argmin())
    assert batch["input_ids"][shorter, -1] == 1 and batch["attention_mask"][shorter, -1] == 0


def test_loads_without_this_project(tokenizers, tmp_path):
    code = (
        "import sys\n"
        "from transformers import AutoTokenizer\n"
        "for folder in sys.argv[2:]:\n"
        "    t = AutoTokenizer.from_pretrained(folder)\n"
        "    print(t(sys.argv[1], text_target=sys.argv[1]).data, t.pad_token_id, t.padding_side, sep='|')"
    )
    folders = [str(tmp_path / kind) for kind in tokenizers]
    for folder, tokenizer in zip(folders, tokenizers.values()):
        tokenizer.save_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    command = [sys.executable, "-c", code, TEXTS[2], *folders]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    expected = [f"{tokenizer(TEXTS[2], text_target=TEXTS[2]).data}|1|right" for tokenizer in tokenizers.values()]
    assert run.stdout.splitlines() == expected


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_is_the_same_every_time(tokenizers, kind):
    again = train_sentencepiece_tokenizer(iter(TEXTS), VOCAB_SIZE, kind)
    assert again.backend_tokenizer.to_str() == tokenizers[kind].backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_vocabulary_larger_or_smaller_than_the_data_allows(kind):
    with pytest.raises(
        ValueError, match=r"vocab_size 5000 is larger than the data allows: it gives \d+ pieces"
    ) as caught:
        train_sentencepiece_tokenizer(TEXTS, 5000, kind)
    most = int(re.findall(r"gives (\d+)", str(caught.value))[0])
    assert len(train_sentencepiece_tokenizer(TEXTS, most, kind)) == most
    with pytest.raises(ValueError, match="vocab_size 300 is too small"):
        train_sentencepiece_tokenizer(TEXTS, 300, kind)


def test_unknown_kind():
    with pytest.raises(ValueError, match="'word', allowed are unigram, bpe"):
        train_sentencepiece_tokenizer(TEXTS, VOCAB_SIZE, "word")


def test_rare_characters_take_no_place():
    texts = ["ein langer Text " * 1000, "☃"]
    tokenizer = train_sentencepiece_tokenizer(texts, 280, "bpe")
    assert "☃" not in tokenizer.get_vocab()
    assert tokenizer.decode(tokenizer("☃")["input_ids"], skip_special_tokens=True) == "☃"


def test_lower_case():
    tokenizer = train_sentencepiece_tokenizer(TEXTS, VOCAB_SIZE, lowercase=True)
    assert tokenizer.decode(tokenizer("ÜBER Den")["input_ids"], skip_special_tokens=True) == "über den"
