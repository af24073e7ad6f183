"""The table of docs/layers.md says what each layer does when it is tried."""

import pytest
from torch import nn

import seqdyconv
from seqdyconv.layers import MIXERS
from tests.layers.capabilities import OTHER_LAYERS, PAGE, layer_of, names, row, table_lines


@pytest.mark.parametrize("name", names())
def test_a_row_says_what_is_so(name):
    assert row(name) in PAGE.read_text(encoding="utf-8").splitlines(), (
        "docs/layers.md is not up to date: run `python -m tests.layers.capabilities`"
    )


def public_layers():
    return {
        name
        for name in seqdyconv.__all__
        if isinstance(value := getattr(seqdyconv, name), type) and issubclass(value, nn.Module)
    }


def test_every_layer_over_time_has_a_row():
    over_time = {name for name in public_layers() if not name.endswith("2d")}
    assert over_time - {"ConvMixer"} == {*map(layer_of, MIXERS), *OTHER_LAYERS}


def test_every_layer_has_its_equation():
    text = (PAGE.parent / "math.md").read_text(encoding="utf-8")
    assert [name for name in sorted(public_layers()) if f"**`{name}`**" not in text] == []


def test_no_other_rows():
    assert len(table_lines()) == len(names())
