"""Models as graphs in ONNX, in folders that :mod:`seqdyconv.runtime` runs without torch (extra ``deploy``)."""
