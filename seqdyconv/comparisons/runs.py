"""The runs of a comparison: trials and finals as processes of the recipe's train.py, some of them side by side."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from seqdyconv.comparisons.plan import EVALUATION, PLACES, ComparisonArguments, Job, Settings, file_name
from seqdyconv.comparisons.results import read_result
from seqdyconv.files import shorten, write_text
from seqdyconv.scores.directions import is_lower_better
from seqdyconv.training.arguments import ArgumentsError, read_yaml
from seqdyconv.training.checkpoints import checkpoints
from seqdyconv.training.output_dir import RUN_FILE
from seqdyconv.training.records import RECORD

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

WAIT = 0.1  # seconds between looks at the processes
END_WITH_THE_PARENT = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
"""Before a command: it ends with the process that began it, be that killed; of Linux."""


class Runner:
    """Runs jobs, and keeps a file of results for each; what has a record already is not run again.

    Args:
        args: The comparison.
        recipe: The folder of the recipe.

    Raises:
        ArgumentsError: There is no such recipe or configuration.
    """

    def __init__(self, args: ComparisonArguments, recipe: Path) -> None:
        self.args = args
        recipe = recipe.resolve()
        if recipe.is_relative_to(Path.cwd()):  # the commands in the records are for other machines too
            recipe = recipe.relative_to(Path.cwd())
        self.script = recipe / "train.py"
        self.config = recipe / "configs" / Path(args.config).name
        for file in (self.script, self.config):
            if not file.is_file():
                raise ArgumentsError(f"there is no {file}, which recipe and config name")
        given = Path(args.config)
        if given.name != args.config and given.is_file() and not given.samefile(self.config):
            raise ArgumentsError(f"config must name one of {self.config.parent}, which {given} is not")
        self.base = read_yaml(self.config)
        self.folder = Path(args.output_dir)
        self.results = Path(args.results_dir or self.folder / "results")
        self._started = time.monotonic()

    def folder_of(self, job: Job) -> Path:
        """The output_dir of its run."""
        return self.folder / "runs" / job.name

    def run(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Run those that have no result yet, and give the results of all that have one."""
        self.check(jobs)
        waiting = iter([job for job in jobs if not self.has_ended(job)])
        running: dict[Job, subprocess.Popen[bytes]] = {}
        with tqdm(total=len(jobs), unit="run") as bar:
            for job in jobs:
                if self.has_ended(job):
                    if (self.folder_of(job) / RECORD).is_file():
                        self.keep(job)
                    bar.update()
            try:
                while True:
                    while len(running) < self.args.parallel and (begun := self._next(waiting)) is not None:
                        running[begun] = self._start(begun)
                    if not running:
                        break
                    time.sleep(WAIT)
                    for ended in [job for job, process in running.items() if process.poll() is not None]:
                        bar.write(self._end(ended, running.pop(ended).returncode))
                        bar.update()
            finally:  # Ctrl-C reaches the runs too, which keep what they have
                for process in running.values():
                    process.terminate()
                for process in running.values():
                    process.wait()
        return [result for job in jobs if (result := self.result_of(job)) is not None]

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse to mix runs of one name with other settings.

        Raises:
            ArgumentsError: output_dir has such a run.
        """
        for job in jobs:
            file = self._file_of(job)
            if file.is_file() and _without_places(read_result(file)) != self._asked(job):
                raise ArgumentsError(
                    f"the run {job.name} in {self.folder} was begun with other settings or another "
                    f"{self.config.name}: choose another output_dir, or remove {file}, and it runs anew"
                )

    def has_ended(self, job: Job) -> bool:
        """Whether its run has come to a record; of a trial the one among the results is enough."""
        if (self.folder_of(job) / RECORD).is_file() and self._file_of(job).is_file():
            return True
        kept = self.result_of(job) if job.point is not None else None
        return kept is not None and "metrics" in kept and _without_places(kept.get("asked")) == self._asked(job)

    def result_of(self, job: Job) -> dict[str, Any] | None:
        """What is kept of a run."""
        file = self._result_file(job)
        return read_result(file) if file.is_file() else None

    def keep(self, job: Job, failure: str | None = None) -> dict[str, Any]:
        """Keep the record of a run, or why it failed, among the results."""
        result: dict[str, Any] = {"variant": job.variant, "seed": job.seed, "asked": self._asked(job)}
        if job.point is not None:
            result["point"] = dict(job.point)
        if job.model is not None:
            result["evaluated"] = job.model.name
        if failure is None:
            result |= read_result(self.folder_of(job) / RECORD)
        else:
            result["failed"] = failure
        self.results.mkdir(parents=True, exist_ok=True)
        write_text(self._result_file(job), json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        return result

    def _next(self, waiting: Iterator[Job]) -> Job | None:
        if self.args.hours is not None and time.monotonic() - self._started > 3600 * self.args.hours:
            return None
        return next(waiting, None)

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        folder = self.folder_of(job)
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = [str(self.script), str(self.config), "--output_dir", str(folder)]
        if job.model:
            words = [
                str(self.script.with_name("evaluate.py")),
                str(self.folder_of(job.model)),
                "--evaluation_dir",
                str(folder),
            ]
        elif folder.is_dir() and any(folder.iterdir()):
            goes_on = self._file_of(job).is_file() and (folder / RUN_FILE).is_file()
            words += ["--resume" if goes_on else "--overwrite", "true"]
        words += words_of(job.arguments)
        share = max(1, (os.cpu_count() or 1) // self.args.parallel)
        environment = {"OMP_NUM_THREADS": str(share), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        with open(_log_of(folder), "ab") as log:
            try:
                if fcntl is not None:  # the run has the lock with its log, as long as it runs
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArgumentsError(
                    f"the run {job.name} in {self.folder} is going on, begun by another comparison: wait for it, or "
                    "end it"
                ) from None
            write_text(self._file_of(job), json.dumps(self._asked(job), indent=1) + "\n")
            return subprocess.Popen(
                [*END_WITH_THE_PARENT, sys.executable, *words], stdout=log, stderr=log, env=environment
            )

    def _end(self, job: Job, status: int) -> str:
        """Keep what a run has come to; returns a line about it."""
        folder = self.folder_of(job)
        if status or not self.has_ended(job):
            lines = _log_of(folder).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            failure = f"ended by signal {-status}" if status < 0 or not lines else shorten(lines[-1], 300)
            self.keep(job, failure)
            return f"{job.name} failed: {failure}"
        metrics = self.keep(job)["metrics"]
        for checkpoint in checkpoints(folder):
            shutil.rmtree(checkpoint)
        name = self.args.search_metric if job.point is not None else next(iter(self.args.metrics))
        value = metrics.get(name.removeprefix(EVALUATION), float("nan"))
        return f"{job.name}{_shown(job.point)}: {name} {value:.4g}, {metrics.get('wall_seconds', 0) / 60:.0f} min"

    def _asked(self, job: Job) -> dict[str, Any]:
        """All that decides what a run comes to, as JSON has it."""
        own = {"model": self._asked(job.model)} if job.model else self.base
        asked: dict[str, Any] = json.loads(json.dumps({**_without_places(own), **job.arguments}))
        return asked

    def _file_of(self, job: Job) -> Path:
        folder = self.folder_of(job)
        return folder.with_name(f"{folder.name}.job.json")

    def _result_file(self, job: Job) -> Path:
        return self.results / f"{file_name(job.name)}.json"


def choose(
    args: ComparisonArguments, results: Sequence[dict[str, Any]], warn: Callable[[str], None]
) -> dict[str, Settings]:
    """For each variant the point whose trial was best, the first of equal ones; empty settings without a search.

    Raises:
        ArgumentsError: A variant has no trial that ended well, or not all were run.
    """
    if not args.points():
        return {variant: {} for variant in args.variants}
    sign = 1 if is_lower_better(args.search_metric) else -1
    chosen: dict[str, Settings] = {}
    for variant in args.variants:
        own = [result for result in results if result["variant"] == variant]
        ended = [result for result in own if args.search_metric in result.get("metrics", ())]
        if len(own) < len(args.points()) or not ended:
            raise ArgumentsError(f"{variant} has {len(ended)} good trials of {len(own)}: no settings can be chosen yet")
        chosen[variant] = min(ended, key=lambda result: sign * result["metrics"][args.search_metric])["point"]
        for name in on_the_edge(args, chosen[variant]):
            warn(f"{variant}: the best {name}, {chosen[variant][name]}, is at the end of what was tried")
    return chosen


def on_the_edge(args: ComparisonArguments, point: Settings) -> list[str]:
    """The numbers of a point that are the least or the largest of those that were tried: more may be better still."""
    edges = []
    for name, values in args.search_space.items():
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) > 2 and point[name] in (min(numbers), max(numbers)):
            edges.append(name)
    return edges


def words_of(settings: Settings) -> list[str]:
    """Settings as words of a command line.

    Example:
        >>> words_of({"kernel_sizes": [3, [7, 31]], "options": [None, {"dilation": 2}]})
        ['--kernel_sizes', '3', '[7, 31]', '--options', '[null, {"dilation": 2}]']
    """
    return [word for name, value in settings.items() for word in (f"--{name}", *_words(value))]


def _words(value: Any) -> list[str]:
    """A setting as words of a command line."""
    if isinstance(value, list) and not any(isinstance(item, dict) or item is None for item in value):
        return [json.dumps(item) if isinstance(item, list) else str(item) for item in value]
    if isinstance(value, (list, dict)):
        return [json.dumps(value)]
    return ["null" if value is None else str(value)]


def _without_places(asked: Any) -> Any:
    """What was asked of a run, without what a configuration says of its place, which a comparison decides on."""
    if not isinstance(asked, dict):
        return asked
    kept = {name: value for name, value in asked.items() if name not in PLACES}
    return kept | {"model": _without_places(kept["model"])} if "model" in kept else kept


def _shown(point: Settings | None) -> str:
    return "" if point is None else f" ({', '.join(f'{name} {value}' for name, value in point.items())})"


def _log_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")
