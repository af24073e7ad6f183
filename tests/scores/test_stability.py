"""The unstable partial word ratio, on partial results made by hand."""

import pytest

from seqdyconv.scores.stability import PartialStability

PARTIALS = {
    "silence": (["", ""], 0, 0),
    "words are added": (["a", "a b", "a b c"], 0, 3),
    "the last word goes on": (["a", "a st", "a stab", "a stable"], 0, 2),
    "a word goes on that was not the last": (["a b", "ab b"], 1, 2),
    "a word changes": (["a b c", "a x c"], 1, 3),
    "it changes and changes back": (["a b", "a x", "a b"], 2, 2),
    "the last word gets shorter": (["a stable", "a stab"], 1, 2),
    "a word is taken back": (["a b c", "a b"], 1, 2),
    "all is taken back": (["a b c", ""], 3, 0),
    "two words become one": (["a b", "ab"], 2, 1),
    "one word becomes two": (["ab", "a b"], 1, 2),
    "a word comes before others": (["b c", "a b c"], 2, 3),
}


def show(stability, shown):
    """All of a text is shown at each time, and is final at the last one."""
    for text in shown[:-1]:
        stability.show(text.split())
    stability.show([], final=shown[-1].split())


@pytest.mark.parametrize(("shown", "changed", "words"), PARTIALS.values(), ids=PARTIALS)
def test_counts_the_words_that_were_changed_or_taken_back(shown, changed, words):
    stability = PartialStability()
    show(stability, shown)
    assert (stability.changed, stability.words, stability.ratio) == (changed, words, changed / max(1, words))


def test_texts_are_counted_together_and_do_not_touch_each_other():
    stability = PartialStability()
    show(stability, ["a", "x y"])
    show(stability, ["b c", "b d"])
    assert (stability.changed, stability.words, stability.ratio) == (2, 4, 0.5)


def test_words_become_final_one_by_one():
    stability = PartialStability()
    stability.show(["a", "b"])
    stability.show(["bx", "c"], final=["a"])
    stability.show(["c"], final=["by"])
    stability.show([], final=["c"])
    assert (stability.changed, stability.words) == (1, 3)
