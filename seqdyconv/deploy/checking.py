"""Compare an exported folder with the model in torch, on real texts or recordings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict

from seqdyconv.data import sentence_embedding, speech_recognition, text_classification, translation
from seqdyconv.data.text_rows import tokenize
from seqdyconv.deploy.card import write_checks
from seqdyconv.deploy.graphs import ExportError
from seqdyconv.files import decode_lines, open_lines, strip_text
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.runtime.classifier import Classifier
from seqdyconv.runtime.embedder import Embedder
from seqdyconv.runtime.folder import Exported
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.runtime.recogniser import Recogniser
from seqdyconv.runtime.translator import Translator
from seqdyconv.scores.sentence_embedding import cosines
from seqdyconv.training.classifiers import classify, lengths_of_run, load_classifier
from seqdyconv.training.decoding import generate
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.sentence_encoders import load_sentence_encoder
from seqdyconv.training.sentence_evaluation import text_embedder
from seqdyconv.training.translation_models import load_translation_model

MOST = 500
"""Texts, or recordings, that are compared."""

_DATA: dict[str, tuple[Any, Any]] = {
    "translation": (translation, translation.load_translation_datasets),
    "classification": (text_classification, text_classification.load_classification_datasets),
    "embedding": (sentence_embedding, sentence_embedding.load_texts),
    "recognition": (speech_recognition, speech_recognition.load_speech),
}


def check_export(model_dir: str | Path, exported: Exported, files: Sequence[str] = ()) -> list[str]:
    """Compare what an exported folder gives with what the model gives in torch, and write it on the card.

    Args:
        model_dir: that was exported.
        exported: of it.
        files: texts line by line, or audio files; by default the validation data of the run that trained the model. At
            most ``MOST`` texts or recordings are taken.

    Returns:
        Lines: the largest difference, and the share of equal outputs.

    Raises:
        ExportError: there is nothing to compare with.
    """
    checks = {"translation": _translation, "classification": _classification, "recognition": _recognition}
    check = {**checks, "embedding": _embedding}.get(exported.task)
    if check is None:
        raise ExportError(
            f"check compares translations, labels, vectors and transcripts; the model is for {exported.task}"
        )
    lines = check(str(model_dir), exported, list(files))
    write_checks(exported.folder, [f"- {line}" for line in lines])
    return lines


def _translation(name: str, exported: Exported, files: list[str]) -> list[str]:
    texts = _texts(files) or run_data(exported.task, name, "validation")["source"][:MOST]
    model, tokenizer, translator = load_translation_model(name), load_tokenizer(name), Translator(exported.folder)
    inputs = translator.encode(texts)
    lines = []
    for beams in (1, 4):
        options = DecodingArguments(num_beams=beams)
        expected = generate(model, tokenizer, inputs, options)
        found = translator.search_ids(inputs, beams)
        equal = [one[0].text == other[0].text for one, other in zip(found, expected)]
        scores = [(one[0].score, other[0].score) for one, other in zip(found, expected)]
        difference = max((abs(a - b) for a, b in scores if a is not None and b is not None), default=0.0)
        said = f", largest difference of scores {difference:.1e}" if beams > 1 else ""
        lines.append(f"{np.mean(equal):.2%} of {len(texts)} translations are equal ({beams} beams){said}")
    return lines


def _classification(name: str, exported: Exported, files: list[str]) -> list[str]:
    columns = {"text": _texts(files)}
    if not columns["text"]:
        table = run_data(exported.task, name, "validation")
        columns = {column: table[column][:MOST] for column in ("text", "text_pair") if column in table.column_names}
    model, tokenizer = load_classifier(name)
    rows = tokenize(DatasetDict({"texts": Dataset.from_dict(columns)}), tokenizer, lengths_of_run(name))["texts"]
    expected = classify(model, tokenizer, rows, 32)
    texts: list[Any] = list(zip(*columns.values())) if "text_pair" in columns else columns["text"]
    found = Classifier(exported.folder).probabilities(texts)
    equal = (found.argmax(1) == expected.argmax(1)).mean()
    return [
        f"{equal:.2%} of the labels of {len(texts)} texts are equal, "
        f"largest difference of probabilities {np.abs(found - expected).max():.1e}"
    ]


def _embedding(name: str, exported: Exported, files: list[str]) -> list[str]:
    texts = _texts(files) or run_data(exported.task, name, "validation")["text"][:MOST]
    model, tokenizer, reading = load_sentence_encoder(name)
    expected = text_embedder(model, tokenizer, reading, 4096)(texts, "texts")
    found = Embedder(exported.folder).embed(texts)
    least = cosines(found, expected).min()
    return [
        f"the cosines of the vectors of {len(texts)} texts with those of torch are {least:.5f} or more, "
        f"largest difference of a number {np.abs(found - expected).max():.1e}"
    ]


def _recognition(name: str, exported: Exported, files: list[str]) -> list[str]:
    from seqdyconv.speech.audio import read_audio
    from seqdyconv.speech.recogniser import load_recogniser

    recogniser, runtime = load_recogniser(name), Recogniser(exported.folder)
    if (milliseconds := exported.settings.get("lookahead_ms")) is not None:
        recogniser.set_lookahead(milliseconds)
    if files:
        recordings = [read_audio(file, runtime.sampling_rate) for file in files[:MOST]]
    else:
        table = speech_recognition.Samples(run_data(exported.task, name, "validation"))
        recordings = [table[row] for row in range(min(MOST, len(table.lengths)))]
    equal, difference = [], 0.0
    for samples in recordings:
        with torch.no_grad():
            inputs = recogniser.inputs([samples])
            expected: Any = recogniser.model(**inputs).logits[0].numpy()
        found = runtime.logits([samples.numpy()])[0]
        difference = max(difference, float(np.abs(found - expected[: len(found)]).max()))
        equal.append(runtime.transcribe([samples.numpy()], segment_seconds=600) == recogniser.recognise(inputs))
    return [
        f"{np.mean(equal):.2%} of {len(recordings)} transcripts are equal, "
        f"largest difference of logits {difference:.1e}"
    ]


def _texts(files: list[str]) -> list[str]:
    """The lines of text files that are not empty; where there are files, at least one."""
    lines = [strip_text(line) for file in files for line in decode_lines(open_lines(file), file)]
    texts = [line for line in lines if line][:MOST]
    if files and not texts:
        raise ExportError(f"there is no text to check by in {', '.join(files)}")
    return texts


def run_data(task: str, name: str, split: str) -> Any:
    """The rows of a split of the data of the run that trained a model.

    Raises:
        ExportError: the model is of no run of ours.
    """
    module, load = _DATA[task]
    kind: Any = module.DataArguments
    given = run_arguments(name, [item.name for item in dataclasses.fields(kind) if item.name != "tokenizer_name"])
    if not given:
        raise ExportError(f"{name} is of no run whose data are known: give check_files")
    loaded: Any = load(kind(**given), (split,))
    return (loaded[0] if isinstance(loaded, tuple) else loaded)[split]
