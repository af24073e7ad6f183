"""What a run is trained on, known again by a digest: a run that is resumed must not go on with other data unnoticed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset

from seqdyconv.files import write_text
from seqdyconv.training.arguments import dump_yaml, read_yaml
from seqdyconv.training.output_dir import DATA_FILE, OutputDirError


def data_digests(splits: Sequence[str], *parts: Mapping[str, Any]) -> dict[str, str]:
    """A digest of each of some splits: of all values of its tables in the order of their rows, and of nothing else.

    How a table is stored, and where, makes no difference.

    Args:
        splits: their names; those that no part has are left out.
        parts: by split a Dataset, or plain values.

    Example:
        >>> one, other = ({"train": Dataset.from_dict({"ids": ids})} for ids in ([[1, 2], [3]], [[3], [1, 2]]))
        >>> data_digests(["train"], one) == data_digests(["train"], other)
        False
    """
    found = {}
    for split in splits:
        digest = hashlib.sha256()
        for part in (part[split] for part in parts if split in part):
            if isinstance(part, Dataset):
                _add_table(digest, part)
            else:
                digest.update(json.dumps(part).encode())
        if any(split in part for part in parts):
            found[split] = digest.hexdigest()
    return found


def write_digests(folder: str | Path, digests: Mapping[str, str]) -> None:
    """Keep what a training that begins in a folder is trained on."""
    write_text(Path(folder) / DATA_FILE, dump_yaml(digests))


def check_data(folder: str | Path, digests: Mapping[str, str]) -> None:
    """Refuse to go on with other data than a training has begun with; one that has kept no digests goes on.

    Raises:
        OutputDirError: The data are others; the message names their split.
    """
    file = Path(folder) / DATA_FILE
    if not file.is_file():
        return
    before = read_yaml(file)
    for split in dict.fromkeys([*before, *digests]):
        if before.get(split) != digests.get(split):
            raise OutputDirError(
                f"the {split} data are not those that the run in {folder} began with (the rows, their order, or what "
                "the tokenizer makes of them): restore them to resume it, or train anew with --overwrite"
            )


def _add_table(digest: Any, table: Dataset) -> None:
    digest.update(json.dumps(table.column_names).encode())
    for batch in table.with_format("arrow").iter(batch_size=256):
        for column in batch.itercolumns():
            values = column.combine_chunks()
            while pyarrow.types.is_nested(values.type):  # lists
                digest.update(values.value_lengths().to_numpy().tobytes())
                values = values.flatten()
            flat = values.to_numpy(zero_copy_only=False)
            digest.update(json.dumps(flat.tolist()).encode() if flat.dtype == object else flat.tobytes())
