"""Models as graphs in ONNX, in folders that :mod:`seqdyconv.runtime` runs without torch (extra ``deploy``)."""

from seqdyconv.deploy.exporting import export_model
from seqdyconv.deploy.graphs import ExportError, write_graph
from seqdyconv.deploy.precision import PRECISIONS

__all__ = ["PRECISIONS", "ExportError", "export_model", "write_graph"]
