"""Rows of train that are held out: the same ones whoever asks, equal texts on one side, each label its share."""

import pytest
from datasets import Dataset

from seqdyconv.data.splits import HeldOutArguments, SourceArguments, load_splits, rows_by, sample, split_files
from seqdyconv.data.tables import DataError
from seqdyconv.errors import InputError


def table(number=80, repeats=2):
    rows = [{"text": f"text {row % number}", "label": "ab"[row % number % 4 == 0]} for row in range(number * repeats)]
    return Dataset.from_list(rows)


def load(*splits, tables=None, strata="label", **options):
    """The held-out data of `tables`, of which a file can be read one by one as in a recipe."""
    tables = {"train": table()} if tables is None else tables
    return load_splits(
        HeldOutArguments(**options),
        splits or ("train", "validation", "test"),
        lambda names: {name: tables[name] for name in names if name in tables},
        lambda train: list(rows_by(train["text"]).values()),
        strata,
    )


def test_each_stratum_gives_its_share():
    found = load(validation_fraction=0.1, test_fraction=0.25)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 108, "test": 40, "validation": 12}
    assert [found[split]["label"][:].count("b") for split in ("test", "validation")] == [10, 4]
    one = load(validation_fraction=0.1, strata=None)
    assert len(one["validation"]) == 16


def test_equal_texts_stay_together():
    texts = [set(rows["text"]) for rows in load(validation_fraction=0.1, test_fraction=0.25).values()]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 80


def test_the_seed_alone_decides():
    first, again, other = (load(split_seed=seed)["validation"]["text"][:] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_evaluation_finds_the_same_rows(split):
    options = {"validation_fraction": 0.1, "test_fraction": 0.25}
    assert load(split, **options)[split][:] == load(**options)[split][:]


def test_a_split_that_exists_stays_as_it_is():
    own = Dataset.from_list([{"text": "x", "label": "a"}])
    found = load(tables={"train": table(), "validation": own})
    assert found["validation"]["text"][:] == ["x"] and len(found["train"]) == 160


def test_one_split_has_no_data_of_another():
    for options in ({"validation_split": "train"}, {"train_split": "train+validation"}):
        with pytest.raises(DataError, match=r"train_split and validation_split (are|have) both .* to null"):
            HeldOutArguments(**options)
        HeldOutArguments(**options, validation_file="validation.csv")
    HeldOutArguments(train_split="train+validation", validation_split=None)


def test_what_gives_nothing():
    with pytest.raises(DataError, match=r"validation_fraction 0\.1 of the 4 training texts is none: give validation_f"):
        load(tables={"train": table(4, 1)})
    with pytest.raises(DataError, match="there is no test data: give test_file, as no data set is named either"):
        load("test")
    with pytest.raises(DataError, match="give train_file, as the data set news has none"):
        load(tables={}, dataset="news")


def test_samples_are_rows_in_order():
    rows = table(20, 1)
    found = [int(text.split()[1]) for text in sample(rows, 5, seed=0)["text"]]
    assert len(found) == 5 and found == sorted(found)
    assert sample(rows, 5, seed=0)[:] == sample(rows, 5, seed=0)[:] != sample(rows, 5, seed=1)[:]
    assert sample(rows, None, seed=0) is rows and sample(rows, 20, seed=0) is rows


def test_the_source_is_named():
    assert SourceArguments().source == "local files"
    assert SourceArguments(dataset="news", dataset_config="de").source == "news (de)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_test_samples": 0}, "max_test_samples must be at least 1, got 0"),
        ({"validation_fraction": 0.9}, r"validation_fraction must be in \[0, 0.5\], got 0.9"),
        ({"test_fraction": -0.1}, r"test_fraction must be in \[0, 0.5\], got -0.1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(InputError, match=message):
        HeldOutArguments(**options)


def test_one_source_to_train_on():
    args = SourceArguments(train_file="a.csv", test_file="b.csv")
    assert split_files(args, ("train", "validation", "test")) == {"train": "a.csv", "test": "b.csv"}
    with pytest.raises(DataError, match=r"both dataset \(news\) and train_file \(a.csv\) are given"):
        split_files(SourceArguments(dataset="news", train_file="a.csv"), ("train",))
    assert split_files(SourceArguments(dataset="news", train_file="a.csv"), ("test",)) == {}
