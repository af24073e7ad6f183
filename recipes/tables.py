"""Make the tables of results in the recipes' pages anew from the files in recipes/results.

    python recipes/tables.py [--check]

With --check nothing is written; a page that differs from its files is named, and the exit status is 1.
"""

import sys
from pathlib import Path

from seqdyconv.comparisons.pages import with_tables
from seqdyconv.errors import exit_on_error
from seqdyconv.files import write_text

RECIPES = Path(__file__).parent


def main() -> None:
    with exit_on_error():
        pages = {page: page.read_text(encoding="utf-8") for page in sorted(RECIPES.rglob("*.md"))}
        made = {page: with_tables(text, RECIPES / "results") for page, text in pages.items()}
        changed = [page for page in pages if pages[page] != made[page]]
        for page in changed:
            print(page)
            if "--check" not in sys.argv:
                write_text(page, made[page])
        if changed and "--check" in sys.argv:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
