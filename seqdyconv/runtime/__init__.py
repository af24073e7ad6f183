"""Exported models without torch: numpy, onnxruntime and tokenizers alone (and soundfile for audio files)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqdyconv.runtime.classifier import Classifier
    from seqdyconv.runtime.embedder import Embedder
    from seqdyconv.runtime.recogniser import Recogniser
    from seqdyconv.runtime.translator import Translator

__all__ = ["Classifier", "Embedder", "Recogniser", "Translator"]


def __getattr__(name: str) -> Any:
    """Each comes with its first use: who reads audio files with torch needs no onnxruntime."""
    if name in __all__:
        return getattr(import_module(f"seqdyconv.runtime.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
