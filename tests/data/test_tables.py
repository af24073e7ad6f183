"""What the recipes share to read tables; each file type and its errors are tested with the recipes that read it."""

import pytest
from datasets import Dataset, Features, Value

from seqdyconv.data.tables import DataError, check_splits, list_names, load_table, map_batches


def test_columns_of_a_csv_file_are_strings_without_missing_values(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data.csv").write_text("\ufefftext,label\n12,NA\n,null\n", encoding="utf-8")
    assert load_table(tmp_path / "data.csv", "train_file")[:] == {"text": ["12", ""], "label": ["NA", "null"]}


def test_missing_split():
    check_splits("news", ["train"], ["train", "test"])
    with pytest.raises(DataError, match="the data set news has no split 'dev'; it has train, test"):
        check_splits("news", ["train", "dev"], iter(["train", "test"]))


def test_map_replaces_all_columns():
    table = Dataset.from_dict({"a": [1, 2], "b": [3, 4]})
    mapped = map_batches(table, lambda batch: {"c": batch["a"]}, "Mapping", Features({"c": Value("int8")}))
    assert mapped[:] == {"c": [1, 2]}
    assert mapped.features == {"c": Value("int8")}


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a", "b"], "a, b"),
        (range(30), ", ".join(map(str, range(20))) + " and 10 more"),
        (["x" * 50], "x" * 37 + "..."),
    ],
    ids=["few", "many", "long"],
)
def test_names_in_messages(names, text):
    assert list_names(names) == text
