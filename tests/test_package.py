"""What is built from the repository is complete: the source distribution, the wheel, and what the wheel installs."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import seqdyconv

ROOT = Path(__file__).parents[1]

EVERY_MODULE = """
import importlib, pkgutil, seqdyconv
for module in pkgutil.walk_packages(seqdyconv.__path__, "seqdyconv."):
    importlib.import_module(module.name)
    print(module.name)
print(seqdyconv.__file__)
print(seqdyconv.__version__)
"""

ONE_OF_EACH = """
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel
import seqdyconv.models
from seqdyconv.swap import swap_self_attention

layer = seqdyconv.DynamicConv1d(channels=8, kernel_size=3, num_heads=2)
print(*layer(torch.randn(2, 5, 8)).shape)
config = seqdyconv.models.SeqDyConvConfig(vocab_size=9, hidden_size=8, encoder_layers=1, num_labels=3)
print(*AutoModelForSequenceClassification.from_config(config)(torch.ones(2, 5, dtype=torch.long)).logits.shape)
bert = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
swap_self_attention(bert, mixer="dynamic_conv", kernel_size=3)
print(*bert(torch.ones(2, 5, dtype=torch.long)).last_hidden_state.shape)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command writes to standard output; neither the repository nor PYTHONPATH lends it a module."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def files() -> set[str]:
    """The repository's files."""
    if not (ROOT / ".git").exists():
        pytest.skip("a distribution is built from a git checkout")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(files: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution of a fresh checkout, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("build")
    for name in files:
        (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "checkout" / name).write_bytes((ROOT / name).read_bytes())
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist")
    run(*build, folder / "checkout", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel; all else comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    (site,) = folder.glob("lib/python*/site-packages")
    # A path from a .pth file comes last, and the .pth files inside it, such as an editable install's, do not count.
    (site / "outer.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    (wheel,) = built.glob("*.whl")
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*install, "--ignore-installed", wheel, cwd=folder)
    return folder / "bin"


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in (ROOT / "seqdyconv").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_source_distribution_is_the_repository(files: set[str], built: Path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert files - held == {".gitignore"}


def test_the_wheel_is_the_package(files: set[str], built: Path):
    (archive,) = built.glob("*.whl")
    held = {name for name in zipfile.ZipFile(archive).namelist() if ".dist-info/" not in name}
    assert "seqdyconv/py.typed" in held
    assert held == {name for name in files if name.startswith("seqdyconv/")}


def test_an_installed_wheel_imports_and_runs(files: set[str], installed: Path):
    words = (installed / "python", "-c", EVERY_MODULE + ONE_OF_EACH)
    *imported, place, version, layer, model, swap = run(*words, cwd=installed).splitlines()
    assert Path(place).is_relative_to(installed.parent) and version == seqdyconv.__version__
    modules = [name.removesuffix(".py").removesuffix("/__init__") for name in files if name.endswith(".py")]
    assert set(imported) == {name.replace("/", ".") for name in modules if name.startswith("seqdyconv/")}
    assert (layer, model, swap) == ("2 5 8", "2 3", "2 5 8")


def test_an_installed_wheel_brings_the_command(installed: Path):
    assert run(installed / "seqdyconv", "--help", cwd=installed).startswith("usage: seqdyconv COMMAND ...")
