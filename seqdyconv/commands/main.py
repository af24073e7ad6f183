"""The installed command: ``seqdyconv COMMAND ...``, where each command is a module beside this one.

A command's module is imported when it is asked for, so that help comes at once and each needs its own extras alone.
"""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import seqdyconv.interrupts  # Ctrl-C ends the imports quietly too


@dataclass(frozen=True)
class Command:
    """A command: the module with its ``main(argv)``, what it does in a line, and the extras that it needs.

    ``exported`` is the module that takes its place for a folder of an exported model, without torch.
    """

    module: str
    summary: str
    extras: str | None = None
    exported: str | None = None


COMMANDS = {
    "translate": Command("translate", "translate standard input, line by line", "recipes", "exported_translate"),
    "classify": Command(
        "classify",
        "label each line of standard input with a text classification model",
        "recipes",
        "exported_classify",
    ),
    "embed": Command(
        "embed", "give the vector of each line of standard input by a sentence encoder", "recipes", "exported_embed"
    ),
    "transcribe": Command(
        "transcribe",
        "write down what is said in audio files, as text, json or subtitles",
        "speech,recipes",
        "exported_transcribe",
    ),
    "stream": Command(
        "stream", "recognise speech while it is spoken, from a file or a pipe", "speech,recipes", "exported_stream"
    ),
    "plot-kernels": Command("plot_kernels", "draw the convolution kernels of a model's encoder for a text", "recipes"),
    "export": Command("export", "write a model as graphs in ONNX, which run without torch", "recipes,deploy"),
    "info": Command(
        "info", "what a model folder holds; without a folder: versions, backends, threads", exported="exported_info"
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        argv: The words after ``seqdyconv``; ``sys.argv[1:]`` if None.

    Raises:
        SystemExit: Status 2 and one line on standard error for bad input, or as the command says.
    """
    name, *words = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"seqdyconv {seqdyconv.__version__}")
    elif name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        what = f"unknown command {name!r}" if name else "the command is missing"
        fail(what + (f", did you mean {nearest[0]}?" if nearest else f": choose one of {', '.join(COMMANDS)}"))
    else:
        sys.argv = [f"seqdyconv {name}", *words]  # What usage and error lines call the program.
        load(for_folder(COMMANDS[name], words[0] if words else "")).main(words)


def usage() -> str:
    """The text of ``--help``."""
    width = max(map(len, COMMANDS)) + 2
    rows = [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: seqdyconv COMMAND ...",
            "",
            "Models of lightweight and dynamic convolutions, from folders or the Hub.",
            "",
            "commands:",
            *rows,
            "",
            "options:",
            f"  {'-h, --help':{width}}show this text; seqdyconv COMMAND --help has the options of a command",
            f"  {'--version':{width}}show the version",
        ]
    )


def for_folder(command: Command, folder: str) -> Command:
    """The command itself, or, where a folder is an exported one, what takes its place."""
    if command.exported is None or "\0" in folder or not Path(folder, "export.json").is_file():
        return command
    return Command(command.exported, command.summary, "deploy")


def load(command: Command) -> ModuleType:
    """A command's module; one line and exit status 2 where a package of its extras is missing."""
    try:
        return import_module(f"seqdyconv.commands.{command.module}")
    except ImportError as error:
        if (error.name or "").startswith("seqdyconv"):
            raise
        package = "seqdyconv" if command.extras is None else f"'seqdyconv[{command.extras}]'"
        fail(f"{' '.join(str(error).split())}: pip install {package}")


def fail(message: str) -> NoReturn:
    """One line on standard error, and exit status 2."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
