"""What a signature and a docstring say of a layer's options, and the page that is made of it."""

import pytest

from seqdyconv.layers.options import Option, check_names, options_of
from tests.layers.options_page import PAGE, page


class Plain:
    """A layer.

    Args:
        channels: C.
        reach: how far,
            in steps.
        rate, share: of dropout, see :func:`seqdyconv.somewhere` and ``there``.

    Shapes:
        reach: not this text.
    """

    def __init__(
        self, channels: int, *, reach: int, rate: float = 0.5, share: float | None = None, odd: object = 1
    ) -> None: ...


class Referring:
    """Another layer.

    Args:
        reach: of the layer inside, see :class:`seqdyconv.Plain`.
        rate: its own, as :class:`seqdyconv.Plain` has it.
    """

    def __init__(self, *, reach: int = 3, rate: float = 0.0) -> None: ...


def test_names_defaults_kinds_and_texts():
    assert options_of(Plain, {}) == {
        "reach": Option(None, True, int, "how far, in steps."),
        "rate": Option(0.5, False, float, "of dropout, see somewhere and there."),
        "share": Option(None, False, float | None, "of dropout, see somewhere and there."),
        "odd": Option(1, False, object, ""),
    }


def test_a_text_that_only_refers_is_that_of_the_layer_it_refers_to():
    options = options_of(Referring, {"Plain": Plain})
    assert (options["reach"].default, options["reach"].help) == (3, "how far, in steps.")
    assert options["rate"].help == "its own, as Plain has it."


@pytest.mark.parametrize(
    "kind, right, wrong, message",
    [
        (float, [0.5, 1], [True, "1", None], "x must be a number, got "),
        (int, [1], [1.0, True], "x must be an int, got "),
        (int | None, [1, None], ["None", 0.5], "x must be an int or None, got "),
        (bool, [True], [1, "true"], "x must be true or false, got "),
        (str, ["a"], [1], "x must be a word, got "),
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(kind, right, wrong, message):
    option = Option(None, False, kind, "")
    for value in right:
        option.check("x", value)
    for value in wrong:
        with pytest.raises(ValueError, match=message):
            option.check("x", value)


def test_kinds_that_no_words_stand_for_are_left_to_the_layer():
    Option(None, False, list[int], "").check("x", "anything")


def test_the_nearest_name_is_said():
    with pytest.raises(
        ValueError, match=r"^no option dilaton of here \(did you mean dilation\?\); options are dilation$"
    ):
        check_names("here", ["dilaton"], ["dilation"])
    with pytest.raises(ValueError, match=r"^no option x of here; options are none$"):
        check_names("here", ["x"], [])


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.layers.options_page`"
