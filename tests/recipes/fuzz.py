"""Random mistakes in the options, configurations and data files of all recipes, up to where a training begins.

    python -m tests.recipes.fuzz --trials 3000 --seed 1

Each trial ends well if the training would begin, or if one line says what is wrong, with exit status 2 and nothing
written. What does not is printed with the words that repeat it.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
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

from seqdyconv.data import speech_batches, speech_recognition, text_classification, translation
from seqdyconv.training import (
    classifiers,
    decoding,
    distilling,
    model_arguments,
    runs,
    speech_models,
    swapping,
)
from seqdyconv.training.speech_recognition import SpeechTrainingArguments
from seqdyconv.training.text_classification import ClassificationTrainingArguments
from tests.recipes.commands import script

LONGEST_TRIAL = 60
"""Seconds."""

VALUES: list[Any] = [
    *(0, -1, 1, 2, 3, 10**6, 10**12, 10**30, -(2**63) - 1, 0.5, 1e-300, 1e30, 1.5, -0.5),
    *(float("nan"), float("inf"), -float("inf"), True, False, None),
    *("", " ", "nonsense", "none", "auto", "no", "nan", "1e5", "0x10", "é", "a" * 5000, "\0", "\ud800", "/dev/null", "/", "."),
    *([], [0], [-1], [4], [1, [2]], [None], ["nonsense"], [float("nan")], [10**12], {}, {"foo": 1}, {"a": {"b": []}}),
    *("[", "{", "[]", "{}", '{"foo": 1}', '{"foo": NaN}', '["dynamic_conv"]', "1", "--x", "-x"),
]
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


def make_recipes(folder: Path) -> dict[str, Recipe]:
    """All recipes with data in a folder."""
    scripts = {name: script(name, "train") for name in RECIPES}
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
    return Recipe(train.main, kinds, config, {**files, "a recording": folder / "0.wav"})


def make_image_classification(folder: Path, train: Any) -> Recipe:
    kinds = (train.ComparisonArguments, train.DigitsTrainingArguments)
    return Recipe(train.main, kinds, {"channels": 2, "train_size": 32, "report_to": "none"}, {})


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
        folder: What is in it is written over.
        seed: Of all trials.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.data, self.place = folder / "data", folder / "place"
        self.data.mkdir()
        self.random = random.Random(seed)
        self.recipes = {}
        for name, recipe in make_recipes(self.data).items():
            self.recipes[name] = recipe
        self.contents = {path: path.read_bytes() for path in self.data.iterdir()}

    def trial(self) -> tuple[str, str | None]:
        """One trial: what was done, and what went wrong, None where nothing did."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        name, recipe = self.random.choice(list(self.recipes.items()))
        values = {**recipe.config, "output_dir": "out", **{key: str(path) for key, path in recipe.files.items() if " " not in key}}
        words: list[str] = []
        changed: Path | None = None
        kind = self.random.choice(["options"] * 5 + ["file"] * 2 * bool(recipe.files) + ["configuration"])
        if kind == "options":
            for _ in range(self.random.choice([1, 1, 1, 2, 3])):
                key, hint = self.random.choice(self.options(recipe))
                fitting = [value for value in VALUES if type(value) in kinds_of(hint)]
                value = self.random.choice(fitting if fitting and self.random.random() < 0.7 else VALUES)
                if self.random.random() < 0.5:
                    values[key] = value
                elif "\0" not in str(value):
                    words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
        text = yaml.safe_dump(values)
        if kind == "configuration":
            text = self.mutated(text.encode()).decode("latin-1")
        elif kind == "file":
            changed = self.random.choice(list(recipe.files.values()))
            changed.write_bytes(self.mutated(changed.read_bytes()))
        config = self.place.with_name("config.yaml")
        config.write_bytes(text.encode("utf-8", "surrogatepass"))
        done = f"{name}: {kind}, " + (changed.name if changed else shlex.join(words) + " " + str({k: v for k, v in values.items() if recipe.config.get(k, v) is not v or k not in recipe.config and k not in recipe.files}))
        try:
            return done, self.problem(recipe, [str(config), *words])
        finally:
            if changed is not None:
                changed.write_bytes(self.contents[changed])

    def options(self, recipe: Recipe) -> list[tuple[str, Any]]:
        """The names of the options, and their types."""
        hints = {name: hint for kind in recipe.kinds for name, hint in get_type_hints(kind).items()}
        names = [item.name for kind in recipe.kinds for item in dataclasses.fields(kind) if item.init]
        return [(name, hints[name]) for name in names if name not in LEFT_OUT]

    def mutated(self, content: bytes) -> bytes:
        """Some bytes changed, removed, put in, or put elsewhere."""
        changed = bytearray(content)
        for _ in range(self.random.choice([1, 1, 3, 20])):
            at = self.random.randrange(len(changed) + 1)
            end = min(len(changed), at + self.random.choice([1, 1, 10, 1000]))
            how = self.random.randrange(5)
            if how == 0:
                changed[at:end] = bytes(self.random.choices(range(32, 127), k=end - at))
            elif how == 1:
                del changed[at:end]
            elif how == 2:
                changed[at:at] = self.random.choice([b"\0", b"\r", b"\n", b"\t", b'"', b",", b"\xff", b"\xef\xbb\xbf", b": ", b"&a [*a]", b"{", b"!!x "])
            elif how == 3:
                changed[at:at] = changed[at:end] * 3
            elif self.random.random() < 0.2:
                del changed[at:]
        return bytes(changed)

    def problem(self, recipe: Recipe, words: list[str]) -> str | None:
        """Run a recipe up to its training; what is wrong with how it ends."""
        errors = io.StringIO()
        began, status = False, None
        start = time.perf_counter()
        with surroundings(self.place), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                recipe.main(words)
            except Began:
                began = True
            except SystemExit as error:
                status = error.code
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                return "".join(traceback.format_exception(error)[-3:])
        lines = errors.getvalue().splitlines()
        if began:
            return None
        if status != 2:
            return f"exit status {status}"
        if sum(": error: " in line for line in lines) != 1 or ": error: " not in lines[-1] or "Traceback" in errors.getvalue():
            return "not one line: " + errors.getvalue()[-2000:]
        if any(self.place.iterdir()):
            return f"{[path.name for path in self.place.iterdir()]} is left: {lines[-1]}"
        self.last = lines[-1]
        return None


@contextlib.contextmanager
def surroundings(place: Path) -> Iterator[None]:
    """A working directory, bounded time, no network and no training; all as before afterwards."""

    def stop(*args: Any) -> None:
        raise TookTooLong

    before, environment = Path.cwd(), dict(os.environ)
    handler = signal.signal(signal.SIGALRM, stop)
    os.chdir(place)
    patched = [(runs, "train_or_load", begin), (distilling, "train_or_load", begin)]
    patched += [(huggingface_hub.constants, "HF_HUB_OFFLINE", True), (datasets.config, "HF_HUB_OFFLINE", True)]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
    for owner, name, value in patched:
        setattr(owner, name, value)
    signal.alarm(LONGEST_TRIAL)
    try:
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
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), args.seed)
        wrong = 0
        for number in range(args.trials):
            start = time.perf_counter()
            fuzzer.last = "BEGAN"
            done, problem = fuzzer.trial()
            seconds = time.perf_counter() - start
            if args.verbose and problem is None:
                print(f"{number} {seconds:.2f} {done[:150]} => {fuzzer.last[:200]}", flush=True)
            if problem is not None:
                wrong += 1
                print(f"WRONG {number} {seconds:.2f} {done[:500]}\n{problem}", flush=True)
        print(f"{args.trials} trials, {wrong} went wrong")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
