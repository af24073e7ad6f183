"""Tokenizers for CTC: text comes back, and the ids are those that the models expect."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from seqdyconv.speech.tokenization import (
    SeqDyConvCTCTokenizer,
    train_character_tokenizer,
    train_subword_tokenizer,
)

TEXTS = ["příliš žluťoučký kůň", "hello llama, don't stop!", "ale ne , really ?"]
TRAINERS = {
    "characters": train_character_tokenizer,
    "subwords": lambda texts, **options: train_subword_tokenizer(texts, 60, **options),
}


@pytest.fixture(params=TRAINERS)
def train(request):
    return TRAINERS[request.param]


def test_decoding_gives_the_text_back(train):
    tokenizer = train(TEXTS)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, group_tokens=False) == text and not set(ids) & set(tokenizer.all_special_ids)


def test_white_space_and_composition_are_made_uniform(train):
    tokenizer = train(TEXTS)
    assert tokenizer.decode(tokenizer("  ale \t\n kůň  ")["input_ids"]) == "ale kůň"
    assert tokenizer("\x1eale\x1c\u2028\x85kůň")["input_ids"] == tokenizer("ale kůň")["input_ids"]
    assert tokenizer("ku\u030an\u030c")["input_ids"] == tokenizer("kůň")["input_ids"]
    assert tokenizer("")["input_ids"] == tokenizer("  ")["input_ids"] == []


@pytest.mark.parametrize("name", ["<pad>", "<s>", "</s>", "<unk>"])
@pytest.mark.parametrize("add_eos", [False, True])
def test_special_tokens_in_a_transcript_are_text(train, name, add_eos, tmp_path):
    texts = [*TEXTS, *[f"say {name} twice{name} {name}say"] * 20]
    train(texts, add_eos=add_eos).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in (texts[-1], name, f"a{name}{name}"):
        ids = tokenizer(text)["input_ids"]
        ids = ids[:-1] if add_eos else ids
        assert not set(ids) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(ids, **({} if add_eos else {"group_tokens": False})) == text


def test_the_mark_of_a_boundary_is_a_space(train):
    tokenizer = train([*TEXTS, "▁ale▁ne"])
    assert tokenizer.decode(tokenizer("▁ale▁▁ne ▁")["input_ids"], group_tokens=False) == "ale ne"


def test_special_tokens_have_the_ids_of_ctc(train):
    tokenizer = train(TEXTS)
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer.decode(tokenizer("kXň")["input_ids"]) == "k<unk>ň"
    assert tokenizer(["ne", "ale ne"], padding=True)["input_ids"][0][-1] == 0


def test_frames_of_ctc_lose_repeats_and_blanks_unless_told_not_to():
    tokenizer = train_character_tokenizer(["ahoj"])  # a 5, h 6, j 7, o 8
    assert tokenizer.decode([0, 5, 5, 0, 5, 6, 6, 0]) == "aah"
    assert tokenizer.decode([5, 5, 6], group_tokens=False) == "aah"
    assert train_character_tokenizer(["ahoj"], add_eos=True).decode([5, 5, 6]) == "aah"  # its decoder writes no frames


def test_frames_tell_when_tokens_and_words_were_said():
    tokenizer = train_character_tokenizer(["ahoj"])
    frames = [0, 4, 5, 5, 0, 5, 4, 4, 0, 6, 3]
    said = tokenizer.decode(frames, output_char_offsets=True, output_word_offsets=True)
    assert said.text == tokenizer.decode(frames) == "aa h<unk>"
    assert [tuple(one.values()) for one in said.word_offsets] == [("aa", 2, 6), ("h<unk>", 9, 11)]
    assert [tuple(one.values()) for one in said.char_offsets] == [
        (" ", 1, 2),
        ("a", 2, 4),
        ("a", 5, 6),
        (" ", 6, 8),
        ("h", 9, 10),
        ("<unk>", 10, 11),
    ]
    assert tokenizer.decode([], output_word_offsets=True).word_offsets == []
    said = tokenizer.batch_decode([frames, [7]], output_word_offsets=True, skip_special_tokens=True)
    assert [one.text for one in said] == ["aa h", "j"]


def test_offsets_of_subwords(train):
    tokenizer = train(TEXTS)
    frames = [0, *(token for token in tokenizer("ale kůň ne")["input_ids"] for _ in range(3)), 0]
    said = tokenizer.decode(frames, output_word_offsets=True)
    assert said.text == " ".join(one["word"] for one in said.word_offsets) == "ale kůň ne"
    assert said.word_offsets[-1]["end_offset"] == len(frames) - 1 and said.char_offsets is None
    for one in said.word_offsets:
        assert tokenizer.decode(frames[one["start_offset"] : one["end_offset"]]) == one["word"]


def test_attention_decoders_get_an_end(train):
    tokenizer = train(TEXTS, add_eos=True)
    ids = tokenizer("ale ne")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id and ids[:-1] == train(TEXTS)("ale ne")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ale ne"


def test_the_folder_alone_is_enough_to_load_it(train, tmp_path):
    tokenizer = train(TEXTS)
    tokenizer.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert loaded.batch_decode(loaded(TEXTS)["input_ids"], group_tokens=False) == TEXTS and loaded.pad_token_id == 0
    assert isinstance(loaded, SeqDyConvCTCTokenizer)
    frames = [0, *(token for token in loaded(TEXTS[0])["input_ids"] for _ in range(2)), 0]
    plain = PreTrainedTokenizerFast.from_pretrained(tmp_path)  # as where this package is not imported
    assert plain.decode(frames) == loaded.decode(frames) == TEXTS[0]


def test_training_is_deterministic_and_independent_of_the_order(train):
    vocabulary = train(TEXTS).get_vocab()
    assert train(TEXTS).get_vocab() == vocabulary == train(list(reversed(TEXTS))).get_vocab()


def test_rare_characters_become_unknown():
    tokenizer = train_character_tokenizer(["aab", "ab c"], min_frequency=2)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer)))[4:] == ["▁", "a", "b"]


def test_subwords_keep_to_the_size():
    assert len(train_subword_tokenizer(["the other", "then there"], 16)) == 16
    assert len(train_subword_tokenizer(["ab"], 1000)) < 20


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: train_character_tokenizer("abc"), "must be a list of texts, got one string"),
        (lambda: train_character_tokenizer([3]), "texts must be strings, got 3"),
        (lambda: train_character_tokenizer(["", "  "]), "got none"),
        (lambda: train_character_tokenizer(["ab"], min_frequency=2), "at least 2 times, got none"),
        (lambda: train_subword_tokenizer([], 100), "got none"),
        (lambda: train_subword_tokenizer(["abc"], 7), "vocab_size must be at least 8, .* got 7"),
    ],
)
def test_bad_input_raises(make, message):
    with pytest.raises(ValueError, match=message):
        make()
