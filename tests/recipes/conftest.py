import pytest
from datasets import DatasetDict

from tests.data.packaged import fetched


@pytest.fixture(scope="session")
def libreoffice_help() -> DatasetDict:
    """The German-English LibreOffice help."""
    from libreoffice_help import load_libreoffice_help

    return fetched(load_libreoffice_help, "de", "en")
