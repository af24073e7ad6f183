"""Text as recognisers are trained and measured on."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqdyconv.data.speech_text import normalise_text

# Characters whose neighbours decide what becomes of them.
SENSITIVE = "aIİıßΣσl·'’ʻʼא\"״׳ŀـﬁＡﾞｶᄀŉ -²Ⅳകാ"
SENSITIVE += "\u200b\u200c\u200d\u180e\u00ad\u0301\u0327\u094d\u09bc\u1161\u1160\u034f\u0345\ufe76\u0374"


class TestNormaliseText:
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("Ahoj, SVĚTE!  Jak… se\tmáš?", "ahoj světe jak se máš"),
            ("C\u030ceska\u0301", "česká"),
            ("zo'n ‘mooi’ auto’s 'n", "zo'n mooi auto's n"),
            ("e-mail C:\\\\WINDOWS", "e mail c windows"),
            ("नमस्ते", "नमस्ते"),
            ("... --- !?", ""),
            ("3,14 10:30 a_b", "3 14 10 30 a b"),
        ],
    )
    def test_keeps_letters_digits_and_apostrophes_inside_words(self, text, expected):
        assert normalise_text(text) == expected

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("র\u200d্যাব", "র\u200d্যাব"),
            ("ශ්\u200dරී", "ශ්\u200dරී"),
            ("می\u200cخواهم", "می\u200cخواهم"),
            ("അവന്\u200d.", "അവന്\u200d"),  # a letter, as it was written before Unicode 5.1
            ("Auf\u200clage", "auflage"),
            ("👨\u200d👩\u200d👧 gut\u200d", "gut"),
            ("ভাষা\u200bভাষা", "ভাষা ভাষা"),
        ],
        ids=ascii,
    )
    def test_joiners_stay_where_they_are_spelling(self, text, expected):
        assert normalise_text(text) == expected

    @pytest.mark.parametrize(
        "letter", "'\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\ua78c\u00b4\u0060\uff07\u2032\u055a"
    )
    def test_apostrophes_of_all_shapes_are_one(self, letter):
        assert normalise_text(f"O{letter}zbek") == "o'zbek"

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("ʻŌlelo togʻ", "ʻōlelo togʻ"),  # letters, not quotes
            ("দু'টি", "দু'টি"),
            ("COL·LEGI coŀlegi in\u2027hèrn", "col·legi col·legi in·hèrn"),
            ("καλά·και 米歇尔·奥巴马", "καλά και 米歇尔 奥巴马"),
            ('צה"ל צה״ל', "צה״ל צה״ל"),
            ("ג'ורג' קולג׳ 'שלום'", "ג׳ורג׳ קולג׳ שלום"),
            ("בית־ספר", "בית ספר"),
            ("Ի՞նչ ինչպե՜ս", "ինչ ինչպես"),
            ("၎င်း ۽", "၎င်း ۽"),
        ],
        ids=ascii,
    )
    def test_signs_that_belong_to_words(self, text, expected):
        assert normalise_text(text) == expected

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("Wasser\u00adfall ab\u2060cd ab\ufeffcd", "wasserfall abcd abcd"),
            ("\u2066ab\u2069 ab\u200fcd اب\u061cپ", "ab abcd ابپ"),
            ("gut ❤\ufe0f 👍🏽 1\ufe0f\u20e3", "gut 1"),
            ("مـــحمد ﺏﺎﺑ", "محمد باب"),
            ("ＡＢＣ　１２ ﾃﾞﾋﾞ ﬁsh ĳs Ⅳ", "abc 12 デビ fish ijs iv"),
            ("m² น้ำ ㅋㅋ Windows™", "m² น้ำ ㅋㅋ windows"),
            ("\u0301abc a\u3164b", "abc ab"),
        ],
        ids=ascii,
    )
    def test_what_is_not_seen_or_only_looks_is_left_out(self, text, expected):
        assert normalise_text(text) == expected

    def test_case_of_greek_german_and_turkish(self):
        assert normalise_text("ΟΔΟΣ ΑΣ.ΒΓ ΣΑΣ-ΑΣ") == "οδος ας βγ σας ας"
        assert normalise_text("STRAẞE straße") == "straße straße"
        assert normalise_text("İSTANBUL ISPARTA") == "istanbul isparta"
        assert normalise_text("İSTANBUL ISPARTA", ["tr"]) == "istanbul ısparta"
        assert normalise_text("IN", ["tr", "en"]) == "in"

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.text(st.sampled_from(SENSITIVE)) | st.text(), st.sampled_from([(), ("tr",)]))
    @example("'’אŉ", ())
    @example("I\u180e\u0301\u180eｶ", ())
    def test_what_is_normalised_stays(self, text, languages):
        once = normalise_text(text, languages)
        assert normalise_text(once, languages) == once
        assert once == " ".join(once.split()) and unicodedata.is_normalized("NFC", once)
