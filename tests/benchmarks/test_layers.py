"""The benchmark of layers runs, and times nothing that is wrong."""

import re

import pytest
import torch

from benchmarks import layers
from seqdyconv.functional import dynamic_conv1d
from seqdyconv.functional.conv import BACKENDS


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_writes_a_table_for_each_part_and_a_picture(tmp_path, capsys):
    layers.main(["--quick", "--output", str(tmp_path)])
    table = (tmp_path / "layers_float32_1.md").read_text()
    assert table.startswith("A training step of an encoder layer, 32 tokens, width 16")
    rows = [line.split(" | ")[:3] for line in table.splitlines()[4:]]
    assert [row[1] for row in rows] == list(layers.LAYERS) and rows[0][0] == "| 32"
    assert re.search(r"\| dynamic \| 100 \| forward\+backward \|", (tmp_path / "long.md").read_text())
    models = (tmp_path / "short_convs_float32.md").read_text()
    assert all(f"| {name} | {which} |" in models for name in layers.MODELS for which in ("forward", "training step"))
    assert (tmp_path / "long.png").stat().st_size > 10_000
    assert models in capsys.readouterr().out


def test_a_wrong_layer_ends_it(monkeypatch):
    layer = layers.encoder_layer("dynamic_conv", {}, 16, torch.float32)
    right = dynamic_conv1d

    def wrong(*arguments, **options):
        return right(*arguments, **options) * (1 if list(BACKENDS) == ["reference"] else 1.1)

    monkeypatch.setattr("seqdyconv.layers.conv.dynamic_conv1d", wrong)
    with pytest.raises(SystemExit, match="dynamic is wrong, so nothing is timed: it differs from the definition by 0"):
        layers.check({"dynamic": layer}, torch.randn(1, 9, 16), "float32")


def test_what_is_kept_is_counted():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    assert layers.kept_bytes(layer, torch.randn(3, 4)) == 2 * 3 * 4 * 4  # the input, and tanh's output


def test_a_part_that_there_is_not():
    with pytest.raises(SystemExit):
        layers.parse(["layer"])
