import os

import pytest
from datasets import DatasetDict

from seqdyconv.training.packages import PackageUnavailableError


@pytest.fixture(scope="session")
def libreoffice_help() -> DatasetDict:
    """The German-English LibreOffice help, fetched once; skips where that is impossible, but fails in CI."""
    from libreoffice_help import load_libreoffice_help

    try:
        return load_libreoffice_help("de", "en")
    except PackageUnavailableError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
