"""The data of the speech recognition recipe: where recordings come from, what is left out, what batches hold."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
import speech_recognition_data
import torch
from datasets import Audio, Dataset
from fillets import read_utterances, split_levels, split_utterances
from speech_batches import AugmentationArguments, EpochBatches, SpeechCollator, Utterances, WaveformAugmentation
from speech_recognition_data import DataArguments, DataError, load_speech
from speech_text import normalise_text

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.speech import SeqDyConvFeatureExtractor, resample

RATE = 8000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDYCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")


def write_audio(path, seconds=0.5, seed=0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, samples, rate)
    return samples


def write_manifest(folder, rows):
    """A manifest of rows (path, seconds, text); the recordings are written too."""
    for seed, (name, seconds, _) in enumerate(rows):
        write_audio(folder / name, seconds, seed)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"path": name, "text": text}) + "\n" for name, _, text in rows))
    return str(manifest)


def load(**options):
    data, bad = load_speech(DataArguments(**{"validation_fraction": 0, **options}))
    return data, [(file.split, file.name.rpartition("/")[2], file.reason) for file in bad]


class TestNormaliseText:
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("Ahoj, SVĚTE!  Jak… se\tmáš?", "ahoj světe jak se máš"),
            ("C\u030ceska\u0301", "česká"),
            ("zo'n ‘mooi’ auto’s 'n", "zo'n mooi auto's n"),
            ("e-mail C:\\\\WINDOWS", "e mail c windows"),
            ("नमस्ते", "नमस्ते"),
            ("... --- !?", ""),
        ],
    )
    def test_keeps_letters_digits_and_apostrophes_inside_words(self, text, expected):
        assert normalise_text(text) == expected


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


class TestSources:
    def test_manifest_paths_are_relative_to_it(self, tmp_path):
        manifest = write_manifest(tmp_path / "data", [("wav/a.wav", 0.5, "Ahoj!"), ("wav/b.wav", 0.7, "Dva  tři")])
        data, bad = load(train_file=manifest)
        assert data["train"]["text"][:] == ["ahoj", "dva tři"] and not bad
        assert data["train"]["num_samples"][:] == [8000, 11200]  # at 16 kHz

    def test_manifest_of_common_voice(self, tmp_path):
        write_audio(tmp_path / "clips" / "x.mp3")
        (tmp_path / "train.tsv").write_text('client_id\tpath\tsentence\nanna\tx.mp3\tJedna "dvě"\n')
        data, _ = load(train_file=str(tmp_path / "train.tsv"), audio_folder=str(tmp_path / "clips"))
        assert data["train"]["text"][:] == ["jedna dvě"] and data["train"]["speaker"][:] == ["anna"]

    def test_folder_with_a_text_beside_each_file(self, tmp_path):
        write_audio(tmp_path / "deep" / "b.flac")
        (tmp_path / "deep" / "b.txt").write_text("Dva\n")
        write_audio(tmp_path / "a.wav")
        (tmp_path / "a.txt").write_text("\ufeffJedna\n")
        data, _ = load(train_file=str(tmp_path))
        assert data["train"]["text"][:] == ["jedna", "dva"]

    def test_folder_with_a_table(self, tmp_path):
        write_audio(tmp_path / "a.wav")
        (tmp_path / "metadata.csv").write_text("file_name,transcription\na.wav,Jedna\n")
        assert load(train_file=str(tmp_path))[0]["train"]["text"][:] == ["jedna"]

    @pytest.mark.parametrize("typed", [True, False], ids=["Audio", "struct"])
    def test_hub_data_set_with_the_audio_inside(self, tmp_path, typed):
        write_audio(tmp_path / "a.wav")
        content = (tmp_path / "a.wav").read_bytes()
        folder = tmp_path / "set"
        folder.mkdir()
        for split, number in (("train.clean", 3), ("train.other", 2), ("test", 1)):
            rows = {
                "file": ["nowhere"] * number,
                "audio": [{"bytes": content, "path": f"{split}-{row}.wav"} for row in range(number)],
                "text": ["ANO"] * number,
                "speaker_id": list(range(number)),
            }
            table = Dataset.from_dict(rows)
            if typed:
                table = table.cast_column("audio", Audio(decode=False))
            table.to_parquet(folder / f"{split}.parquet")
        names = "\n".join(
            f"  - {{split: {split}, path: {split}.parquet}}" for split in ("train.clean", "train.other", "test")
        )
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{names}\n---\n")
        data, _ = load(dataset=str(folder), train_split="train.clean+train.other", validation_split=None)
        assert data["train"]["name"][:] == [
            "train.clean-0.wav",
            "train.clean-1.wav",
            "train.clean-2.wav",
            "train.other-0.wav",
            "train.other-1.wav",
        ]
        assert data["train"]["num_samples"][:] == [8000] * 5 and data["train"]["speaker"][3:] == ["0", "1"]
        assert len(data["test"]) == 1

    def test_held_out_fractions_keep_equal_texts_on_one_side(self, tmp_path):
        rows = [(f"{number}.wav", 0.2, f"text {number % 20}") for number in range(40)]
        data, _ = load(train_file=write_manifest(tmp_path, rows), validation_fraction=0.1, test_fraction=0.2)
        assert {split: len(data[split]) for split in data} == {"train": 28, "validation": 4, "test": 8}
        assert set(data["train"]["text"]).isdisjoint({*data["validation"]["text"], *data["test"]["text"]})
        # An evaluation that asks for test alone finds the same utterances.
        alone, _ = load_speech(
            DataArguments(train_file=str(tmp_path / "manifest.jsonl"), validation_fraction=0.1, test_fraction=0.2),
            ("test",),
        )
        assert alone["test"]["name"][:] == data["test"]["name"][:]

    def test_audio_is_decoded_once(self, tmp_path, monkeypatch):
        manifest = write_manifest(tmp_path / "data", [("a.wav", 0.5, "jedna"), ("b.wav", 0.5, "dva")])
        first, _ = load(train_file=manifest)
        monkeypatch.setattr(speech_recognition_data, "read_audio", None)
        again, _ = load(train_file=manifest)
        assert again["train"]["samples"][:] == first["train"]["samples"][:]
        write_audio(tmp_path / "data" / "b.wav", 0.9, seed=5)
        with pytest.raises(TypeError):  # Another file under that name: it is read anew.
            load(train_file=manifest)

    def test_several_processes_decode_the_same(self, tmp_path, monkeypatch):
        manifest = write_manifest(tmp_path / "data", [(f"{number}.wav", 0.2, "x") for number in range(5)])
        one, _ = load(train_file=manifest)
        monkeypatch.setenv("SEQDYCONV_CACHE", str(tmp_path / "other"))
        two, _ = load(train_file=manifest, preprocessing_num_workers=2)
        assert one["train"]["samples"][:] == two["train"]["samples"][:]

    @pytest.mark.parametrize(
        "options, said",
        [
            ({}, "there is no train data: give train_file, as no data set is named either"),
            ({"train_file": "nowhere.jsonl"}, "train_file is nowhere.jsonl, which is not a file"),
            ({"train_file": "{folder}/list.xml"}, "of an unknown type"),
            ({"train_file": "{folder}"}, "which holds no audio"),
            ({"train_file": "{folder}/no_text.csv"}, "has none of the columns text, sentence"),
            ({"train_file": "{folder}/good.csv", "text_column": "wrods"}, "has no column 'wrods'; it has path, text"),
            ({"train_file": "{folder}/no_path.csv"}, "row 2 of"),
            ({"dataset": "fillets"}, "needs language: cs, nl or cs+nl"),
            ({"dataset": "fillets", "language": "de"}, "language is 'de', but fillets has cs, nl and cs+nl"),
            ({"max_seconds": 0.01}, "they must rise"),
            ({"max_bad_files": -1}, "max_bad_files is -1, but must be at least 0"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, tmp_path, options, said):
        (tmp_path / "list.xml").write_text("x")
        (tmp_path / "no_text.csv").write_text("path,words\na.wav,x\n")
        (tmp_path / "good.csv").write_text("path,text\na.wav,x\n")
        (tmp_path / "no_path.csv").write_text("path,text\na.wav,x\n,y\n")
        options = {
            name: value.format(folder=tmp_path) if isinstance(value, str) else value for name, value in options.items()
        }
        with pytest.raises(DataError) as caught:
            load(**options)
        assert said in str(caught.value) and "\n" not in str(caught.value)


class TestBadFiles:
    @pytest.fixture
    def manifest(self, tmp_path):
        rows = [("good.wav", 0.5, "ano"), ("short.wav", 0.05, "ano"), ("long.wav", 3, "ano"), ("empty.wav", 0.5, "?!")]
        path = write_manifest(tmp_path, rows)
        soundfile.write(tmp_path / "silent.wav", np.zeros(8000), RATE)
        with open(path, "a") as file:
            for name in ("silent.wav", "missing.wav"):
                file.write(json.dumps({"path": name, "text": "ano"}) + "\n")
        return path

    def test_are_left_out_with_their_reasons(self, manifest):
        data, bad = load(train_file=manifest, max_bad_files=5, max_seconds=2)
        assert len(data["train"]) == 1
        assert [(name, reason) for _, name, reason in bad[:4]] == [
            ("short.wav", "it lasts 0.050 seconds, less than min_seconds 0.1"),
            ("long.wav", "it lasts 3.0 seconds, more than max_seconds 2"),
            ("empty.wav", "its text is empty"),
            ("silent.wav", "it is silent"),
        ]
        assert bad[4][1] == "missing.wav" and "No such file" in bad[4][2]

    def test_more_than_the_limit_is_an_error(self, manifest):
        with pytest.raises(
            DataError, match="5 of 6 train utterances are of no use, but max_bad_files allows 4; the first"
        ):
            load(train_file=manifest, max_bad_files=4, max_seconds=2)

    def test_a_limit_below_one_is_a_share(self, manifest):
        with pytest.raises(DataError, match="max_bad_files allows 3"):
            load(train_file=manifest, max_bad_files=0.5, max_seconds=2)

    def test_in_evaluation_they_are_an_error_unless_allowed(self, tmp_path, manifest):
        good = write_manifest(tmp_path / "good", [("a.wav", 0.5, "ano")])
        with pytest.raises(DataError, match=r"3 of 6 test utterances .* max_bad_evaluation_files allows 0"):
            load(train_file=good, test_file=manifest)
        data, bad = load(train_file=good, test_file=manifest, max_bad_evaluation_files=3)
        # Short and long ones are recognised all the same.
        assert len(data["test"]) == 3 and {split for split, _, _ in bad} == {"test"}


def utterances(tmp_path, **options):
    rows = [("a.wav", 0.5, "jedna"), ("b.wav", 0.8, "dva"), ("c.wav", 0.6, "tři")]
    data, _ = load(train_file=write_manifest(tmp_path, rows))
    augment = WaveformAugmentation(AugmentationArguments(noise_probability=1.0, **options))
    return Utterances(data["train"], [[5], [6, 7], [8, 9, 5]], augment, seed=3)


class TestBatches:
    def test_samples_are_those_of_the_file(self, tmp_path):
        data = utterances(tmp_path)
        expected = resample(torch.tensor(write_audio(tmp_path / "a.wav", 0.5, 0), dtype=torch.float32), RATE, 16000)
        torch.testing.assert_close(data[0]["samples"], expected, atol=1e-4, rtol=0)
        assert data[0]["generator"] is None and data.lengths.tolist() == [8000, 12800, 9600]

    def test_augmentation_depends_on_seed_epoch_and_index_alone(self, tmp_path):
        data = utterances(tmp_path)
        first = [data[index, 1]["samples"] for index in range(3)]
        again = [data[index, 1]["samples"] for index in (2, 1, 0)][::-1]
        assert all(torch.equal(one, other) for one, other in zip(first, again))
        other = data[0, 2]["samples"]
        assert other.shape != first[0].shape or not torch.equal(other, first[0])
        lengths = {len(data[0, epoch]["samples"]) for epoch in range(20)}
        assert lengths == {8889, 8000, 7273}  # 8000 samples at speeds 0.9, 1 and 1.1

    def test_features_are_hidden_by_epoch_and_padding_is_not(self, tmp_path):
        data = utterances(tmp_path, speed_factors=[1.0])
        args = AugmentationArguments(time_mask_width=20, frequency_mask_width=10)
        extractor = SeqDyConvFeatureExtractor(normalize=None)
        collate = SpeechCollator(extractor, args.spec_augment())
        plain = SpeechCollator(extractor)([data[index, 4] for index in range(3)])
        batch, again = (collate([data[index, 4] for index in range(3)]) for _ in range(2))
        assert torch.equal(batch["input_features"], again["input_features"])
        assert not torch.equal(batch["input_features"], plain["input_features"])
        assert batch["attention_mask"].sum(1).tolist() == [48, 78, 58]
        assert (batch["input_features"][0, 48:] == 0).all()
        assert batch["labels"].tolist() == [[5, -100, -100], [6, 7, -100], [8, 9, 5]]
        # Evaluation changes nothing.
        whole = collate([data[index] for index in range(3)])
        torch.testing.assert_close(whole["input_features"][0, :48], extractor.features(data[0]["samples"]))

    def test_the_epoch_stands_beside_each_index(self):
        sampler = TokenBatchSampler([5, 2, 2, 3], max_tokens=6, shuffle=False)
        batches = EpochBatches(sampler)
        sampler.set_epoch(7)
        assert list(batches) == [[(1, 7), (2, 7)], [(3, 7)], [(0, 7)]] and len(batches) == 3

    @pytest.mark.parametrize(
        "options, said",
        [
            ({"speed_factors": [0.0]}, "factors must be numbers between 0.1 and 10"),
            ({"noise_probability": 1.5}, "probability must be between 0 and 1"),
            ({"time_mask_ratio": 2.0}, "time_mask_ratio must be between 0 and 1"),
        ],
    )
    def test_bad_arguments(self, options, said):
        with pytest.raises(ValueError, match=said):
            AugmentationArguments(**options)
