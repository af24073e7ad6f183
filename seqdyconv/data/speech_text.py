"""Text as speech recognisers are trained and measured on."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import regex

TURKIC = frozenset({"az", "crh", "tr", "tt"})
"""Languages in which I is the capital of ı."""

# Signs that count as letters: Unicode calls the words of Sindhi and Burmese among them symbols and punctuation.
_LETTER = r"[\p{L}\p{N}\u06fd\u06fe\u104c-\u104f]"
_HEBREW = r"[\p{Hebrew}&&[\p{L}\p{M}]]"
_LATIN = r"[[\p{Latin}&&\p{L}]\p{M}]"
_JOINER = r"[\u200c\u200d\u180e]"
_UNCASED = rf"[\p{{Lo}}\p{{Lm}}\p{{Nd}}](?:\p{{M}}|{_JOINER})*"
_MODIFIER = "[\u02b9\u02bb-\u02bf\ua78c]"

# Letters that are others but for their form: full and half width, ligatures, Arabic forms by position, Roman numerals.
# Not ² and ½, nor the letters of Thai and Korean that NFKC takes apart.
_FORM = regex.compile(
    "["
    + "".join(rf"\p{{dt={form}}}" for form in ("Wide", "Narrow", "Font", "Initial", "Medial", "Final", "Isolated"))
    + r"[\p{dt=Compat}&&[\p{Lu}\p{Ll}\p{Lt}\p{Nl}]]]",
    regex.VERSION1,
)
# Not seen, or no letter of its own: soft hyphens, directions, variation selectors, fillers, enclosing marks; what
# stretches Arabic, N'Ko and Mongolian letters; the Armenian marks of stress, exclamation, question and abbreviation.
_INVISIBLE = regex.compile(
    r"[[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Me}\u0640\u07fa\u180a\u055b\u055c\u055e\u055f]--[\u200b-\u200d\u180e]]",
    regex.VERSION1,
)
# A joiner is spelling between letters without case (Persian, Sinhala), and after a virama that ends the word.
_STRAY_JOINER = regex.compile(
    rf"(?<={_JOINER}){_JOINER}|(?<!{_UNCASED}){_JOINER}|{_JOINER}(?!{_JOINER}*[\p{{Lo}}\p{{M}}])(?<!\p{{ccc=9}}\u200d)"
)
_HEBREW_QUOTES = {
    r"\1": regex.compile(rf"(?<![{_LETTER}\p{{M}}])'({_HEBREW}+)'(?![{_LETTER}\p{{M}}])", regex.VERSION1),
    "״": regex.compile(rf'(?<={_HEBREW})["\u201c-\u201f\u05f4](?={_HEBREW})', regex.VERSION1),
    "׳": regex.compile(rf"(?<={_HEBREW})['\u05f3]", regex.VERSION1),
}
_APOSTROPHE = regex.compile(
    r"[`\u00b4\u0384\u055a\u1fbd\u1fbf\u2018\u2019\u201b\u2032\u2035]"
    rf"|(?<=[\p{{L}}\p{{M}}\p{{N}}]){_MODIFIER}(?={_LETTER})"
)
_WORD = regex.compile(
    rf"{_LETTER}(?:{_LETTER}|\p{{M}}|{_JOINER}|'(?={_LETTER})|(?<={_LATIN})\u00b7(?={_LATIN})"
    rf"|(?<={_HEBREW})(?:׳|״(?={_HEBREW})))*",
    regex.VERSION1,
)
_FINAL_SIGMA = regex.compile(r"(?<=\w)σ\b")  # lower() has seen punctuation beside it, not the word's end


def normalise_text(text: str, languages: Sequence[str] = ()) -> str:
    """The words of a text in lower case and Unicode's composed form, single spaces between them.

    A word is letters, digits and the marks on them, with apostrophes inside, which are all written ``'``, the ``·`` of
    Latin letters (``col·legi``), Hebrew geresh and gershayim, and the joiners that spelling needs between letters
    without case (Persian, Indic scripts). Everything else ends a word: hyphens, the points and colons in numbers, zero
    width spaces, the tsheg between Tibetan syllables. What is not seen and what only changes a letter's looks is left
    out: soft hyphens, directions, variation selectors, tatweel; full-width letters, ligatures and the forms of Arabic
    letters become the plain letters. Diacritics, ß and ² stay. What was normalised once stays as it is.

    Args:
        text: any text.
        languages: their codes; where all are Turkic (``tr``, ``az``, ...), I becomes ı, else i. İ always becomes i.

    Example:
        >>> normalise_text("Dat is  zo’n ’mooi’ e-mail-adres, hè?!")
        "dat is zo'n mooi e mail adres hè"
    """
    text = _FORM.sub(lambda match: unicodedata.normalize("NFKC", match[0]), unicodedata.normalize("NFC", text))
    text = text.replace("I", "ı") if languages and TURKIC.issuperset(languages) else text
    text = unicodedata.normalize("NFC", text.replace("İ", "i").lower())
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text).replace("\u2027", "\u00b7"))
    text = _APOSTROPHE.sub("'", _STRAY_JOINER.sub("", text))
    for sign, quotes in _HEBREW_QUOTES.items():
        text = quotes.sub(sign, text)
    return unicodedata.normalize("NFC", _FINAL_SIGMA.sub("ς", " ".join(_WORD.findall(text))))
