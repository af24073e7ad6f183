"""Random mistakes in what the recipes and commands take: options, configurations, model folders and data files.

    python -m tests.recipes.fuzz --trials 3000 --seed 1
    python -m tests.recipes.fuzz use --trials 3000 --seed 1

Of trainings, up to where they begin (``--through`` does them too, which are short); with the word ``use``, of the
scripts and commands that use models. A trial ends well if the work is done, or if one line says what is wrong, with
exit status 2 and nothing written. What does not is printed with what was tried.
"""

import argparse
import json
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import yaml

from seqdyconv.data import speech_batches, speech_recognition, translation
from seqdyconv.training import decoding, distilling, model_arguments, runs, speech_models
from seqdyconv.training.speech_recognition import SpeechTrainingArguments
from tests.recipes.commands import script
from tests.recipes.fuzz_use import UseTrials
from tests.recipes.mistakes import Trials, ending, patches, words_of

RECORDING = "a recording"  # a file that no option names
# Compiling takes a minute, and a value that means a group of GPUs needs them.
LEFT_OUT = ("torch_compile", "torch_compile_backend", "torch_compile_mode", "overwrite", "resume")


class Began(SystemExit):
    """The training would begin now."""


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


def begin(*args: Any, **kwargs: Any) -> Any:
    """Takes the place of a training."""
    raise Began(None)


class TrainTrials(Trials):
    """Trials of train.py of all recipes.

    Args:
        folder: Where they write to.
        seed: Of all trials.
        through: Whether the trainings are done.
    """

    def __init__(self, folder: Path, seed: int, through: bool = False) -> None:
        super().__init__(folder, seed)
        self.through = through
        self.recipes = make_recipes(self.data, through)
        self.contents = {path: path.read_bytes() for path in self.data.iterdir()}

    def trial(self) -> tuple[str, str | None]:
        """One trial: what was tried, and what went wrong, None where nothing did."""
        self.new_place()
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
        values: dict[str, Any] = {}
        words: list[str] = []
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            option, value = self.option(recipe.kinds, LEFT_OUT)
            if self.random.random() < 0.5 or "\0" in str(value):
                values[option] = value
            else:
                words += words_of(option, value)
        return values, words

    def problem(self, recipe: Recipe, words: list[str]) -> str | None:
        """Run a recipe up to its training; what is wrong with how it ends."""
        changes = [] if self.through else [(one, "train_or_load", begin) for one in (runs, distilling)]
        with patches(changes):
            end = ending(recipe.main, words, self.place)
        if sorted(self.data.iterdir()) != sorted(self.contents):
            return "something was written beside the data"
        self.ended = end.told[0] if end.told else "the training began"
        if end.status == 2 and any(self.place.iterdir()):
            return f"{[path.name for path in self.place.iterdir()]} is left: {end.told}"
        return end.problem()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="training", choices=["training", "use"])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--through", action="store_true", help="do the trainings too")
    parser.add_argument("--verbose", action="store_true", help="print all trials")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        trials: Trials = (
            UseTrials(Path(folder), args.seed)
            if args.what == "use"
            else TrainTrials(Path(folder), args.seed, args.through)
        )
        for number in range(args.trials):
            start = time.perf_counter()
            tried, problem = trials.trial()
            if problem is not None or args.verbose:
                ended = f"{time.perf_counter() - start:.1f} s: {problem or trials.ended[:300]}"
                print(f"{number} {tried[:1000]}\n    {ended}".encode("ascii", "backslashreplace").decode(), flush=True)
            wrong += problem is not None
    print(f"{args.trials} trials, {wrong} of them went wrong")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
