"""Random mistakes in what uses models: options, model folders, inputs and places to write to."""

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file

from seqdyconv.commands import classify, info, plot_kernels, stream, transcribe, translate
from seqdyconv.data import speech_recognition, text_classification, text_rows, translation
from seqdyconv.speech.decoding import SpeechDecodingArguments
from seqdyconv.training import decoding
from seqdyconv.training.output_dir import begin_run
from tests.commands.folders import write_models
from tests.recipes.commands import script
from tests.recipes.mistakes import VALUES, Trials, ending, words_of
from tests.speech.conftest import write_streaming_model

TEXTS = b"the old word\n\na text\nthe old word\n"
MINE = b"mine"
"""What files hold that nobody may write over."""
OUTPUTS = ("evaluation_dir", "output_dir", "output_file")
# Places to write to are tried on their own, and a model that knows no end would write a million tokens.
LEFT_OUT = (*OUTPUTS, "max_length_factor", "max_length_constant")
PLACES = ["", ".", "new", "new/below", "file", "file/below", "folder", "nowhere", "linked", "x" * 300, "\0", "\ud800"]
PLACES += [
    "../model",
    "../data",
    "file.png",
    "folder.png",
    "nowhere.png",
    "linked.svg",
    "new.pdf",
    "new.x",
    "new/a.png",
]
LINKS = {"nowhere": "missing/x", "nowhere.png": "missing/x", "linked": "folder", "linked.svg": "elsewhere"}


class Use(NamedTuple):
    """A script or command that uses a model.

    main: What it runs.
    kinds: The dataclasses of its options.
    models: Folders that it takes.
    words: Of its command line, after the model.
    standard_input: The name of a data file, if it reads one there.
    """

    main: Callable[[list[str]], None]
    kinds: tuple[type, ...]
    models: tuple[str, ...]
    words: tuple[str, ...] = ()
    standard_input: str | None = None


def make_uses() -> list[Use]:
    """All of them, by their names."""
    texts, translations, recordings = ("classifier", "swapped"), ("ours", "t5"), ("speech", "streaming")
    of_translation, of_texts, of_speech = (
        script(name, "evaluate") for name in ("translation", "text_classification", "speech_recognition")
    )
    decoding_arguments = decoding.DecodingArguments
    return [
        Use(translate.main, (translate.TranslationArguments, decoding_arguments), translations, (), "texts"),
        Use(classify.main, (classify.PredictionArguments, text_rows.LengthArguments), texts, (), "texts"),
        Use(
            transcribe.main,
            (transcribe.TranscriptionArguments, SpeechDecodingArguments),
            recordings,
            ("../data/speech.wav",),
        ),
        Use(stream.main, (stream.StreamArguments,), ("streaming",), ("../data/speech.wav",)),
        Use(stream.main, (stream.StreamArguments,), ("streaming",), ("-",), "speech.wav"),
        Use(plot_kernels.main, (plot_kernels.PictureArguments,), (*texts, "ours"), ("the old word",)),
        Use(info.main, (info.InfoArguments,), (*texts, *translations, *recordings)),
        Use(
            of_translation.main,
            (of_translation.TranslationEvaluationArguments, translation.DataArguments, decoding_arguments),
            translations,
        ),
        Use(of_texts.main, (of_texts.ClassificationEvaluationArguments, text_classification.DataArguments), texts),
        Use(
            of_speech.main,
            (of_speech.SpeechEvaluationArguments, SpeechDecodingArguments, speech_recognition.DataArguments),
            recordings,
        ),
    ]


def write_data(folder: Path) -> None:
    """What the models are used on."""
    (folder / "texts").write_bytes(TEXTS)
    for side in ("source", "target"):
        (folder / side).write_text("eins zwei\ndrei\n")
    (folder / "texts.csv").write_text("text,label\nthe old word,a\nthe word,b\n")
    soundfile.write(folder / "speech.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16000)
    rows = [{"path": "speech.wav", "text": "one two"}, {"path": "speech.wav", "text": "two"}]
    (folder / "speech.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_of(model: str, data: Path) -> dict[str, Any]:
    """The arguments of a run that has made a model."""
    if model in ("ours", "t5"):
        files = {"source_file": "source", "target_file": "target"}
    else:
        files = {"file": "texts.csv" if model in ("classifier", "swapped") else "speech.jsonl"}
    return {f"{part}_{name}": str(data / file) for part in ("train", "test") for name, file in files.items()}


class UseTrials(Trials):
    """Trials of the scripts that use models.

    Args:
        folder: Where they write to.
        seed: Of all trials.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.models, self.model, self.ran = folder / "models", folder / "model", folder / "ran"
        self.models.mkdir()
        write_models(self.models)
        write_streaming_model(self.models / "streaming")
        write_data(self.data)
        self.contents: dict[Path, bytes] = contents(self.data)
        for model in self.models.iterdir():
            run = run_of(model.name, self.data)
            begin_run(model, run)
            (model / "metrics.json").write_text('{"test_loss": 0.5}\n')
            (model / "train_texts.txt").write_text("one two\ntwo\n")
            (model / "code.py").write_text(f"open({str(self.ran)!r}, 'w')\n")
        self.uses = make_uses()

    def trial(self) -> tuple[str, str | None]:
        """One trial: what was tried, and what went wrong, None where nothing did."""
        self.new_place()
        self.fill_place()
        use = self.random.choice(self.uses)
        name = self.random.choice(use.models)
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.copytree(self.models / name, self.model)
        kind = self.random.choice(["options", "options", "folder", "folder", "folder", "data", "place"])
        tried = f"{use.main.__module__} {name}, {kind}: "
        words = list(use.words)
        if kind == "options":
            words += self.options(use)
        elif kind == "folder":
            tried += "; ".join(self.mistake_in_folder() for _ in range(self.random.choice([1, 1, 1, 2])))
        elif kind == "data":
            changed = self.random.choice(sorted(self.contents))
            changed.write_bytes(self.mutated(changed.read_bytes()))
            tried += f"{changed.name} {changed.read_bytes()[:300]!r}"
        else:
            words += self.place_to_write(use)
        stdin = os.devnull if use.standard_input is None else str(self.data / use.standard_input)
        before = contents(self.data, self.model, self.place)
        end = ending(use.main, [str(self.model), *words], self.place, stdin)
        problem = end.problem() or self.written(end.status, words, before)
        if use.main is transcribe.main and end.status == 1 and end.crash is None:
            problem = None if end.errors.strip() and "Traceback" not in end.errors else end.errors
        if end.status is None and "nan" in end.output.lower() and use.main is not info.main:
            problem = f"NaN is written: {end.output[:500]}"
        self.ended = end.told[0] if end.told else "the work was done"
        for path, content in self.contents.items():
            path.write_bytes(content)
        return f"{tried} {shlex.join(words)}", problem

    def options(self, use: Use) -> list[str]:
        """Words with some options; places to write to are tried on their own."""
        words: list[str] = []
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            words += words_of(*self.option(use.kinds, LEFT_OUT))
        return words

    def fill_place(self) -> None:
        """What may stand where something is to be written."""
        for name in ("file", "file.png", "elsewhere"):
            (self.place / name).write_bytes(MINE)
        for name in ("folder", "folder.png"):
            (self.place / name).mkdir()
            (self.place / name / "metrics.json").write_bytes(MINE)
        for name, target in LINKS.items():
            (self.place / name).symlink_to(target)

    def place_to_write(self, use: Use) -> list[str]:
        """Words with a place to write to."""
        names = [name for kind in use.kinds for name in kind.__dataclass_fields__ if name in OUTPUTS]
        option = self.random.choice(names or ["output_dir"])
        more = ["--overwrite"] * (use.main is transcribe.main and self.random.random() < 0.5)
        return [f"--{option}", self.random.choice(PLACES), *more]

    def mistake_in_folder(self) -> str:
        """Do something to the model's folder; returns what."""
        file = self.random.choice(sorted(path for path in self.model.iterdir() if path.is_file()))
        kind = self.random.choice(["value"] * 6 + ["bytes", "weights", "gone", "other", "foreign", "code", "run"])
        if kind == "value" and file.suffix != ".json":
            kind = "bytes"
        if kind == "value":
            return f"{file.name} {self.change_value(file)}"
        if kind == "bytes":
            file.write_bytes(self.mutated(file.read_bytes()))
            return f"{file.name} {file.read_bytes()[:300]!r}"
        if kind == "weights":
            return self.change_weights(self.model / "model.safetensors")
        if kind == "gone":
            return f"{file.name} is {self.replace_file(file)}"
        other = self.random.choice(sorted(path for path in self.models.iterdir()))
        if kind == "other":  # the tokenizer of another, or any file
            names = self.random.choice([["tokenizer.json", "tokenizer_config.json"], [file.name], ["config.json"]])
            for name in names:
                if (other / name).is_file():
                    shutil.copy(other / name, self.model)
            return f"{names} of {other.name}"
        if kind == "foreign":
            shutil.rmtree(self.model)
            shutil.copytree(other, self.model)
            return f"it is {other.name}"
        if kind == "code":
            classes = ("AutoConfig", "AutoModel", "AutoModelForCTC", "AutoFeatureExtractor", "AutoProcessor")
            auto_map: dict[str, Any] = {**dict.fromkeys(classes, "code.Code"), "AutoTokenizer": ["code.Code", None]}
            update(file if file.suffix == ".json" else self.model / "config.json", auto_map=auto_map)
            return f"{file.name} has an auto_map"
        run = run_of(other.name, self.data)
        for _ in range(self.random.choice([1, 2])):
            run[self.random.choice(RUN_KEYS)] = self.random.choice(VALUES)
        with contextlib.suppress(UnicodeEncodeError):
            begin_run(self.model, run)
        return f"run.yaml {run}"

    def change_value(self, file: Path) -> str:
        """Another value somewhere in a JSON file."""
        try:
            content = json.loads(file.read_text())
            owner, where = content, ""
            while True:
                keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
                key = self.random.choice(keys)
                where += f"/{key}"
                if not (isinstance(owner[key], (dict, list)) and owner[key] and self.random.random() < 0.8):
                    break
                owner = owner[key]
        except (ValueError, TypeError, IndexError, AttributeError):
            return "as it was"
        if self.random.random() < 0.15:
            del owner[key]
            value: Any = "deleted"
        else:
            same = [value for value in VALUES if type(value) is type(owner[key])]
            value = self.random.choice(same if same and self.random.random() < 0.6 else VALUES)
            if isinstance(owner, dict) and self.random.random() < 0.2:
                key = self.random.choice(EXTRA_KEYS)
                where += f" beside it {key}"
            owner[key] = value
        file.write_text(json.dumps(content))
        return f"{where}: {value!r:.100}"

    def change_weights(self, file: Path) -> str:
        """Other weights."""
        try:
            weights = load_file(file)
            name = self.random.choice(sorted(weights))
        except Exception:
            return "weights as they were"
        kind, change = self.random.choice(list(WEIGHTS.items()))
        changed = change(weights.pop(name))
        if changed is not None:
            weights[name] = changed.contiguous()
        save_file(weights, file, {"format": "pt"})
        return f"{name} {kind}"

    def replace_file(self, file: Path) -> str:
        """Something else in the place of a file."""
        kind = self.random.choice(["gone", "empty", "a folder", "a pipe", "a link to nowhere", "endless", "a loop"])
        file.unlink()
        if kind == "empty":
            file.touch()
        elif kind == "a folder":
            file.mkdir()
        elif kind == "a pipe":
            os.mkfifo(file)
        elif kind != "gone":
            file.symlink_to({"endless": "/dev/zero", "a loop": file.name}.get(kind, "nowhere"))
        return kind

    def written(self, status: Any, words: list[str], before: dict[Path, Any]) -> str | None:
        """What was written where nothing may be."""
        if self.ran.exists():
            self.ran.unlink()
            return "code of the folder was run"
        now = contents(self.data, self.model, self.place)
        if status is None:  # new files are its work, and so is a picture in the place of the one that was named
            now = {path: content for path, content in now.items() if path in before}
        named = self.place / words[words.index("--output_file") + 1] if "--output_file" in words else None
        changed = [path for path in before | now if before.get(path) != now.get(path) and path != named]
        return f"status {status}, and {[str(path)[-60:] for path in changed]} changed" if changed else None


WEIGHTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "left out": lambda weight: None,
    "is NaN": lambda weight: torch.full_like(weight, float("nan")),
    "is huge": lambda weight: torch.full_like(weight, 3e38),
    "is of integers": lambda weight: weight.to(torch.int64),
    "is of booleans": lambda weight: weight > 0,
    "is of bfloat16": lambda weight: weight.to(torch.bfloat16),
    "is of float8": lambda weight: weight.to(torch.float8_e4m3fn),
    "is complex": lambda weight: weight.to(torch.complex64),
    "is empty": lambda weight: weight[:0],
    "is a scalar": lambda weight: weight.sum(),
    "is larger": lambda weight: torch.cat([weight, weight]),
}
EXTRA_KEYS = [
    *("quantization_config", "attn_implementation", "_attn_implementation", "auto_map", "torch_dtype", "dtype"),
    *("model_type", "architectures", "num_labels", "id2label", "label2id", "problem_type", "pruned_heads"),
    *("seqdyconv", "is_encoder_decoder", "tie_word_embeddings", "is_decoder", "add_cross_attention", "use_cache"),
    *("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id", "max_length"),
    *("num_beams", "num_return_sequences", "bad_words_ids", "suppress_tokens", "forced_bos_token_id", "penalty_alpha"),
    *("repetition_penalty", "no_repeat_ngram_size", "guidance_scale", "cache_implementation", "stop_strings"),
    *("max_time", "max_new_tokens", "watermarking_config", "assistant_early_exit", "encoder_no_repeat_ngram_size"),
    *("tokenizer_class", "processor_class", "feature_extractor_type", "model_max_length", "padding_side"),
    *("truncation_side", "added_tokens_decoder", "extra_special_tokens", "clean_up_tokenization_spaces"),
    *(
        "model_input_names",
        "chat_template",
        "sampling_rate",
        "feature_size",
        "chunk_size_feed_forward",
        "transformers_version",
    ),
]
RUN_KEYS = [
    *("test_file", "train_file", "test_source_file", "test_target_file", "dataset", "dataset_config", "max_length"),
    *(
        "num_beams",
        "source_lang",
        "target_lang",
        "bleu_tokenizer",
        "text_column",
        "label_column",
        "nonsense",
        "model_dir",
    ),
    *("evaluation_dir", "split", "max_windows", "long_texts", "unit", "audio_column", "tokenizer_name", "output_dir"),
]


def update(path: Path, **values: Any) -> None:
    """Set values in a JSON file."""
    with contextlib.suppress(ValueError, TypeError, OSError):
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def contents(*folders: Path) -> dict[Path, Any]:
    """What all files below some folders hold, and where links point."""
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
    }
