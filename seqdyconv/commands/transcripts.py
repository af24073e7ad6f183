"""Transcripts of audio files, whatever recognises them: where they go, and in which form. Needs no torch."""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from seqdyconv.errors import InputError
from seqdyconv.files import write_text
from seqdyconv.ranges import FileName, OneOf, Options, Range
from seqdyconv.runtime.samples import AudioError
from seqdyconv.runtime.words import Word, to_rows, to_srt

FORMATS = {"text": ".txt", "json": ".json", "srt": ".srt"}


@dataclass
class TranscriptOptions(Options):
    """What to transcribe, and how to write it."""

    files: Annotated[list[str], FileName()] = field(
        default_factory=list, metadata={"help": "Audio files; also the words after MODEL_DIR."}
    )
    format: Annotated[str, OneOf(*FORMATS)] = field(default="text", metadata={"help": "text, json or srt."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Write a file for each audio file there, instead of standard output."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace transcripts that output_dir holds already."})
    segment_seconds: Annotated[float, Range(1, 600)] = field(
        default=20.0, metadata={"help": "The longest piece that is recognised at once."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise ValueError("the audio files are missing: give them after the model")
        if self.format == "srt" and self.output_dir is None and len(self.files) > 1:
            raise ValueError("srt of several files needs output_dir")
        names = [output_name(file, self.format) for file in self.files]
        if self.output_dir is not None and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two files would both be written to {twice} in output_dir: give each its own")


def with_file_names(words: Sequence[str]) -> list[str]:
    """The words of a command line, in which the name of a file may begin with a dash."""
    end = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    names = [f"./{word}" if word.startswith("-") and word != "-h" else word for word in words[:end]]
    return [*names, *words[end:]]


def write_transcripts(args: TranscriptOptions, load: Callable[[], Callable[[str], list[Word]]]) -> int:
    """Transcribe; returns the number of files that could not be used.

    Args:
        args: which files, and where to.
        load: gives the function that gives the words of a file; called once nothing stands in the way.

    Raises:
        InputError: something is in the place of a transcript, or nothing can be written there.
    """
    folder = None if args.output_dir is None else Path(args.output_dir)
    if folder is not None:
        _check_targets(folder, args)
    recognise = load()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"can't make output_dir {folder}: {error.strerror}") from None
    failed = 0
    for file in args.files:
        try:
            words = recognise(file)
        except AudioError as error:
            print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            failed += 1
            continue
        if folder is not None:
            target = folder / output_name(file, args.format)
            try:
                write_text(target, formatted(file, words, args.format, named=False))
            except OSError as error:
                raise InputError(f"can't write {target}: {error.strerror}") from None
        else:
            text = formatted(file, words, args.format, named=len(args.files) > 1)
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
    return failed


def _check_targets(folder: Path, args: TranscriptOptions) -> None:
    """See before any work that nothing in output_dir is lost."""
    targets = [folder / output_name(file, args.format) for file in args.files]
    existing = [target for target in targets if os.path.lexists(target)]
    if existing and not args.overwrite:
        raise InputError(f"{existing[0]} is there already: set overwrite to replace it, or take another output_dir")
    for target in existing:
        if not target.is_file() or any(os.path.exists(file) and target.samefile(file) for file in args.files):
            raise InputError(f"{target} is no transcript that could be replaced: take another output_dir")


def formatted(file: str, words: Sequence[Word], kind: str, named: bool) -> str:
    """The transcript of a file, with a line break at its end."""
    text = " ".join(word.text for word in words)
    if kind == "srt":
        return to_srt(words)
    if kind == "json":
        readable = file == file.encode("utf-8", "replace").decode()  # a name in other bytes is escaped
        return json.dumps({"file": file, "text": text, "words": to_rows(words)}, ensure_ascii=not readable) + "\n"
    name = re.sub("[\t\r\n]", " ", file)  # a line is a line, and its first TAB ends the name
    return f"{name}\t{text}\n" if named else f"{text}\n"


def output_name(file: str, kind: str) -> str:
    """The name of a transcript's file."""
    return Path(file).stem + FORMATS[kind]
