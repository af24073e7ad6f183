"""Random mistakes in the options, configurations and data files of all recipes, up to where a training begins.

    python -m tests.recipes.fuzz --trials 3000 --seed 1

A trial ends well if the training would begin, or if one line says what is wrong, with exit status 2 and nothing
written. What does not is printed with what was tried. ``--through`` does the trainings too, which are short.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import shlex
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import datasets
import huggingface_hub.constants
import numpy as np
import soundfile
import torch
import yaml
from transformers.utils import logging as transformers_logging

from seqdyconv.data import speech_batches, speech_recognition, translation
from seqdyconv.training import (
    decoding,
    distilling,
    model_arguments,
    runs,
    speech_models,
)
from seqdyconv.training.speech_recognition import SpeechTrainingArguments
from tests.recipes.commands import script

LONGEST_TRIAL = 60
"""Seconds."""
RECORDING = "a recording"  # a file that no option names

_NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    10**6,
    10**12,
    10**30,
    -(2**63) - 1,
    0.5,
    1.5,
    -0.5,
    1e-300,
    1e30,
    *map(float, ("nan", "inf")),
]
_WORDS = ["", " ", "nonsense", "none", "auto", "no", "nan", "1e5", "0x10", "é", "a" * 5000, "\0", "\ud800", "--x", "-x"]
_PATHS = ["/dev/null", "/", "."]
_LISTS = [[], [0], [-1], [4], [1, [2]], [None], ["nonsense"], [float("nan")], [10**12]]
_MAPPINGS = [{}, {"foo": 1}, {"a": {"b": []}}, "[", "{", "[]", "{}", '{"foo": 1}', '{"foo": NaN}', '["dynamic_conv"]']
VALUES: list[Any] = [*_NUMBERS, *_WORDS, *_PATHS, *_LISTS, *_MAPPINGS, True, False, None]
INSERTED = [b"\0", b"\r", b"\n", b"\t", b'"', b",", b"\xff", b"\xef\xbb\xbf", b": ", b"&a [*a]", b"{", b"!!x "]
# Compiling takes a minute, and a value that means a group of GPUs needs them.
LEFT_OUT = ("torch_compile", "torch_compile_backend", "torch_compile_mode", "overwrite", "resume")


class Began(BaseException):
    """The training would begin now."""


class TookTooLong(Exception):
    """A trial was ended."""


class Recipe(NamedTuple):
    """A recipe with small data.

    main: That of its train.py.
    kinds: The dataclasses of its options.
    config: A configuration that works.
    files: Its data files, by the options that name them.
    """

    main: Callable[[list[str]], None]
    kinds: tuple[type, ...]
    config: dict[str, Any]
    files: dict[str, Path]


def make_recipes(folder: Path, through: bool) -> dict[str, Recipe]:
    """All recipes with data in a folder."""
    scripts = {name: script(name, "train") for name in RECIPES}
    if not through:
        scripts["image_classification"].train_one = begin
    return {name: make(folder, scripts[name]) for name, make in RECIPES.items()}


def make_translation(folder: Path, train: Any) -> Recipe:
    files = {}
    for side, words in {"source": "eins zwei drei vier", "target": "one two three four"}.items():
        for part in ("train", "validation", "test"):
            files[f"{part}_{side}_file"] = folder / f"{part}.{side}"
            files[f"{part}_{side}_file"].write_text("".join(f"{words} {row % 7}\n" for row in range(40)))
    kinds = (
        model_arguments.EncoderDecoderArguments,
        translation.DataArguments,
        decoding.DecodingArguments,
        train.TranslationTrainingArguments,
    )
    sizes = {"decoder_kernel_sizes": [3], "vocab_size": 285, "tokenizer_type": "bpe", "max_tokens": 200}
    return Recipe(train.main, kinds, {"source_lang": "de", "target_lang": "en", **SIZES, **sizes}, files)


def make_text_classification(folder: Path, train: Any) -> Recipe:
    files = {}
    for part in ("train", "validation", "test"):
        files[f"{part}_file"] = folder / f"{part}.csv"
        rows = [f"a {('good', 'bad')[row % 2]} text number {row},{('yes', 'no')[row % 2]}" for row in range(40)]
        files[f"{part}_file"].write_text("\n".join(["text,label", *rows, ""]))
    return Recipe(train.main, train.ARGUMENTS, {**SIZES, "max_tokens": 200}, files)


def make_speech_recognition(folder: Path, train: Any) -> Recipe:
    rows = []
    for row in range(6):
        noise = np.random.default_rng(row).uniform(-0.5, 0.5, 8000)
        soundfile.write(folder / f"{row}.wav", noise, 16000)
        rows.append(json.dumps({"path": f"{row}.wav", "text": "ab cd"}) + "\n")
    files = {f"{part}_file": folder / f"{part}.jsonl" for part in ("train", "validation", "test")}
    for file in files.values():
        file.write_text("".join(rows))
    kinds = (
        speech_models.ModelArguments,
        speech_recognition.DataArguments,
        speech_batches.AugmentationArguments,
        SpeechTrainingArguments,
    )
    config = {**SIZES, "subsampling_channels": 4, "num_mel_bins": 40, "decoder_kernel_sizes": [3]}
    return Recipe(train.main, kinds, config, {**files, RECORDING: folder / "0.wav"})


def make_image_classification(folder: Path, train: Any) -> Recipe:
    kinds = (train.ComparisonArguments, train.DigitsTrainingArguments)
    sizes = {"channels": 2, "layers": ["static", "dyconv"], "seeds": [0], "train_size": 32, "report_to": "none"}
    return Recipe(train.main, kinds, sizes, {})


SIZES = {
    "hidden_size": 16,
    "ffn_dim": 16,
    "attention_heads": 2,
    "encoder_kernel_sizes": [3],
    "max_steps": 2,
    "warmup_steps": 1,
    "report_to": "none",
}
RECIPES = {
    "translation": make_translation,
    "text_classification": make_text_classification,
    "speech_recognition": make_speech_recognition,
    "image_classification": make_image_classification,
}


def kinds_of(hint: Any) -> set[Any]:
    """The plain types in a type."""
    return {hint, get_origin(hint)}.union(*(kinds_of(part) for part in get_args(hint)))


def begin(*args: Any, **kwargs: Any) -> Any:
    """Takes the place of a training."""
    raise Began


class Fuzzer:
    """Trials in a folder of their own.

    Args:
        folder: Where they write to.
        seed: Of all trials.
        through: Whether the trainings are done.
    """

    def __init__(self, folder: Path, seed: int, through: bool = False) -> None:
        self.data, self.place = folder / "data", folder / "place"
        self.data.mkdir()
        self.through = through
        self.random = random.Random(seed)
        self.recipes = make_recipes(self.data, through)
        self.contents = {path: path.read_bytes() for path in self.data.iterdir()}
        self.ended = ""
        """How the last trial ended."""

    def trial(self) -> tuple[str, str | None]:
        """One trial: what was tried, and what went wrong, None where nothing did."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        name, recipe = self.random.choice(list(self.recipes.items()))
        kind = self.random.choice(["options"] * 5 + ["file"] * 2 * bool(recipe.files) + ["configuration"])
        values, words = self.options(recipe) if kind == "options" else ({}, [])
        files = {option: str(path) for option, path in recipe.files.items() if option != RECORDING}
        config = yaml.safe_dump({**recipe.config, **files, "output_dir": "out", **values})
        text = config.encode("utf-8", "surrogatepass")
        tried = f"{name}, {kind}: {values or ''} {shlex.join(words)}"
        changed = None
        if kind == "configuration":
            text = self.mutated(text)
            tried += repr(text)
        elif kind == "file":
            changed = self.random.choice(list(recipe.files.values()))
            changed.write_bytes(self.mutated(self.contents[changed]))
            tried += f"{changed.name} {changed.read_bytes()[:500]!r}"
        path = self.place.with_name("config.yaml")
        path.write_bytes(text)
        try:
            problem = self.problem(recipe, [str(path), *words])
        finally:
            if changed is not None:
                changed.write_bytes(self.contents[changed])
        return tried, problem

    def options(self, recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
        """Values of some options for the configuration, and words with some for the command line."""
        hints = {name: hint for kind in recipe.kinds for name, hint in get_type_hints(kind).items()}
        names = [item.name for kind in recipe.kinds for item in dataclasses.fields(kind) if item.init]
        values: dict[str, Any] = {}
        words: list[str] = []
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            option = self.random.choice([name for name in names if name not in LEFT_OUT])
            fitting = [value for value in VALUES if type(value) in kinds_of(hints[option])]
            value = self.random.choice(fitting if fitting and self.random.random() < 0.7 else VALUES)
            if self.random.random() < 0.5 or "\0" in str(value):
                values[option] = value
            else:
                words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
        return values, words

    def mutated(self, content: bytes) -> bytes:
        """Some bytes changed, removed, put in, or repeated, or all the rest cut off."""
        changed = bytearray(content)
        for _ in range(self.random.choice([1, 1, 3, 20])):
            start = self.random.randrange(len(changed) + 1)
            end = min(len(changed), start + self.random.choice([1, 1, 10, 1000]))
            put = [bytes(self.random.choices(range(32, 127), k=end - start)), b"", self.random.choice(INSERTED)]
            changed[start:end] = self.random.choice([*put, bytes(changed[start:end]) * 3])
            if self.random.random() < 0.05:
                del changed[start:]
        return bytes(changed)

    def problem(self, recipe: Recipe, words: list[str]) -> str | None:
        """Run a recipe up to its training; what is wrong with how it ends."""
        errors = io.StringIO()
        status: Any = None
        with surroundings(self.place, self.through), contextlib.redirect_stderr(errors):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    recipe.main(words)
            except Began:
                pass
            except SystemExit as error:
                status = error.code
            except Exception as error:
                return "".join(traceback.format_exception(error)[-3:])
        if sorted(self.data.iterdir()) != sorted(self.contents):
            return "something was written beside the data"
        if status is None:
            self.ended = "the training began"
            return None
        lines = errors.getvalue().splitlines()
        told = [line for line in lines if ": error: " in line]
        if status != 2 or told != lines[-1:] or "Traceback" in errors.getvalue():
            return f"exit status {status}: {errors.getvalue()[-2000:]}"
        if any(self.place.iterdir()):
            return f"{[path.name for path in self.place.iterdir()]} is left: {told}"
        self.ended = told[0]
        return None


@contextlib.contextmanager
def surroundings(place: Path, through: bool) -> Iterator[None]:
    """A working directory, bounded time, no network, and no training or a whole one; all as before afterwards."""

    def stop(*args: Any) -> None:
        raise TookTooLong

    before, environment = Path.cwd(), dict(os.environ)
    handler = signal.signal(signal.SIGALRM, stop)
    os.chdir(place)
    patched: list[tuple[Any, str, Any]] = (
        [] if through else [(one, "train_or_load", begin) for one in (runs, distilling)]
    )
    patched += [(huggingface_hub.constants, "HF_HUB_OFFLINE", True), (datasets.config, "HF_HUB_OFFLINE", True)]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
    for owner, name, value in patched:
        setattr(owner, name, value)
    signal.alarm(LONGEST_TRIAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        for owner, name, value in kept:
            setattr(owner, name, value)
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        torch.use_deterministic_algorithms(False)
        transformers_logging.set_verbosity_warning()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--through", action="store_true", help="do the trainings too")
    parser.add_argument("--verbose", action="store_true", help="print all trials")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), args.seed, args.through)
        for number in range(args.trials):
            start = time.perf_counter()
            tried, problem = fuzzer.trial()
            if problem is not None or args.verbose:
                ended = f"{time.perf_counter() - start:.1f} s: {problem or fuzzer.ended[:300]}"
                print(f"{number} {tried[:1000]}\n    {ended}".encode("ascii", "backslashreplace").decode(), flush=True)
            wrong += problem is not None
    print(f"{args.trials} trials, {wrong} of them went wrong")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
