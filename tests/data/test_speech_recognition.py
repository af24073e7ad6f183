"""The data of speech recognition: where recordings come from, what is left out, how samples are kept."""

import json

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset

from seqdyconv.data import speech_recognition
from seqdyconv.data.speech_recognition import DataArguments, Samples, load_speech
from seqdyconv.data.tables import DataError
from seqdyconv.speech import read_audio
from tests.data.recordings import RATE, write_audio, write_manifest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDYCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")


def load(**options):
    data, bad = load_speech(DataArguments(**{"validation_fraction": 0, **options}))
    return data, [(file.split, file.name.rpartition("/")[2], file.reason) for file in bad]


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
        monkeypatch.setattr(speech_recognition, "read_audio", None)
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


def test_samples_are_those_of_the_file_as_16_bit_integers(tmp_path):
    data, _ = load(train_file=write_manifest(tmp_path, [("a.wav", 0.5, "jedna"), ("b.wav", 0.8, "dva")]))
    samples = Samples(data["train"])
    assert len(samples) == 2 and samples.lengths.tolist() == [8000, 12800]
    for row, name in enumerate("ab"):
        assert samples[row].dtype == torch.float32
        expected = (read_audio(tmp_path / f"{name}.wav") * 32767).round() / 32768
        assert torch.equal(samples[row], expected)
    assert data["train"].features["samples"].feature.dtype == "int16"
