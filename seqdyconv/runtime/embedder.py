"""Vectors of texts with an exported sentence encoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seqdyconv.runtime.folder import Array, FolderError, open_folder
from seqdyconv.runtime.tokenizer import Text, TextReader


class Embedder:
    """Vectors of texts. Several threads may use one.

    Args:
        folder: that ``seqdyconv export`` has written of a sentence encoder.
        threads: that compute one batch; 0: as many as there are cores.

    Attributes:
        dimension: of the vectors.

    Raises:
        FolderError: the folder is damaged, newer than this version, or for another task.

    Example:
        >>> from seqdyconv.runtime import Embedder
        >>> Embedder("outputs/minilm_int8").embed(["A fine film.", "Two lost hours."]).shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        exported = open_folder(folder, "embedding")
        self.dimension = exported.number("dimension", 1)
        self.reader = TextReader(exported)
        self.graph = exported.graph("model", threads)
        row = (None, None)
        self.graph.check({"input_ids": row, "attention_mask": row}, {"vectors": (None, self.dimension)})

    def embed(self, texts: Sequence[Text], batch_size: int = 32) -> Array:
        """The vectors (N, D) float32 of N texts in their order, pooled and of length one as the model's are.

        Args:
            texts: what is longer than the model reads is cut.
            batch_size: texts of a batch; they are sorted by length.

        Raises:
            InputError: texts are one text, or batch_size is not at least 1.
            FolderError: the model gives numbers that are none: it is damaged.
        """
        rows = self.reader.read(texts)
        found = np.empty((len(rows.ids), self.dimension), np.float32)
        for batch, inputs in self.reader.batches(rows, batch_size):
            vectors = self.graph.run({name: inputs[name] for name in self.graph.inputs})["vectors"]
            if vectors.shape != (len(batch), self.dimension) or not np.isfinite(vectors).all():
                raise FolderError(f"{self.graph.file} gives no vectors: it is damaged")
            found[batch] = vectors
        return found
