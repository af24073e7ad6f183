"""transcribe and stream with an exported folder: what they write with the model itself, without torch."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from seqdyconv.commands import exported_stream, exported_transcribe
from seqdyconv.commands.main import main
from seqdyconv.runtime import recogniser
from seqdyconv.runtime.words import Word

WORDS = [Word("dobrý", 0.5, 0.8, 0.9), Word("den", 1.0, 1.2, 0.8)]


class Heard:
    """A recogniser that hears the same in all files."""

    def __init__(self, folder, threads=1):
        self.folder, self.threads, self.latency = folder, threads, 0.1

    def words(self, file, segment_seconds):
        return WORDS if segment_seconds == 20.0 else WORDS[:1]

    def stream(self, rate):
        words = iter([word.text for word in WORDS])
        return SimpleNamespace(
            push=lambda samples: [next(words, "")][:1], partial=lambda: ["jak"], finish=lambda: [], latency=0.1
        )


@pytest.fixture
def exported(tmp_path, monkeypatch):
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "export.json").write_text("{}")
    for module in (exported_stream, exported_transcribe):
        monkeypatch.setattr(module, "Recogniser", Heard)
    monkeypatch.setattr(sys, "argv", ["seqdyconv"])
    return str(folder)


@pytest.fixture
def recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 8000)
    return str(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "dobrý den\n"),
        (["--segment_seconds", "5"], "dobrý\n"),
        (["--format", "srt", "--use_cpu"], "1\n00:00:00,500 --> 00:00:01,200\ndobrý den\n"),
    ],
    ids=["text", "segments", "subtitles"],
)
def test_transcripts(exported, recording, capfdbinary, options, expected):
    main(["transcribe", exported, recording, *options])
    assert capfdbinary.readouterr().out.decode() == expected


def test_words_come_as_they_are_spoken(exported, recording, capfd):
    main(["stream", exported, recording, "--times", "--chunk_seconds", "1"])
    output, error = capfd.readouterr()
    assert output == "1.00\tdobrý\n2.00\tden\n" and "real-time factor" in error


def test_words_that_may_change_come_with_them(exported, recording, capfd):
    main(["stream", exported, recording, "--partials", "--chunk_seconds", "1"])
    output, error = capfd.readouterr()
    assert output == "1.00\tdobrý\tjak\n2.00\tden\tjak\n2.00\t\tjak\n" and "words changed" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transcribe"], "the audio files are missing"),
        (["transcribe", "a.wav", "--format", "pdf"], "format must be one of text, json, srt, got 'pdf'"),
        (["transcribe", "a.wav", "--formt", "text"], "unknown option --formt, did you mean --format?"),
        (["transcribe", "a.wav", "--segment_seconds", "x"], "argument --segment_seconds: invalid float value: 'x'"),
        (["stream", "a.wav", "b.wav"], "unexpected argument 'b.wav'"),
        (["stream", "missing.wav"], "missing.wav cannot be read"),
        (["stream", "a.wav", "--threads", "-1"], "threads must be at least 0, got -1"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line(exported, capfd, words, message):
    with pytest.raises(SystemExit) as caught:
        main([words[0], exported, *words[1:]])
    output, error = capfd.readouterr()
    assert caught.value.code == 2 and message in error and error.count("\n") == 1 and not output


def test_a_damaged_folder_is_one_line(exported, recording, capfd, monkeypatch):
    monkeypatch.setattr(exported_transcribe, "Recogniser", recogniser.Recogniser)
    with pytest.raises(SystemExit):
        main(["transcribe", exported, recording])
    assert capfd.readouterr().err.count("\n") == 1
