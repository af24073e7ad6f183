"""What a sentence encoder is worth on tasks without a training: retrieval, clusters and nearest neighbours."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
from datasets import DatasetDict
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from seqdyconv.data.retrieval import Retrieval, help_retrieval, read_retrieval
from seqdyconv.data.sentence_embedding import rows_of, split_rows
from seqdyconv.data.tables import DataError
from seqdyconv.data.text_classification import DataArguments, load_classification_datasets
from seqdyconv.ranges import Count, Options
from seqdyconv.scores.sentence_embedding import bm25, clusters, neighbours, retrieval, unit
from seqdyconv.training.sentence_embedding import Teacher
from seqdyconv.training.sentence_encoders import Reading, embed_rows, reading_of

HELP = {"sections": False, "pages": True}
"""The retrievals of the LibreOffice help, and whether they look for whole pages."""

Embed = Callable[[list[str], str], npt.NDArray[Any]]
"""Texts and what they are, for a progress bar → (N, D)."""


@dataclass
class TaskArguments(Options):
    """On what encoders are compared, beside pairs of texts."""

    retrieval: list[str] = field(
        default_factory=list,
        metadata={
            "help": "sections or pages of the LibreOffice help, asked by their headings; or tables with the columns "
            "query and text."
        },
    )
    labelled_datasets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Labelled texts for clusters and nearest neighbours: r8, r52, 20ng, movie_reviews, Hub names."
        },
    )
    max_labelled_samples: Count | None = field(
        default=None, metadata={"help": "Use only N training and N test texts of each."}
    )
    evaluate_teacher: bool = field(
        default=True, metadata={"help": "Measure the teacher on all of that too, and BM25 on retrieval."}
    )


@dataclass(frozen=True)
class Tasks:
    """What is measured, loaded."""

    retrievals: dict[str, Retrieval]
    labelled: dict[str, DatasetDict]


def load_tasks(args: TaskArguments, language: str) -> Tasks:
    """Load what the arguments name.

    Raises:
        DataError: something is missing or malformed, or two names are equal as parts of names of metrics.
    """
    for names in (args.retrieval, args.labelled_datasets):
        _check_names(names)
    retrievals = {}
    for name in args.retrieval:
        if name in HELP:
            retrievals[name] = help_retrieval(language, whole_pages=HELP[name])
        else:
            retrievals[_short(name)] = read_retrieval(name)
        if not retrievals[_short(name)].queries:
            raise DataError(f"there are no queries in {name}")
    labelled = {}
    for name in args.labelled_datasets:
        most = args.max_labelled_samples
        given = DataArguments(
            dataset=name, validation_split=None, validation_fraction=0, max_train_samples=most, max_test_samples=most
        )
        labelled[_short(name)] = load_classification_datasets(given, ("train", "test"))
        if "test" not in labelled[_short(name)]:
            raise DataError(f"the labelled texts {name} have no test split")
    return Tasks(retrievals, labelled)


def text_embedder(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading,
    max_tokens: int,
    *,
    window: int | None = None,
) -> Embed:
    """What gives a model's vectors of texts.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        reading: How the vector of a text comes about; a longer text is cut.
        max_tokens: Of a batch.
        window: Read a text in windows of so many tokens, and give the mean of their vectors.
    """

    def embed(texts: list[str], what: str) -> npt.NDArray[Any]:
        rows = rows_of(texts, tokenizer, reading.max_length)
        if window is not None:
            rows = split_rows(rows, tokenizer, window)
        with tqdm(total=len(rows), desc=f"Embedding {what}") as bar:
            return embed_rows(model, tokenizer, rows, reading, max_tokens, bar.update)

    return embed


def teacher_embedder(teacher: Teacher, max_length: int, max_tokens: int, *, windows: bool = False) -> Embed:
    """What gives a teacher's vectors of texts of up to ``max_length`` tokens: of what it reads at once, or of all."""
    reading = replace(teacher.reading, max_length=max_length if windows else min(teacher.most, max_length))
    window = teacher.most if windows else None
    return text_embedder(teacher.model, teacher.tokenizer, reading, max_tokens, window=window)


def measure(tasks: Tasks, embed: Embed) -> dict[str, float]:
    """All scores of an encoder, by task and score: sections_ndcg_at_10, r52_v_measure, r52_neighbour_accuracy ..."""
    metrics: dict[str, float] = {}
    for name, task in tasks.retrievals.items():
        queries, texts = embed(task.queries, f"queries of {name}"), embed(task.texts, f"texts of {name}")
        found = retrieval(unit(queries) @ unit(texts).T, task.right)
        metrics |= {f"{name}_{score}": value for score, value in found.items()}
    for name, splits in tasks.labelled.items():
        vectors = {split: embed(table["text"][:], f"{name}, {split}") for split, table in splits.items()}
        labels = {split: table["label"][:] for split, table in splits.items()}
        found = clusters(vectors["test"], labels["test"])
        found |= neighbours(vectors["train"], labels["train"], vectors["test"], labels["test"])
        metrics |= {f"{name}_{score}": value for score, value in found.items()}
    return metrics


def compare(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    teacher: Teacher | None,
    tasks: Tasks,
    max_tokens: int,
) -> dict[str, float]:
    """All scores of a model as test_..., those of its teacher as teacher_..., and what is kept of these as kept_...

    A teacher cuts texts that are longer than it reads at once; where the model reads more, teacher_windows_... is the
    mean of all windows' vectors. BM25 is bm25_...

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        teacher: None: it and BM25 are left out.
        tasks: See :func:`load_tasks`.
        max_tokens: Of a batch.
    """
    reading = reading_of(model)
    own = measure(tasks, text_embedder(model, tokenizer, reading, max_tokens))
    found = {"test": own}
    if teacher is not None:
        found["teacher"] = measure(tasks, teacher_embedder(teacher, reading.max_length, max_tokens))
        found["kept"] = _shares(own, found["teacher"])
        if reading.max_length > teacher.most:
            whole = teacher_embedder(teacher, reading.max_length, max_tokens, windows=True)
            found["teacher_windows"] = measure(Tasks(tasks.retrievals, {}), whole)
        found["bm25"] = {
            f"{name}_{score}": value
            for name, task in tasks.retrievals.items()
            for score, value in retrieval(bm25(task.queries, task.texts), task.right).items()
        }
    return {f"{prefix}_{name}": value for prefix, scores in found.items() for name, value in scores.items()}


def describe(tasks: Tasks) -> dict[str, int]:
    """The sizes of the tasks."""
    sizes = {f"{name}_queries": len(task.queries) for name, task in tasks.retrievals.items()}
    sizes |= {f"{name}_texts": len(task.texts) for name, task in tasks.retrievals.items()}
    return sizes | {f"{name}_test_texts": len(splits["test"]) for name, splits in tasks.labelled.items()}


def _check_names(names: list[str]) -> None:
    """Raise DataError where two tasks would have metrics of the same names."""
    given: dict[str, str] = {}
    for name in names:
        if _short(name) in given:
            raise DataError(f"{given[_short(name)]} and {name} are both {_short(name)} in the metrics: rename one")
        given[_short(name)] = name


def _short(name: str) -> str:
    """A data set's name, or the file's or folder's, as a part of the names of metrics."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.rsplit("/", 1)[-1].split(".")[0])


def _shares(own: dict[str, float], teacher: dict[str, float]) -> dict[str, float]:
    """How much of each of the teacher's scores is kept, in percent; not of the ends of intervals."""
    scores = [name for name in own if not name.endswith(("_low", "_high"))]
    return {name: 100 * own[name] / max(teacher[name], 1e-9) for name in scores}
