"""How the source is written: recipes that are read in one sitting, private names, formatting by hand, repetition."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PythonBackend

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "seqdyconv").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
DEMO = sorted((ROOT / "demo").rglob("*.py"))


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_recipes_are_small():
    assert sum(map(line_count, RECIPES)) <= 2600


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/train.py")), ids=lambda path: path.parent.name)
def test_a_training_script_is_read_in_one_sitting(path):
    assert line_count(path) <= 220


def test_nobody_imports_a_recipe():
    scripts = {path.stem for path in RECIPES}
    found = []
    # The tests of the recipes run them.
    files = PACKAGE + RECIPES + BENCHMARKS + DEMO + TESTS
    for path in [path for path in files if path.parent != ROOT / "tests/recipes"]:
        for node in ast.walk(parsed(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path}: {name}" for name in names if name.split(".")[0] in {"recipes", *scripts}]
    assert found == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_definitions(tree: ast.Module) -> set[str]:
    """The private names that a file defines, of modules, classes and objects."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return {name for name in names if is_private(name)}


def private_uses(tree: ast.Module) -> set[str]:
    """The private names that a file reads or imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
    return {name for name in names if is_private(name)}


def test_private_names_stay_in_their_files():
    trees = {path: parsed(path) for path in PACKAGE + RECIPES + BENCHMARKS + DEMO + TESTS}
    defined = set().union(*(private_definitions(trees[path]) for path in PACKAGE + RECIPES + BENCHMARKS + DEMO))
    defined -= {*dir(PreTrainedModel), *dir(PythonBackend)}  # What classes of ours have to bring for these.
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in trees.items()
        for name in (private_uses(tree) & defined) - private_definitions(tree)
    }
    assert sorted(found) == []


def test_the_formatter_decides():
    skips = sum(path.read_text(encoding="utf-8").count("# fmt: " + "skip") for path in PACKAGE + RECIPES + TESTS)
    assert skips <= 30


def lists_names(node: ast.stmt) -> bool:
    """Whether a statement imports, or lists what a module offers."""
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )


def repeated(paths: list[Path], length: int) -> list[str]:
    """Where so many equal lines stand twice; indentation, blank lines and lists of names don't count."""
    places = defaultdict(list)
    for path in paths:
        left_out = {
            line for node in parsed(path).body if lists_names(node) for line in range(node.lineno, node.end_lineno + 1)
        }
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        kept = [(number, line.strip()) for number, line in lines if line.strip() and number not in left_out]
        for start in range(len(kept) - length + 1):
            window = kept[start : start + length]
            places["\n".join(line for _, line in window)].append(f"{path}:{window[0][0]}")
    return [" = ".join(found) for found in places.values() if len(found) > 1]


def test_nothing_is_written_twice():
    assert repeated(PACKAGE + RECIPES + DEMO, length=16) == []


def test_repetition_is_seen(tmp_path):
    lines = [f"number_{index} = {index}" for index in range(4)]
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("import os\n" + "\n".join(lines))
    other.write_text("if True:\n    " + "\n\n    ".join(lines))
    assert repeated([one, other], length=4) == [f"{one}:2 = {other}:2"]
    assert repeated([one, other], length=5) == []


def test_private_uses_are_seen():
    tree = ast.parse("from seqdyconv.files import _one\nother._two()\n\ndef _three(_four): return _four.__five")
    assert (private_uses(tree), private_definitions(tree)) == ({"_one", "_two", "_four"}, {"_three", "_four"})
