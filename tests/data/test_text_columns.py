"""What stands in the columns of texts and labels."""

import pytest
from datasets import ClassLabel, Dataset, Features, Json, Value

from seqdyconv.data.tables import DataError
from seqdyconv.data.text_columns import check_texts, clean_texts, label_column, text_columns


def table(values, feature=None, name="text"):
    return Dataset.from_dict({name: values}, Features({name: feature or Json()}))


@pytest.mark.parametrize(
    ("values", "feature", "message"),
    [
        (["a", 12], None, "row 2 of a.json has 12 in the column 'text', but a text must be a string"),
        ([None, True], Value("bool"), "row 2 of a.json has True"),
        ([1.5], Value("float64"), "row 1 of a.json has 1.5"),
        ([["a", "b"]], None, r"row 1 of a.json has \['a', 'b'\]"),
        ([{"0": "a"}], None, "row 1 of a.json has {'0': 'a'}"),
        ([b"a"], Value("binary"), "row 1 of a.json has b'a'"),
        ([1], ClassLabel(names=["a", "b"]), "row 1 of a.json has 1"),
    ],
    ids=str,
)
def test_a_text_is_a_string(values, feature, message):
    with pytest.raises(DataError, match=message):
        check_texts(table(values, feature), "text", "a.json")
    with pytest.raises(DataError, match=message):
        text_columns(table(values, feature), None, None, "a.json")


@pytest.mark.parametrize("feature", [Value("string"), Value("large_string"), None])
def test_or_missing(feature):
    values = [" a\N{NO-BREAK SPACE}\n", None, "\N{IDEOGRAPHIC SPACE}"]
    check_texts(table(values, feature), "text", "a.json")
    assert clean_texts({"text": values}, {"new": "text"}) == {"new": ["a\N{NO-BREAK SPACE}", "", ""]}


def test_a_column_of_nothing():
    check_texts(table([None, None], Value("int64")), "text", "a.json")


def test_labels_are_of_one_type():
    assert label_column(table([1, None, 2], name="label"), None, "a.json") == "label"
    with pytest.raises(DataError, match="labels of several types: 1 in row 1 and 'a' in row 2, but all must be of one"):
        label_column(table([1, "a"], name="label"), None, "a.json")


def test_the_exact_name_comes_first():
    both = Dataset.from_dict({"Text": ["a"], "text": ["b"], "TEXT": ["c"]})
    assert text_columns(both, None, None, "a.csv") == {"text": "text"}
