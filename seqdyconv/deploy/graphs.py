"""From a torch module to a graph in ONNX: standard operators, any batch and length."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from seqdyconv.errors import InputError, first_line

OPSET = 20
"""Of the operators: what ONNX Runtime has run since 1.17 (2024)."""

MOST_BYTES = 2**31 - 1
"""Of a graph with its weights in one file, which is a message of Protocol Buffers."""


class ExportError(InputError):
    """The model can't be exported; the message is one line for the user."""


def write_graph(
    program: nn.Module,
    file: Path,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str],
    what: str = "the model",
) -> None:
    """Write what a module computes as one graph.

    Args:
        program: takes the tensors of ``inputs`` by position, and returns a tensor or a flat tuple or list of tensors.
            It goes to eval mode.
        file: to write, ``.onnx``.
        inputs: examples by name. No free axis may have the size 1.
        axes: of each input, the names of the axes whose size is free by number. Equal names are equal sizes.
        outputs: the names of what it returns.
        what: is exported, for messages.

    Raises:
        ExportError: it can't be written with standard operators and free sizes, or its weights are above 2 GiB.

    Example:
        >>> import tempfile, onnxruntime
        >>> from seqdyconv import LightweightConv1d
        >>> file = Path(tempfile.mkdtemp(), "layer.onnx")
        >>> layer = LightweightConv1d(4, kernel_size=3, num_heads=2)
        >>> write_graph(layer, file, {"x": torch.randn(2, 5, 4)}, {"x": {0: "batch", 1: "time"}}, ["y"])
        >>> session = onnxruntime.InferenceSession(file)
        >>> session.run(None, {"x": torch.zeros(3, 1, 4).numpy()})[0].shape
        (3, 1, 4)
    """
    size = sum(one.numel() * one.element_size() for one in (*program.parameters(), *program.buffers()))
    if size > MOST_BYTES:
        raise ExportError(
            f"{what} can't be exported: its weights have {size / 2**30:.2f} GiB, and a graph holds less than 2 GiB"
        )
    try:
        with quiet(), torch.no_grad():
            exported: Any = torch.onnx.export(
                Flat(program.eval()),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(tuple(dict(axes.get(name, {})) for name in inputs),),
                verbose=False,
            )
    except Exception as error:  # torch has no class of its own for what can't be exported, and tells it at length
        raise ExportError(f"{what} can't be exported: {_reason(error)}") from None
    graph = exported.model_proto
    foreign = sorted({node.domain for node in _nodes(graph)} - {"", "ai.onnx", "pkg.onnxscript.torch_lib.common"})
    if foreign:
        raise ExportError(f"{what} can't be exported: it needs the operators of {', '.join(foreign)}")
    got = [value.name for value in graph.graph.input]
    if got != list(inputs):  # what no output depends on is left out
        raise ExportError(f"{what} can't be exported: of the inputs {', '.join(inputs)} it reads {', '.join(got)}")
    _strip(graph)
    onnx.save(graph, str(file))


class Flat(nn.Module):
    """A module whose positional arguments come as they are, and whose outputs are a flat tuple."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.program(*inputs)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


@contextmanager
def quiet() -> Iterator[None]:
    """What torch's exporter tells of itself, of packages that are not installed and of axes, is for nobody."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _strip(model: onnx.ModelProto) -> None:
    """Take out where each node came from: the paths of files of the machine that exported it, and its stacks."""
    model.graph.ClearField("value_info")  # of sizes made of free ones it has names that are not always theirs
    for part in (model, model.graph, *_nodes(model), *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _reason(error: BaseException) -> str:
    """The innermost reason, on a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)[:300]
