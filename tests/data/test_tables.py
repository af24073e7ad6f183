"""What the recipes share to read tables; csv and tsv are tested in test_delimited.py, json in test_json_rows.py."""

import json
import os

import pytest
from datasets import ClassLabel, Dataset, Features, Json, Value, config

from seqdyconv.data.tables import (
    DataError,
    check_splits,
    list_names,
    load_hub_splits,
    load_lines,
    load_table,
    map_batches,
)


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
        (["x" * 50], "x" * 39 + "…"),
    ],
    ids=["few", "many", "long"],
)
def test_names_in_messages(names, text):
    assert list_names(names) == text


class TestLoadTable:
    @pytest.fixture(autouse=True)
    def private_cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def table(self, path, content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_table(path, "train_file")

    def test_columns_of_a_csv_file_are_strings_without_missing_values(self, tmp_path):
        table = self.table(tmp_path / "data [1].csv", "\ufefftext,label\n12,NA\n,null\n")
        assert table[:] == {"text": ["12", ""], "label": ["NA", "null"]}

    def test_a_changed_file_is_read_again(self, tmp_path):
        assert self.table(tmp_path / "data.csv", "text\na\n")["text"][:] == ["a"]
        assert self.table(tmp_path / "data.csv", "text\nb\nc\n")["text"][:] == ["b", "c"]

    @pytest.mark.parametrize(
        ("values", "feature", "read"),
        [
            ('["a", null, "2020-01-01"]', Value("string"), ["a", None, "2020-01-01"]),
            ("[null, null]", Value("string"), [None, None]),
            ("[1, NaN, -2]", Value("int64"), [1, None, -2]),
            ("[1, 2.5]", Value("float64"), [1.0, 2.5]),
            ("[9007199254740993, 0.5]", Value("float64"), [9007199254740992.0, 0.5]),
            ("[true, false]", Value("bool"), [True, False]),
            ('["a", 1]', Json(), ["a", 1]),
            ("[true, 1]", Json(), [True, 1]),
            ('[{"de": "a"}, null, {"en": [1]}]', Json(), [{"de": "a"}, None, {"en": [1]}]),
        ],
        ids=str,
    )
    def test_columns_of_json_have_one_plain_type_or_any(self, tmp_path, values, feature, read):
        rows = [{"id": "x", "value": value} for value in json.loads(values)]
        for name, text in (("a.json", json.dumps(rows)), ("a.jsonl", "\n".join(map(json.dumps, rows)))):
            table = self.table(tmp_path / name, text)
            assert table.features == {"id": Value("string"), "value": feature}
            assert table["value"][:] == read

    def test_rows_with_other_keys(self, tmp_path):
        table = self.table(tmp_path / "a.jsonl", '{"a": "x"}\n{"b": "y"}\n')
        assert table[:] == {"a": ["x", None], "b": [None, "y"]}

    def test_half_of_a_surrogate_pair(self, tmp_path):
        with pytest.raises(DataError, match=r"row 2 of .*a\.jsonl has half of a surrogate pair in 'x\\ud800'"):
            self.table(tmp_path / "a.jsonl", '{"a": "\\ud83d\\ude00"}\n{"a": "x\\ud800"}\n')

    def test_types_of_parquet_stay(self, tmp_path):
        features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
        Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features).to_parquet(tmp_path / "a [1].parquet")
        table = load_table(tmp_path / "a [1].parquet", "train_file")
        assert table.features == features and table["label"][:] == [1, 0]

    def test_parquet_without_rows(self, tmp_path):
        Dataset.from_dict({"text": []}).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"a\.parquet holds no rows"):
            load_table(tmp_path / "a.parquet", "train_file")

    def test_a_damaged_parquet_file(self, tmp_path, capfd):
        Dataset.from_dict({"text": ["word"] * 1000}).to_parquet(tmp_path / "a.parquet")
        content = (tmp_path / "a.parquet").read_bytes()
        capfd.readouterr()
        for damaged in (content[:100], content[:-1], content[:4] + b"\xff" * 40 + content[44:], b"x"):
            with pytest.raises(DataError, match=r"a\.parquet can't be read as \.parquet") as caught:
                self.table(tmp_path / "a.parquet", damaged)
            assert "\n" not in str(caught.value)
        assert "Failed" not in capfd.readouterr().err

    @pytest.mark.parametrize(
        "path", [".", "/dev/zero", "/dev/null", "fifo", "link", "no\0where", "x" * 5000, "a\udcff"]
    )
    def test_what_is_no_file(self, tmp_path, path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        os.mkfifo("fifo.csv")
        os.symlink("nowhere.csv", "link.csv")
        os.symlink("/dev/zero", "zero.csv")
        os.mkdir("folder.csv")
        for name in (f"{path}.csv", "zero.csv", "folder.csv"):
            with pytest.raises(DataError, match=r"train_file is .*, which is (a folder|not a file)"):
                load_table(name, "train_file")
        with pytest.raises(DataError, match=r"which is (a folder|not a file)"):
            load_lines(path, "train_file")

    @pytest.mark.parametrize("name", ["a.txt", "a.csv.gz", "a", "a.xlsx"])
    def test_unknown_types(self, tmp_path, name):
        with pytest.raises(DataError, match=r"of an unknown type: allowed are \.tsv, \.csv"):
            self.table(tmp_path / name, "x")


class TestLoadLines:
    @pytest.fixture(autouse=True)
    def private_cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    @pytest.mark.parametrize(
        ("content", "texts"),
        [
            ("eins\nzwei\rdrei\r\nvier", ["eins", "zwei\rdrei", "vier"]),
            ("\ufeffa\v\f\x1c\x1d\x1e\x85\u2028\u2029b\n", ["a\v\f\x1c\x1d\x1e\x85\u2028\u2029b"]),
            ("\n", [""]),
            ("a\n\n", ["a", ""]),
        ],
    )
    def test_lines_are_those_of_wc(self, tmp_path, content, texts):
        (tmp_path / "a.de").write_bytes(content.encode())
        assert load_lines(tmp_path / "a.de", "train_source_file")["text"][:] == texts

    def test_an_empty_file(self, tmp_path):
        (tmp_path / "a.de").touch()
        with pytest.raises(DataError, match=r"train_source_file is .*a\.de, which is empty"):
            load_lines(tmp_path / "a.de", "train_source_file")


class TestDataSetsByName:
    def load(self, name):
        return load_hub_splits(name, ["train"], config=None, revision=None, instead="local files (train_file)")

    @pytest.mark.parametrize(
        "name", ["", "a b", "a\0b", "a\nb", "no/such/name", "/nonsense", "hf://x", "x" * 5000, "ä"]
    )
    def test_that_are_no_names(self, name):
        with pytest.raises(DataError, match=r"is neither a folder nor a name on the Hub: use local files"):
            self.load(name)

    @pytest.mark.parametrize("name", [".", "..", "/", "../.."])
    def test_folders_that_hold_the_work(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match="is the folder you are in, or one above it"):
            self.load(name)

    def test_a_folder_without_data_or_with_broken_data(self, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        (tmp_path / "data").mkdir()
        with pytest.raises(DataError, match="data cannot be loaded"):
            self.load(str(tmp_path / "data"))
        (tmp_path / "data" / "train.jsonl").write_text('{"a": ')
        with pytest.raises(DataError, match="data cannot be loaded"):
            self.load(str(tmp_path / "data"))
        (tmp_path / "data" / "README.md").write_text("---\na: [b\n---\n")
        with pytest.raises(DataError, match=r"data cannot be loaded \(while parsing a flow sequence"):
            self.load(str(tmp_path / "data"))


def test_a_cache_that_can_t_be_written(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    (tmp_path / "data.csv").write_text("text\na\n")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"can't write to the cache .*cache \(.*\): set HF_DATASETS_CACHE to another"):
        load_table(tmp_path / "data.csv", "train_file")
