"""Weights in 16 bits: half of the size, and nothing overflows that does not in 32."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from seqdyconv.deploy.precision import convert


def in_16_bits(file, nodes, inputs, width=64, **constants):
    """What a graph of constants computes of ``inputs`` by name once it is in float16; and the bytes of its file."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "graph",
        [value(name, TensorProto.FLOAT, list(given.shape)) for name, given in inputs.items()],
        [value("y", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(file))
    before = file.stat().st_size
    convert(file, "float16")
    return onnxruntime.InferenceSession(file).run(None, inputs)[0], file.stat().st_size / before


def test_what_is_computed_is_beyond_16_bits(tmp_path):
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    inputs = np.full((2, 64), 1000, np.float32)
    nodes = [("MatMul", ["x", "w"], ["h"]), ("Mul", ["h", "h"], ["y"])]
    found, size = in_16_bits(tmp_path / "a.onnx", nodes, {"x": inputs}, w=weight)
    assert size < 0.6
    np.testing.assert_allclose(found, np.square(inputs @ weight), rtol=0.02)


def test_what_hides_padding_hides_nothing_else(tmp_path):
    lowest = np.finfo(np.float32).min  # infinite in 16 bits, and no number once it is multiplied with 0
    hidden = np.array([[0, 1]], np.float32)
    found, _ = in_16_bits(tmp_path / "a.onnx", [("Mul", ["x", "low"], ["y"])], {"x": hidden}, width=2, low=lowest)
    assert found.tolist() == [[0, lowest]]
    table = np.array([[lowest, 0], [0, lowest]])
    found, _ = in_16_bits(tmp_path / "b.onnx", [("MatMul", ["x", "low"], ["y"])], {"x": hidden}, width=2, low=table)
    assert found.tolist() == [[0, lowest]]


def test_angles_of_late_positions_are_those_of_float32(tmp_path):
    frequencies = (10000.0 ** -np.linspace(0, 1, 16)).astype(np.float32)
    positions = np.full((1, 1), 8000, np.float32)
    nodes = [("Mul", ["x", "f"], ["y"])]
    found, _ = in_16_bits(tmp_path / "a.onnx", nodes, {"x": positions}, width=16, f=frequencies)
    np.testing.assert_allclose(found, positions * frequencies, rtol=1e-6)
