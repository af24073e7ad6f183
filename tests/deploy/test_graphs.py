"""Graphs in ONNX equal the modules that they are made of, for any batch and length."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from seqdyconv import DynamicConv1d, LightweightConv1d
from seqdyconv.deploy.graphs import ExportError, write_graph
from seqdyconv.runtime.folder import Graph

AXES = {"x": {0: "batch", 1: "time"}, "padding_mask": {0: "batch", 1: "time"}}
LAYERS = {
    "dynamic": lambda: DynamicConv1d(8, 9, 2),
    "dynamic, dilated": lambda: DynamicConv1d(8, 9, 2, dilation=3, padding="causal"),
    "lightweight": lambda: LightweightConv1d(8, 31, 2),
    "lightweight, short": lambda: LightweightConv1d(8, 3, 8),
    "dynamic, renormalized": lambda: DynamicConv1d(8, 9, 2, renormalize=True),
}


class Masked(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, padding_mask):
        return self.layer(x, padding_mask=padding_mask)


def batch(size, time):
    lengths = torch.arange(size)[:, None] + time // 2
    return torch.randn(size, time, 8), torch.arange(time)[None] > lengths


@pytest.mark.parametrize("name", LAYERS)
def test_a_convolution_is_equal_for_any_batch_and_length_and_has_no_loop_over_taps(name, tmp_path):
    torch.manual_seed(0)
    program = Masked(LAYERS[name]()).eval()
    file = tmp_path / "layer.onnx"
    write_graph(program, file, dict(zip(AXES, batch(2, 50))), AXES, ["y"])
    graph = Graph(file)
    for sizes in ((1, 1), (3, 15), (1, 16), (2, 17), (2, 31), (1, 32), (2, 33), (1, 65), (2, 200)):
        x, padding_mask = batch(*sizes)
        got = graph.run({"x": x.numpy(), "padding_mask": padding_mask.numpy()})["y"]
        np.testing.assert_allclose(got, program(x, padding_mask).detach(), rtol=1e-4, atol=1e-5)
    operators = [node.op_type for node in onnx.load(file).graph.node]
    assert operators.count("Mul") < 10
    assert "Loop" not in operators


def test_a_graph_says_nothing_of_the_machine_that_wrote_it(tmp_path):
    file = tmp_path / "layer.onnx"
    write_graph(nn.Linear(8, 8), file, {"x": torch.randn(2, 8)}, {"x": {0: "batch"}}, ["y"])
    assert b".py" not in file.read_bytes()


def test_what_cant_be_exported_is_told_in_a_line(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="the toy can't be exported") as error:
        write_graph(Branching(), tmp_path / "toy.onnx", {"x": torch.randn(2, 8)}, {}, ["y"], "the toy")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "toy.onnx").exists()


def test_weights_that_no_graph_holds_are_refused_before_any_work(tmp_path):
    with torch.device("meta"):
        large = nn.Linear(2**15, 2**14)
    with pytest.raises(ExportError, match=r"its weights have 2\.00 GiB, and a graph holds less than 2 GiB"):
        write_graph(large, tmp_path / "large.onnx", {"x": torch.zeros(2, 2**15)}, {"x": {0: "batch"}}, ["y"])
