"""Czech texts for language models: how a file of fortunes is read."""

from seqdyconv.data.fortunes import load_fortunes_cs, read_fortunes
from tests.data.packaged import fetched


def test_texts_stand_between_percent_signs_without_authors_colours_and_split_words(tmp_path):
    files = {
        "first": "Kdo jinému jámu\nkopá.\n\t\t-- přísloví\n%\nJedna \x1b[1mvěta\x1b[0m. Dru-\n  há - 50 %\n%%\n\n%\n",
        "second-sk": "Slovenčina.\n%\n",
        "third": "Poslední.\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / f"{name}.dat").touch()
    (tmp_path / "README").write_text("no texts")
    assert read_fortunes(tmp_path) == ["Kdo jinému jámu kopá.", "Jedna věta. Druhá - 50 %", "Poslední."]


def test_the_package():
    texts = fetched(load_fortunes_cs)
    assert len(texts) > 5000 and 1.0e6 < sum(map(len, texts)) < 1.4e6
    assert all(text == " ".join(text.split()) for text in texts)
