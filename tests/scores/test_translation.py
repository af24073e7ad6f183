"""BLEU of every language is the one that sacreBLEU gives for it, or one line before any work."""

import sys

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from seqdyconv.scores.translation import ScoreError, bleu_metric, bleu_tokenizer_of, score

REFERENCES = [
    "我们昨天在城里的图书馆看了很多书。",
    "今天天气很好，我们去公园散步吧。",
    "这个按钮用来打开新的文档窗口。",
]
TRANSLATIONS = [
    "我们昨天在城里图书馆看了很多书。",
    "今天天气不错，我们去公园散步吧。",
    "这个按钮可以打开新的文档窗口。",
]


@pytest.mark.parametrize(
    "languages, tokenizer",
    [
        ("zh ZH zh-CN zh_TW zh-Hant zho_Hans zho chi cmn yue_Hant zh_CN Chinese cn", "zh"),
        ("ja ja-JP ja_XX jpn jpn_Jpan JA japanese", "ja-mecab"),
        ("ko ko-KR ko_KR kor kor_Hang KO", "ko-mecab"),
        ("th tha_Thai lo lao_Laoo km khm_Khmr my mya_Mymr my_MM", "char"),
        ("en de pt-BR deu_Latn sr_Cyrl zha jav kok ka target", "13a"),
    ],
)
def test_the_tokenizer_of_a_language(languages, tokenizer):
    assert {language: bleu_tokenizer_of(language) for language in languages.split()} == dict.fromkeys(
        languages.split(), tokenizer
    )
    assert bleu_tokenizer_of(None) == bleu_tokenizer_of("") == "13a"


@pytest.mark.parametrize("language", ["zh", "zh-CN", "zho_Hans"])
def test_bleu_of_chinese(language):
    found = score(TRANSLATIONS, REFERENCES, language)
    assert found["bleu"] == BLEU(trg_lang="zh").corpus_score(TRANSLATIONS, [REFERENCES]).score > 50
    assert "tok:zh" in found["bleu_signature"]


def test_other_languages_have_the_default():
    texts = ["The old bridge, isn't it?", "A new one."]
    found = score(texts[::-1], texts, "en")
    assert found["bleu"] == BLEU().corpus_score(texts[::-1], [texts]).score
    assert found == score(texts[::-1], texts)


def test_a_tokenizer_by_name_comes_first():
    found = score(TRANSLATIONS, REFERENCES, "ja", "char")
    assert found["bleu"] == BLEU(tokenize="char").corpus_score(TRANSLATIONS, [REFERENCES]).score
    assert "tok:char" in found["bleu_signature"]


def test_chrf_depends_on_neither():
    scores = {score(TRANSLATIONS, REFERENCES, *words)["chrf"] for words in ((), ("zh",), ("en", "char"))}
    assert scores == {CHRF().corpus_score(TRANSLATIONS, [REFERENCES]).score}


def test_empty_texts():
    assert score(["", "a b c d"], ["", "a b c d"], "en")["bleu"] == pytest.approx(100)
    assert score([""], [""], "zh")["bleu"] == 0


def test_an_unknown_tokenizer():
    with pytest.raises(ScoreError, match=r"^bleu_tokenizer is 'mecab', allowed are none, zh, 13a, .*ja-mecab"):
        bleu_metric("ja", "mecab")


@pytest.mark.parametrize("language, extra, package", [("ja", "ja", "MeCab"), ("kor", "ko", "MeCab")])
def test_a_package_that_is_missing(language, extra, package, monkeypatch):
    name = bleu_tokenizer_of(language)
    module = pytest.importorskip(f"sacrebleu.tokenizers.tokenizer_{name.replace('-', '_')}")
    monkeypatch.setattr(module, package, None)
    with pytest.raises(ScoreError, match=rf"{name}, that of {language}, here: pip install 'sacrebleu\[{extra}\]'"):
        bleu_metric(language)


def test_a_file_that_can_not_be_fetched(monkeypatch, tmp_path):
    module = pytest.importorskip("sacrebleu.tokenizers.tokenizer_spm")
    monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))

    def offline(*args):
        raise OSError("no network")

    monkeypatch.setattr(module, "download_file", offline)
    with pytest.raises(ScoreError, match=r"flores200 here: it needs files \(no network\), or set bleu_tokenizer"):
        bleu_metric("en", "flores200")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ScoreError, match="it needs files"):
        bleu_metric("en", "flores200")
