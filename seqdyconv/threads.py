"""How torch's threads wait for each other."""

import os
import sys

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What users set to choose it themselves."""

SPINS = "5000"
"""So often a thread looks for work before it sleeps. Measured on two cores, with a training step of 0.9 s: 5,000 is
as fast as no sleep on an idle machine, where sleep at once (``OMP_WAIT_POLICY=PASSIVE``) takes half as long again;
beside a busy process all of these take 1.5 to 2 s, and no sleep several times that."""


def let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads sleep when they wait for long, unless the environment says how they should.

    They spin by default, which beside another busy process makes a training step several times slower. OpenMP reads the
    environment once, as torch is imported; after that nothing is changed.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS
