"""Transcripts of files: whatever their names are, no transcript is lost, and what is no audio is one line."""

import json
import os

import numpy as np
import pytest
import soundfile

from seqdyconv.commands import stream, transcribe


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    return path


@pytest.fixture
def run(streaming_folder, capfdbinary):
    """Exit status, standard output and standard error of the command."""

    def run(*words):
        status = 0
        try:
            transcribe.main([str(streaming_folder), *map(str, words), "--use_cpu"])
        except SystemExit as end:
            status = end.code
        return status, *capfdbinary.readouterr()

    return run


def copy(recording, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(recording.read_bytes())
    return path


class TestOutputDir:
    def test_a_transcript_that_is_there_is_kept(self, run, recording, tmp_path):
        out = tmp_path / "out"
        assert run(recording, "--output_dir", out)[0] == 0
        first = (out / "a.txt").read_text()
        assert first.strip()
        other = tmp_path / "other" / "a.wav"
        other.parent.mkdir()
        soundfile.write(other, np.random.default_rng(1).normal(0, 0.1, 32000), 16000)
        status, _, error = run(other, "--output_dir", out)
        assert status == 2 and error.count(b"\n") == 1 and b"a.txt is there already: set overwrite" in error
        assert (out / "a.txt").read_text() == first
        assert run(other, "--output_dir", out, "--overwrite")[0] == 0
        assert (out / "a.txt").read_text() != first

    def test_two_of_one_name_are_told_before_any_work(self, run, recording, tmp_path):
        other = copy(recording, tmp_path / "other" / "a.wav")
        status, _, error = run(recording, other, "--output_dir", tmp_path / "out")
        assert status == 2 and b"two files would both be written to a.txt" in error
        assert not (tmp_path / "out").exists()

    def test_audio_is_never_overwritten(self, run, recording, tmp_path):
        audio = copy(recording, tmp_path / "b.txt")
        status, _, error = run(audio, "--output_dir", tmp_path, "--overwrite")
        assert status == 2 and b"b.txt is no transcript that could be replaced" in error
        assert audio.read_bytes() == recording.read_bytes()

    def test_a_folder_that_cannot_be_made(self, run, recording):
        status, _, error = run(recording, "--output_dir", recording)
        assert status == 2 and b"can't make output_dir" in error and error.count(b"\n") == 1


class TestFiles:
    def test_what_is_no_audio_is_a_line_and_the_rest_goes_on(self, run, recording, tmp_path):
        os.mkfifo(tmp_path / "pipe.wav")
        (tmp_path / "text.wav").write_text("hello")
        soundfile.write(tmp_path / "loud.wav", np.array([0.0, 1e30]), 16000, subtype="FLOAT")
        soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
        soundfile.write(tmp_path / "one.wav", np.array([0.1]), 16000)
        names = ["pipe.wav", "text.wav", "loud.wav", "silent.wav", "one.wav"]
        bad = [*(tmp_path / name for name in names[:3]), "/dev/zero", "/dev/null", tmp_path, tmp_path / "none.wav"]
        status, output, error = run(*bad, *(tmp_path / name for name in names[3:]), recording)
        assert status == 1 and len(error.splitlines()) == len(bad)
        assert [line.split(b"\t")[0].rpartition(b"/")[2] for line in output.splitlines()] == [
            *map(str.encode, names[3:]),
            b"a.wav",
        ]

    def test_damaged_mp3_files_are_a_line(self, run, tmp_path):
        soundfile.write(tmp_path / "a.mp3", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
        content = bytearray((tmp_path / "a.mp3").read_bytes())
        content[1000:1100] = bytes(range(100))
        (tmp_path / "a.mp3").write_bytes(content)
        status, output, error = run(tmp_path / "a.mp3")
        assert status == 1 and not output and error.count(b"\n") == 1 and b"a.mp3 is truncated or damaged" in error

    @pytest.mark.parametrize("kind", ["text", "json"])
    def test_names_of_any_bytes(self, run, recording, tmp_path, kind):
        files = [
            copy(recording, tmp_path / name) for name in (os.fsdecode(b"\xff.wav"), "b\nc\td.wav", "-e.wav", "č.wav")
        ]
        status, output, error = run(*files, "--format", kind)
        assert status == 0 and not error and output.count(b"\n") == 4
        if kind == "json":
            assert [json.loads(line)["file"] for line in output.splitlines()] == list(map(str, files))
        else:
            names = [line.split(b"\t")[0].rpartition(b"/")[2] for line in output.splitlines()]
            assert names == [b"\xff.wav", b"b c d.wav", b"-e.wav", "č.wav".encode()]
        assert run(*files, "--format", kind, "--output_dir", tmp_path / "out")[0] == 0
        assert len(os.listdir(tmp_path / "out")) == 4

    def test_a_name_that_no_file_can_have(self, run):
        status, _, error = run("a\0.wav")
        assert status == 2 and b"files must be the name of a file, got" in error and error.count(b"\n") == 1

    def test_a_name_that_begins_with_a_dash(self, run, recording, tmp_path, monkeypatch):
        copy(recording, tmp_path / "-e.wav")
        monkeypatch.chdir(tmp_path)
        status, output, error = run("-e.wav")
        assert status == 0 and output and not error, error


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "text"])
def test_a_stream_of_what_is_no_audio_file_is_one_line(streaming_folder, tmp_path, capfdbinary, kind):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("hello")
    path = {"pipe": tmp_path / "pipe", "device": "/dev/zero", "folder": tmp_path, "text": tmp_path / "text"}[kind]
    with pytest.raises(SystemExit) as caught:
        stream.main([str(streaming_folder), str(path), "--use_cpu"])
    output, error = capfdbinary.readouterr()
    assert caught.value.code == 2 and not output and error.count(b"\n") == 1 and str(path).encode() in error
