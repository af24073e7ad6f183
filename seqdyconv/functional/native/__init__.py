"""Kernels for CPUs that LLVM makes when they are first needed: the backend ``"native"``, for which llvmlite is needed.

``ir`` is what they are written with, ``kernels`` what they compute, ``library`` makes, keeps and runs them, ``ops``
tells torch of them.
"""

from seqdyconv.functional.native.ops import depthwise, limits, pays

__all__ = ["depthwise", "limits", "pays"]
