"""Rules for a run's output directory: what is refused, what a new run replaces, and what it never touches."""

import contextlib
import fnmatch
import logging
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqdyconv.errors import InputError
from seqdyconv.files import write_text
from seqdyconv.training.arguments import dump_yaml, read_yaml

logger = logging.getLogger(__name__)

RUN_FILE = "run.yaml"
"""All arguments of a run, as resolved from its configuration file, command line and defaults."""

DATA_FILE = "training_data.yaml"
"""Digests of what a run is trained on."""

REPLACED = "replaced_run"
"""The folder in which a run that is being replaced waits until the new one has begun."""

CHECKPOINT = r"checkpoint-(0|[1-9][0-9]*)"
"""The names of a run's checkpoints, by their steps."""

FINAL_MODEL = ".final_model"
"""The folder in which the final model's files are written, before they take their places all at once."""

# The first line of a run.yaml of ours: other programs call their settings so too.
_MARK = "# A run of seqdyconv: all its arguments."

# All files that a run writes, as patterns of their names, in its directory and in the folders named below.
_FILES = (
    *(RUN_FILE, DATA_FILE, "README.md", "metrics.json", "record.json", "results.md", "latencies.md", "bad_files.tsv"),
    *("train_texts.txt", ".*.tmp"),
    *("learning_curves.png", "kernels.png", "alignment.png", "mixtures.png"),
    *(f"{split}_*.{suffix}" for split in ("train", "validation", "test") for suffix in ("txt", "tsv", "png")),
    *("modules.json", "sentence_bert_config.json", "swapped_config.json"),
    *("config.json", "generation_config.json", "model*.safetensors", "model*.safetensors.index.json"),
    *("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "normalizer.json"),
    *("training_args.bin", "trainer_state.json", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"),
    *("rng_state*.pth", "SHA256SUMS", "events.out.tfevents.*", "*.distcp", ".metadata"),
)
# The folders that a run makes in its directory, and in a folder of its own.
_FOLDERS = (
    *("checkpoint-[0-9]*", "runs", "evaluation", "distillation", "pytorch_model_fsdp_0", "optimizer_0", FINAL_MODEL),
    *("1_Pooling", "2_Normalize", "lookahead_*ms"),
    "[A-Z][a-z][a-z][0-9][0-9]_*",  # of TensorBoard, below runs: Nov27_20-15-06_hostname
)


class OutputDirError(InputError):
    """The output directory can't be used for this run; the message is one line for the user."""


def check_output_dir(path: str | Path, resume: bool = False, overwrite: bool = False) -> None:
    """Refuse a directory in which this run can't be; nothing is written or removed.

    A directory that holds anything is refused, unless `resume` (go on with the run in it) or `overwrite` (replace that
    run) says so. `overwrite` is for directories that a run of ours has written, known by the mark in its run.yaml; it
    is refused for the home directory, the current one and those above them.

    Raises:
        OutputDirError: The directory can't be used, with the reason.
    """
    path = Path(path)
    if resume and overwrite:
        raise OutputDirError("resume and overwrite exclude each other: give one of them")
    check_folder(path, "output_dir")
    if not path.exists() or not any(path.iterdir()):
        if resume:
            raise OutputDirError(f"there is no run to resume in output_dir {path}")
        return
    holds_run = (path / RUN_FILE).is_file()
    if not resume and not overwrite:
        what = "another run: add --resume to go on with it or --overwrite to replace it" if holds_run else "files"
        raise OutputDirError(f"output_dir {path} holds {what}, or choose another output_dir")
    if not holds_run and not (overwrite and is_run(path / REPLACED)):
        raise OutputDirError(f"output_dir {path} holds files that no run has written (no {RUN_FILE} in it)")
    for child in path.iterdir():
        if re.fullmatch(CHECKPOINT, child.name) and (child.is_symlink() or not child.is_dir()):
            what = "a link" if child.is_symlink() else "a file"
            raise OutputDirError(f"{child} is {what}, where a checkpoint may be written: move it elsewhere")
    if overwrite:
        _check_may_replace(path)


def check_folder(path: str | Path, name: str) -> None:
    """Refuse what can be no folder to write to, whether it is there or to be made; nothing is left there.

    Raises:
        OutputDirError: With the `name` of the argument, and the reason.
    """
    path = Path(path)
    try:
        if path.is_symlink() and not path.exists():
            raise OutputDirError(f"{name} {path} is a link to nowhere")
        if path.exists() and not path.is_dir():
            raise OutputDirError(f"{name} {path} is a file, it must be a directory")
        parent = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
        if not parent.is_dir():
            raise OutputDirError(f"can't make {name} {path}: {parent} is no directory")
        if not os.access(parent, os.R_OK | os.W_OK | os.X_OK):
            raise OutputDirError(f"can't write to {name} {path}: no permission in {parent}")
        try:  # Only this tells of places such as /proc, and of the rights that root lacks.
            os.rmdir(tempfile.mkdtemp(prefix=".", dir=parent))
        except OSError as error:
            raise OutputDirError(
                f"can't write to {name} {path}: no folder can be made in {parent} ({error.strerror})"
            ) from None
    except OSError as error:
        raise OutputDirError(f"can't use {name} {path}: {error.strerror}") from None


def begin_run(path: str | Path, arguments: Mapping[str, Any], overwrite: bool = False) -> None:
    """Make the directory of a new run and write its run.yaml; what `overwrite` replaces is put aside.

    To be called when all that can be checked is checked. The files of the old run wait in ``replaced_run`` until
    :func:`remove_replaced_run` is called, so that a new run that fails before costs nothing; files of others stay where
    they are, and are named.

    Raises:
        OutputDirError: The directory can't be made or written to.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _put_aside(path)
        foreign = sorted(child.name for child in path.iterdir() if child.name != REPLACED)
        write_text(path / RUN_FILE, f"{_MARK}\n{dump_yaml(arguments)}")
    except OSError as error:
        for folder in missing:
            with contextlib.suppress(OSError):  # it was not made either
                folder.rmdir()
        raise OutputDirError(f"can't write to output_dir {path}: {error.strerror}") from None
    if foreign and overwrite:
        logger.warning("output_dir %s keeps what no run has written: %s", path, ", ".join(foreign))


def remove_replaced_run(path: str | Path) -> None:
    """Remove the run that the one in `path` replaces, if there is one; its foreign files, if any, stay."""
    _remove(Path(path) / REPLACED)


def is_run(path: str | Path) -> bool:
    """Whether a run of ours has written the run.yaml in this directory."""
    file = Path(path) / RUN_FILE
    try:
        return file.is_file() and file.read_text(encoding="utf-8").startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def check_resumed_arguments(
    path: str | Path,
    arguments: Mapping[str, Any],
    may_change: Collection[str],
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Compare a run's arguments with those it was started with.

    Args:
        path: The output directory, whose run.yaml is read.
        arguments: The arguments of now.
        may_change: The keys that don't alter what is learnt.
        defaults: What keys were that did not exist yet when the run was started.

    Raises:
        OutputDirError: Any other key differs; the message names the keys and both values.
    """
    before = {**(defaults or {}), **read_yaml(Path(path) / RUN_FILE)}
    changed = [
        f"{key} was {before.get(key)!r} and is now {arguments.get(key)!r}"
        for key in sorted(before.keys() | arguments.keys(), key=str)  # a damaged file may have other keys than names
        if key not in may_change and before.get(key) != arguments.get(key)
    ]
    if changed:
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise OutputDirError(f"can't resume the run in {path} with other arguments: {'; '.join(changed[:5])}{more}")


def run_arguments(model_dir: str | Path, names: Collection[str]) -> dict[str, Any]:
    """Those of the named arguments that the run had which wrote `model_dir`, or holds it as a checkpoint, if any."""
    for folder in (Path(model_dir), Path(model_dir).parent):
        if (folder / RUN_FILE).is_file():
            values = read_yaml(folder / RUN_FILE)
            return {name: values[name] for name in names if name in values}
    return {}


def remove_run_folder(folder: str | Path) -> None:
    """Remove what a run has written in a folder of its own, such as a checkpoint; the folder too if that was all.

    What marks a checkpoint as complete goes first.
    """
    for name in ("SHA256SUMS", "trainer_state.json"):
        (Path(folder) / name).unlink(missing_ok=True)
    _remove(Path(folder))


def _check_may_replace(path: Path) -> None:
    resolved = path.resolve()
    kept = {"the home directory": Path.home().resolve(), "the current directory": Path.cwd().resolve()}
    for name, place in kept.items():
        if resolved == place or resolved in place.parents:
            what = name if resolved == place else f"above {name}"
            raise OutputDirError(f"overwrite is not for output_dir {path}, which is {what}")
    if not is_run(path) and not is_run(path / REPLACED):
        raise OutputDirError(
            f"overwrite replaces a run of ours, and the {RUN_FILE} in output_dir {path} is not known to be one's (its "
            "first line is not ours): remove by hand what you don't need, or choose another output_dir"
        )


def _put_aside(path: Path) -> None:
    """Move what the run in `path` has written to a folder in it, all or nothing."""
    replaced, moving = path / REPLACED, path / f".{REPLACED}"
    if moving.is_dir():  # a move that was interrupted: back to where it began
        _move(moving, path)
    if replaced.is_dir():  # the run that stands here has not begun, what it replaces is the one to keep
        _remove(path, but=replaced)
    else:
        moving.mkdir()
        _move(path, moving, but=moving)
        moving.rename(replaced)


def _move(source: Path, target: Path, but: Path | None = None) -> None:
    for file in list(_own_files(source, but)):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
    _remove_empty_folders(source, but)


def _remove(path: Path, but: Path | None = None) -> None:
    for file in list(_own_files(path, but)):
        file.unlink()
    _remove_empty_folders(path, but)


def _own_files(folder: Path, but: Path | None = None) -> Iterator[Path]:
    """The files that a run writes in its directory; a link is one of them, never what it points to."""
    if not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.is_symlink():
            if child != but and _matches(child.name, _FOLDERS):
                yield from _own_files(child)
        elif _matches(child.name, _FILES):
            yield child


def _remove_empty_folders(folder: Path, but: Path | None = None) -> None:
    """Remove the folders of a run that are empty now, and those in them; `folder` too where it is one of them."""
    for child in list(folder.iterdir()) if folder.is_dir() else []:
        if child.is_dir() and not child.is_symlink() and child != but and _matches(child.name, _FOLDERS):
            _remove_empty_folders(child)
    own = _matches(folder.name, (*_FOLDERS, REPLACED, f".{REPLACED}"))
    if own and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
