"""The comparisons of the repository ask for runs that the recipes can do."""

import importlib.util
import re
from pathlib import Path

import pytest

from seqdyconv.comparisons.plan import ComparisonArguments, finals, trials
from seqdyconv.comparisons.runs import words_of
from seqdyconv.training.arguments import parse_arguments

RECIPES = Path(__file__).parents[2] / "recipes"
COMPARISONS = {path.stem: path.read_text() for path in sorted((RECIPES / "comparisons").glob("*.yaml"))}
COMPARISONS["mine"] = re.search(r"```yaml\n(recipe: .*?)```", (RECIPES / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_run_of_a_comparison_can_be_asked_for(name, monkeypatch, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text(COMPARISONS[name])
    (args,) = parse_arguments((ComparisonArguments,), [str(path)])
    assert (args.output_dir, args.results_dir) == (f"outputs/{path.stem}", f"recipes/results/{path.stem}")
    spec = importlib.util.spec_from_file_location("train", RECIPES / args.recipe / "train.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    asked = []
    monkeypatch.setattr(recipe, "train", lambda *parsed: asked.append(parsed))
    jobs = trials(args)
    first, last = (jobs[0].point, jobs[-1].point) if jobs else ({}, {})
    jobs = [job for job in jobs if job.point in (first, last)] + finals(args, dict.fromkeys(args.variants, first))
    for job in jobs:
        config = RECIPES / args.recipe / "configs" / args.config
        recipe.main([str(config), "--output_dir", str(tmp_path / "out"), *words_of(job.arguments)])
    assert len(asked) == len(jobs)
