"""A process that is killed at any file operation leaves what a resumed run makes the undisturbed one's weights of."""

import json

import pytest

from seqdyconv.training.checkpoints import STATE_FILE, resumable_checkpoint
from seqdyconv.training.runs import train_or_load
from tests.crash_points import crash_points
from tests.training.test_runs import equal, make_trainer, weights

VALIDATED = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "learning_rate": 1e-2}
WORST = {"greater_is_better": True}  # the best checkpoint is the first one then

RUNS = {
    "average": {"max_steps": 5, "save_steps": 2, "average_checkpoints": 2, "save_total_limit": 2, "logging_steps": 3},
    "best": {**VALIDATED, **WORST, "max_steps": 3, "load_best_model_at_end": True, "save_total_limit": 1},
    "early stopping": {
        **{**VALIDATED, **WORST, "max_steps": 40, "save_steps": 2, "eval_strategy": "epoch"},
        **{"early_stopping_patience": 1, "save_total_limit": 2, "logging_steps": 3},
    },
    "epochs": {"max_steps": 5, "save_strategy": "epoch", "eval_strategy": "epoch", "logging_strategy": "epoch"},
}


def history(folder):
    """What was logged, times aside."""
    rows = json.loads((folder / STATE_FILE).read_text())["log_history"]
    return [{key: row[key] for key in row if not key.endswith(("runtime", "per_second"))} for row in rows]


@pytest.mark.parametrize("name", RUNS)
def test_a_kill_at_any_file_operation(tmp_path, name):
    options = RUNS[name] | {"lr_scheduler_type": "constant"}
    with crash_points(tmp_path / "all", tmp_path / "points") as points:
        whole = make_trainer(tmp_path / "all", **options)
        train_or_load(whole, None)
    assert len(points) > 50
    # Near the end most is at stake: checkpoints go, the final model comes.
    for point in [points[len(points) // 2], *points[-29::7]]:
        resumed = make_trainer(point, resume=True, **options)
        train_or_load(resumed, resumable_checkpoint(point))
        assert equal(weights(point), weights(tmp_path / "all")), point
        assert equal(dict(resumed.model.state_dict()), weights(tmp_path / "all")), point
        assert history(point) == history(tmp_path / "all"), point
        assert (resumed.counts.items, resumed.state.total_flos) == (whole.counts.items, whole.state.total_flos)


def test_a_loss_that_is_logged_after_a_checkpoint_is_that_of_all_its_steps(tmp_path):
    options = {"max_steps": 6, "save_steps": 2, "logging_steps": 5}
    train_or_load(make_trainer(tmp_path, **options), None)
    expected = history(tmp_path)
    assert [row["step"] for row in expected] == [5, 6]
    for step in (4, 2):
        (tmp_path / STATE_FILE).unlink()
        train_or_load(make_trainer(tmp_path, resume=True, **options), tmp_path / f"checkpoint-{step}")
        assert history(tmp_path) == expected
