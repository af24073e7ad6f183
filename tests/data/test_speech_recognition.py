"""The data of speech recognition: where recordings come from, what is left out, how samples are kept."""

import json
import math
import os

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset

from seqdyconv.data import speech_recognition
from seqdyconv.data.speech_recognition import DataArguments, Samples, load_speech
from seqdyconv.data.tables import DataError
from seqdyconv.errors import InputError
from seqdyconv.runtime.samples import AudioError
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

    def test_hub_rows_with_equal_paths_are_not_taken_for_each_other(self, tmp_path):
        folder = tmp_path / "set"
        folder.mkdir()
        for split, seconds in (("one", [0.1, 0.2]), ("two", [0.3, 0.4])):
            audio = []
            for length in seconds:
                write_audio(tmp_path / "audio.wav", length)
                audio.append({"bytes": (tmp_path / "audio.wav").read_bytes(), "path": "audio.wav"})
            table = Dataset.from_dict({"audio": audio, "text": [f"{round(10 * length)}" for length in seconds]})
            table.cast_column("audio", Audio(decode=False)).to_parquet(folder / f"{split}.parquet")
        names = "\n".join(f"  - {{split: {split}, path: {split}.parquet}}" for split in ("one", "two"))
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{names}\n---\n")
        for seed in range(8):  # another utterance each time, under the same name
            options = {"train_split": "one+two", "max_train_samples": 1, "split_seed": seed, "min_seconds": 0}
            data, _ = load(dataset=str(folder), normalise_text=False, validation_split=None, test_split=None, **options)
            assert data["train"]["num_samples"][0] == 1600 * int(data["train"]["text"][0])

    def test_each_column_of_audio_is_its_own(self, tmp_path):
        audio = {}
        for name, seconds in (("clean", 0.5), ("noisy", 0.7)):
            write_audio(tmp_path / "audio.wav", seconds)
            audio[name] = [{"bytes": (tmp_path / "audio.wav").read_bytes(), "path": None}]
        table = tmp_path / "train.parquet"
        Dataset.from_dict({"path": ["nowhere.wav"], **audio, "text": ["x"]}).to_parquet(table)
        for name, number in (("clean", 8000), ("noisy", 11200), ("clean", 8000)):
            assert load(train_file=str(table), audio_column=name)[0]["train"]["num_samples"][:] == [number]

    def test_audio_is_found_beside_a_path(self, tmp_path):
        write_audio(tmp_path / "a.wav")
        audio = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}
        Dataset.from_dict({"path": ["x/a.wav"], "audio": [audio], "text": ["x"]}).to_parquet(tmp_path / "train.parquet")
        assert len(load(train_file=str(tmp_path / "train.parquet"))[0]["train"]) == 1

    def test_rows_without_audio_are_left_out(self, tmp_path):
        write_audio(tmp_path / "a.wav")
        audio = [{"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}, {"bytes": None, "path": None}, None]
        Dataset.from_dict({"audio": audio, "text": ["x", "y", "z"]}).to_parquet(tmp_path / "train.parquet")
        data, bad = load(train_file=str(tmp_path / "train.parquet"), max_bad_files=2)
        assert data["train"]["text"][:] == ["x"] and {reason for *_, reason in bad} == {"it has no audio"}

    def test_of_a_package_some_splits_may_be_unused(self, tmp_path, monkeypatch):
        write_audio(tmp_path / "a.wav")
        rows = Dataset.from_dict({"path": [str(tmp_path / "a.wav")], "text": ["x"]})
        splits = dict.fromkeys(("train", "validation", "test"), rows)
        monkeypatch.setattr(speech_recognition.fillets, "load_fillets", lambda languages: splits)
        options = {"dataset": "fillets", "language": "cs"}
        assert list(load(**options)[0]) == ["train", "validation", "test"]
        assert list(load(**options, validation_split=None, test_split=None)[0]) == ["train"]
        with pytest.raises(DataError, match="the data set fillets has no split 'dev'; it has train, validation, test"):
            load(**options, validation_split="dev")
        with pytest.raises(DataError, match="the data set fillets has no dataset_config"):
            load(**options, dataset_config="cs")

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
        monkeypatch.setattr(speech_recognition, "read_parts", None)
        again, _ = load(train_file=manifest)
        assert again["train"]["samples"][:] == first["train"]["samples"][:]
        write_audio(tmp_path / "data" / "b.wav", 0.9, seed=5)
        with pytest.raises(TypeError):  # Another file under that name: it is read anew.
            load(train_file=manifest)

    def test_what_could_not_be_read_is_tried_again(self, tmp_path, monkeypatch):
        manifest = write_manifest(tmp_path, [("a.wav", 0.5, "jedna"), ("b.wav", 0.5, "dva")])

        def denied(*args):
            raise AudioError("a.wav cannot be read: Permission denied")

        with monkeypatch.context() as patch, pytest.raises(DataError, match="Permission denied"):
            patch.setattr(os, "access", lambda *args: False)
            patch.setattr(speech_recognition, "read_parts", denied)
            load(train_file=manifest)
        assert len(load(train_file=manifest)[0]["train"]) == 2

    def test_several_processes_decode_the_same(self, tmp_path, monkeypatch):
        manifest = write_manifest(tmp_path / "data", [(f"{number}.wav", 0.2, "x") for number in range(5)])
        one, _ = load(train_file=manifest)
        monkeypatch.setattr(os, "environ", os.environ)  # datasets leaves a copy in its place
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
            ({"train_file": "{folder}/list.json"}, "has ['a', 'b'] in the column 'text', but a text must be a string"),
            ({"train_file": "{folder}/arrays.parquet"}, "has no audio in the column 'audio' (set audio_column)"),
            ({"dataset": "fillets"}, "needs language: cs, nl or cs+nl"),
            ({"dataset": "fillets", "language": "de"}, "language is 'de', but fillets has cs, nl and cs+nl"),
            ({"max_seconds": 0.01}, "min_seconds is 0.1, but must be below max_seconds 0.01"),
            ({"max_bad_files": -1}, "max_bad_files must be at least 0, got -1"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, tmp_path, options, said):
        (tmp_path / "list.xml").write_text("x")
        (tmp_path / "list.json").write_text('[{"path": "a.wav", "text": ["a", "b"]}]')
        arrays = {"audio": [{"path": "a.wav", "array": [0.1], "sampling_rate": 8000}], "text": ["x"]}
        Dataset.from_dict(arrays).to_parquet(tmp_path / "arrays.parquet")
        (tmp_path / "no_text.csv").write_text("path,words\na.wav,x\n")
        (tmp_path / "good.csv").write_text("path,text\na.wav,x\n")
        (tmp_path / "no_path.csv").write_text("path,text\na.wav,x\n,y\n")
        options = {
            name: value.format(folder=tmp_path) if isinstance(value, str) else value for name, value in options.items()
        }
        with pytest.raises(InputError) as caught:
            load(**options)
        assert said in str(caught.value) and "\n" not in str(caught.value)


class TestPartsOfRecordings:
    """Manifests that cut their utterances out of longer recordings; the level says from where."""

    @pytest.fixture(autouse=True)
    def recording(self, tmp_path):
        levels = np.repeat([0.1, 0.2, 0.3, 0.4], RATE)
        soundfile.write(tmp_path / "long.wav", levels, RATE)
        soundfile.write(tmp_path / "long.flac", np.stack([levels * 2, levels * 0], 1), RATE)

    def cut(self, tmp_path, rows, **options):
        """(seconds, level in the middle) of each utterance, and why the others are left out."""
        rows = [{"path": "long.wav", "text": "x", **row} for row in rows]
        (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data, bad = load(train_file=str(tmp_path / "manifest.jsonl"), max_bad_files=0.99, **options)
        found = [(len(row) / 16000, round(row[len(row) // 2] / 32767, 1)) for row in data["train"]["samples"]]
        return found, [(name, reason) for _, name, reason in bad]

    @pytest.mark.parametrize(
        "start, end",
        [("offset", "duration"), ("start", "end"), ("Start_Time", "End_Time"), ("segment_begin", "stop_s")],
    )
    @pytest.mark.parametrize("file", ["long.wav", "long.flac"])
    def test_are_cut_where_the_columns_say(self, tmp_path, start, end, file):
        rows = [{"path": file, start: k / 2, end: 1 if end == "duration" else k / 2 + 1} for k in (0, 2, 4, 6)]
        assert self.cut(tmp_path, rows)[0] == [(1, 0.1), (1, 0.2), (1, 0.3), (1, 0.4)]

    @pytest.mark.parametrize(
        "row, expected",
        [
            ({"offset": 3}, (1, 0.4)),
            ({"end": 1}, (1, 0.1)),
            ({"duration": 1}, (1, 0.1)),
            ({"duration": 4.0}, (4, 0.3)),
            ({"duration": 4.06}, (4, 0.3)),  # as tables round, and encoders pad
            ({"start_ms": 1000, "end_ms": "2000"}, (1, 0.2)),
            ({"start": 2, "end": 3, "duration": 1}, (1, 0.3)),
            ({"offset": "1.5", "duration": " 0.5 "}, (0.5, 0.2)),
        ],
        ids=str,
    )
    def test_one_column_units_and_strings(self, tmp_path, row, expected):
        assert self.cut(tmp_path, [row])[0] == [expected]

    @pytest.mark.parametrize(
        "row, said",
        [
            ({"offset": -1, "duration": 1}, "its offset is -1, which is no time"),
            ({"offset": 1, "duration": -1}, "its duration is -1, which is no time"),
            ({"offset": math.nan, "duration": 1}, "its offset is missing"),
            ({"offset": None, "duration": 1}, "its offset is missing"),
            ({"offset": 1, "duration": ""}, "its duration is missing"),
            ({"offset": "1,5", "duration": 1}, "its offset is '1,5', which is no time"),
            ({"offset": True, "duration": 1}, "its offset is True, which is no time"),
            ({"offset": 1, "duration": 0}, "it lasts 0 seconds"),
            ({"start": 2, "end": 1}, "it ends at 1 s and begins at 2 s"),
            ({"start": 1, "end": 2, "duration": 3}, "it lasts 3 s, but from 1 s to 2 s is another time"),
            ({"offset": 4, "duration": 1}, "long.wav ends at 4 s, before the part begins, at 4 s"),
            ({"offset": 1000, "duration": 1000}, "ends at 4 s, before the part begins, at 1000 s"),  # milliseconds
            ({"offset": 3.5, "duration": 1}, "long.wav ends at 4 s, before the part ends, at 4.5 s"),
            ({"duration": 64000}, "long.wav ends at 4 s, before the part ends, at 64000 s"),  # samples
        ],
        ids=str,
    )
    def test_what_cannot_be_cut_is_left_out_and_named(self, tmp_path, row, said):
        good = {"start": 0, "offset": 0, "end": 1, "duration": 1}
        found, bad = self.cut(tmp_path, [{name: good[name] for name in row}, row])
        assert found == [(1, 0.1)] and len(bad) == 1
        assert bad[0][0].startswith("long.wav") and said in bad[0][1]

    @pytest.mark.parametrize(
        "row, said",
        [
            ({"offset": 1, "start": 1}, "has the columns 'offset' and 'start' of one meaning"),
            ({"start_sample": 16000}, "has the column 'start_sample', but parts must be in seconds"),
            ({"frame_offset": 16000}, "has the column 'frame_offset', but parts must be in seconds"),
            ({"offset": 9}, "the first is"),
        ],
    )
    def test_what_no_row_can_mean_is_one_line(self, tmp_path, row, said):
        with pytest.raises(DataError, match=said) as caught:
            self.cut(tmp_path, [row])
        assert "\n" not in str(caught.value)

    def test_other_parts_are_decoded_anew(self, tmp_path):
        assert self.cut(tmp_path, [{"offset": 0, "duration": 1}])[0] == [(1, 0.1)]
        assert self.cut(tmp_path, [{"offset": 1, "duration": 1}])[0] == [(1, 0.2)]

    def test_parts_of_hours_are_no_bad_files(self, tmp_path):
        with soundfile.SoundFile(tmp_path / "hour.wav", "w", RATE, 1) as sound:
            for _ in range(40):
                sound.write(np.full(20 * RATE, 0.2))
        rows = [{"path": "hour.wav", "start": 799 - k, "end": 800 - k} for k in (0, 1)]
        assert self.cut(tmp_path, [*rows, {"path": "hour.wav", "start": 0, "end": 700}])[0] == [(1, 0.2)] * 2

    def test_a_table_of_segments(self, tmp_path):
        (tmp_path / "segments.tsv").write_text("utt_id\trecording\tstart\tend\ttext\na\tlong.wav\t1.0\t2.0\tAno\n")
        data, _ = load(train_file=str(tmp_path / "segments.tsv"))
        assert data["train"]["num_samples"][:] == [16000] and data["train"]["name"][0].endswith("long.wav [1-2]")

    def test_times_beside_audio_that_is_cut_already(self, tmp_path):
        audio = {"path": "a.wav", "bytes": (tmp_path / "long.wav").read_bytes()}
        rows = {"audio": [audio, audio], "text": ["a", "b"], "begin_time": [100.0, 1.0], "end_time": [104.0, 2.0]}
        (tmp_path / "set").mkdir()
        Dataset.from_dict(rows).to_parquet(tmp_path / "set" / "train.parquet")
        data, _ = load(dataset=str(tmp_path / "set"), validation_split=None, test_split=None)
        assert data["train"]["num_samples"][:] == [64000, 16000]


class TestPaths:
    @pytest.fixture(autouse=True)
    def recordings(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("one.wav", "sub/two.wav", "clips/three.mp3"):
            write_audio(tmp_path / name)

    def load(self, tmp_path, path):
        rows = [{"path": path, "text": "x"}, {"path": "one.wav", "text": "y"}]
        (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load(train_file=str(tmp_path / "manifest.jsonl"), max_bad_files=0.5)

    @pytest.mark.parametrize(
        "path", ["sub/two.wav", "sub\\two.wav", "{folder}/one.wav", "file://{folder}/one.wav", "~/one.wav", "three.mp3"]
    )
    def test_are_found(self, tmp_path, path):
        data, bad = self.load(tmp_path, path.format(folder=tmp_path))
        assert data["train"]["text"][:] == ["x", "y"] and not bad

    def test_an_address_that_is_none_is_one_line(self, tmp_path):
        with pytest.raises(DataError, match=r"row 1 of .* has the address 'file://\[x/a.wav', which is none"):
            self.load(tmp_path, "file://[x/a.wav")

    @pytest.mark.parametrize("path", ["https://host/one.wav", "file://host/one.wav", "s3://bucket/one.wav"])
    def test_nothing_is_fetched(self, tmp_path, path):
        with pytest.raises(DataError, match=f"row 1 of .* has the address '{path}', and nothing is fetched"):
            self.load(tmp_path, path)

    @pytest.mark.parametrize("path", ["touch {folder}/ran |", "| touch {folder}/ran"])
    def test_no_command_is_run(self, tmp_path, path):
        with pytest.raises(DataError, match=r"row 1 of .* has a command, .* and none is run"):
            self.load(tmp_path, path.format(folder=tmp_path))
        assert not (tmp_path / "ran").exists()

    def test_what_is_no_file_is_left_out_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.wav")
        for path, said in (
            ("pipe.wav", "is a pipe or a device"),
            ("/dev/zero", "is a pipe or a device"),
            ("sub", "is a folder"),
            ("a\0b.wav", "is no name of a file"),
            ("none.wav", "No such file"),
            ("a text in place of a path " * 20, "File name too long"),
        ):
            assert said in self.load(tmp_path, path)[1][0][2]

    def test_names_that_are_not_utf8_are_one_line(self, tmp_path):
        name = os.fsdecode(b"a\xff")
        (tmp_path / "sub" / f"{name}.wav").write_bytes((tmp_path / "one.wav").read_bytes())
        for stem in ("two", name):
            (tmp_path / "sub" / f"{stem}.txt").write_text("x")
        with pytest.raises(DataError, match=r"has a file whose name is not UTF-8, 'a\\udcff.wav': rename it"):
            load(train_file=str(tmp_path / "sub"))

    def test_lj_speech(self, tmp_path):
        write_audio(tmp_path / "wavs" / "LJ001-0001.wav")
        (tmp_path / "metadata.csv").write_text('LJ001-0001|In 1440, "he|In fourteen forty, "he\n')
        for where in (tmp_path, tmp_path / "metadata.csv"):
            assert load(train_file=str(where))[0]["train"]["text"][:] == ["in fourteen forty he"]

    def test_folder_with_a_table_of_json_lines(self, tmp_path):
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "one.wav", "transcription": "Jedna"}\n')
        assert load(train_file=str(tmp_path))[0]["train"]["text"][:] == ["jedna"]


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
        expected = (read_audio(tmp_path / f"{name}.wav") * 32768).round() / 32768
        assert torch.equal(samples[row], expected)
    assert data["train"].features["samples"].feature.dtype == "int16"
