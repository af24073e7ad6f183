"""Tokenizers of others are completed for training, so that models can pad, stop and write, or one line says why not."""

import logging

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    M2M100Tokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerFast,
)

from seqdyconv.data.external_tokenizers import (
    complete_tokenizer,
    of_many_languages,
    set_languages,
    try_tokenizer,
)
from seqdyconv.data.tables import DataError
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.models.tokenization import SeqDyConvTokenizer
from tests.models.toy_tokenizers import NAMES, OF_MODELS, TEXTS, TRAINED, make, trained

SOURCE, TARGET = "das alte wort", "the old word"


def completed(tokenizer, folder, **options):
    """As a recipe loads, completes and saves it, and as whoever uses the model loads it again."""
    tokenizer.save_pretrained(folder / "theirs")
    options = {"new_model": True, "writes": True} | options
    found = complete_tokenizer(load_tokenizer(str(folder / "theirs")), "theirs", **options)
    found.save_pretrained(folder / "ours")
    again = load_tokenizer(str(folder / "ours"))
    for text in (SOURCE, TARGET, "a", "</s> a"):
        assert again(text, text_target=text).data == found(text, text_target=text).data
    assert again.pad_token_id == found.pad_token_id
    return again


def content(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", [*TRAINED, *OF_MODELS])
def test_whatever_it_is_texts_end_and_can_be_padded(kind, tmp_path):
    tokenizer = completed(make(kind, tmp_path), tmp_path)
    encoded = tokenizer([SOURCE, "a"], text_target=[TARGET, "a"], padding=True)
    assert encoded["input_ids"][1][-1] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert encoded["labels"][0][-1] == tokenizer.eos_token_id
    assert encoded["labels"][0].count(tokenizer.eos_token_id) == 1
    if kind != "word":
        assert tokenizer.decode(encoded["labels"][0], skip_special_tokens=True) == TARGET


@pytest.mark.parametrize(
    "template",
    [None, "$A </s>", "<s> $A", "<s> $A </s>"],
    ids=["nothing", "an end", "a beginning", "both"],
)
@pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
def test_an_end_is_put_where_there_is_none(kind, template, tmp_path, caplog):
    tokenizer = completed(trained(kind, template), tmp_path)
    begin = [tokenizer.bos_token_id] if "<s>" in (template or "") else []
    assert tokenizer(TARGET)["input_ids"] == [*begin, *content(tokenizer, TARGET), tokenizer.eos_token_id]
    assert ("does not end a text with </s>: it does now" in caplog.text) == ("</s>" not in (template or ""))


@pytest.mark.parametrize("role", ["bos_token", "pad_token", "eos_token", "unk_token"])
def test_a_token_without_a_name_gets_one(role, tmp_path, caplog):
    theirs = trained("byte_bpe", **{key: value for key, value in NAMES.items() if key != role})
    tokenizer = completed(theirs, tmp_path)
    assert tokenizer.pad_token_id == 1 and tokenizer.eos_token_id == 2 and len(tokenizer) == len(theirs)
    assert (f"has no {role} of its own" in caplog.text) == (role in ("pad_token", "eos_token"))


def test_no_names_at_all(tmp_path):
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.train_from_iterator(TEXTS)
    theirs.add_tokens(sorted(pre_tokenizers.ByteLevel.alphabet()))
    size = theirs.get_vocab_size()
    tokenizer = completed(PreTrainedTokenizerFast(tokenizer_object=theirs), tmp_path)
    assert {tokenizer.pad_token_id, tokenizer.eos_token_id} == {size, size + 1}
    assert tokenizer.decode(tokenizer(TARGET)["input_ids"], skip_special_tokens=True) == TARGET


@pytest.mark.parametrize("taken", ["bos_token", "eos_token", "unk_token"])
def test_a_padding_token_with_another_role(taken, tmp_path):
    names = {**NAMES, "pad_token": NAMES[taken]}
    assert completed(trained("byte_bpe", **names), tmp_path).pad_token_id == 1
    pretrained = completed(trained("byte_bpe", **names), tmp_path, new_model=False, writes=False)
    assert pretrained.pad_token == NAMES[taken]


def test_a_pretrained_model_gets_no_new_tokens(tmp_path, caplog):
    tokenizer = completed(make("gpt2", tmp_path), tmp_path, new_model=False, writes=False)
    assert tokenizer.pad_token == "<|endoftext|>" and len(tokenizer) == 257
    assert "has no pad_token of its own: it is <|endoftext|> now" in caplog.text


def test_padding_is_on_the_right_whatever_it_was(tmp_path):
    theirs = trained("byte_bpe", "$A </s>")
    theirs.padding_side = theirs.init_kwargs["padding_side"] = "left"
    for writes in (True, False):
        tokenizer = completed(theirs, tmp_path, writes=writes)
        assert tokenizer.padding_side == "right" and tokenizer(["a", TARGET], padding=True)["input_ids"][0][-1] == 1


def test_truncation_and_padding_of_the_file_do_nothing(tmp_path):
    theirs = trained("byte_bpe")
    theirs.backend_tokenizer.enable_truncation(3)
    theirs.backend_tokenizer.enable_padding(length=20, pad_id=1, pad_token="<pad>")
    tokenizer = completed(theirs, tmp_path)
    for text in (TARGET, "a"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == f"{text}</s>"


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram", "bpe"])
def test_a_decoder_that_is_missing_is_put_in(kind, tmp_path):
    theirs = trained(kind)
    theirs.backend_tokenizer.decoder = None
    tokenizer = completed(theirs, tmp_path)
    assert tokenizer.decode(tokenizer(TARGET)["input_ids"], skip_special_tokens=True) == TARGET


def test_a_good_one_stays_as_it_is(tmp_path, caplog):
    theirs = make("t5", tmp_path)
    theirs.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert complete_tokenizer(tokenizer, "t5", new_model=True, writes=True) is tokenizer and not caplog.text
    assert tokenizer(TARGET)["input_ids"] == theirs(TARGET)["input_ids"]


def test_slow_ones(tmp_path):
    completed(ByT5Tokenizer(), tmp_path)

    class Endless(SeqDyConvTokenizer):
        def build_inputs_with_special_tokens(self, first, second=None):
            return first

    endless = Endless(["<s>", "<pad>", "</s>", "<unk>", "a"], special_tokens_pattern="none")
    with pytest.raises(DataError, match=r"does not put its end token </s> after a text, .* never learn to stop"):
        complete_tokenizer(endless, "endless", new_model=True, writes=True)


def test_no_entries_and_far_ids():
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(DataError, match=r"^the tokenizer empty has no entries$"):
        complete_tokenizer(empty, "empty", new_model=True)
    far = Tokenizer(models.WordLevel({"a": 0, "b": 10**6}, unk_token="a"))
    with pytest.raises(DataError, match=r"ids of the tokenizer far go up to 1000000, but it has only \d entries"):
        complete_tokenizer(PreTrainedTokenizerFast(tokenizer_object=far), "far", new_model=True)


class TestTexts:
    def test_nothing_is_known(self):
        with pytest.raises(DataError, match=r"t knows nothing of the training texts, such as '我们'$"):
            try_tokenizer(trained("bpe"), "t", ["", "我们", "昨天"])
        try_tokenizer(trained("bpe"), "t", ["", " "])

    def test_much_is_unknown(self, caplog):
        try_tokenizer(trained("bpe"), "t", ["old words 我", "我们 昨天"])
        assert "To the tokenizer t 45% of the training texts are unknown" in caplog.text

    def test_texts_do_not_come_back(self, caplog):
        try_tokenizer(trained("byte_bpe"), "t", ["Old  words"], writes=True)
        assert not caplog.text
        try_tokenizer(make("bert", None), "t", ["the Old word"] * 3)
        assert not caplog.text
        try_tokenizer(make("bert", None), "t", ["the Old word"] * 3, writes=True)
        assert (
            "changes 100% of the texts, which no model can then write as they are: 'the Old word' becomes"
            in caplog.text
        )


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.WARNING)


class TestManyLanguages:
    def mbart(self, kind=MBartTokenizer):
        unigram = [
            ("<s>", 0.0),
            ("<pad>", 0.0),
            ("</s>", 0.0),
            ("<unk>", 0.0),
            ("▁", -2.0),
            ("▁the", -3.0),
            ("▁das", -3.0),
        ]
        return kind(vocab=unigram)

    @pytest.mark.parametrize(("source", "target"), [("de", "en"), ("de_DE", "en_XX"), ("de", "en_XX")])
    @pytest.mark.parametrize("kind", [MBartTokenizer, MBart50Tokenizer])
    def test_each_side_is_marked_with_its_language(self, kind, source, target, tmp_path):
        tokenizer = self.mbart(kind)
        set_languages(tokenizer, "theirs", source, target)
        again = completed(tokenizer, tmp_path)
        encoded = again("das", text_target="the")
        assert again.convert_tokens_to_ids("de_DE") in encoded["input_ids"]
        assert again.convert_tokens_to_ids("en_XX") in encoded["labels"]

    def test_nllb(self):
        words = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "deu_Latn", "eng_Latn", "zho_Hans", "zho_Hant"]
        vocabulary = {word: number for number, word in enumerate(words)}
        tokenizer = NllbTokenizer(vocab=vocabulary, merges=[])
        set_languages(tokenizer, "theirs", "deu_Latn", "zho_Hant")
        encoded = tokenizer("a", text_target="a")
        assert encoded["input_ids"][0] == vocabulary["deu_Latn"]
        assert encoded["labels"][0] == vocabulary["zho_Hant"]
        with pytest.raises(DataError, match="target_lang is 'zho', and the tokenizer theirs has the languages zho_Han"):
            set_languages(tokenizer, "theirs", "deu", "zho")

    def test_m2m100(self, tmp_path):
        spm = tmp_path / "spm.model"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_prefix=str(spm.with_suffix("")), vocab_size=60, minloglevel=2,
            hard_vocab_limit=False,
        )  # fmt: skip
        (tmp_path / "vocab.json").write_text('{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}')
        tokenizer = M2M100Tokenizer(str(tmp_path / "vocab.json"), str(spm))
        set_languages(tokenizer, "theirs", "de", "zh")
        encoded = completed(tokenizer, tmp_path)("a", text_target="a")
        assert encoded["input_ids"][0] == tokenizer.get_lang_id("de")
        assert encoded["labels"][0] == tokenizer.get_lang_id("zh")

    def test_a_language_that_it_has_not(self):
        with pytest.raises(DataError, match=r"source_lang is 'klingon', and .* theirs has the languages ar_AR, cs_CZ"):
            set_languages(self.mbart(), "theirs", "klingon", "en")

    def test_tokenizers_of_one_pair_stay_as_they_are(self):
        tokenizer = trained("unigram")
        set_languages(tokenizer, "theirs", "klingon", "en")
        assert not of_many_languages(tokenizer)
