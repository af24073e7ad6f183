"""How torch's threads wait for each other."""

import os
import sys

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What users set to choose it themselves."""


def let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait, unless the environment says how they should.

    They spin by default, which gains little on an idle machine, and beside another busy process makes a training step
    ten times slower and more. OpenMP reads the environment once, as torch is imported; after that nothing is changed.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
