"""Texts of any length take time with what a model reads of them: the rest is cut before they are split into tokens."""

CHARACTERS_PER_TOKEN = 100
"""More than tokens have on average. So what lies beyond the first tokens is cut before texts are split into them."""


def cut_text(text: str, max_tokens: int | None, side: str = "right") -> str:
    """A text without what can't be among so many tokens at its start, or with ``side="left"`` at its end.

    Example:
        >>> len(cut_text("a b " * 1000, 5)), len(cut_text("a b " * 1000, None))
        (500, 4000)
    """
    if max_tokens is None:
        return text
    longest = CHARACTERS_PER_TOKEN * max_tokens
    return text[-longest:] if side == "left" else text[:longest]


def tokens_read(max_length: int, windows: bool, max_windows: int | None = None) -> int | None:
    """How many tokens a model reads of a text, cut or in windows of ``max_length``; None: all.

    Example:
        >>> tokens_read(256, windows=False), tokens_read(256, windows=True), tokens_read(256, True, 3)
        (256, None, 768)
    """
    if not windows:
        return max_length
    return None if max_windows is None else max_length * max_windows
