"""Audio files: whatever format, rate and channels they have, they become samples, or one clear error."""

import io
import math
import os
import re

import numpy
import pytest
import soundfile
import torch

from seqdyconv.speech import AudioError, AudioInfo, audio_info, read_audio, resample
from seqdyconv.speech.audio import read_parts

LOSSLESS = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("wav", "DOUBLE"), ("flac", "PCM_24")]
LOSSY = [("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III"), ("wav", "ULAW")]
FORMATS = [*LOSSLESS, *LOSSY]


def tone(sampling_rate: int, seconds: float = 1.0, frequency: float = 440.0) -> numpy.ndarray:
    return 0.5 * numpy.sin(2 * math.pi * frequency * numpy.arange(round(seconds * sampling_rate)) / sampling_rate)


def encoded(samples: numpy.ndarray, sampling_rate: int = 16000, format: str = "wav", subtype: str | None = None):
    file = io.BytesIO()
    soundfile.write(file, samples, sampling_rate, format=format, subtype=subtype)
    return file.getvalue()


def assert_tone(samples: torch.Tensor, tolerance: float) -> None:
    """One second of the tone at 16 kHz; the ends, where filters see silence beside it, are left out."""
    assert samples.dtype == torch.float32 and samples.shape == (16000,)
    error = samples - torch.from_numpy(tone(16000))
    assert error[800:-800].abs().max() < tolerance


@pytest.mark.parametrize("format, subtype", LOSSLESS)
def test_lossless_formats_give_the_samples(format, subtype):
    samples = read_audio(encoded(tone(16000), format=format, subtype=subtype))
    assert_tone(samples, 1e-4 if subtype == "PCM_16" else 1e-6)


@pytest.mark.parametrize("format, subtype", LOSSY)
def test_lossy_formats_give_nearly_the_samples(format, subtype):
    assert_tone(read_audio(encoded(tone(16000), format=format, subtype=subtype)), 0.03)


@pytest.mark.parametrize("sampling_rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_any_sampling_rate_becomes_the_one_asked_for(sampling_rate):
    assert_tone(read_audio(encoded(tone(sampling_rate), sampling_rate, subtype="FLOAT")), 1e-4)


@pytest.mark.parametrize("sampling_rate", [22255, 44101, 191999])
def test_rates_without_a_common_divisor_take_no_giant_filter(sampling_rate):
    samples = read_audio(encoded(tone(sampling_rate), sampling_rate, subtype="FLOAT"))
    assert abs(len(samples) - 16000) <= 1
    assert (samples[800:15000] - torch.from_numpy(tone(16000))[800:15000]).abs().max() < 0.01


def test_resampling_keeps_what_both_rates_hold_and_removes_the_rest():
    high = torch.from_numpy(tone(48000, frequency=9000)).float()
    assert resample(high, 48000, 16000)[800:-800].abs().max() < 1e-3  # it would come back as 7000 Hz
    kept = torch.from_numpy(tone(48000, frequency=7000)).float()
    assert (resample(kept, 48000, 16000) - torch.from_numpy(tone(16000, frequency=7000)))[800:-800].abs().max() < 1e-3


def test_nothing_resampled_is_nothing():
    assert resample(torch.zeros(0), 8000, 16000).shape == (0,)
    assert resample(torch.zeros(0, 3), 8000, 16000).shape == (0, 6)


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(channels):
    samples = numpy.random.default_rng(0).uniform(-1, 1, (1000, channels))
    expected = torch.from_numpy(samples).mean(1)
    assert (read_audio(encoded(samples, subtype="FLOAT")) - expected).abs().max() < 1e-6


def test_path_bytes_and_file_object_are_the_same(tmp_path):
    content = encoded(tone(16000), format="flac")
    path = tmp_path / "tone.flac"
    path.write_bytes(content)
    with path.open("rb") as file:
        results = [read_audio(source) for source in (path, str(path), content, io.BytesIO(content), file)]
    assert all(result.equal(results[0]) for result in results)


@pytest.mark.parametrize("name", ["tone.mp3", "tone.raw", "tone.txt", "tone"])
def test_the_content_says_what_the_format_is(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(tone(16000), format="flac"))
    assert_tone(read_audio(tmp_path / name), 1e-4)
    assert audio_info(tmp_path / name).format == "FLAC"


@pytest.mark.parametrize("format, subtype", FORMATS)
def test_info_comes_from_the_header(format, subtype):
    info = audio_info(encoded(tone(48000, 0.5), 48000, format, subtype))
    assert info == AudioInfo(48000, 1, 24000, format.upper(), subtype)
    assert info.duration == 0.5


def test_silence_and_one_sample_are_audio():
    assert read_audio(encoded(numpy.zeros(160))).equal(torch.zeros(160))
    assert read_audio(encoded(numpy.array([0.5]), subtype="FLOAT")).equal(torch.tensor([0.5]))
    assert read_audio(encoded(numpy.array([0.5]), 8000)).shape == (2,)
    assert read_audio(encoded(numpy.array([0.5]), 44100)).shape == (1,)


class TestErrors:
    def test_missing_file_and_folder(self, tmp_path):
        with pytest.raises(AudioError, match=r"none\.wav cannot be read: No such file"):
            read_audio(tmp_path / "none.wav")
        with pytest.raises(AudioError, match="is a folder, and no file"):
            audio_info(tmp_path)

    def test_pipes_and_devices_are_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.wav")
        for path in (tmp_path / "pipe.wav", "/dev/zero", "/dev/null"):
            with pytest.raises(AudioError, match="is a pipe or a device, and no file"):
                read_audio(path)

    def test_names_that_no_file_can_have(self):
        with pytest.raises(AudioError, match=r"'a\\x00b.wav' is no name of a file"):
            read_audio("a\0b.wav")
        with pytest.raises(AudioError, match="cannot be read: File name too long"):
            read_audio("a" * 5000)

    @pytest.mark.parametrize("rate", [1, 999, 3_000_000])
    def test_sampling_rates_of_no_recording(self, rate):
        content = bytearray(encoded(tone(16000)))
        content[24:28] = rate.to_bytes(4, "little")
        with pytest.raises(AudioError, match=f"has a sampling rate of {rate} Hz, and it must be from 1000 to 768000"):
            audio_info(bytes(content))

    def test_samples_far_beyond_full_scale(self):
        for loudest in (1e30, 32767):  # what is no sound, and integers written as floats
            with pytest.raises(AudioError, match=r"has samples up to .*, and full scale is 1"):
                read_audio(encoded(numpy.array([0.0, loudest]), subtype="FLOAT"))
        assert read_audio(encoded(numpy.array([0.0, 1.5]), subtype="FLOAT")).max() == 1.5

    def test_decoders_do_not_write_to_standard_error(self, capfd):
        content = bytearray(encoded(tone(16000), format="mp3", subtype="MPEG_LAYER_III"))
        content[1000:1100] = bytes(range(100))
        for cut in (content, content[:60], content[:1500]):
            with pytest.raises(AudioError):
                read_audio(bytes(cut))
        assert capfd.readouterr().err == ""

    def test_empty_file(self, tmp_path):
        (tmp_path / "empty.wav").touch()
        with pytest.raises(AudioError, match=r"empty\.wav is empty"):
            read_audio(tmp_path / "empty.wav")
        with pytest.raises(AudioError, match="the audio is empty"):
            read_audio(b"")

    @pytest.mark.parametrize("content", [b"no audio at all", b"\0" * 5000, b"RIFF\x10\0\0\0WAVEfmt "])
    def test_what_is_no_audio(self, tmp_path, content):
        (tmp_path / "text.wav").write_bytes(content)
        with pytest.raises(AudioError, match=r"text\.wav is not audio that can be read"):
            read_audio(tmp_path / "text.wav")

    def test_no_samples(self):
        with pytest.raises(AudioError, match="holds no samples"):
            read_audio(encoded(numpy.zeros(0)))

    def test_no_channels(self):
        content = bytearray(encoded(tone(16000)))
        content[22:24] = b"\0\0"
        with pytest.raises(AudioError, match="is not audio that can be read"):
            read_audio(bytes(content))

    @pytest.mark.parametrize("number", [math.nan, math.inf])
    def test_samples_that_are_no_numbers(self, number):
        with pytest.raises(AudioError, match="NaN or infinite"):
            read_audio(encoded(numpy.array([0.0, number, 0.0]), subtype="FLOAT"))

    @pytest.mark.parametrize("sampling_rate", [0, -16000])
    def test_sampling_rate(self, sampling_rate):
        with pytest.raises(ValueError, match=f"sampling_rate must be at least 1, got {sampling_rate}"):
            read_audio(encoded(tone(16000)), sampling_rate)


class TestTruncation:
    @pytest.mark.parametrize("part", [0.5, 0.95])
    @pytest.mark.parametrize("format, subtype", [*LOSSLESS[:2], ("flac", "PCM_16"), *LOSSY[::2], ("aiff", "PCM_16")])
    def test_is_an_error(self, format, subtype, part):
        content = encoded(numpy.random.default_rng(0).uniform(-0.5, 0.5, 48000), format=format, subtype=subtype)
        content = content[: int(len(content) * part)]
        with pytest.raises(AudioError, match=r"the audio is truncated or damaged: its .* data end after"):
            read_audio(content)

    def test_what_there_is_can_be_taken(self):
        content = encoded(tone(16000), subtype="FLOAT")
        samples = read_audio(content[: len(content) - 4 * 4000], allow_truncated=True)
        assert samples.equal(torch.from_numpy(tone(16000)).float()[:12000])

    def test_of_an_ogg_file_between_two_pages(self):
        content = encoded(numpy.random.default_rng(0).uniform(-0.5, 0.5, 48000), format="ogg", subtype="VORBIS")
        content = content[: content.rindex(b"OggS")]
        with pytest.raises(AudioError, match="truncated or damaged"):
            read_audio(content)
        assert len(read_audio(content, allow_truncated=True)) > 16000

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    def test_of_an_ogg_file_with_a_damaged_page(self, subtype):
        content = encoded(numpy.random.default_rng(0).uniform(-0.5, 0.5, 80000), format="ogg", subtype=subtype)
        pages = [match.start() for match in re.finditer(b"OggS", content)]
        broken = bytearray(content)
        broken[pages[-3] + 200] ^= 255
        with pytest.raises(AudioError, match="truncated or damaged: its OGG data end after"):
            read_audio(bytes(broken))
        assert len(read_audio(content[: pages[2]] + content[pages[-3] :])) < 80000  # as recorded from a broadcast

    @pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"])
    def test_is_not_seen_in_the_unknown_size_of_a_pipe(self, size):
        content = encoded(tone(16000), subtype="FLOAT")
        start = content.index(b"data") + 4
        assert_tone(read_audio(content[:start] + size + content[start + 4 :]), 1e-6)

    def test_is_not_seen_in_an_mp3_file_without_contents(self):
        file = io.BytesIO()
        with soundfile.SoundFile(
            file, "w", 16000, 1, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5
        ) as sound:
            sound.write(numpy.random.default_rng(0).normal(0, 0.1, 16000))
        content = file.getvalue()
        content = content[content.index(content[:2], 13) :]  # without the frame of the table
        assert 16000 <= len(read_audio(content)) < 18000  # and with what its encoder put around it


class TestParts:
    @pytest.mark.parametrize("format, subtype", [*LOSSLESS[:2], ("flac", "PCM_16"), *LOSSY])
    def test_are_those_of_the_whole(self, format, subtype):
        content = encoded(numpy.random.default_rng(0).uniform(-0.5, 0.5, 32000), format=format, subtype=subtype)
        rate = audio_info(content).sampling_rate
        whole = read_audio(content, rate)
        parts = [(0.5, 0.75), (0.0, 0.25), (1.0, None), (0.0, len(whole) / rate + 0.05), (0.5, 1.0)]
        found = list(read_parts(content, parts, rate))
        for (start, end), samples in zip(parts, found):
            expected = whole[round(start * rate) : None if end is None else round(end * rate)]
            torch.testing.assert_close(samples, expected)

    def test_what_is_wrong_with_one_is_no_matter_to_the_next(self):
        parts = [(3.0, None), (0.5, 1.5), (0.5, 0.5), (0.0, 0.9), (0.0, 0.5)]
        *wrong, last = read_parts(encoded(tone(16000)), parts, 16000, longest=0.8)
        reasons = [
            "the audio ends at 1 s, before the part begins, at 3 s",
            "the audio ends at 1 s, before the part ends, at 1.5 s",
            "the audio has no part from 0.5 s to 0.5 s",
            "the audio lasts 1 seconds: cut it into utterances of at most 0.8",
        ]
        assert [str(error) for error in wrong] == reasons and len(last) == 8000

    def test_of_a_file_that_ends_before_its_time(self):
        content = encoded(tone(16000), subtype="FLOAT")
        content = content[: len(content) - 4 * 4000]
        found = list(read_parts(content, [(0.25, 0.5), (0.25, None)]))
        assert len(found[0]) == 4000 and "truncated" in str(found[1])
