"""Make the results in the pages of the repository and its recipes anew from the files in recipes/results.

    python recipes/tables.py [--check]

With --check nothing is written; a page that differs from its files is named, as is a table of numbers that has none,
and the exit status is 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from seqdyconv.comparisons.pages import tables_by_hand, with_results
from seqdyconv.comparisons.results import comparison_table
from seqdyconv.errors import exit_on_error
from seqdyconv.files import write_text

RECIPES = Path(__file__).resolve().parent
PAGES = [RECIPES.parent / "README.md", *sorted(RECIPES.glob("*.md")), *sorted(RECIPES.glob("*/*.md"))]
NO_RESULTS = {  # heads of tables of numbers that no run has measured
    "| split | pairs | dropped |",
    "| data set | texts to train / validate / test | classes | split |",
    # tests/test_readme.py compares it with benchmarks/results/ops_dynamic.json
    "| T | native (ours) | blocked (ours) | tap loop | unfold | expand | attention (SDPA) |",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(argv).check
    with exit_on_error():
        made = {page: with_results(page, RECIPES / "results") for page in PAGES}
        made |= {file: comparison_table(file.parent) for file in sorted((RECIPES / "results").glob("*/table.md"))}
        changed = [page for page in made if page.read_text(encoding="utf-8") != made[page]]
        by_hand = [(page, head) for page in PAGES for head in tables_by_hand(page) if head not in NO_RESULTS]
        for page in changed:
            print(f"{page} {'differs from its files' if check else 'is made anew'}")
            if not check:
                write_text(page, made[page])
        for page, head in by_hand:
            print(f"{page} has a table without files: {head}")
        if check and (changed or by_hand):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
