"""N-gram models: proper probabilities, and the same numbers in KenLM; ARPA files as other tools write them."""

import gzip
import itertools
import json
import math
import os

import pytest
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary
from transformers import Wav2Vec2CTCTokenizer

from seqdyconv.errors import InputError
from seqdyconv.speech.alignment import token_strings
from seqdyconv.speech.ctc import CTCBeamSearch
from seqdyconv.speech.language_model import NGramModel, read_vocabulary, train_ngram_model
from seqdyconv.speech.tokenization import train_character_tokenizer, train_subword_tokenizer

TEXTS = ["the fish sees the crab", "the crab sleeps", "a crab sees a crab", "", "the fish"]


def kenlm_score(path, units):
    """log10 of the probability of the units with their end."""
    words = [*read_vocabulary(path), "<unk>"]
    model = KenLM(str(path), Dictionary(words))
    state, total = model.start(False), 0.0
    for unit in units:
        state, score = model.score(state, words.index(unit) if unit in words else len(words) - 1)
        total += score
    return total + model.finish(state)[1]


@pytest.mark.parametrize("order", range(2, 7))
def test_probabilities_sum_to_one_after_any_context(order):
    model = train_ngram_model(TEXTS, order)
    contexts = [(), ("<s>",), ("the",), ("<s>", "the"), ("fish", "sees"), ("crab", "fish", "the"), ("zebra",)]
    for context in contexts:
        scores = [
            model.score([*context[1:], unit], eos=False) - model.score(context[1:], eos=False)
            if context[:1] == ("<s>",)
            else model.score([*context, unit], False, False) - model.score(context, False, False)
            for unit in model.vocabulary
            if unit != "</s>"
        ]
        bos = context[:1] == ("<s>",)
        units = context[1:] if bos else context
        scores.append(model.score(units, bos, True) - model.score(units, bos, False))
        assert math.fsum(10**score for score in scores) == pytest.approx(1)


@pytest.mark.parametrize("order", range(2, 7))
def test_kenlm_reads_the_file_and_agrees(order, tmp_path):
    model = train_ngram_model(TEXTS, order, tmp_path / "model.arpa")
    for length in range(4):
        for units in itertools.product(["the", "crab", "sees", "zebra"], repeat=length):
            assert kenlm_score(tmp_path / "model.arpa", units) == pytest.approx(model.score(units), abs=1e-5)


def test_a_bigram_by_hand():
    # The bigrams <s> a, a b and b </s> have count 2 each: the discount is ½. The unigrams a, b and </s> have one kind
    # before them each, the discount is ½ too; four units, with <unk>, share what it leaves.
    model = train_ngram_model(["a b", "a b"], 2)
    unigram = 0.5 / 3 + 0.5 / 4
    assert 10 ** model.score(["b"], False, False) == pytest.approx(unigram)
    assert 10 ** (model.score(["a", "b"], eos=False) - model.score(["a"], eos=False)) == pytest.approx(
        1.5 / 2 + 0.5 / 2 * unigram
    )
    assert 10 ** model.score(["z"], False, False) == pytest.approx(0.5 / 4)


def test_units_are_words_characters_or_tokens():
    assert train_ngram_model(["ab a"], 2, unit="character").vocabulary == ["</s>", "<unk>", "a", "b", "▁"]
    assert train_ngram_model(["ab a"], 2).vocabulary == ["</s>", "<unk>", "a", "ab"]
    tokenizer = train_subword_tokenizer(TEXTS, 30)
    model = train_ngram_model(TEXTS, 2, unit="token", tokenizer=tokenizer)
    assert "▁the" in model.vocabulary and model.perplexity(TEXTS, "token", tokenizer) > 1


def test_between_words_stands_the_same_whatever_the_tokenizer_writes_there(tmp_path):
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<unk>", "|", "a", "b"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token=None, eos_token=None)
    counted = train_ngram_model(["ab a", "ba"], 2, unit="token", tokenizer=tokenizer)
    assert counted == train_ngram_model(["ab a", "ba"], 2, unit="character")
    assert set(counted.vocabulary) - {"</s>", "<unk>"} <= set(token_strings(tokenizer))  # what the search asks for


def test_perplexity_is_lower_on_what_was_counted():
    model = train_ngram_model(TEXTS, 3)
    assert 1 < model.perplexity(TEXTS) < model.perplexity(["crab the a", "sleeps fish"])
    assert train_ngram_model(TEXTS, 2).perplexity(TEXTS) > model.perplexity(TEXTS)


def test_files_are_read_back(tmp_path):
    model = train_ngram_model(TEXTS, 3, tmp_path / "model.arpa")
    loaded = NGramModel.read(tmp_path / "model.arpa")
    assert loaded.order == 3 and loaded.vocabulary == model.vocabulary
    assert loaded.score(["the", "crab"]) == pytest.approx(model.score(["the", "crab"]), abs=1e-5)
    assert read_vocabulary(tmp_path / "model.arpa") == ["a", "crab", "fish", "sees", "sleeps", "the"]


def test_unknown_units_of_the_texts_are_counted_as_unknown():
    with_unknown = train_ngram_model(["a <unk> a", "<unk> b"], 2)
    assert 10 ** with_unknown.score(["z"], False, False) > 10 ** train_ngram_model(["a c a"], 2).score(
        ["z"], False, False
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: train_ngram_model(TEXTS, 1), "order must be from 2 to 6, got 1"),
        (lambda: train_ngram_model(TEXTS, 7), "order must be from 2 to 6, got 7"),
        (lambda: train_ngram_model(TEXTS, 2, unit="phone"), "unit must be one of word, character, token, got 'phone'"),
        (lambda: train_ngram_model(TEXTS, 2, unit="token"), "a tokenizer goes with unit token"),
    ],
)
def test_bad_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "texts, message",
    [
        ([], "at least one word, got none"),
        (["", " "], "at least one word, got none"),
        (["a <s>"], "must not have <s> or </s> as a unit, got 'a <s>'"),
    ],
)
def test_bad_texts_are_the_users_fault(texts, message):
    with pytest.raises(InputError, match=message):
        train_ngram_model(texts, 2)


@pytest.mark.parametrize(
    "content", ["", "hello", "\\data\\\nngram 1=1\n", "\\data\\\n\\1-grams:\n-1 a b c d\n\\end\\\n"]
)
def test_files_that_are_no_language_model_raise(tmp_path, content):
    (tmp_path / "model.arpa").write_text(content)
    with pytest.raises(ValueError, match=r"model\.arpa must be an ARPA file"):
        NGramModel.read(tmp_path / "model.arpa")


class TestFilesOfOtherTools:
    """ARPA files as SRILM, IRSTLM, CMU's tools and editors write them: as a word list, a model, and in the search."""

    words = ["a", "crab", "fish", "sees", "sleeps", "the"]

    @pytest.fixture
    def plain(self, tmp_path):
        train_ngram_model(TEXTS, 2, tmp_path / "plain.arpa")
        return (tmp_path / "plain.arpa").read_text()

    def search(self, path):
        return CTCBeamSearch(train_character_tokenizer(TEXTS), words=self.words, language_model=path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: "\n" + text,
            lambda text: " \n\n" + text,
            lambda text: "# counted by hand\n" + text,
            lambda text: "iARPA, counted by hand\n\n" + text,
            lambda text: "\ufeff" + text,
            lambda text: text.replace("\n", "\r\n"),
            lambda text: ("\n" + text).replace("\n", "\r\n"),
            lambda text: text.replace("\t", " "),
            lambda text: text.replace("\\data", "\\DATA"),
            lambda text: text.replace("<unk>", "<UNK>"),
            lambda text: text.rstrip("\n"),
            lambda text: text.replace("\n", " \n"),
            lambda text: text.replace("ngram 1=", "ngram 1 = "),
            lambda text: gzip.compress(text.encode()),
        ],
    )
    def test_all_read_the_same(self, tmp_path, plain, change, capfd):
        path, changed = tmp_path / "other.arpa", change(plain)
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        assert read_vocabulary(path) == self.words
        assert NGramModel.read(path) == NGramModel.read(tmp_path / "plain.arpa")
        assert self.search(path)
        assert capfd.readouterr().err == ""  # KenLM is silent

    @pytest.mark.parametrize("before", ["", "\n", "# ...\n"])
    def test_a_model_of_other_units_is_refused_whatever_stands_first(self, tmp_path, before):
        train_ngram_model([text.upper() for text in TEXTS], 2, tmp_path / "upper.arpa")
        (tmp_path / "upper.arpa").write_text(before + (tmp_path / "upper.arpa").read_text())
        with pytest.raises(ValueError, match="only 0 are among these 6"):
            self.search(tmp_path / "upper.arpa")

    @pytest.mark.parametrize(
        "change, said",
        [
            (lambda text: "", r"line 0: \\data\\ is missing"),
            (lambda text: "hello\nworld\n", r"line 2: \\data\\ is missing"),
            (lambda text: text.replace("\\end\\\n", ""), r"ends without \\end\\"),
            (lambda text: text.replace("ngram 1=", "ngram 1=1"), "10 fewer 1-grams than the header says"),
            (lambda text: text.replace("ngram 2=", "ngram 2=1"), "fewer 2-grams than the header says"),
            (lambda text: text.replace("\tcrab", "\tcrab no more", 1), r"line \d+: a row of 1-grams has 5 fields"),
            (lambda text: text.replace("-99", "nan"), "line 7: log10 of a probability is at most 0"),
            (lambda text: text.replace("-99", "0.5"), "line 7: log10 of a probability is at most 0"),
            (lambda text: text.replace("-99", "-9,9"), "line 7: could not convert"),
            (lambda text: text.replace("\tthe fish", "\tzebra fish"), "zebra fish: zebra is no 1-gram"),
            (lambda text: text.replace("\\2-grams:", "\\3-grams:"), "after the 1-grams comes"),
            (lambda text: "\\data\\\n" + "x" * 2**21, "line 2: it is longer than"),
            (lambda text: text.replace("crab", "cràb").encode("latin-1"), r"line \d+ is not UTF-8 text"),
            (lambda text: gzip.compress(text.encode())[:80], "Compressed file ended"),
            (lambda text: bytes(range(256)), "line 2 is not UTF-8 text"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, tmp_path, plain, change, said):
        path, changed = tmp_path / "other.arpa", change(plain)
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        for read in (NGramModel.read, self.search):
            with pytest.raises(ValueError, match=f"other.arpa must be an ARPA file: .*{said}") as caught:
                read(path)
            assert "\n" not in str(caught.value)

    def test_an_ngram_that_stands_there_twice(self, tmp_path, plain):
        (tmp_path / "other.arpa").write_text(plain.replace("\tthe fish", "\tthe crab"))
        with pytest.raises(ValueError, match="the crab: it stands there twice"):
            NGramModel.read(tmp_path / "other.arpa")

    def test_no_file_is_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
            for read in (NGramModel.read, read_vocabulary):
                with pytest.raises(ValueError, match="must be an ARPA file, and is no file"):
                    read(path)

    def test_a_binary_model_of_another_kenlm_is_one_line(self, tmp_path):
        (tmp_path / "model.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(200))
        with pytest.raises(ValueError, match="must be a file that KenLM reads") as caught:
            self.search(tmp_path / "model.bin")
        assert "\n" not in str(caught.value)
