"""The LibreOffice help corpus: reading pages, aligning, splitting by page, cleaning."""

import pytest

from seqdyconv.data.libreoffice_help import (
    align_pages,
    align_sentences,
    load_libreoffice_help,
    read_paragraphs,
    split_of,
    split_pairs,
    split_sentences,
)


def page(body):
    return f"<html><body><p>LibreOffice 7.4 Help</p><div id='DisplayArea'>{body}</div><p id='bm_x'>no</p></body></html>"


def pages_of(split, count):
    return [name for name in (f"page{number}.html" for number in range(2000)) if split_of(name) == split][:count]


class TestReading:
    def test_paragraphs_and_headings_by_id(self, tmp_path):
        file = tmp_path / "page.html"
        file.write_text(
            page(
                '<h1 id="hd_id1"><a name="x"></a>The  title\n</h1><p id="par_id2" class="x">A &amp; <b>B</b><br>c</p>'
                '<p>without id</p><p id="par_id3"> </p><p id="par_id2">again</p>'
            )
        )
        assert read_paragraphs(file) == {"hd_id1": "The title", "par_id2": "A & B c"}

    def test_of_variants_for_systems_the_one_of_macos_is_left_out(self, tmp_path):
        file = tmp_path / "page.html"
        file.write_text(
            page(
                '<p id="par_1">Press <span class="switchinline"><span hidden="true" class="MAC"><span>Command</span>'
                ' key</span><span hidden="true">Ctrl</span></span>+Z.</p>'
            )
        )
        assert read_paragraphs(file) == {"par_1": "Press Ctrl+Z."}


class TestAligning:
    def test_sentences_end_before_capitals_numbers_and_quotes(self):
        text = 'Click OK. Then wait! "Done"? 3 files are left, e.g. one. Ähnlich ist das.'
        assert split_sentences(text) == [
            "Click OK.",
            "Then wait!",
            '"Done"?',
            "3 files are left, e.g. one.",
            "Ähnlich ist das.",
        ]

    def test_sentence_by_sentence_only_if_both_have_as_many(self):
        assert align_sentences("Eins. Zwei.", "One. Two.") == [("Eins.", "One."), ("Zwei.", "Two.")]
        assert align_sentences("Eins. Zwei.", "One, two.") == [("Eins. Zwei.", "One, two.")]

    def test_by_page_and_id_and_only_good_pairs(self, tmp_path):
        texts = {
            "1": ("Das ist ein guter Satz.", "This is a good sentence."),
            "2": ("Viel zu kurz.", "Much too short."),
            "3": ("Dies ist ein viel zu langer Satz für jene Seite.", "This is too long."),
            "4": ("LET A EQUAL B", "let a equal b"),
            "5": (" ".join(["lang"] * 61), " ".join(["long"] * 61)),
        }
        for side, language in enumerate(("de", "en")):
            (tmp_path / language / "sub").mkdir(parents=True)
            body = "".join(f'<p id="par_{key}">{text[side]}</p>' for key, text in texts.items())
            extra = f'<p id="par_{language}">Nur hier steht dieser eine Satz.</p>'
            (tmp_path / language / "sub/page.html").write_text(page(body + extra))
        (tmp_path / "de/alone.html").write_text(page('<p id="par_1">Diese Seite gibt es nur hier.</p>'))
        pairs = list(align_pages(tmp_path / "de", tmp_path / "en"))
        assert pairs == [("Das ist ein guter Satz.", "This is a good sentence.", "sub/page.html")]


class TestSplitting:
    def test_is_fixed_for_ever(self):
        names = ["swriter/track_changes_toolbar.html", "swriter/main0220.html", "swriter/main0104.html"]
        assert [split_of(name) for name in names] == ["train", "validation", "test"]
        counts = {split: len(pages_of(split, 2000)) for split in ("train", "validation", "test")}
        assert sum(counts.values()) == 2000
        assert counts["train"] > 1750 and counts["validation"] > 60 and counts["test"] > 60

    def test_held_out_splits_share_no_sentence_with_others_or_themselves(self):
        (train, other), (validation,), (test,) = pages_of("train", 2), pages_of("validation", 1), pages_of("test", 1)
        splits = split_pairs(
            [
                ("a", "A1", train),
                ("a", "A1", other),  # exact duplicate
                ("a", "A2", other),  # another translation
                ("b  b", "B", test),
                ("x", "a2", test),  # target in train
                ("B b", "C", test),  # source repeated
                ("d", "D", test),
                ("D", "E", validation),  # source in test
                ("A", "F", validation),  # source in train
                ("g", "G", validation),
            ]
        )
        pairs = {name: list(zip(split["source"], split["target"])) for name, split in splits.items()}
        assert pairs == {
            "train": [("a", "A1"), ("a", "A2")],
            "validation": [("g", "G")],
            "test": [("b  b", "B"), ("d", "D")],
        }
        assert splits["test"].column_names == ["source", "target", "page"]
        assert (
            "2 of 4 pairs; dropped 1 whose source or target occurs in train, and 1" in splits["test"].info.description
        )
        assert "dropped 2 whose source or target occurs in train or test" in splits["validation"].info.description
        assert "dropped 1 exact duplicates" in splits["train"].info.description


@pytest.mark.parametrize(("source", "target", "message"), [("en", "en_us", "both"), ("../x", "en", "language code")])
def test_bad_languages(source, target, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_libreoffice_help(source, target, tmp_path)


class TestTheRealCorpus:
    def test_sizes(self, libreoffice_help):
        sizes = {name: len(split) for name, split in libreoffice_help.items()}
        assert sizes["train"] > 25_000 and sizes["validation"] > 1_000 and sizes["test"] > 1_000
        assert "dropped" in libreoffice_help["test"].info.description

    def test_pages_and_sentences_are_on_one_side_only(self, libreoffice_help):
        def values(name, column):
            return {" ".join(text.casefold().split()) for text in libreoffice_help[name][column]}

        for column in ("page", "source", "target"):
            train, validation, test = (values(name, column) for name in ("train", "validation", "test"))
            assert not (train & validation or train & test or validation & test)

    def test_second_use_reads_the_cache(self, libreoffice_help, monkeypatch):
        monkeypatch.setenv("PATH", "")  # no apt-get
        again = load_libreoffice_help("de", "en-US")
        assert again["test"][:] == libreoffice_help["test"][:]
