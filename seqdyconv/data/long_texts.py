"""What bounds the time that a vocabulary's training takes: a word may have five million letters."""

import re
from collections.abc import Iterable, Iterator

LONGEST_WORD = 1000
"""Letters. What follows in one word tells a vocabulary nothing, but its training takes more than linear time for it."""

_SIGNS = ".,;:!?。，、；：！？"  # of writing without spaces, too


def cut_words(texts: Iterable[str]) -> Iterator[str]:
    """Texts to train a vocabulary on, without what follows ``LONGEST_WORD`` letters (or signs) in one word.

    Example:
        >>> [len(word) for text in cut_words(["a" * 2500 + " b"]) for word in text.split()]
        [1000, 1]
    """
    letters, signs = rf"[^\s{_SIGNS}]", f"[{_SIGNS}]"
    long = re.compile("|".join(f"({one}{{{LONGEST_WORD}}}){one}+" for one in (letters, signs)))
    return (long.sub(r"\1\2", text) if len(text) > LONGEST_WORD else text for text in texts)
