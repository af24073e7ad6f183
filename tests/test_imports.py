"""The floors of the package: each imports what stands below it, and the layers need torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seqdyconv

PACKAGE = Path(seqdyconv.__file__).parent
FLOORS = {"functional": 0, "layers": 1, "models": 2, "swap": 3, "speech": 3, "data": 3, "pictures": 4, "scores": 5}
FLOORS |= {"training": 6, "deploy": 7, "comparisons": 7, "commands": 8} | {"runtime": 0}
# What may be imported from the same floor: data reads audio files, a recogniser may be a swapped model.
BESIDE = {("data", "speech"), ("speech", "swap")}
# The package itself offers the layers and functions.
MODULES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imported_names(path: Path) -> set[str]:
    """The full names of the modules that a file imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE.parent / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(path.parts[: -node.level]) + "." if node.level else ""
            names.add(base + (node.module or ""))
            names |= {f"{base}{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_downward(path):
    floor = path.parts[1]
    assert floor in FLOORS, f"{floor} has no floor yet: add it to FLOORS"
    imported = {name.split(".")[1] for name in imported_names(path) if name.startswith("seqdyconv.")}
    beside = {floor, *(other for one, other in BESIDE if one == floor)}
    upward = {other for other in imported & FLOORS.keys() - beside if FLOORS[other] >= FLOORS[floor]}
    assert not upward, f"{path} imports from {', '.join(sorted(upward))}, which does not stand below {floor}"


def test_upward_imports_are_seen(tmp_path, monkeypatch):
    (tmp_path / "seqdyconv" / "layers").mkdir(parents=True)
    file = tmp_path / "seqdyconv" / "layers" / "wrong.py"
    file.write_text("def late():\n    from ..models import configuration\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "seqdyconv")
    assert "seqdyconv.models.configuration" in imported_names(file.relative_to(tmp_path))
    with pytest.raises(AssertionError, match="imports from models, which does not stand below layers"):
        test_imports_go_downward(file.relative_to(tmp_path))


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, and the last one the first; empty where there are none."""
    done: set[str] = set()

    def search(path: list[str]) -> list[str]:
        for name in sorted(imports[path[-1]]):
            if name in path:
                return path[path.index(name) :]
            if name not in done and (found := search([*path, name])):
                return found
        done.add(path[-1])
        return []

    return next((found for name in imports if name not in done and (found := search([name]))), [])


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Those of the modules that a file imports; where it takes a module out of a folder, not the folder's own."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE.parent / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & modules or {str(node.module)}
    return names & modules


def test_no_modules_import_each_other():
    paths = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")]
    names = {path: ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths}
    assert circle({names[path]: imported_modules(path, {*names.values()}) for path in paths}) == []


def test_circles_are_seen():
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d"]


def test_the_package_offers_layers_and_functions_only():
    names = [name.split(".") for name in imported_names(Path("seqdyconv/__init__.py"))]
    assert {name[1] for name in names if name[0] == "seqdyconv" and name[1:]} == {"functional", "layers", "threads"}


def newly_imported(before: str, code: str) -> set[str]:
    """The names of the packages, beside Python's own, that some code brings after some other has run."""
    code = (
        f"import sys; {before}; before = set(sys.modules); {code};"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(run.stdout.split()) - sys.stdlib_module_names


def test_importing_the_package_waits_for_nothing():
    assert newly_imported("pass", "import seqdyconv") == {"seqdyconv"}


def test_layers_and_functions_bring_torch_alone():
    assert newly_imported("import torch", "from seqdyconv import *") <= {"seqdyconv", "torch"}


def test_the_runtime_needs_no_torch():
    brought = newly_imported("pass", "from seqdyconv.runtime import *")
    assert brought <= {"seqdyconv", "numpy", "onnxruntime", "tokenizers"}


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'seqdyconv' has no attribute 'DynamicConv'"):
        seqdyconv.DynamicConv  # noqa: B018


def test_public_names():
    assert seqdyconv.__all__ == [
        "ConvMixer",
        "DeformableConv1d",
        "DeformableDepthwiseConv1d",
        "DynamicConv1d",
        "GatedShortConv",
        "KernelAttentionConv1d",
        "KernelAttentionConv2d",
        "LightweightConv1d",
        "MixedAttention",
        "ODConv1d",
        "ODConv2d",
        "ParallelMixer",
        "SelfAttention",
        "ShortConv1d",
        "SpanDynamicConv1d",
        "SpanDynamicConvMixer",
        "TaLKConv1d",
        "TimeFeatureDynamicConv",
        "TimeFeatureLightweightConv",
        "build_mixer",
        "deformable_conv1d",
        "deformable_depthwise_conv1d",
        "dynamic_conv1d",
        "dynamic_conv1d_step",
        "lightweight_conv1d",
        "lightweight_conv1d_step",
        "low_rank_conv1d",
        "low_rank_conv1d_step",
        "talk_conv1d",
        "talk_conv1d_step",
    ]
    assert all(hasattr(seqdyconv, name) for name in seqdyconv.__all__)
