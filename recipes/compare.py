"""Compare models that were given the same chance: the same search of settings for each, then runs of several seeds.

    python recipes/compare.py COMPARISON.yaml [--key value ...]

What has run already is not run again, so the same command goes on after an interruption. Trials never see the test set.
Each run leaves one file in results_dir, of which the table and the picture are made.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.comparisons.plan import EVALUATION, ComparisonArguments, evaluations, finals, trials
from seqdyconv.comparisons.results import comparison_table, draw, write_comparison
from seqdyconv.comparisons.runs import Runner, choose
from seqdyconv.errors import exit_on_error
from seqdyconv.files import write_text
from seqdyconv.training.arguments import command_line, parse_arguments


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse_arguments((ComparisonArguments,), argv, first="CONFIG.yaml", description=__doc__)
    with exit_on_error():
        compare(args, command_line("recipes/compare.py", argv))


def compare(args: ComparisonArguments, command: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the runs end with it
    runner = Runner(args, Path(__file__).parent / args.recipe)
    chosen = choose(args, runner.run(trials(args)), warn=lambda text: print(f"note: {text}", file=sys.stderr))
    jobs = finals(args, chosen)
    runner.run(jobs)
    evaluated = evaluations(args, [job for job in jobs if runner.has_ended(job)])
    runner.run(evaluated)
    scored = evaluated if next(iter(args.metrics)).startswith(EVALUATION) else jobs
    ended = {
        variant: [runner.folder_of(job) for job in scored if job.variant == variant and runner.has_ended(job)]
        for variant in args.variants
    }
    write_comparison(args, runner.results, ended, command)
    table = comparison_table(runner.results)
    write_text(runner.results / "table.md", table)
    draw(runner.results)
    print(table)
    print(f"written to {runner.results}")
    if not all(runner.has_ended(job) for job in [*jobs, *evaluated]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
