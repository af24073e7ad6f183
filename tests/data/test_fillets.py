"""The dialogues of a game: which recordings have a text, and on which side they are."""

import hashlib
from collections import Counter

import pytest

from seqdyconv.data.fillets import load_fillets, read_utterances, split_levels, split_utterances
from seqdyconv.data.speech_text import normalise_text
from seqdyconv.data.splits import SPLITS
from tests.data.packaged import fetched
from tests.data.recordings import write_audio


@pytest.fixture(scope="module")
def fillets():
    return fetched(load_fillets)


class TestFillets:
    def script(self, folder, level, language, *lines):
        path = folder / "script" / level / f"dialogs_{language}.lua"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))

    def sound(self, folder, level, language, name):
        write_audio(folder / "sound" / level / language / f"{name}.ogg", rate=22050)

    def test_reads_texts_of_one_or_two_lines_that_have_a_sound(self, tmp_path):
        self.script(
            tmp_path,
            "cave",
            "cs",
            'dialogId("a", "font_small", "Hello \\"you\\"")\ndialogStr("Ahoj \\"ty\\"!")',
            'dialogId("b", "font_big",\n  "Two")\ndialogStr(\n"Dva")',
            'dialogId("silent", "font_big", "No sound")\ndialogStr("Beze zvuku")',
            'dialogId("number", "font_big", "%1 hours")\ndialogStr("%1 hodin")',
            'dialogId("dots", "font_big", "...")\ndialogStr("...")',
            'dialogId("noise", "", "")\ndialogStr("")',
        )
        for name in ("a", "b", "number", "dots", "noise", "no-text"):
            self.sound(tmp_path, "cave", "cs", name)
        found = read_utterances(tmp_path, "cs")
        assert [(row["id"], row["text"], row["speaker"]) for row in found] == [
            ("cs/cave/a", 'Ahoj "ty"!', "cs_small"),
            ("cs/cave/b", "Dva", "cs_big"),
        ]

    def test_levels_fill_test_then_validation_and_the_rest_is_train(self):
        sizes = Counter({f"level{number}": 10 for number in range(100)})
        found = Counter(split_levels(sizes).values())
        assert found == {"test": 10, "validation": 5, "train": 85}
        assert split_levels(sizes) == split_levels(Counter(dict(reversed(sizes.items()))))

    def test_a_text_that_occurs_elsewhere_leaves_the_held_out_sides(self):
        levels = [f"level{number}" for number in range(100)]
        utterances = [
            {"level": level, "language": "cs", "text": text} for level in levels for text in ("Hm.", f"Tady je {level}")
        ]
        splits = split_utterances(utterances)
        assert {row["text"] for split in ("validation", "test") for row in splits[split]}.isdisjoint({"Hm."})
        assert sum(row["text"] == "Hm." for row in splits["train"]) == 85


class TestPackages:
    def test_every_text_and_every_level_is_on_one_side(self, fillets):
        texts = [{normalise_text(text) for text in fillets[split]["text"]} for split in SPLITS]
        levels = [set(fillets[split]["level"]) for split in SPLITS]
        for sides in (texts, levels):
            assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]

    def test_numbers_of_utterances(self, fillets):
        languages = {split: fillets[split]["language"][:] for split in SPLITS}
        assert 1700 < sum(names.count("cs") for names in languages.values()) <= 1825
        assert 1500 < sum(names.count("nl") for names in languages.values()) <= 1615
        assert len(languages["test"]) > 250 and len(languages["validation"]) > 120

    def test_normalised_texts_are_those_that_the_published_error_rates_were_measured_on(self, fillets):
        texts = [normalise_text(text) for split in fillets for text in fillets[split]["text"]]
        assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "a952c9e570e8533c"
