"""The installed command: it finds the module of each word, and says in one line what it can't do."""

import subprocess
import sys

import pytest

import seqdyconv
from seqdyconv.commands import main as dispatcher
from seqdyconv.commands.main import COMMANDS, Command, load, main


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/seqdyconv"])


def error_line(words: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_help_names_every_command_and_imports_none():
    code = (
        "import sys; from seqdyconv.commands.main import main; main(['--help']);"
        "assert not any(name in sys.modules for name in ('torch', 'transformers', 'numpy'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, command in COMMANDS.items():
        assert f"  {name} " in run.stdout
        assert command.summary in run.stdout


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"seqdyconv {seqdyconv.__version__}\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (["inof"], "unknown command 'inof', did you mean info?"),
        (["nonsense"], f"unknown command 'nonsense': choose one of {', '.join(COMMANDS)}"),
        ([], f"the command is missing: choose one of {', '.join(COMMANDS)}"),
    ],
)
def test_what_is_no_command(words, message, capsys):
    assert error_line(words, capsys) == f"seqdyconv: error: {message}"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: seqdyconv {name} ")
    assert "(default: " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_names_itself_in_errors(name, capsys):
    line = error_line([name, "/no/such/folder", "--nonsense", "1"], capsys)
    assert line.startswith(f"seqdyconv {name}: error: unknown option --nonsense")


def test_a_missing_extra_is_named(monkeypatch, capsys):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

    monkeypatch.setattr(dispatcher, "import_module", import_module)
    monkeypatch.setitem(COMMANDS, "classify", Command("classify", "...", "recipes"))
    line = error_line(["classify", "DIR"], capsys)
    assert line == "seqdyconv classify: error: No module named 'datasets': pip install 'seqdyconv[recipes]'"


def test_a_fault_of_our_own_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError, match=r"seqdyconv\.commands\.nowhere"):
        load(Command("nowhere", "...", "recipes"))
