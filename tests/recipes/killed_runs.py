"""Runs train.py several times in forks of one process, each killed at a chosen moment or not at all.

    killed_runs.py TRAIN.PY '[{"moment": "step:7", "processes": 1, "arguments": [...]}, ...]'

A moment is "step:N" or the name of a file of a checkpoint, such as "optimizer.pt:2": killed when half of its second
copy is written. Prints the exit statuses of each run; a killed process has -9.
"""

import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import Trainer, TrainerState


def die_at(moment: str) -> None:
    name, number = moment.split(":")
    left = int(number)

    def count() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def kill(path=None) -> None:
        if path is not None:
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    training_step, save, save_to_json = Trainer.training_step, torch.save, TrainerState.save_to_json

    def dying_training_step(self, *args, **kwargs):
        if name == "step" and count():
            kill()
        return training_step(self, *args, **kwargs)

    def dying_save(value, path, *args, **kwargs):
        save(value, path, *args, **kwargs)
        if str(path).endswith(name) and count():
            kill(path)

    def dying_save_to_json(self, path):
        save_to_json(self, path)
        if path.endswith(name) and count():
            kill(path)

    Trainer.training_step, torch.save = dying_training_step, dying_save
    TrainerState.save_to_json = dying_save_to_json


def run(script: str, moment: str | None, rank: int, processes: int, port: int, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    Figure.savefig = lambda self, path, **kwargs: Path(path).touch()  # Pictures would take most of the time.
    if processes > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    # The last process dies, the first one writes the checkpoints.
    if moment is not None and rank == (processes - 1 if moment.startswith(("step", "rng")) else 0):
        die_at(moment)
    status = 1
    try:
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    script = sys.argv[1]
    sys.path.insert(0, str(Path(script).parent))
    import train  # noqa: F401  # So that the forks needn't import everything again.

    results = []
    for setting in json.loads(sys.argv[2]):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        pids = []
        for rank in range(setting["processes"]):
            if (pid := os.fork()) == 0:
                run(script, setting["moment"], rank, setting["processes"], port, setting["arguments"])
            pids.append(pid)
        statuses: dict[int, int] = {}
        while len(statuses) < len(pids):
            pid, status = os.wait()
            statuses[pid] = os.waitstatus_to_exitcode(status)
            if statuses[pid] != 0:
                # As torchrun does: one that fails ends all.
                time.sleep(0.2)
                for other in set(pids) - statuses.keys():
                    os.kill(other, signal.SIGTERM)
        results.append([statuses[pid] for pid in pids])
    Path(os.environ["STATUSES"]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
