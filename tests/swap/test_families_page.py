"""docs/swap_families.md says what is the case: by name of all, by trying some."""

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from seqdyconv.swap import FAMILIES
from tests.swap.families_page import PAGE, explore, page, types_of

TEXT = PAGE.read_text(encoding="utf-8")
RUN_AGAIN = "run `python -m tests.swap.families_page`"

pytestmark = pytest.mark.skipif(
    f"transformers {transformers.__version__} " not in TEXT, reason="the page is of another version of transformers"
)


def test_every_model_type_is_in_it():
    assert types_of(TEXT) == set(MODEL_MAPPING_NAMES), RUN_AGAIN


def test_known_families_are_called_so():
    rows = [line for line in TEXT.splitlines() if "(known)" in line]
    known = {name for family in FAMILIES for name in family.model_types}
    assert types_of("\n".join(rows)) == known & set(MODEL_MAPPING_NAMES), RUN_AGAIN


@pytest.mark.parametrize("name", ["deit", "distilbert", "mobilebert", "gpt2", "clip_text_model"])
def test_a_type_is_told_of_as_it_is(name):
    (section,) = page({name: explore(name)}).split("\n## ")[1:]
    title, row = section.splitlines()[0], section.splitlines()[-1]
    there = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    told = row.rpartition(" | ")[0]
    assert any(line.startswith(told) and f"`{name}`" in line for line in there.splitlines()), RUN_AGAIN
