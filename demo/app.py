"""A page to try models: translation, text classification and speech recognition.

    python demo/app.py MODEL_DIR... [--port N] [--use_cpu]

Each MODEL_DIR is a trained or swapped model, or what ``seqdyconv export`` made of one; its files tell what it does.
Models of text classification stand side by side. Where none is named, those of SEQDYCONV_MODELS are taken, as on a
Space.
"""

import base64
import html
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # The page calls nobody.

import datasets
import gradio as gr
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from gradio.themes.utils.fonts import LocalFont
from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    DataCollatorWithPadding,
)
from transformers.utils.logging import disable_progress_bar

from seqdyconv.data.external_tokenizers import set_languages
from seqdyconv.data.text_rows import LengthArguments, tokenize
from seqdyconv.errors import InputError, exit_on_error, first_line
from seqdyconv.files import strip_text
from seqdyconv.models.loading import load_config, load_tokenizer
from seqdyconv.pictures import plot_kernels
from seqdyconv.ranges import Options, Range
from seqdyconv.runtime import classifier, recogniser, translator
from seqdyconv.runtime.audio import audio_info, read_blocks
from seqdyconv.runtime.folder import is_exported, open_folder
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.speech import Decoder, RecognitionStream, SpeechDecodingArguments, load_recogniser
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.classifiers import label_names, load_classifier
from seqdyconv.training.decoding import generate
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.translation_models import check_translation, load_translation_model

HERE = Path(__file__).parent
LONGEST_TEXT = 20_000  # characters
MOST_DRAWN = 400  # characters of a text whose kernels are drawn
CHUNK = 0.32  # seconds of a file that are recognised at once


@dataclass
class PageArguments(Options):
    """What to show, and where."""

    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of models, or names on the Hub; also the words before options."},
    )
    port: Annotated[int, Range(1, 65535)] | None = field(
        default=None, metadata={"help": "Where the page is served on this machine; None: the first free one from 7860."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Don't use a GPU."})


# What the page asks of a model, of a folder or exported


class Model(Protocol):
    """What all models tell of themselves."""

    name: str
    about: str


class Translator(Model, Protocol):
    def translate(self, lines: Sequence[str], beams: int, best: int) -> list[list[tuple[str, float | None]]]:
        """For each line its best translations with their scores."""

    def kernels(self, text: str, translation: str) -> dict[str, Any]:
        """Pictures of the encoder and the decoder by title; InputError where there are none."""


class Classifier(Model, Protocol):
    def classify(self, text: str) -> tuple[dict[str, float], float]:
        """The probability of each label, and the seconds that the model took."""


class Listener(Protocol):
    """One stream of speech."""

    def push(self, samples: Any) -> list[str]:
        """Take samples (N,) and return the words that they complete."""

    def finish(self) -> list[str]:
        """Return the words that are left."""


class Recogniser(Model, Protocol):
    streams: bool

    def transcribe(self, file: str) -> str:
        """What is said in an audio file."""

    def listen(self, rate: int) -> Listener:
        """Begin to hear speech of this sampling rate."""


# Models of folders, in torch


def described(model: Any) -> str:
    """The class of a model and its size."""
    return f"{type(model).__name__}, {sum(map(torch.numel, model.parameters())) / 1e6:.1f} M parameters, torch"


class TorchTranslator:
    def __init__(self, folder: str, device: str) -> None:
        self.model: Any = load_translation_model(folder)
        self.model.to(device)
        self.tokenizer = load_tokenizer(folder)
        set_languages(self.tokenizer, folder, None, None)
        check_translation(self.model, self.tokenizer, folder)
        self.about = described(self.model)

    def translate(self, lines: Sequence[str], beams: int, best: int) -> list[list[tuple[str, float | None]]]:
        inputs = self.tokenizer(list(lines))["input_ids"]
        found = generate(self.model, self.tokenizer, inputs, DecodingArguments(num_beams=beams), best)
        return [[(one.text, one.score) for one in hypotheses] for hypotheses in found]

    def kernels(self, text: str, translation: str) -> dict[str, Any]:
        figures, problems = {}, []
        for side, target in (("encoder, over the text", None), ("decoder, over the translation", translation)):
            try:
                figure = plot_kernels(self.model, text, self.tokenizer, target=target)
            except InputError as error:  # such as: no convolution in one of them
                problems.append(error)
            else:
                figure.suptitle("")
                figures[f"Kernels of the {side}"] = figure
        if not figures:
            raise problems[0]
        return figures


class TorchClassifier:
    def __init__(self, folder: str, device: str) -> None:
        datasets.disable_progress_bars()
        self.model, self.tokenizer = load_classifier(folder)
        self.model.to(device)
        self.labels = label_names(self.model)
        self.lengths = LengthArguments(**run_arguments(folder, LengthArguments.__dataclass_fields__))
        self.about = described(self.model)

    @torch.no_grad()
    def classify(self, text: str) -> tuple[dict[str, float], float]:
        rows = tokenize(DatasetDict({"input": Dataset.from_dict({"text": [text]})}), self.tokenizer, self.lengths)
        windows = DataCollatorWithPadding(self.tokenizer)([{"input_ids": ids} for ids in rows["input"]["input_ids"]])
        start = time.perf_counter()
        probabilities = self.model(**windows.to(self.model.device)).logits.float().softmax(-1).mean(0).tolist()
        return dict(zip(self.labels, probabilities)), time.perf_counter() - start


class TorchRecogniser:
    def __init__(self, folder: str, device: str) -> None:
        self.recogniser = load_recogniser(folder).to(device)
        self.decoder = Decoder(self.recogniser, SpeechDecodingArguments(), folder)
        self.streams = self.recogniser.why_not_streaming is None
        self.about = described(self.recogniser.model)

    def transcribe(self, file: str) -> str:
        return " ".join(word.text for word in self.decoder.transcribe(file))

    def listen(self, rate: int) -> RecognitionStream:
        return RecognitionStream(self.recogniser, rate)


# Exported models, without torch


def exported(folder: str) -> str:
    """What is known of an exported model."""
    found = open_folder(folder)
    size = sum((found.folder / file).stat().st_size for file in found.graphs.values()) / 1e6
    return f"exported, {found.precision}, {size:.1f} MB, ONNX Runtime"


class ExportedTranslator:
    def __init__(self, folder: str) -> None:
        self.model = translator.Translator(folder, torch.get_num_threads())
        self.about = exported(folder)

    def translate(self, lines: Sequence[str], beams: int, best: int) -> list[list[tuple[str, float | None]]]:
        found = self.model.search(lines, beams, nbest=best)
        return [[(one.text, one.score) for one in translations] for translations in found]

    def kernels(self, text: str, translation: str) -> dict[str, Any]:
        raise InputError("an exported model does not tell them")


class ExportedClassifier:
    def __init__(self, folder: str) -> None:
        self.model = classifier.Classifier(folder, torch.get_num_threads())
        self.about = exported(folder)

    def classify(self, text: str) -> tuple[dict[str, float], float]:
        start = time.perf_counter()
        probabilities = self.model.probabilities([text])[0].tolist()
        return dict(zip(self.model.labels, probabilities)), time.perf_counter() - start


class ExportedRecogniser:
    def __init__(self, folder: str) -> None:
        self.model = recogniser.Recogniser(folder, torch.get_num_threads())
        self.streams = self.model.streams
        self.about = exported(folder)

    def transcribe(self, file: str) -> str:
        return self.model.transcribe([file])[0]

    def listen(self, rate: int) -> Listener:
        return self.model.stream(rate)


TORCH: dict[str, Callable[[str, str], Any]] = {
    "translation": TorchTranslator,
    "classification": TorchClassifier,
    "recognition": TorchRecogniser,
}
EXPORTED: dict[str, Callable[[str], Any]] = {
    "translation": ExportedTranslator,
    "classification": ExportedClassifier,
    "recognition": ExportedRecogniser,
}


# From folders to models


def task_of(folder: str) -> str:
    """What the model of a folder does, as its files tell.

    Raises:
        InputError: There is no model, or it does nothing that the page shows.
    """
    if is_exported(folder):
        return open_folder(folder).task
    config = load_config(folder, "model")
    name = str(next(iter(config.architectures or []), "a model without a name"))
    if name.endswith("ForSequenceClassification"):
        return "classification"
    if name.endswith("ForCTC") or type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        return "recognition"
    if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return "translation"
    raise InputError(
        f"{folder} holds {name}, and the page shows translation, text classification and speech recognition"
    )


def load(folders: Sequence[str], device: str = "cpu") -> dict[str, list[Any]]:
    """The models by task.

    Raises:
        InputError: One of the folders can't be used.
    """
    tasks = {folder: task_of(folder) for folder in folders}  # All of them before any weights are read.
    names = [Path(os.path.abspath(folder)).name for folder in tasks]
    models: dict[str, list[Any]] = {}
    for (folder, task), name in zip(tasks.items(), names):
        if task not in TORCH:
            raise InputError(f"{folder} is for {task}, which the page does not show")
        model = EXPORTED[task](folder) if is_exported(folder) else TORCH[task](folder, device)
        model.name = name if names.count(name) == 1 else folder
        models.setdefault(task, []).append(model)
    return models


def examples(folders: Sequence[str], task: str) -> list[str]:
    """What to click on: the lines of examples/TASK.txt, or audio files, of a model's folder or beside this file."""
    for folder in (*map(Path, folders), HERE):
        if task == "recognition":
            kinds = (".wav", ".flac", ".ogg", ".mp3")
            found = sorted(str(file) for file in (folder / "examples").glob("*") if file.suffix in kinds)
        else:
            file = folder / "examples" / f"{task}.txt"
            found = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        if found:
            return found
    return []


# The page


FONT = (LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif")  # of Gradio itself, not of the web
CSS = """
.gradio-container {width: 100%; max-width: 1080px !important; margin: auto !important}
.about p {opacity: .75; font-size: .9rem; margin: 0}
.html-container {padding: 0 !important}
.pictures {container-type: inline-size}
.pictures figure {margin: 0 0 1.5rem; max-width: 100cqw; overflow-x: auto}
.pictures figcaption {font-weight: 600; margin-bottom: .5rem; position: sticky; left: 0}
.pictures img {max-width: none; margin: 0; background: white}
.others ol {padding-left: 1.5rem; margin: 0}
.others span {opacity: .75; font-variant-numeric: tabular-nums; margin-left: .5rem; white-space: nowrap}
.outcome {font-variant-numeric: tabular-nums}
"""


def build(models: dict[str, list[Any]], folders: Sequence[str] = ()) -> gr.Blocks:
    """The page, with a tab for each task that has a model."""
    with gr.Blocks(title="seqdyconv", analytics_enabled=False) as page:
        gr.Markdown("# seqdyconv\nModels of lightweight and dynamic convolutions, to try.")
        with gr.Tabs():
            for model in models.get("translation", ()):
                with gr.Tab(tab_name("Translation", model, models["translation"])):
                    translation_tab(model, examples(folders, "translation"))
            if "classification" in models:
                with gr.Tab("Classification"):
                    classification_tab(models["classification"], examples(folders, "classification"))
            for model in models.get("recognition", ()):
                with gr.Tab(tab_name("Speech", model, models["recognition"])):
                    speech_tab(model, examples(folders, "recognition"))
    return page


def tab_name(task: str, model: Model, models: Sequence[Model]) -> str:
    return task if len(models) == 1 else f"{task}: {model.name}"


def about(*models: Model) -> None:
    """A line for each model."""
    gr.Markdown("<br>".join(f"**{model.name}**: {model.about}" for model in models), elem_classes="about")


def texts_to_click(texts: Sequence[str], text: gr.Textbox, function: Any, outputs: Sequence[Any]) -> None:
    if texts:
        gr.Examples([[line] for line in texts], text, outputs, function, run_on_click=True, cache_examples=False)


def text_of(value: str | None) -> str:
    """What stands in a box, without white space at its ends; an error on the page where that is nothing."""
    if not (text := strip_text(value or "")):
        raise gr.Error("There is no text yet.", print_exception=False)
    if len(text) > LONGEST_TEXT:
        raise gr.Error(f"The text has {len(text):,} characters; {LONGEST_TEXT:,} are allowed.", print_exception=False)
    return text


def said(error: InputError) -> gr.Error:
    """An error for the page."""
    return gr.Error(html.escape(str(error)), print_exception=False)


def translation_tab(model: Translator, texts: Sequence[str]) -> None:
    def translate(value: str, beams: float) -> Iterator[tuple[Any, ...]]:
        lines = [strip_text(line) for line in text_of(value).splitlines()]
        filled = [index for index, line in enumerate(lines) if line]
        try:
            start = time.perf_counter()
            found = model.translate([lines[index] for index in filled], int(beams), min(int(beams), 4))
        except InputError as error:
            raise said(error) from None
        seconds = time.perf_counter() - start
        translated = [""] * len(lines)
        for index, hypotheses in zip(filled, found):
            translated[index] = hypotheses[0][0]
        results = "\n".join(translated), f"{seconds:.2f} s", others(found[0])
        yield *results, "<p>Drawing the kernels …</p>"
        yield *results, pictures(model, lines[filled[0]], found[0][0][0])

    about(model)
    with gr.Row():
        with gr.Column():
            text = gr.Textbox(label="Text", lines=4, max_lines=12, placeholder="A sentence, or one on each line")
            beams = gr.Slider(1, 10, 4, step=1, label="Beams", info="1 is greedy")
            button = gr.Button("Translate", variant="primary")
        with gr.Column():
            result = gr.Textbox(label="Translation", lines=4, max_lines=12, interactive=False, buttons=["copy"])
            seconds = gr.Markdown(elem_classes="about")
            alternatives = gr.HTML(elem_classes="others")
    drawn = gr.HTML(elem_classes="pictures", render=False)
    outputs = [result, seconds, alternatives, drawn]
    button.click(translate, [text, beams], outputs, api_name="translate")
    texts_to_click(texts, text, lambda value: (yield from translate(value, 4)), outputs)
    drawn.render()


def others(found: Sequence[tuple[str, float | None]]) -> str:
    """The translations of one line with their scores."""
    if len(found) == 1:
        return ""
    scores = [f"{score:.2f}".replace("-", "−") for _, score in found]
    rows = "".join(f"<li>{html.escape(text)} <span>{score}</span></li>" for (text, _), score in zip(found, scores))
    return f"<p>The best found for the first line, with log-probabilities per token:</p><ol>{rows}</ol>"


def pictures(model: Translator, text: str, translation: str) -> str:
    """The kernels of a model as HTML, or a line that says why there are none."""
    if max(len(text), len(translation)) > MOST_DRAWN:
        return f"<p>Kernels are drawn for texts of up to {MOST_DRAWN} characters.</p>"
    try:
        figures = model.kernels(text, translation)
    except InputError as error:
        return f"<p>No kernels are drawn: {html.escape(str(error))}.</p>"
    return "".join(picture(title, figure) for title, figure in figures.items())


def picture(title: str, figure: Any) -> str:
    """A figure that is as large as it was drawn, and scrolls where the screen is narrower."""
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    code = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{title}" width="{figure.get_figwidth() * 110:.0f}" src="data:image/svg+xml;base64,{code}">'
    return f"<figure><figcaption>{title}</figcaption>{image}</figure>"


def classification_tab(models: Sequence[Classifier], texts: Sequence[str]) -> None:
    def classify(value: str) -> list[Any]:
        text = text_of(value)
        try:
            found = [[model.classify(text) for model in models] for _ in range(3)]
        except InputError as error:
            raise said(error) from None
        probabilities = [labels for labels, _ in found[0]]
        seconds = [min(times) for times in zip(*([seconds for _, seconds in row] for row in found))]
        return [compared(models, probabilities, seconds), *probabilities]

    about(*models)
    text = gr.Textbox(label="Text", lines=5, max_lines=12, placeholder="A text of the kind that the model has learnt")
    button = gr.Button("Classify", variant="primary")
    outcome = gr.Markdown(elem_classes="outcome", render=False)
    bars = [gr.Label(label=model.name, num_top_classes=5, render=False) for model in models]
    button.click(classify, text, [outcome, *bars], api_name="classify")
    texts_to_click(texts, text, classify, [outcome, *bars])
    outcome.render()
    with gr.Row():
        for bar in bars:
            bar.render()


def compared(models: Sequence[Model], probabilities: Sequence[dict[str, float]], seconds: Sequence[float]) -> str:
    """How long each model took, and whether they agree."""
    times = [f"{model.name} took {1000 * one:.1f} ms" for model, one in zip(models, seconds)]
    if len(models) == 1:
        return f"{times[0]} (the shortest of three runs)."
    best = [max(labels, key=lambda label: labels[label]) for labels in probabilities]
    first, *rest = probabilities
    shared = [set(first) == set(labels) for labels in rest]
    line = f"{'; '.join(times)} (the shortest of three runs). "
    line += (
        f"{'Both' if len(best) == 2 else 'All'} say **{best[0]}**."
        if len(set(best)) == 1
        else f"They disagree: **{'**, **'.join(best)}**."
    )
    if all(shared):
        difference = max(abs(first[label] - labels[label]) for labels in rest for label in first)
        line += f" Probabilities differ by at most {100 * difference:.1f} points."
    return line


def speech_tab(model: Recogniser, files: Sequence[str]) -> None:
    def transcribe(file: str | None) -> Iterator[str]:
        if not file:
            raise gr.Error("There is no recording yet.", print_exception=False)
        try:
            if model.streams:
                listener, words = model.listen(audio_info(file).sampling_rate), []
                for samples in read_blocks(file, CHUNK):
                    words += listener.push(samples)
                    yield " ".join(words)
                yield " ".join(words + listener.finish())
            else:
                yield model.transcribe(file)
        except InputError as error:
            raise said(error) from None

    def hear(piece: tuple[int, Any] | None, state: Any) -> tuple[Any, str]:
        """Take what the microphone has heard since the last call."""
        if piece is None:
            return state, "" if state is None else " ".join(state[1])
        rate, samples = piece
        listener, words = state or (model.listen(rate), [])
        words += listener.push(mono(samples))
        return (listener, words), " ".join(words)

    def end(state: Any) -> tuple[None, str]:
        return None, "" if state is None else " ".join(state[1] + state[0].finish())

    about(model)
    text = gr.Textbox(label="Words", lines=4, max_lines=12, interactive=False, buttons=["copy"], render=False)
    if model.streams:
        with gr.Row():
            file = gr.Audio(label="A file", sources=["upload"], type="filepath", editable=False, buttons=[])
            microphone = gr.Audio(label="The microphone", sources=["microphone"], streaming=True, buttons=[])
        state = gr.State()
        heard = {"show_progress": "hidden", "api_visibility": "private"}
        microphone.start_recording(lambda: (None, ""), None, [state, text], **heard)
        microphone.stream(hear, [microphone, state], [state, text], stream_every=0.4, time_limit=600, **heard)
        microphone.stop_recording(end, state, [state, text], **heard)
    else:
        file = gr.Audio(label="A file or the microphone", sources=["upload", "microphone"], type="filepath", buttons=[])
    button = gr.Button("Transcribe the file" if model.streams else "Transcribe", variant="primary")
    button.click(transcribe, file, text, api_name="transcribe")
    if files:
        gr.Examples([[one] for one in files], file, text, transcribe, run_on_click=True, cache_examples=False)
    text.render()


def mono(samples: Any) -> Any:
    """Samples (N,) or (N, channels) of a sound card as float32 (N,) from -1 to 1."""
    scale = np.iinfo(samples.dtype).max + 1 if np.issubdtype(samples.dtype, np.integer) else 1
    values = samples.astype(np.float32) / scale
    return values.mean(axis=1) if values.ndim > 1 else values


def named_models() -> list[str]:
    """The models of SEQDYCONV_MODELS."""
    try:
        return shlex.split(os.environ.get("SEQDYCONV_MODELS", ""))
    except ValueError as error:
        raise InputError(f"SEQDYCONV_MODELS can't be read ({error}): names with spaces or quotes need quotes") from None


def main(argv: Sequence[str] | None = None, *, wait: bool = True) -> str:
    """Serve the page; returns its address where that does not wait for the end."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("--") and words[0] not in ("--help", "--models")):
        with exit_on_error():
            words = named_models() + words
    (args,) = parse_arguments((PageArguments,), words, first="models", description=__doc__)
    with exit_on_error():
        disable_progress_bar()  # That of loading weights.
        device = "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu"
        page = build(load(args.models, device), args.models)
        theme = gr.themes.Default(primary_hue="teal", font=FONT)
        options = {"theme": theme, "css": CSS, "footer_links": [], "prevent_thread_lock": not wait, "quiet": not wait}
        try:
            _, address, _ = page.queue().launch(server_port=args.port, **options)
        except OSError as error:  # such as: somebody else serves there
            raise InputError(f"can't serve the page: {first_line(error)}") from None
    return address


if __name__ == "__main__":
    main()
