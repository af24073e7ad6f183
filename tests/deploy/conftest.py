"""Tiny models of each kind, and what is exported of them."""

import pytest

from tests.commands.folders import write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder of tiny models, by kind."""
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    return root
