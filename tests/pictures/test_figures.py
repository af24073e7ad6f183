"""What all pictures share: they need matplotlib only where one is drawn, and are written whole or not at all."""

import ast
import sys
from pathlib import Path

import pytest

import seqdyconv.pictures
from seqdyconv.errors import InputError
from seqdyconv.pictures import plot_comparison
from seqdyconv.pictures.figures import new_figure, save

FILES = sorted(Path(seqdyconv.pictures.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_importing_pictures_needs_neither_matplotlib_nor_torchaudio(file):
    imports = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in imports if node.module.startswith(("matplotlib", "seqdyconv.speech"))]


def test_every_picture_is_public():
    modules = [sys.modules[f"seqdyconv.pictures.{file.stem}"] for file in FILES if file.stem != "__init__"]
    drawn = {name for module in modules for name in dir(module) if name.startswith("plot_")}
    assert seqdyconv.pictures.__all__ == sorted(drawn)


def test_a_picture_that_fails_leaves_the_file_before_it(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("before")
    figure = new_figure(path)
    figure.savefig = None
    with pytest.raises(TypeError):
        save(figure, path)
    assert path.read_text() == "before"


def test_a_path_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"path must end in one of .*\.png, .*, got '.*a\.doc'"):
        new_figure(tmp_path / "a.doc")
    with pytest.raises(InputError, match="path must be in a folder that exists"):
        new_figure(tmp_path / "none" / "a.png")


def test_names_of_variants_are_drawn_as_they_are(tmp_path):
    plot_comparison({"$x^$": [1.0, 2.0]}, tmp_path / "comparison.png", "a $x^$", "$x^$", None, {"$x^$": [1.0]}, "$x^$")
    assert (tmp_path / "comparison.png").is_file()
