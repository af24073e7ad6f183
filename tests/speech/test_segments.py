"""Recordings of any length in segments: cut at pauses, the same read at once and block by block."""

import numpy as np
import pytest
import soundfile
import torch

from seqdyconv.runtime import segments
from seqdyconv.runtime.samples import AudioError
from seqdyconv.speech.segments import read_segments

RATE = 8000


def write_noise(path, seconds, rate=RATE):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, samples, rate)
    return samples


def test_segments_end_at_pauses_and_make_the_whole(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * 16000).astype(np.float32)
    noise[int(3.4 * 16000) : int(3.6 * 16000)] *= 0.001
    soundfile.write(tmp_path / "a.wav", noise, 16000, subtype="FLOAT")
    (start, first), *rest = read_segments(tmp_path / "a.wav", 16000, 4.0)
    assert start == 0 and 3.4 < len(first) / 16000 < 3.6
    assert all(len(samples) <= 64000 for _, samples in rest)
    assert rest[0][0] == len(first) / 16000
    assert torch.equal(torch.cat([first, *(samples for _, samples in rest)]), torch.tensor(noise))


def test_long_files_are_read_in_blocks(tmp_path, monkeypatch):
    samples = write_noise(tmp_path / "a.wav", 7.3)
    whole = torch.cat([samples for _, samples in read_segments(tmp_path / "a.wav", RATE, 2.0)])
    monkeypatch.setattr(segments, "WHOLE_SECONDS", 5.0)
    monkeypatch.setattr(segments, "BLOCK_SECONDS", 1.5)
    monkeypatch.setattr(segments, "read_audio", None)
    blocks = list(read_segments(tmp_path / "a.wav", RATE, 2.0))
    assert len(whole) == len(samples) and torch.equal(torch.cat([samples for _, samples in blocks]), whole)


def test_a_damaged_long_file_is_an_error(tmp_path, monkeypatch):
    write_noise(tmp_path / "a.flac", 7.3)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(segments, "WHOLE_SECONDS", 5.0)
    with pytest.raises(AudioError, match=r"a\.flac is truncated or damaged"):
        list(read_segments(tmp_path / "a.flac", RATE, 2.0))
