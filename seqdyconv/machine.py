"""What computes, in words, for whoever reads a measurement later."""

import platform
from pathlib import Path


def processor() -> str:
    """The name of this machine's processor, as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
