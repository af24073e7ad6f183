"""Data folders of Kaldi: ``wav.scp`` and ``text``, with ``segments`` and ``utt2spk`` where they are there."""

import re
from collections.abc import Collection
from pathlib import Path

from datasets import Dataset

from seqdyconv.data.tables import DataError, load_lines

FILES = ("wav.scp", "text", "segments", "utt2spk")


def is_kaldi_folder(folder: Path) -> bool:
    """Whether a folder has recordings in the manner of Kaldi."""
    return (folder / "wav.scp").is_file()


def read_kaldi_folder(folder: Path, name: str) -> Dataset:
    """The utterances of a data folder in the order of its ``text``.

    Args:
        folder: the folder; its other files are not read.
        name: the argument that named it, for messages.

    Returns:
        The columns path and text, start and end (seconds) with ``segments``, speaker with ``utt2spk``.

    Raises:
        DataError: a line is malformed, an id stands twice, or is in one file and lacks in another.
    """
    if not (folder / "text").is_file():
        raise DataError(f"{name} is the folder {folder}, which has Kaldi's wav.scp, but no text")
    audio, texts = _read(folder / "wav.scp", name), _read(folder / "text", name, may_be_empty=True)
    for number, path in enumerate(audio.values(), 1):
        if re.search(r"\.ark:\d+$", path):
            raise DataError(
                f"line {number} of {folder / 'wav.scp'} has {path!r:.60}, inside an archive: give the audio as files"
            )
    columns: dict[str, list[str]] = {"path": [], "text": list(texts.values())}
    if (folder / "segments").is_file():
        segments = {}
        for number, (utterance, part) in enumerate(_read(folder / "segments", name).items(), 1):
            fields = part.split()
            if len(fields) != 3:
                raise DataError(
                    f"line {number} of {folder / 'segments'} must be an utterance, its recording, start and end, and "
                    f"no channel, got {f'{utterance} {part}'!r:.80}"
                )
            segments[utterance] = fields
        _check_equal(folder, "text", texts, "segments", segments)
        recordings = dict.fromkeys(recording for recording, _, _ in segments.values())
        _check_known(folder, "segments", recordings, "wav.scp", audio)
        chosen = [segments[utterance] for utterance in texts]
        columns["path"] = [audio[recording] for recording, _, _ in chosen]
        columns |= {"start": [start for _, start, _ in chosen], "end": [end for _, _, end in chosen]}
    else:
        _check_equal(folder, "text", texts, "wav.scp", audio)
        columns["path"] = [audio[utterance] for utterance in texts]
    if (folder / "utt2spk").is_file():
        speakers = _read(folder / "utt2spk", name)
        _check_known(folder, "text", texts, "utt2spk", speakers)
        columns["speaker"] = [speakers[utterance] for utterance in texts]
    return Dataset.from_dict(columns)


def _read(file: Path, name: str, *, may_be_empty: bool = False) -> dict[str, str]:
    """What stands behind the id at the start of each line."""
    found: dict[str, str] = {}
    for number, line in enumerate(load_lines(file, name)["text"], 1):
        key, *rest = re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1)
        if not key or not (rest or may_be_empty):
            raise DataError(f"line {number} of {file} must be an id and what belongs to it, got {line!r:.60}")
        if key in found:
            raise DataError(f"line {number} of {file} has the id {key!r:.60} a second time")
        found[key] = rest[0] if rest else ""
    return found


def _check_equal(folder: Path, name: str, ids: Collection[str], other: str, others: Collection[str]) -> None:
    _check_known(folder, name, ids, other, others)
    _check_known(folder, other, others, name, ids)


def _check_known(folder: Path, name: str, ids: Collection[str], other: str, others: Collection[str]) -> None:
    if missing := [one for one in ids if one not in others]:
        raise DataError(
            f"{len(missing)} of {len(ids)} ids of {folder / name} are not in {other}, the first is {missing[0]!r:.60}"
        )
