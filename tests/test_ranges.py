"""The values of options: what a type says of them is checked when the options are made."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from seqdyconv.errors import InputError
from seqdyconv.ranges import Count, Dropout, OneOf, Options, Range, Seed, Share, check_options, rules_of


@dataclass
class Decoding(Options):
    beams: Annotated[int, Range(1, 100)] = 4
    sizes: list[Count] | None = None
    rate: float = 0.5
    share: Share = 0.5
    dropout: Dropout = 0.0
    seed: Seed | None = None
    kind: Annotated[str, OneOf("greedy", "beam")] = "beam"
    name: str = ""
    more: dict[str, Any] | str | None = None
    on: bool = False


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beams": 0}, "beams must be in [1, 100], got 0"),
        ({"beams": 10**12}, "beams must be in [1, 100], got 1000000000000"),
        ({"sizes": [3, 0]}, "sizes must be at least 1, got 0"),
        ({"sizes": [2**63]}, "sizes must be a number of at most 64 bits, got 9223372036854775808"),
        ({"rate": math.nan}, "rate must be a finite number, got nan"),
        ({"rate": -math.inf}, "rate must be a finite number, got -inf"),
        ({"share": math.nan}, "share must be in [0, 1], got nan"),
        ({"share": math.inf}, "share must be in [0, 1], got inf"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"seed": -1}, "seed must be in [0, 4294967295], got -1"),
        ({"kind": "best"}, "kind must be one of greedy, beam, got 'best'"),
        ({"name": "a\0b"}, r"name must be text that can be written in UTF-8, got 'a\x00b'"),
        ({"name": "\udcff"}, r"name must be text that can be written in UTF-8, got '\udcff'"),
        ({"more": {"a": [{"b": math.nan}]}}, "more must be a finite number, got nan"),
        ({"more": {"\ud800": 1}}, r"more must be text that can be written in UTF-8, got '\ud800'"),
    ],
)
def test_values_that_cannot_be(options, message):
    with pytest.raises(InputError) as caught:
        Decoding(**options)
    assert str(caught.value) == message


def test_all_others_can():
    Decoding(
        beams=100, sizes=[1, 2**62], rate=-1e300, share=1, dropout=0, seed=2**32 - 1, kind="greedy", name="é\n", on=True
    )
    Decoding(sizes=None, more={"beams": 0, "a": None})


def test_what_a_range_says():
    said = [
        str(rule) for rule in (Range(1), Range(above=0), Range(0, below=1), Range(above=-1, most=2), OneOf("a", "b"))
    ]
    assert said == ["at least 1", "above 0", "in [0, 1)", "in (-1, 2]", "one of a, b"]
    assert set(rules_of(Decoding)) == {"beams", "sizes", "share", "dropout", "seed", "kind"}


def test_rules_for_fields_of_others():
    @dataclass
    class Others:
        rate: float = -1.0

    with pytest.raises(InputError, match=r"rate must be above 0, got -1\.0"):
        check_options(Others(), {"rate": Range(above=0), "unknown": Range(1)})
