"""Translation data: every way to name it, what is wrong with it, the joint vocabulary, token ids."""

import json
import logging
import re

import pytest
from datasets import Dataset, DatasetDict

from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from seqdyconv.data.tables import DataError
from seqdyconv.data.translation import DataArguments, load_translation_datasets, make_tokenizer, tokenize
from seqdyconv.errors import InputError
from seqdyconv.models.loading import ModelError

PAIRS = [("Guten Tag!", "Good day!"), ("Ja", "NA"), ('"Nein", sagte er', '"No", he said'), ("12", "twelve\u2028lines")]
TEXTS = [
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Die Menüs Datei - Öffnen und Datei - Schließen (siehe S. 12) öffnen bzw. schließen Dateien.",
    "The menus File - Open and File - Close (see p. 12) open and close files.",
]
VOCAB_SIZE = 315


@pytest.fixture(autouse=True)
def private_cache_and_no_network(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train_sentencepiece_tokenizer(TEXTS, VOCAB_SIZE, kind) for kind in ("unigram", "bpe")}


@pytest.fixture(params=["unigram", "bpe"])
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def pairs_of(dataset):
    assert dataset.column_names == ["source", "target"]
    return list(zip(dataset["source"], dataset["target"]))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def write_table(path, pairs=PAIRS, columns=("source", "target")):
    table = Dataset.from_dict({column: [pair[index] for pair in pairs] for index, column in enumerate(columns)})
    if path.suffix == ".tsv":  # as corpora come: nothing is quoted
        path.write_text("".join("\t".join(row) + "\n" for row in [columns, *pairs]), encoding="utf-8")
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path, lines=True)
    else:
        table.to_json(path, lines=False)
    return str(path)


def write_lines(folder, split, pairs=PAIRS):
    names = {}
    for index, side in enumerate(("source", "target")):
        path = folder / f"{split}.{side}"
        names[f"{split}_{side}_file"] = write(path, "".join(pair[index] + "\n" for pair in pairs))
    return names


class TestLoading:
    @pytest.mark.parametrize("suffix", ["tsv", "csv", "json", "jsonl", "parquet"])
    def test_one_file(self, tmp_path, suffix):
        file = write_table(tmp_path / f"data [1].{suffix}")
        datasets = load_translation_datasets(DataArguments(train_file=file, test_file=file))
        assert list(datasets) == ["train", "test"]
        assert pairs_of(datasets["train"]) == pairs_of(datasets["test"]) == PAIRS

    def test_two_text_files(self, tmp_path):
        datasets = load_translation_datasets(
            DataArguments(**write_lines(tmp_path, "train"), **write_lines(tmp_path, "validation"))
        )
        assert pairs_of(datasets["train"]) == pairs_of(datasets["validation"]) == PAIRS

    def test_columns_by_language_or_name(self, tmp_path):
        file = write_table(tmp_path / "data.tsv", columns=("de", "en"))
        assert pairs_of(load_translation_datasets(DataArguments(train_file=file))["train"]) == PAIRS
        other = DataArguments(train_file=file, source_column="en", target_column="de")
        assert pairs_of(load_translation_datasets(other)["train"]) == [(target, source) for source, target in PAIRS]

    @pytest.mark.parametrize("column", ["translation", "pair"])
    def test_column_of_pairs(self, tmp_path, column):
        rows = [json.dumps({"id": 1, column: {"de": source, "en": target}}) + "\n" for source, target in PAIRS]
        file = write(tmp_path / "data.jsonl", "".join(rows))
        args = DataArguments(train_file=file, translation_column=None if column == "translation" else column)
        assert pairs_of(load_translation_datasets(args)["train"]) == PAIRS

    def test_data_set_of_the_hub_with_files_in_its_place(self, tmp_path):
        (tmp_path / "hub").mkdir()
        for split in ("train", "validation", "test"):
            write_table(tmp_path / "hub" / f"{split}.parquet", [(split, split)], columns=("de", "en"))
        args = DataArguments(dataset=str(tmp_path / "hub"), test_file=write_table(tmp_path / "own.csv"))
        datasets = load_translation_datasets(args)
        assert [pairs_of(datasets[split])[0][0] for split in datasets] == ["train", "validation", "Guten Tag!"]

    def test_an_evaluation_loads_nothing_but_its_split(self, tmp_path):
        args = DataArguments(dataset="no/such-name", test_file=write_table(tmp_path / "own.csv"))
        assert list(load_translation_datasets(args, ("test",))) == ["test"]

    def test_libreoffice_help(self, libreoffice_help):
        datasets = load_translation_datasets(DataArguments(dataset="libreoffice_help", max_train_samples=10))
        assert len(datasets["train"]) == 10
        assert datasets["test"]["source"][:] == libreoffice_help["test"]["source"][:]
        assert datasets["test"].column_names == ["source", "target"]

    def test_first_samples(self, tmp_path):
        file = write_table(tmp_path / "data.csv")
        args = DataArguments(train_file=file, test_file=file, max_train_samples=2, max_test_samples=99)
        datasets = load_translation_datasets(args)
        assert pairs_of(datasets["train"]) == PAIRS[:2] and pairs_of(datasets["test"]) == PAIRS

    def test_lower_case(self, tmp_path):
        args = DataArguments(train_file=write_table(tmp_path / "data.csv", [("Über", "OVER")]), lowercase=True)
        assert pairs_of(load_translation_datasets(args)["train"]) == [("über", "over")]

    def test_empty_lines_are_dropped_from_training_only(self, tmp_path, caplog):
        pairs = [("a", "b"), ("", "c"), ("d", "  "), ("e", "f")]
        args = DataArguments(**write_lines(tmp_path, "train", pairs), **write_lines(tmp_path, "test", pairs))
        with caplog.at_level(logging.WARNING):
            datasets = load_translation_datasets(args)
        assert pairs_of(datasets["train"]) == [("a", "b"), ("e", "f")]
        assert pairs_of(datasets["test"]) == [("a", "b"), ("", "c"), ("d", ""), ("e", "f")]
        assert "Dropped 2 training pairs" in caplog.text


class TestBadInput:
    def fails(self, message, splits=("train", "validation", "test"), **arguments):
        with pytest.raises(InputError) as caught:
            load_translation_datasets(DataArguments(**arguments), splits)
        assert re.search(message, str(caught.value))
        assert "\n" not in str(caught.value)

    def test_nothing_named(self):
        self.fails("no train data is named: give dataset, train_file, or train_source_file and train_target_file")
        self.fails("no test data is named", splits=("test",), train_file="train.tsv")

    def test_missing_and_empty_files(self, tmp_path):
        self.fails(r"train_file is .*nowhere\.tsv, which is not a file", train_file=str(tmp_path / "nowhere.tsv"))
        self.fails("which is empty", train_file=write(tmp_path / "empty.tsv", ""))
        self.fails("has a header but no rows", train_file=write(tmp_path / "header.tsv", "source\ttarget\n"))

    def test_unequal_line_counts(self, tmp_path):
        files = {
            "train_source_file": write(tmp_path / "s", "a\nb\nc\n"),
            "train_target_file": write(tmp_path / "t", "a\nb"),
        }
        self.fails("s has 3 lines but .*t has 2", **files)

    def test_one_side_or_two_forms(self, tmp_path):
        file = write_table(tmp_path / "data.tsv")
        self.fails("must be given together", train_source_file=file)
        self.fails("not both", train_file=file, train_source_file=file, train_target_file=file)

    def test_unknown_column(self, tmp_path):
        file = write_table(tmp_path / "data.csv", columns=("german", "english"))
        self.fails("no column 'de'; it has german, english", train_file=file)
        self.fails("no column 'x'; it has german, english", train_file=file, source_column="german", target_column="x")
        self.fails("no column 'x'; it has german, english", train_file=file, translation_column="x")

    def test_unknown_language(self, tmp_path):
        file = write(tmp_path / "data.jsonl", json.dumps({"translation": {"de": "a", "en": "b"}}))
        self.fails("no language 'fr' in the column 'translation'; row 1 has de, en", train_file=file, target_lang="fr")

    @pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.txt"])
    def test_not_utf8(self, tmp_path, name):
        first = '{"source": "a"}\n{}\n' if name == "data.jsonl" else "source,target\na,b\n"
        (tmp_path / name).write_bytes(first.encode() + "ä,ö\n".encode("latin-1"))
        file = str(tmp_path / name)
        two = {"train_source_file": file, "train_target_file": file}
        files = two if name == "data.txt" else {"train_file": file}
        self.fails(rf"line 3 of .*{re.escape(name)} is not UTF-8 text \(byte 1\)", **files)

    def test_unknown_type(self, tmp_path):
        self.fails(r"unknown type: allowed are \.tsv, \.csv, \.json", train_file=write(tmp_path / "data.xlsx", "x"))

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("data.json", '[{"a": ', "data.json is not JSON"),
            ("data.tsv", "source\ttarget\na\tb\nc\td\te\n", "line 3 of .*data.tsv has 3 fields, but the header has 2"),
            ("data.parquet", "x", "data.parquet can't be read as .parquet"),
        ],
    )
    def test_broken_file(self, tmp_path, name, text, message):
        self.fails(message, train_file=write(tmp_path / name, text))

    def test_hub_out_of_reach(self):
        self.fails("the data set no/such-name cannot be loaded .* use local files", dataset="no/such-name")

    def test_split_that_the_data_set_lacks(self, tmp_path):
        (tmp_path / "hub").mkdir()
        write_table(tmp_path / "hub" / "train.parquet", columns=("de", "en"))
        self.fails("has no test split, and no test_file is given", dataset=str(tmp_path / "hub"), splits=("test",))

    def test_libreoffice_help_in_a_language_that_is_none(self):
        self.fails("not a language code", dataset="libreoffice_help", source_lang="klingon!")

    def test_libreoffice_help_has_one_version(self):
        self.fails("libreoffice_help has no dataset_config", dataset="libreoffice_help", dataset_config="de-en")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tokenizer_type": "words"}, "tokenizer_type must be one of unigram, bpe, got 'words'"),
            ({"max_train_samples": 0}, "max_train_samples must be at least 1, got 0"),
            ({"vocab_size": -1}, r"vocab_size must be in \[1, 10000000\], got -1"),
            ({"source_column": "de"}, "together"),
            ({"source_column": "de", "target_column": "en", "translation_column": "pair"}, "not both"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            DataArguments(**arguments)


class TestMakeTokenizer:
    def test_made_from_arguments(self, tokenizer, tmp_path):
        train = Dataset.from_dict({"source": TEXTS[::2], "target": TEXTS[1::2]})
        assert len(make_tokenizer(DataArguments(vocab_size=VOCAB_SIZE), train)) == VOCAB_SIZE
        with pytest.raises(DataError, match="larger than the data allows"):
            make_tokenizer(DataArguments(), train)
        tokenizer.save_pretrained(tmp_path)
        loaded = make_tokenizer(DataArguments(tokenizer_name=str(tmp_path)), train)
        assert loaded.get_vocab() == tokenizer.get_vocab()
        with pytest.raises(ModelError, match=r"there is no model folder .*nowhere"):
            make_tokenizer(DataArguments(tokenizer_name=str(tmp_path / "nowhere")), train)


class TestTokenIds:
    def datasets(self):
        pairs = {"source": [*TEXTS[::2], "kurz"], "target": [*TEXTS[1::2], "short one"]}
        return DatasetDict({split: Dataset.from_dict(pairs) for split in ("train", "test")})

    def test_columns(self, tokenizer):
        rows = tokenize(self.datasets(), tokenizer, DataArguments())["train"]
        assert rows.column_names == ["input_ids", "labels", "length"]
        for row, source, target in zip(rows, [*TEXTS[::2], "kurz"], [*TEXTS[1::2], "short one"]):
            assert row["input_ids"] == tokenizer(source)["input_ids"]
            assert row["labels"] == tokenizer(target)["input_ids"]
            assert row["length"] == max(len(row["input_ids"]), len(row["labels"]))

    @pytest.mark.parametrize("limit", ["max_source_length", "max_target_length"])
    def test_long_pairs_are_dropped_from_training_only(self, tokenizer, limit, caplog):
        with caplog.at_level(logging.WARNING):
            rows = tokenize(self.datasets(), tokenizer, DataArguments(**{limit: 12}))
        assert (len(rows["train"]), len(rows["test"])) == (1, 3)
        assert "Dropped 2 of 3 training pairs" in caplog.text

    def test_nothing_left(self, tokenizer):
        with pytest.raises(DataError, match="every training pair has more than 1 source or 256 target tokens"):
            tokenize(self.datasets(), tokenizer, DataArguments(max_source_length=1))


class TestColumns:
    def pairs(self, tmp_path, text, **arguments):
        args = DataArguments(train_file=write(tmp_path / "data.jsonl", text), **arguments)
        return pairs_of(load_translation_datasets(args)["train"])

    def test_a_column_of_sources_that_is_no_text(self, tmp_path):
        assert self.pairs(tmp_path, '{"source": "corpus 1", "de": "a", "en": "b"}') == [("a", "b")]

    def test_missing_texts_are_empty(self, tmp_path):
        rows = '{"de": "a", "en": "b"}\n{"de": null, "en": "b"}\n{"en": "c"}\n'
        assert self.pairs(tmp_path, rows) == [("a", "b")]
        pairs = '{"translation": {"de": "a", "en": "b"}}\n{"translation": {"de": "a", "en": null}}\n'
        assert self.pairs(tmp_path, pairs) == [("a", "b")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"source": "a", "target": 12}', "row 1 of .* has 12 in the column 'target', but a text must be a string"),
            ('{"de": "a", "en": "b"}\n{"de": ["a"], "en": "b"}', r"row 2 of .* has \['a'\] in the column 'de'"),
            ('{"translation": {"de": "a", "en": 7}}', "row 1 of .* has 7 as 'en' in the column 'translation'"),
            (
                '{"translation": {"de": "a", "en": "b"}}\n{"translation": {"de": "a"}}',
                "no language 'en' .* row 2 has de",
            ),
            ('{"translation": "a ||| b"}', "no language 'de' in the column 'translation'; row 1 has none"),
            ('{"translation": null}', "no language 'de' in the column 'translation'; row 1 has none"),
        ],
    )
    def test_what_is_no_text_is_refused_with_its_row(self, tmp_path, text, message):
        with pytest.raises(DataError, match=message):
            self.pairs(tmp_path, text)

    def test_two_sides_are_two_columns(self, tmp_path):
        with pytest.raises(DataError, match="has one column 'de' for both sides"):
            self.pairs(tmp_path, '{"de": "a", "en": "b"}', target_lang="de")
