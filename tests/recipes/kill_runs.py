"""Kills runs of the recipes, resumes them, and compares what they end with to what undisturbed ones end with.

    python tests/recipes/kill_runs.py --recipe translation --kills 20

Half of the kills come at a file operation, which is one of the final model's in every second case, and half at any
moment; every fifth run is killed again while it is resumed. The weights must be equal bit for bit, and the metrics and
the log too, times aside. A line tells of each kill, the last ones how many of each recipe's were right; the exit
status is 1 if any was not.
"""

import argparse
import gc
import importlib.util
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import Trainer, TrainerState

from tests.crash_points import watch_operations
from tests.recipes import toys
from tests.recipes.commands import RECIPES, results


@dataclass
class Case:
    """A configuration of a recipe.

    words: The command's words but --output_dir, by the folder that its data are written to.
    moment: Of the one kill with --quick, which leaves the other cases out: see :func:`die_at`.
    processes: How many train together.
    """

    recipe: str
    name: str
    words: Callable[[Path], list[str]]
    moment: str | None = None
    processes: int = 1
    operations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.recipe}, {self.name}"


def translation(*more: str) -> Callable[[Path], list[str]]:
    small = ["--max_steps=5", "--save_steps=2", "--num_beams=1", "--max_validation_samples=3", "--max_test_samples=3"]
    return lambda data: [str(toys.write_translation_config(toys.write_translation_data(data))), *small, *more]


def classification(data: Path) -> list[str]:
    words = ["--packing", "--mix_lengths", "--load_best_model_at_end", "--metric_for_best_model=accuracy"]
    words += ["--save_total_limit=1", "--max_steps=7", "--eval_steps=2", "--save_steps=2", "--logging_steps=3"]
    return [str(toys.write_classification_config(toys.write_classification_data(data))), *words]


def distillation(data: Path) -> list[str]:
    bert = data / "bert"
    toys.write_tiny_bert(toys.write_classification_data(data), bert)
    return [str(toys.write_swap_config(data, bert)), "--max_steps=5", "--save_steps=2", "--eval_steps=4"]


def speech(**more: Any) -> Callable[[Path], list[str]]:
    saved = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "eval_strategy": "steps"}

    def words(data: Path) -> list[str]:
        toys.write_manifest(data / "eight.jsonl")
        return [str(data / "tiny.yaml"), *toys.words_of({**saved, "eval_steps": 2, **more})]

    return words


AUGMENTED = {"speed_factors": [0.9, 1.0, 1.1], "num_time_masks": 1, "time_mask_width": 5, "dropout": 0.1}
JOINT = {"head": "seq2seq", "decoder_kernel_sizes": [3], "max_label_length": 8}
PACKED = ("--packing", "--gradient_accumulation_steps=2")

CASES = [
    Case("translation", "averaged", translation("--logging_steps=3")),
    Case("translation", "packed", translation(*PACKED)),
    Case("text_classification", "best", classification),
    Case("text_classification", "distilled", distillation),
    Case("text_classification", "distilled on two processes", distillation, "rng_state_1.pth:4", processes=2),
    Case("speech_recognition", "augmented", speech(**AUGMENTED)),
    Case("speech_recognition", "joint", speech(**JOINT)),
]


def die_at(moment: str, output_dir: Path) -> None:
    """Have this process killed.

    Args:
        moment: "step:N"; "second:N"; "operation:N", before a file operation; or the name of a file of a checkpoint,
            such as "optimizer.pt:2": when half of its second copy is written.
        output_dir: Whose file operations count.
    """
    name, number = moment.split(":")
    left = float(number)

    def count() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def kill(path: Any = None) -> None:
        if path is not None:
            os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    training_step, save, save_to_json = Trainer.training_step, torch.save, TrainerState.save_to_json

    def dying_training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if count():
            kill()
        return training_step(self, *args, **kwargs)

    def dying_save(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        save(value, path, *args, **kwargs)
        if str(path).endswith(name) and count():
            kill(path)

    def dying_save_to_json(self: Any, path: str) -> None:
        save_to_json(self, path)
        if path.endswith(name) and count():
            kill(path)

    if name == "step":
        Trainer.training_step = dying_training_step
    elif name == "second":
        threading.Timer(left, kill).start()
    elif name == "operation":
        watch_operations(output_dir, lambda operation: count() and kill())
    else:
        torch.save, TrainerState.save_to_json = dying_save, dying_save_to_json


def run(case: Case, words: list[str], output_dir: Path, moment: str | None, rank: int, port: int) -> None:
    """Be one process of a run; never returns."""
    torch.set_num_threads(1)
    Figure.savefig = lambda self, path, **kwargs: Path(path).touch()  # Pictures would take most of the time.
    Figure.draw_without_rendering = lambda self: None
    script = str(RECIPES / case.recipe / "train.py")
    status = 1
    try:
        if case.processes > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case.processes))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        # The last process dies, the first one writes the checkpoints.
        if moment is not None and rank == (case.processes - 1 if moment.startswith(("step", "rng")) else 0):
            die_at(moment, output_dir)
        elif moment is None and rank == 0 and "--resume" not in words:
            log = os.open(output_dir.with_name("operations"), os.O_WRONLY | os.O_CREAT)
            watch_operations(output_dir, lambda operation: os.write(log, f"{operation}\n".encode()))
        sys.argv = [script, *words, f"--output_dir={output_dir}"]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def statuses(case: Case, words: list[str], output_dir: Path, moment: str | None = None) -> list[int]:
    """The exit statuses of the processes of a run; a killed one has -9."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    pids = []
    for rank in range(case.processes):
        if (pid := os.fork()) == 0:
            log = os.open(output_dir.with_name(f"{output_dir.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            run(case, words, output_dir, moment, rank, port)
        pids.append(pid)
    found: dict[int, int] = {}
    while len(found) < len(pids):
        pid, status = os.wait()
        found[pid] = os.waitstatus_to_exitcode(status)
        if found[pid] != 0:
            # As torchrun does: one that fails ends all.
            time.sleep(0.2)
            for other in set(pids) - found.keys():
                os.kill(other, signal.SIGTERM)
    return [found[pid] for pid in pids]


def moments(case: Case, number: int, chance: random.Random) -> list[list[str]]:
    """When to kill each of a number of runs of a case, once or twice."""
    final = [index for index, path in enumerate(case.operations, 1) if ".final_model" in path]
    last = [*range(final[0], len(case.operations) + 1)]
    everywhere = range(1, len(case.operations) + 1)
    found = []
    for kill in range(number):
        kinds = (
            f"operation:{chance.choice(last)}",
            f"second:{chance.uniform(0.3, 1) * case.seconds:.2f}",
            f"operation:{chance.choice(everywhere)}",
            f"second:{chance.uniform(0.3, 1) * case.seconds:.2f}",
        )
        again = [f"second:{chance.uniform(0.3, 1) * case.seconds:.2f}"] if kill % 5 == 4 else []
        found.append([kinds[kill % 4], *again])
    return found


def kill_and_resume(case: Case, words: list[str], folder: Path, kills: list[str]) -> str | None:
    """What is wrong with a run that is killed at these moments, if anything."""
    more: list[str] = []
    for moment in kills:
        found = statuses(case, [*words, *more], folder / "run", moment)
        if -9 not in found and found != [0] * case.processes:  # one may end before it is to be killed
            return f"exit status {found} before the kill at {moment}"
        more = ["--resume"] if (folder / "run" / "run.yaml").is_file() else []
    if (found := statuses(case, [*words, *more], folder / "run")) != [0] * case.processes:
        return f"exit status {found}"
    expected, ended = results(folder.parent / "all" / "run"), results(folder / "run")
    wrong = [name for name in expected if ended[name] != expected[name]]
    return f"other {' and '.join(wrong)}" if wrong else None


def kill_case(case: Case, folder: Path, number: int | None, chance: random.Random) -> list[bool]:
    """Kill runs of one case, and say so; whether each ended well. Without a number its one moment is the kill."""
    (folder / "data").mkdir(parents=True)
    (folder / "all").mkdir()
    words = case.words(folder / "data")
    start = time.perf_counter()
    found = statuses(case, words, folder / "all" / "run")
    case.seconds = time.perf_counter() - start
    if any(found):
        sys.exit(f"{case}: {(folder / 'all' / 'run.log').read_text()[-2000:]}")
    case.operations = (folder / "all" / "operations").read_text().splitlines()
    good = []
    for index, kills in enumerate([[str(case.moment)]] if number is None else moments(case, number, chance)):
        (folder / str(index)).mkdir()
        wrong = kill_and_resume(case, words, folder / str(index), kills)
        print(f"{case}: killed at {' and '.join(kills)}: {wrong or 'equal'}", flush=True)
        good.append(wrong is None)
        if wrong is None:
            shutil.rmtree(folder / str(index))
    return good


def main() -> None:
    recipes = sorted({case.recipe for case in CASES})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=[*recipes, "all"], default="all")
    parser.add_argument("--kills", type=int, default=20, help="of each recipe (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write to; what went wrong stays there")
    parser.add_argument("--quick", action="store_true", help="one kill of one of two processes, at a known moment")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    cases = [case for case in CASES if args.recipe in ("all", case.recipe) and (not args.quick or case.moment)]
    chosen = sorted({case.recipe for case in cases})
    for recipe in chosen:  # So that the forks needn't import everything again.
        sys.path.insert(0, str(RECIPES / recipe))
        spec: Any = importlib.util.spec_from_file_location(f"{recipe}_train", RECIPES / recipe / "train.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    gc.collect()
    gc.freeze()  # So that the forks share them.
    lines, right = [], True
    for recipe in chosen:
        ours = [case for case in cases if case.recipe == recipe]
        good: list[bool] = []
        for index, case in enumerate(ours):
            number = None if args.quick else len(range(index, args.kills, len(ours)))
            good += kill_case(case, folder / recipe / case.name, number, random.Random(f"{args.seed} {case}"))
        lines.append(
            f"{recipe}: {sum(good)} of {len(good)} killed runs ended with the weights and metrics of undisturbed ones"
        )
        right = right and all(good)
    print("\n".join(lines))
    sys.exit(not right)


if __name__ == "__main__":
    main()
