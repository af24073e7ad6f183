"""Data folders of Kaldi: which utterances they hold, and what is wrong with one, in a line."""

import pytest

from seqdyconv.data.kaldi import read_kaldi_folder
from seqdyconv.data.speech_recognition import DataArguments, load_speech
from seqdyconv.data.tables import DataError
from tests.data.recordings import write_audio

WAV_SCP = "u2 deep/b.wav\nu1\tmy recording.wav\n"
TEXT = "u1 jedna\nu2  Dva  tři\n"
SEGMENTS = "u1 r 0 0.5\nu2 r 0.5 1.25\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDYCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(content)


def read(folder):
    return read_kaldi_folder(folder, "train_file").to_dict()


def test_utterances_are_those_of_text(folder):
    write(folder, wav_scp=WAV_SCP, text=TEXT.replace("\n", "\r\n"), spk2utt="s u1 u2\n")
    assert read(folder) == {"path": ["my recording.wav", "deep/b.wav"], "text": ["jedna", "Dva  tři"]}


def test_segments_and_speakers(folder):
    write(folder, wav_scp="r r.wav\nunused no.wav\n", text=TEXT, segments=SEGMENTS, utt2spk="u1 s\nu2 t\nu3 t\n")
    assert read(folder) == {
        "path": ["r.wav", "r.wav"],
        "text": ["jedna", "Dva  tři"],
        "start": ["0", "0.5"],
        "end": ["0.5", "1.25"],
        "speaker": ["s", "t"],
    }


@pytest.mark.parametrize(
    "files, message",
    [
        ({"text": "u1 a\n"}, "1 of 2 ids of .*wav.scp are not in text, the first is 'u2'"),
        ({"text": TEXT + "u3 c\n"}, "1 of 3 ids of .*text are not in wav.scp, the first is 'u3'"),
        ({"text": TEXT + "u3 c\n", "segments": SEGMENTS}, "1 of 3 ids of .*text are not in segments, .* 'u3'"),
        ({"text": "u1 a\n", "segments": SEGMENTS}, "1 of 2 ids of .*segments are not in text, .* 'u2'"),
        ({"segments": SEGMENTS}, "1 of 1 ids of .*segments are not in wav.scp, the first is 'r'"),
        ({"segments": "u1 r 0 1\nu2 r 1 2 1\n"}, "line 2 of .*segments must be .* no channel, got 'u2 r 1 2 1'"),
        ({"utt2spk": "u1 s\n"}, "1 of 2 ids of .*text are not in utt2spk"),
        ({"text": TEXT + "u1 b\n"}, "line 3 of .*text has the id 'u1' a second time"),
        ({"text": TEXT + "\n"}, "line 3 of .*text must be an id and what belongs to it, got ''"),
        ({"wav_scp": "u1\nu2 b.wav\n"}, "line 1 of .*wav.scp must be an id and what belongs to it, got 'u1'"),
        ({"wav_scp": "u1 raw.ark:17\nu2 b.wav\n"}, "line 1 of .*wav.scp has 'raw.ark:17', inside an archive"),
        ({"text": ""}, "text, which is empty"),
    ],
)
def test_what_is_wrong_is_one_line(folder, files, message):
    write(folder, **{"wav_scp": WAV_SCP, "text": TEXT, **files})
    with pytest.raises(DataError, match=message):
        read(folder)


def test_a_folder_without_texts_is_refused(folder):
    write(folder, wav_scp=WAV_SCP)
    with pytest.raises(DataError, match=r"has Kaldi's wav\.scp, but no text"):
        read(folder)


@pytest.mark.parametrize("given", ["", "wav.scp", "segments"])
def test_parts_are_cut_from_files_of_the_folder(folder, given):
    write_audio(folder / "r.wav", 2.0)
    write(folder, wav_scp="r r.wav\n", text=TEXT, segments=SEGMENTS)
    data, bad = load_speech(DataArguments(train_file=str(folder / given), validation_fraction=0))
    assert data["train"]["text"][:] == ["jedna", "dva tři"] and not bad
    assert data["train"]["num_samples"][:] == [8000, 12000]


def test_no_command_is_run(folder):
    write(folder, wav_scp=f"u1 touch {folder}/run |\n", text="u1 a\n")
    with pytest.raises(DataError, match=r"has a command, 'touch .* none is run"):
        load_speech(DataArguments(train_file=str(folder), validation_fraction=0))
    assert not (folder / "run").exists()
