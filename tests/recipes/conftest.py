"""Fixtures of the recipes' tests."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def pictures_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainings of a test itself draw nothing: most of their time; those of its module's fixtures draw all."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: Path(path).touch())
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda self: None)
