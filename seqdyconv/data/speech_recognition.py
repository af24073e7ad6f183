"""Data for speech recognition: recordings with transcripts from the Hub, a manifest, a folder or a package.

Everything that is wrong with the data raises ``DataError`` with one line; the scripts print it and exit with status 2.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import numpy.typing as npt
import torch
from datasets import Audio, Dataset, DatasetDict, Features, Value, concatenate_datasets
from datasets import List as ListFeature
from torch import Tensor

from seqdyconv.data import fillets, kaldi
from seqdyconv.data.audio_parts import TOLERANCE, find_parts
from seqdyconv.data.packages import PackageUnavailableError, cached_directory, default_cache_dir
from seqdyconv.data.speech_text import normalise_text
from seqdyconv.data.splits import (
    SPLITS,
    HeldOutArguments,
    HeldOutShare,
    load_splits,
    rows_by,
    sample,
    split_files,
)
from seqdyconv.data.tables import (
    FILE_TYPES,
    DataError,
    check_splits,
    list_names,
    load_lines,
    load_table,
)
from seqdyconv.files import write_lines
from seqdyconv.ranges import Range, Weight
from seqdyconv.runtime.audio import audio_info
from seqdyconv.runtime.samples import FULL_SCALE, AudioError
from seqdyconv.speech.audio import read_parts

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16000
LONGEST_UTTERANCE = 600.0
"""Seconds; what is longer is no utterance, and is not kept."""
Seconds = Annotated[float, Range(0, LONGEST_UTTERANCE)]

# Part of the folders' names in the cache: raise it whenever the same audio would give other samples.
FORMAT = 2

_AUDIO_COLUMNS = (
    *("path", "audio", "audio_path", "audio_filepath", "audio_file", "file", "file_name", "filename"),
    *("wav", "wav_path", "wav_filename", "recording"),
)
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text")
_SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
_SOURCE = {"path": Value("string"), "bytes": Value("binary")}
_PART = {"start": Value("float64"), "end": Value("float64"), "error": Value("string"), "cut": Value("bool")}
_METADATA = tuple(f"metadata.{kind}" for kind in ("csv", "tsv", "jsonl", "parquet"))
_AUDIO_FILES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")


def _file_help(split: str) -> dict[str, Any]:
    return {
        "help": f"The {split} data: a manifest (csv, tsv, json, jsonl or parquet) of paths, texts and times where "
        "utterances are parts of files (offset and duration, or start and end, in seconds), or a folder of audio files "
        "with a txt file of the same name beside each, with a metadata.csv, or with Kaldi's wav.scp and text."
    }


def _split_help(split: str) -> dict[str, Any]:
    return {"help": f"Name of the {split} split in the data set (several: a+b); null if it must not be used."}


@dataclass
class DataArguments(HeldOutArguments):
    """Which recordings to use, and which of them are of no use.

    A validation_file or test_file takes the place of that split of the data set. A split that is then still missing is
    taken out of train if validation_fraction or test_fraction says so: at random, equal texts on one side.
    """

    dataset: str | None = field(
        default=None, metadata={"help": "A data set: fillets (from Debian packages), or a name on the Hub."}
    )
    train_file: str | None = field(default=None, metadata=_file_help("training"))
    validation_file: str | None = field(default=None, metadata=_file_help("validation"))
    test_file: str | None = field(default=None, metadata=_file_help("test"))
    train_split: str = field(default="train", metadata=_split_help("training"))
    validation_split: str | None = field(default="validation", metadata=_split_help("validation"))
    test_split: str | None = field(default="test", metadata=_split_help("test"))
    validation_fraction: HeldOutShare = field(
        default=0.05, metadata={"help": "Part of train to validate on if there is no validation data; 0 for none."}
    )
    language: str | None = field(
        default=None, metadata={"help": "Languages of the recordings, as cs or cs+nl; fillets has cs and nl."}
    )
    audio_folder: str | None = field(
        default=None, metadata={"help": "Where the paths of a manifest start; by default the manifest's own folder."}
    )
    audio_column: str | None = field(
        default=None, metadata={"help": "Column of the audio; by default path, audio, file, ... if one is there."}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the text; by default text, sentence, transcript, ..."}
    )
    speaker_column: str | None = field(
        default=None, metadata={"help": "Column of the speaker; by default speaker, speaker_id or client_id, if any."}
    )
    normalise_text: bool = field(
        default=True, metadata={"help": "Lower-case texts and take their punctuation out, references too."}
    )
    min_seconds: Seconds = field(default=0.1, metadata={"help": "Shorter training utterances are left out."})
    max_seconds: Seconds = field(default=30.0, metadata={"help": "Longer training utterances are left out."})
    max_bad_files: Weight = field(
        default=0.05,
        metadata={"help": "Stop if more training utterances are of no use: a number, or below 1 a share of all."},
    )
    max_bad_evaluation_files: Weight = field(
        default=0,
        metadata={"help": "The same for each of validation and test; those left out are in no score."},
    )
    preprocessing_num_workers: Annotated[int, Range(1, 256)] = field(
        default=1, metadata={"help": "Processes that decode audio, once."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset == "fillets" and self.language is None:
            raise DataError("the data set fillets needs language: cs, nl or cs+nl")
        if self.dataset == "fillets" and not set(self.languages) <= set(fillets.LANGUAGES):
            raise DataError(f"language is {self.language!r}, but fillets has cs, nl and cs+nl")
        if self.min_seconds >= self.max_seconds:
            raise DataError(f"min_seconds is {self.min_seconds}, but must be below max_seconds {self.max_seconds}")

    @property
    def source(self) -> str:
        """The data set and its configuration or language, for titles."""
        name, kind = self.dataset or "local files", self.dataset_config or self.language
        return f"{name} ({kind})" if kind else name

    @property
    def languages(self) -> list[str]:
        """The languages by their codes."""
        return self.language.split("+") if self.language else []


@dataclass(frozen=True)
class BadFile:
    """An utterance that is left out."""

    split: str
    name: str
    reason: str


# Loading


def load_speech(args: DataArguments, splits: Sequence[str] = SPLITS) -> tuple[DatasetDict, list[BadFile]]:
    """Load the named splits that exist.

    The audio is decoded once, to one channel at 16 kHz, and kept in the cache (115 MB an hour).

    Returns:
        The splits, with the columns name, text, speaker (where it is known), samples (int16) and num_samples; and what
        was left out of them: see :func:`drop_bad`.

    Raises:
        DataError: the data is missing or malformed, or too much of it is of no use.
    """
    tables = load_splits(args, splits, lambda names: _load_tables(args, names), _equal_texts)
    result, bad = DatasetDict(), []
    for split in SPLITS:
        if split in splits and split in tables:
            table = sample(tables[split], args.max_samples(split), args.split_seed)
            result[split], found = drop_bad(_with_samples(table, args), split, args, _reason)
            bad += found
    return result, bad


def drop_bad(
    table: Dataset, split: str, args: DataArguments, reason: Callable[[Mapping[str, Any], DataArguments], str | None]
) -> tuple[Dataset, list[BadFile]]:
    """Leave out the utterances of no use: of train up to max_bad_files, of another split up to its own limit.

    Args:
        table: the split.
        split: its name; only train leaves out what is too short or too long.
        args: the limits.
        reason: why a row (all its columns but the samples) is of no use, else None; called with max_seconds and
            min_seconds that hold for the split.

    Raises:
        DataError: there are more than that, or nothing is left.
    """
    rows = table.remove_columns("samples")
    bad = {index: why for index, row in enumerate(rows) if (why := reason({**row, "split": split}, args)) is not None}
    files = [BadFile(split, rows[index]["name"], why) for index, why in bad.items()]
    limit = args.max_bad_files if split == "train" else args.max_bad_evaluation_files
    allowed = limit * len(table) if limit < 1 else limit
    if len(bad) > allowed:
        option = "max_bad_files" if split == "train" else "max_bad_evaluation_files"
        raise DataError(
            f"{len(bad)} of {len(table)} {split} utterances are of no use, but {option} allows {int(allowed)}; the "
            f"first is {files[0].name}: {files[0].reason}"
        )
    if len(bad) == len(table):
        raise DataError(f"the {split} data holds no utterance of any use")
    if not bad:
        return table, []
    logger.warning("left out %d of %d %s utterances", len(bad), len(table), split)
    return table.select([index for index in range(len(table)) if index not in bad]), files


def write_bad_files(path: Path, bad: Sequence[BadFile]) -> None:
    """A line for each utterance that is left out: its split, its name, the reason."""
    clean = [[" ".join(field.split()) for field in (file.split, file.name, file.reason)] for file in bad]
    write_lines(path, ["split\tfile\treason", *("\t".join(fields) for fields in clean)])


def _reason(row: Mapping[str, Any], args: DataArguments) -> str | None:
    if row["error"]:
        return row["error"]
    if not row["text"]:
        return "its text is empty"
    seconds = row["num_samples"] / SAMPLING_RATE
    if row["split"] == "train" and seconds < args.min_seconds:
        return f"it lasts {seconds:.3f} seconds, less than min_seconds {args.min_seconds:g}"
    if row["split"] == "train" and seconds > args.max_seconds:
        return f"it lasts {seconds:.1f} seconds, more than max_seconds {args.max_seconds:g}"
    return None


def _load_tables(args: DataArguments, splits: Sequence[str]) -> dict[str, Dataset]:
    """Those of the splits that exist, with the columns source (of the audio), name, text and perhaps speaker."""
    files = split_files(args, splits)
    tables = {split: _read_files(file, f"{split}_file", args) for split, file in files.items()}
    if args.dataset is None:
        return tables
    names = args.split_names(splits)
    parts = {split: name.split("+") for split, name in names.items()}
    required = [part for name in args.required_names(splits) for part in name.split("+")]
    wanted = sorted({part for names_of_parts in parts.values() for part in names_of_parts})
    loaded_parts = _load_named(args.dataset, args, wanted, required) if wanted else {}
    for split, names_of_parts in parts.items():
        if all(part in loaded_parts for part in names_of_parts):
            wheres = [f"the {part} split of {args.dataset}" for part in names_of_parts]
            found = [_read_table(loaded_parts[part], args, one, None) for part, one in zip(names_of_parts, wheres)]
            tables[split] = concatenate_datasets(found)
    return tables


def _load_named(name: str, args: DataArguments, splits: Sequence[str], required: Sequence[str]) -> dict[str, Dataset]:
    if name != "fillets":
        return args.hub_splits(name, splits, "a manifest or a folder (train_file), or dataset: fillets", required)
    args.refuse_hub_options(name)
    try:
        loaded = fillets.load_fillets(args.languages)
    except PackageUnavailableError as error:
        raise DataError(f"{error} The config common_voice.yaml names one.") from error
    check_splits(name, required, loaded)
    return {split: loaded[split] for split in splits if split in loaded}


def _read_files(path: str, name: str, args: DataArguments) -> Dataset:
    """The utterances of a manifest or a folder."""
    if Path(path).is_dir():
        return _read_folder(Path(path), name, args)
    if Path(path).name in kaldi.FILES and kaldi.is_kaldi_folder(Path(path).parent):
        return _read_kaldi(Path(path).parent, name, args)
    if (utterances := _read_lj_speech(Path(path), name)) is not None:
        return _read_table(utterances, args, path, Path(path).parent)
    folder = Path(args.audio_folder) if args.audio_folder is not None else Path(path).parent
    return _read_table(load_table(path, name), args, path, folder)


def _read_lj_speech(path: Path, name: str) -> Dataset | None:
    """The lines id|text|normalised text of a table like LJSpeech's, beside a folder wavs; None if it is another."""
    if path.suffix != ".csv" or not path.is_file() or not (path.parent / "wavs").is_dir():
        return None
    rows = [line.split("|") for line in load_lines(path, name)["text"]]
    if any(len(row) not in (2, 3) for row in rows):
        return None
    texts = [row[-1].strip() or row[1] for row in rows]
    return Dataset.from_dict({"path": [f"wavs/{row[0]}.wav" for row in rows], "text": texts})


def _read_kaldi(folder: Path, name: str, args: DataArguments) -> Dataset:
    base = folder if args.audio_folder is None else Path(args.audio_folder)
    return _read_table(kaldi.read_kaldi_folder(folder, name), args, str(folder), base)


def _read_folder(folder: Path, name: str, args: DataArguments) -> Dataset:
    if metadata := [folder / file for file in _METADATA if (folder / file).is_file()]:
        return _read_files(str(metadata[0]), name, args)
    if kaldi.is_kaldi_folder(folder):
        return _read_kaldi(folder, name, args)
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in _AUDIO_FILES and file.is_file()]
    tables = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in FILE_TYPES)
    remedy = f"; if a table in it is meant, name it: {list_names(tables)}" if tables else ""
    if not files:
        raise DataError(f"{name} is the folder {folder}, which holds no audio ({', '.join(_AUDIO_FILES)}){remedy}")
    if missing := [file.name for file in files if not file.with_suffix(".txt").is_file()]:
        raise DataError(
            f"{name} is the folder {folder}, which has no metadata.csv, and in which {len(missing)} of {len(files)} "
            f"audio files have no txt file beside them, the first is {missing[0]}{remedy}"
        )
    rows: dict[str, list[str]] = {"path": [], "text": []}
    for file in files:
        try:
            rows["text"].append(file.with_suffix(".txt").read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise DataError(f"{file.with_suffix('.txt')} is not UTF-8 text") from None
        rows["path"].append(_utf8(str(file.relative_to(folder)), str(folder)))
    return _read_table(Dataset.from_dict(rows), args, str(folder), folder)


def _read_table(table: Dataset, args: DataArguments, where: str, folder: Path | None) -> Dataset:
    """The columns source, name, text and perhaps speaker of a table; paths start at `folder`.

    Where the audio is inside the table a column row tells its rows apart, as their names may be equal.
    """
    columns = {
        "audio": _column(table, args.audio_column, _AUDIO_COLUMNS, "audio_column", where, audio=True),
        "text": _column(table, args.text_column, _TEXT_COLUMNS, "text_column", where),
    }
    try:
        columns["speaker"] = _column(table, args.speaker_column, _SPEAKER_COLUMNS, "speaker_column", where)
    except DataError:
        if args.speaker_column is not None:
            raise

    def clean(row: int, text: Any) -> str:
        if isinstance(text, (list, dict)):
            raise DataError(
                f"row {row} of {where} has {text!r:.60} in the column {columns['text']!r}, but a text must be a string"
            )
        text = "" if text is None else str(text)
        return normalise_text(text, args.languages) if args.normalise_text else " ".join(text.split())

    found: dict[str, list[Any]] = {"text": [clean(row, text) for row, text in enumerate(table[columns["text"]], 1)]}
    if "speaker" in columns:
        found["speaker"] = ["" if speaker is None else str(speaker) for speaker in table[columns["speaker"]]]
    strings = dict.fromkeys((*found, "name", "row"), Value("string"))
    kinds: dict[str, Any] = {**strings, "source": _SOURCE, "part": _PART}
    inside = isinstance(table.features[columns["audio"]], (Audio, dict))
    if inside and not _holds_audio(table.features[columns["audio"]]):
        raise DataError(f"{where} has no audio in the column {columns['audio']!r} (set audio_column)")
    if (parts := find_parts(table, where)) is not None:
        found["part"] = [{**part, "cut": inside} for part in parts]
    if not inside:
        paths = [_path(path, folder, f"row {row} of {where}") for row, path in enumerate(table[columns["audio"]], 1)]
        found |= {"source": [{"path": path, "bytes": None} for path in paths], "name": _names(paths, parts)}
        return Dataset.from_dict(found, Features({name: kinds[name] for name in found}))
    # The audio itself stays where it is, in files of the Hub's cache: of hundreds of hours there is no room for a copy.
    audio = table.select_columns(columns["audio"])
    if isinstance(audio.features[columns["audio"]], Audio):
        audio = audio.cast_column(columns["audio"], Audio(decode=False))
    audio = audio.rename_column(columns["audio"], "source") if columns["audio"] != "source" else audio
    names = [path for chunk in audio.data.column("source").chunks for path in chunk.field("path").to_pylist()]
    rows = [f"row {row} of {where}" for row in range(1, len(table) + 1)]
    found["row"] = [f"{columns['audio']} of {row}" for row in rows]
    found["name"] = [name or row for name, row in zip(names, rows)]
    return concatenate_datasets(
        [audio, Dataset.from_dict(found, Features({name: kinds[name] for name in found}))], axis=1
    )


def _path(audio: Any, folder: Path | None, where: str) -> str:
    """Where a file of a manifest is: in its folder, or in clips/ there (Common Voice), with Windows' separators too."""
    if not isinstance(audio, str) or not audio:
        raise DataError(f"{where} has no path of an audio file, but {audio!r:.60}")
    if audio.strip().startswith("|") or audio.strip().endswith("|"):
        raise DataError(f"{where} has a command, {audio!r:.60}, and none is run: give the audio as files")
    if re.match(r"[A-Za-z][\w+.-]+://", audio):
        try:
            url = urlsplit(audio)
        except ValueError as error:
            raise DataError(f"{where} has the address {audio!r:.60}, which is none ({error})") from None
        if url.scheme.lower() != "file" or url.netloc not in ("", "localhost"):
            raise DataError(f"{where} has the address {audio!r:.60}, and nothing is fetched: give the audio as files")
        audio = url2pathname(url.path)
    folder = folder or Path()
    path = Path(audio).expanduser() if audio.startswith("~/") else Path(audio)
    spelled = (path, Path("clips", audio), Path(audio.replace("\\", "/")), Path("clips", audio.replace("\\", "/")))
    existing = (str(folder / one) for one in spelled if os.path.isfile(folder / one))  # a text may stand there
    return _utf8(next(existing, str(folder / path)), where)


def _utf8(name: str, where: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where} has a file whose name is not UTF-8, {name!a}: rename it") from None
    return name


def _names(paths: Sequence[str], parts: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """What utterances are called: by their file, and by their part of it where there is one."""
    if parts is None:
        return list(paths)
    ends = ["" if part["end"] is None else f"{part['end']:g}" for part in parts]
    named = [f"{path} [{part['start']:g}-{end}]" for path, part, end in zip(paths, parts, ends)]
    return [path if part["error"] else name for path, part, name in zip(paths, parts, named)]


def _column(
    table: Dataset, chosen: str | None, usual: Sequence[str], argument: str, where: str, *, audio: bool = False
) -> str:
    if chosen is not None:
        if chosen not in table.column_names:
            names = list_names(table.column_names)
            raise DataError(f"{where} has no column {chosen!r}; it has {names} (set {argument})")
        return chosen
    existing = {name.lower(): name for name in table.column_names}
    found = [existing[name] for name in usual if name in existing]
    if audio:  # A data set of the Hub may have the path beside the audio itself.
        found.sort(key=lambda name: not _holds_audio(table.features[name]))
    if not found:
        names = list_names(table.column_names)
        raise DataError(f"{where} has none of the columns {', '.join(usual)}; it has {names} (set {argument})")
    return found[0]


def _holds_audio(feature: Any) -> bool:
    """Whether a column has the content of files, or where they are."""
    return isinstance(feature, Audio) or (isinstance(feature, dict) and _SOURCE.keys() <= feature.keys())


def _equal_texts(table: Dataset) -> list[list[int]]:
    """The rows of each text, in the order of the texts."""
    rows = rows_by(table["text"])
    return [rows[text] for text in sorted(rows)]


# Audio


class Samples(Sequence[Tensor]):
    """The samples of the utterances of a split: an index gives float32 (N,) between -1 and 1, read from the cache.

    The cache holds 16-bit integers, as most recordings do, in half the room of floats. They change their form here and
    nowhere else: from here to the features all audio is a float32 tensor.

    Args:
        table: a split of :func:`load_speech`.
    """

    def __init__(self, table: Dataset) -> None:
        self._rows = table.select_columns("samples").with_format("torch", dtype=torch.float32)
        self.lengths: npt.NDArray[np.int64] = np.maximum(1, np.asarray(table["num_samples"][:]))
        """(N,) the samples of each utterance."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]["samples"] / FULL_SCALE


def _with_samples(table: Dataset, args: DataArguments) -> Dataset:
    """The table with the columns samples, num_samples and error instead of source; decoded only the first time."""
    directory = default_cache_dir() / "speech" / f"{_key(table)}-v{FORMAT}"

    def build(folder: Path) -> None:
        columns = [name for name in ("source", "part") if name in table.column_names]
        table.select_columns(columns).map(
            _decode,
            batched=True,
            batch_size=32,  # One opening of a recording for so many parts of it.
            remove_columns=columns,
            features=Features(
                {"samples": ListFeature(Value("int16")), "num_samples": Value("int64"), "error": Value("string")}
            ),
            cache_file_name=str(folder / "audio.arrow"),
            writer_batch_size=16,  # A record batch of an Arrow file holds at most 2 billion samples.
            num_proc=args.preprocessing_num_workers if args.preprocessing_num_workers > 1 else None,
            desc="Decoding the audio, once",
        )

    files = sorted(cached_directory(directory, build).glob("audio*.arrow"))
    audio = concatenate_datasets([Dataset.from_file(str(file)) for file in files])
    kept = [name for name in table.column_names if name not in ("source", "part", "row")]
    texts = table.select_columns(kept).with_format("arrow")[:]  # not flatten_indices: its bar would say nothing
    return concatenate_datasets([Dataset(texts), audio], axis=1)


def _key(table: Dataset) -> str:
    """A name for the audio of a table: files count as equal if path, size and time of change are."""
    digest = hashlib.sha256()
    if "part" in table.column_names:
        digest.update(repr(table["part"][:]).encode())
    if "row" in table.column_names and table.cache_files:
        # In files of the Hub's cache: they and the rows say which audio it is without reading it.
        digest.update(repr([_state(file["filename"]) for file in table.cache_files] + table["row"][:]).encode())
        return digest.hexdigest()[:20]
    for source in table["source"]:
        audio = _audio_of(source)
        digest.update(hashlib.sha256(audio).digest() if isinstance(audio, bytes) else repr(_state(audio)).encode())
    return digest.hexdigest()[:20]


def _state(path: str) -> tuple[Any, ...]:
    # One that can't be read yet is like none, or the error would stay when it can.
    state = os.stat(path) if os.path.isfile(path) and os.access(path, os.R_OK) else None
    return str(Path(path).absolute()), state and state.st_size, state and state.st_mtime_ns


def _audio_of(source: Mapping[str, Any] | None) -> str | bytes:
    """The content of a file, or its path; empty where there is neither."""
    if source is None:
        return ""
    return source["bytes"] if source["bytes"] is not None else source["path"] or ""


def _decode(rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    whole = {"start": 0.0, "end": None, "error": "", "cut": False}
    parts = rows.get("part") or [whole] * len(rows["source"])
    decoded: dict[str, list[Any]] = {"samples": [], "num_samples": [], "error": []}
    for source, group in groupby(zip(rows["source"], parts), key=itemgetter(0)):
        for found in _read(source, [part for _, part in group]):
            error, samples = "", np.empty(0, np.int16)
            if isinstance(found, AudioError):
                error = str(found)
            else:
                samples = (found * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).short().numpy()
                error = "" if samples.any() else "it is silent"
            decoded["samples"].append(samples)
            decoded["num_samples"].append(len(samples))
            decoded["error"].append(error)
    return decoded


def _read(source: Mapping[str, Any] | None, parts: Sequence[Mapping[str, Any]]) -> list[Tensor | AudioError]:
    """The samples of parts of a recording, or what is wrong with each."""
    audio = _audio_of(source)
    if audio == "":
        return [AudioError("it has no audio")] * len(parts)
    try:
        spans = [_span(audio, part) for part in parts if not part["error"]]
        found = iter(list(read_parts(audio, spans, SAMPLING_RATE, LONGEST_UTTERANCE)))
    except AudioError as error:  # of the file
        return [error] * len(parts)
    return [AudioError(part["error"]) if part["error"] else next(found) for part in parts]


def _span(audio: str | bytes, part: Mapping[str, Any]) -> tuple[float, float | None]:
    """From where to where to read. Of audio inside a data set the times may be those in another, longer recording."""
    start, end = part["start"], part["end"]
    if part["cut"] and end is not None and abs(audio_info(audio).duration - (end - start)) <= TOLERANCE:
        return 0.0, None
    return start, end
