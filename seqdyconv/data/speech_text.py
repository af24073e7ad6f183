"""Text as speech recognisers are trained and measured on."""

import re
import unicodedata

_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'", "´": "'", "`": "'"})


def normalise_text(text: str) -> str:
    """Lower case, in Unicode's composed form, letters, digits and apostrophes inside words alone, single spaces.

    Example:
        >>> normalise_text("Dat is  zo’n ’mooi’ e-mail-adres, hè?!")
        "dat is zo'n mooi e mail adres hè"
    """
    text = unicodedata.normalize("NFC", text.translate(_APOSTROPHES)).lower()
    text = "".join(c if c.isalnum() or c == "'" or unicodedata.category(c).startswith("M") else " " for c in text)
    return " ".join(re.sub(r"(?<!\w)'+|'+(?!\w)", " ", text).split())
