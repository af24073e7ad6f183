"""Text as recognisers are trained and measured on."""

import pytest

from seqdyconv.data.speech_text import normalise_text


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
        ],
    )
    def test_keeps_letters_digits_and_apostrophes_inside_words(self, text, expected):
        assert normalise_text(text) == expected
