"""OpenMP's threads sleep while they wait, unless the user or an earlier import of torch has decided."""

import os
import re
import subprocess
import sys

import pytest

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def new_process(code: str, **chosen: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**environment, **chosen}, capture_output=True, text=True, check=True)


def spins(code: str) -> int:
    """How often OpenMP's threads look for work before they sleep, as it says itself when it starts."""
    return int(re.search(r"GOMP_SPINCOUNT = '(\d+)'", new_process(code, OMP_DISPLAY_ENV="verbose").stderr)[1])


def test_waiting_threads_sleep():
    assert spins("import seqdyconv, torch") == 5000


def test_where_torch_has_started_nothing_is_changed():
    code = "import os, torch, seqdyconv; assert 'GOMP_SPINCOUNT' not in os.environ"
    assert spins(code) > 100_000


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}], ids=str)
def test_the_user_decides(chosen):
    code = f"import os, seqdyconv; print({{name: os.environ[name] for name in {WAITING} if name in os.environ}})"
    assert new_process(code, **chosen).stdout.strip() == str(chosen)
