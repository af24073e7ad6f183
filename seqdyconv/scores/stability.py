"""How steady the results of a recogniser are that are shown while somebody speaks."""

from collections.abc import Sequence


class PartialStability:
    """The unstable partial word ratio (Shangguan et al. 2020, https://arxiv.org/abs/2006.01416) of one text or many.

    So many words that were shown were changed or taken back later, for each word of the final texts. Whenever what is
    shown changes, those words count in whose place there is another word, or none, afterwards. A last word that goes on
    does not count (``stab`` before ``stable``): nothing of it is taken back.

    Example:
        >>> stability = PartialStability()
        >>> for shown in ("a", "a stab", "a stable"):
        ...     stability.show(shown.split())
        >>> stability.show([], final="the stable word".split())
        >>> stability.changed, stability.words, f"{stability.ratio:.2f}"
        (1, 3, '0.33')
    """

    def __init__(self) -> None:
        self.changed = 0
        """The words that were changed or taken back; one that changes twice counts twice."""
        self.words = 0
        """The words of the final texts."""
        self._shown: Sequence[str] = ()

    def show(self, partial: Sequence[str], final: Sequence[str] = ()) -> None:
        """Take what is shown next.

        Args:
            partial: the words that may still change; none of them is left at the end of a text.
            final: those before them that can't change any more, and could so far.
        """
        shown = [*final, *partial]
        for place, word in enumerate(self._shown):
            following = shown[place] if place < len(shown) else ""
            goes_on = place == len(self._shown) - 1 and following.startswith(word)
            self.changed += following != word and not goes_on
        self.words += len(final)
        self._shown = list(partial)

    @property
    def ratio(self) -> float:
        """The words that were changed, for each word of the final texts, of which at least one is counted."""
        return self.changed / max(1, self.words)
