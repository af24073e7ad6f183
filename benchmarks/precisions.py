"""Trained models without torch, in every precision: scores on the test set, size, start-up, memory:

    python -m benchmarks.precisions outputs/translation_quickstart outputs/text_classification_quickstart ...

Each folder is one that a recipe has written. Its model is exported and scored on the test data of its run by
``seqdyconv.runtime``: BLEU of translations (4 beams), accuracy of labels, error rate of characters of transcripts, how
far cosines of texts that follow each other agree with those of torch (Spearman's correlation, times 100).
Start-up is the time from the start of Python to the first answer, memory the most that this process takes (on Linux).
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqdyconv.data.speech_recognition import Samples
from seqdyconv.deploy.checking import run_data
from seqdyconv.deploy.exporting import export_model
from seqdyconv.deploy.precision import PRECISIONS
from seqdyconv.runtime.classifier import Classifier
from seqdyconv.runtime.embedder import Embedder
from seqdyconv.runtime.recogniser import Recogniser
from seqdyconv.runtime.translator import Translator
from seqdyconv.scores import speech_recognition
from seqdyconv.scores.sentence_embedding import agreement, cosines
from seqdyconv.scores.translation import bleu_metric
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.sentence_encoders import load_sentence_encoder
from seqdyconv.training.sentence_evaluation import text_embedder

import numpy as np


def translations(folder: Path, name: str) -> float:
    data = run_data("translation", name, "test")
    found = Translator(folder).translate(data["source"][:], 4)
    options = run_arguments(name, ("target_lang", "bleu_tokenizer"))
    return bleu_metric(**options).corpus_score(found, [data["target"][:]]).score


def labels(folder: Path, name: str) -> float:
    data, classifier = run_data("classification", name, "test"), Classifier(folder)
    names = data.features["label"].names
    expected = np.array([classifier.labels.index(names[label]) for label in data["label"][:]])
    columns = [data[column][:] for column in ("text", "text_pair") if column in data.column_names]
    texts = list(zip(*columns)) if len(columns) > 1 else columns[0]
    return 100 * float((classifier.probabilities(texts).argmax(1) == expected).mean())


def transcripts(folder: Path, name: str) -> float:
    data = run_data("recognition", name, "test")
    samples = Samples(data)
    found = Recogniser(folder).transcribe([samples[row].numpy() for row in range(len(data))], segment_seconds=600)
    return speech_recognition.score(found, data["text"][:])["cer"]


def agreements(folder: Path, name: str) -> float:
    texts = run_data("embedding", name, "test")["text"][:1000]
    theirs = text_embedder(*load_sentence_encoder(name), max_tokens=4096)(texts, "texts")
    ours = Embedder(folder).embed(texts)
    return agreement(cosines(ours[1:], ours[:-1]), cosines(theirs[1:], theirs[:-1]))["spearman"]


# Of each task: how it is scored, and what a first answer takes.
TASKS: dict[str, tuple[str, Callable[[Path, str], float], str]] = {
    "translation": ("BLEU", translations, "Translator({folder!r}).translate(['Klicken Sie auf das Symbol.'])"),
    "classification": ("accuracy", labels, "Classifier({folder!r}).classify(['wheat exports rose'])"),
    "embedding": ("Spearman", agreements, "Embedder({folder!r}).embed(['Where is my file?'])"),
    "recognition": ("CER", transcripts, "Recogniser({folder!r}).transcribe([numpy.zeros(16000, 'f')])"),
}
START = "import numpy; from seqdyconv.runtime import *; {call}; print(open('/proc/self/status').read())"


def first_answer(call: str) -> tuple[float, float]:
    """Seconds, and megabytes at most, the least of three."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", START.format(call=call)], capture_output=True, text=True, check=True
        )
        found.append((time.perf_counter() - start, int(re.findall(r"VmHWM:\s+(\d+)", run.stdout)[0]) / 1024))
    return min(found)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="of trained models")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--output", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    lines = ["| model | precision | score | size | start-up | memory |", "|---|---|--:|--:|--:|--:|"]
    print("\n".join(lines), flush=True)
    for name in options.folders:
        for precision in options.precisions:
            lines.append(row(name, precision))
            print(lines[-1], flush=True)
    if options.output is not None:
        options.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


def row(name: str, precision: str) -> str:
    with tempfile.TemporaryDirectory() as root:
        exported: Any = export_model(name, Path(root, "exported"), precision)
        unit, score, call = TASKS[exported.task]
        found = score(exported.folder, name)
        seconds, memory = first_answer(call.format(folder=str(exported.folder)))
        size = sum((exported.folder / file).stat().st_size for file in exported.graphs.values()) / 1e6
    return (
        f"| {Path(name).name} | {precision} | {found:.2f} {unit} | {size:.1f} MB | {seconds:.2f} s | {memory:.0f} MB |"
    )


if __name__ == "__main__":
    main()
