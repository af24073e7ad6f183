"""Ctrl-C while a program still imports what it needs: no traceback, status 130, as later."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import seqdyconv.commands.main

ROOT = Path(__file__).parents[1]
PROGRAMS = [*sorted((ROOT / "recipes").glob("*/*.py")), Path(seqdyconv.commands.main.__file__)]


@pytest.mark.parametrize("error, status, told", [("KeyboardInterrupt", 130, False), ("ValueError", 1, True)])
def test_an_interrupt_is_quiet_and_nothing_else(error, status, told):
    code = f"import seqdyconv.interrupts; raise {error}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == status and ("Traceback" in run.stderr) == told


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: "/".join(path.parts[-2:]))
def test_programs_begin_with_it(path):
    imported = re.findall(r"^(?:from|import) (\S+)", path.read_text(), re.M)
    slow = [name for name in imported if name.split(".")[0] not in sys.stdlib_module_names]
    assert slow[0] == "seqdyconv.interrupts"
