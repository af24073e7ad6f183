"""Give the vector of each line of standard input, line by line, to standard output.

    seqdyconv embed MODEL_DIR [--key value ...] < texts > vectors

MODEL_DIR is an output_dir of the sentence embedding recipe, a folder of sentence-transformers, or any encoder. Every
line gives one line, empty ones too, in the same order. Lines are read as they arrive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
from transformers.utils.logging import disable_progress_bar

from seqdyconv.commands.streams import end_with_the_reader
from seqdyconv.commands.vectors import VectorOptions, write_vectors
from seqdyconv.data.sentence_embedding import rows_of
from seqdyconv.errors import exit_on_error
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.evaluation import ModelDirArguments
from seqdyconv.training.sentence_encoders import embed_rows, load_sentence_encoder


@dataclass
class EmbeddingArguments(VectorOptions, ModelDirArguments):
    """What to embed with, and how it is written."""


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse_arguments((EmbeddingArguments,), argv, first="model_dir", description=__doc__)
    end_with_the_reader()
    with exit_on_error():
        disable_progress_bar()  # That of loading weights.
        datasets.disable_progress_bars()
        model, tokenizer, reading = load_sentence_encoder(args.model_dir)
        model.to(args.device)

        def embed(texts: list[str]) -> Any:
            rows = rows_of(texts, tokenizer, reading.max_length)
            longest = max(map(len, rows["input_ids"]))
            return embed_rows(model, tokenizer, rows, reading, args.batch_size * longest)

        write_vectors(embed, args.format)


if __name__ == "__main__":
    main()
