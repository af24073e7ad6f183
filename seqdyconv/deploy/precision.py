"""The precision of a graph's weights: what was exported in float32 becomes smaller.

======= ==========================================================================================================
float32 as it was trained
float16 matrices of weights in 16 bits; half the size. All is computed in float32
int8    weights of linear layers and embeddings in 8 bits, with a scale for each channel; what goes into a linear
        layer is quantised as it comes (dynamic). The weights use 7 of the bits: with 8 the products of processors
        without VNNI overflow, so that the result would depend on the machine
int4    weights of linear layers in 4 bits, with a scale for each block of 32; all is computed in float32
======= ==========================================================================================================
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from seqdyconv.deploy.graphs import quiet

BLOCK = 32


def _float16(source: Path, target: Path, in_float: Sequence[str]) -> None:
    # Not onnxruntime's converter, which computes in 16 bits where there are 16: powers of sound overflow there.
    model = onnx.load(source)
    graph = model.graph
    kept = {name for node in graph.node if node.name in in_float for name in node.input}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in kept:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        # Vectors are no size, and may be a rotation's frequencies, which thousands of steps multiply; and a number that
        # hides padding may be as low as float32 goes.
        if sum(size > 1 for size in values.shape) > 1 and np.abs(values).max(initial=0) <= np.finfo(np.float16).max:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, str(target))


def _int8(source: Path, target: Path, in_float: Sequence[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(in_float),
        extra_options={"MatMulConstBOnly": True},
    )


def _int4(source: Path, target: Path, in_float: Sequence[str]) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer: Any = MatMulNBitsQuantizer(
        onnx.load(source),
        bits=4,
        block_size=BLOCK,
        is_symmetric=True,
        nodes_to_exclude=list(in_float),
        quant_format=QuantFormat.QDQ,  # standard operators
    )
    quantizer.process()
    onnx.save(quantizer.model.model, str(target))


PRECISIONS: dict[str, Callable[[Path, Path, Sequence[str]], None] | None] = {
    "float32": None,
    "float16": _float16,
    "int8": _int8,
    "int4": _int4,
}


def convert(file: Path, precision: str, in_float: Sequence[str] = ()) -> None:
    """Give a graph another precision, in its place.

    Args:
        file: a graph in float32.
        precision: one of ``PRECISIONS``.
        in_float: the names of the nodes that stay as they are.
    """
    change = PRECISIONS[precision]
    if change is None:
        return
    source = file.with_suffix(".float32.onnx")
    file.rename(source)
    try:
        with quiet():
            change(source, file, in_float)
    finally:
        source.unlink()
