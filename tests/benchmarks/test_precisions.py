"""The benchmark of precisions knows every task of the runtime."""

from benchmarks import precisions
from seqdyconv.runtime import __all__ as classes


def test_every_task_is_scored_and_starts():
    calls = [call.split("(")[0] for _, _, call in precisions.TASKS.values()]
    assert sorted(calls) == sorted(classes)
