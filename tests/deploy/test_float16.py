"""Weights in 16 bits: half of the size, and nothing overflows that does not in 32."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from seqdyconv.deploy.precision import convert


def test_what_is_computed_is_beyond_16_bits(tmp_path):
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "h"], ["y"])],
        "squares",
        [value("x", TensorProto.FLOAT, ["n", 64])],
        [value("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    file = tmp_path / "a.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(file))
    before = file.stat().st_size
    convert(file, "float16")
    assert file.stat().st_size < 0.6 * before
    inputs = np.full((2, 64), 1000, np.float32)
    (found,) = onnxruntime.InferenceSession(file).run(None, {"x": inputs})
    np.testing.assert_allclose(found, np.square(inputs @ weight), rtol=0.02)
