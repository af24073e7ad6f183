"""Audio files read into samples, by libsndfile: wav, flac, ogg (Vorbis, Opus), mp3, aiff and what else it knows."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from seqdyconv.errors import InputError

AudioSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO

_SAMPLES_PER_READ = 2**20
# Where the data of a file end too early, libsndfile corrects the length and says so in its log alone.
_CORRECTED_SIZE = re.compile(r"(?:data|ssnd|data size)\s*: (\d+) \(should be (\d+)\)", re.IGNORECASE)
# Programs that write into a pipe put a size near to the largest into the header: no promise of so much data.
_UNKNOWN_SIZE = 0x7FFF0000
_LARGEST_TERM = 1000  # the smaller one of a ratio of sampling rates
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255


class AudioError(InputError):
    """Audio that cannot be used; the message names the file and says what is wrong with it."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says; of an mp3 file without a table of contents, ``frames`` is an estimate."""

    sampling_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def duration(self) -> float:
        """In seconds."""
        return self.frames / self.sampling_rate


def audio_info(source: AudioSource) -> AudioInfo:
    """Sampling rate, channels and length of an audio file, from its header: nothing is decoded.

    Raises:
        AudioError: the file is missing, empty or not audio.
    """
    with _open(source) as (sound, _, _):
        return AudioInfo(sound.samplerate, sound.channels, sound.frames, sound.format, sound.subtype)


def read_audio(source: AudioSource, sampling_rate: int = 16000, *, allow_truncated: bool = False) -> Tensor:
    """Read an audio file of any format, sampling rate and number of channels as one channel at one rate.

    The content says what the format is; the name of the file does not matter. Channels are averaged.

    Args:
        source: path, the content of a file, or a binary file object.
        sampling_rate: of the result, in hertz.
        allow_truncated: take what there is of a file that ends before its time, instead of raising.

    Returns:
        float32 samples (N,), within -1 and 1 for all integer formats. A file at another rate of N' samples has
        ceil(N' · sampling_rate / its rate) of them.

    Raises:
        AudioError: the file is missing, empty, not audio, damaged, has no samples, or samples that are not finite.
            It is truncated: it has less data than its header says, or an ogg stream has no last page. An mp3 file tells
            its length only by a table of contents (Xing, Info): without one what is cut off is not noticed, and of a
            varying bit rate it is read as far as libsndfile estimates its length.

    Example:
        >>> import io, soundfile, torch
        >>> file = io.BytesIO()
        >>> soundfile.write(file, torch.zeros(800, 2).numpy(), 8000, format="flac")
        >>> read_audio(file.getvalue()).shape
        torch.Size([1600])
    """
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate must be at least 1, got {sampling_rate}")
    with _open(source) as (sound, stream, name):
        frames = max(1, _SAMPLES_PER_READ // sound.channels)
        samples = torch.cat(list(_blocks(sound, stream, name, frames, allow_truncated)))
        rate = sound.samplerate
    return resample(samples, rate, sampling_rate)


def read_blocks(source: AudioSource, seconds: float) -> Iterator[Tensor]:
    """Read an audio file piece by piece, as one channel at its own rate: memory does not grow with its length.

    Args:
        source: path, the content of a file, or a binary file object.
        seconds: the length of a piece; the last one may be shorter.

    Yields:
        float32 samples (N,); together those that :func:`read_audio` takes.

    Raises:
        AudioError: as :func:`read_audio`, once the place is reached where something is wrong.

    Example:
        >>> import io, soundfile, torch
        >>> file = io.BytesIO()
        >>> soundfile.write(file, torch.zeros(800, 2).numpy(), 8000, format="flac")
        >>> [len(samples) for samples in read_blocks(file.getvalue(), 0.04)]
        [320, 320, 160]
    """
    with _open(source) as (sound, stream, name):
        yield from _blocks(sound, stream, name, max(1, round(seconds * sound.samplerate)))


def resample(samples: Tensor, rate: int, new_rate: int) -> Tensor:
    """Change the sampling rate with a windowed sinc filter (Kaiser window, 64 zero crossings: inaudible loss).

    All rates in use (8, 11.025, 22.05, 44.1, 48, 96 kHz ...) are exact. Where both terms of the reduced ratio are above
    1000, the nearest ratio with a smaller term of at most 1000 takes its place, some millionths beside it.

    Args:
        samples: (..., N).
        rate: of ``samples``, in hertz.
        new_rate: of the result, in hertz.

    Returns:
        (..., ceil(N · new_rate / rate)); ``samples`` itself where the rates are equal.
    """
    if min(rate, new_rate) < 1:
        raise ValueError(f"sampling rates must be at least 1, got {rate} and {new_rate}")
    if rate == new_rate:
        return samples
    # The filter bank grows with the product of both terms: rates without a common divisor would fill gigabytes.
    if rate > new_rate:
        ratio = Fraction(rate, new_rate).limit_denominator(_LARGEST_TERM)
    else:
        ratio = 1 / Fraction(new_rate, rate).limit_denominator(_LARGEST_TERM)
    if ratio == 1:
        return samples
    return _resampler(ratio.numerator, ratio.denominator)(samples)


@lru_cache(maxsize=16)
def _resampler(rate: int, new_rate: int) -> Resample:
    # The filter that librosa and resampy call "kaiser_best".
    return Resample(
        rate,
        new_rate,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )


@contextmanager
def _open(source: AudioSource) -> Iterator[tuple[soundfile.SoundFile, BinaryIO, str]]:
    """The open sound, the bytes behind it (at an unknown position), and what to call it in messages."""
    stream: BinaryIO
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            stream = Path(source).open("rb")  # noqa: SIM115 closed below
        except OSError as error:
            raise AudioError(f"{name} cannot be read: {error.strerror}") from None
    else:
        content = source if isinstance(source, bytes) else source.read()
        name = str(getattr(source, "name", "the audio"))
        stream = io.BytesIO(content)
    with stream:
        if stream.seek(0, os.SEEK_END) == 0:
            raise AudioError(f"{name} is empty")
        stream.seek(0)
        # By its number a file has no name, so that its extension plays no part.
        handle = stream if isinstance(stream, io.BytesIO) else stream.fileno()
        try:
            sound = soundfile.SoundFile(handle, closefd=False)
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioError(f"{name} is not audio that can be read: {reason}") from None
        with sound:
            yield sound, stream, name


def _blocks(
    sound: soundfile.SoundFile, stream: BinaryIO, name: str, frames: int, allow_truncated: bool = False
) -> Iterator[Tensor]:
    """The samples of an open sound as one channel, so many at a time, with all checks of what is read."""
    count = 0
    error: soundfile.LibsndfileError | None = None
    try:
        while len(block := sound.read(frames, "float32", always_2d=True)):
            if not numpy.isfinite(block).all():
                raise AudioError(f"{name} has samples that are NaN or infinite")
            count += len(block)
            yield torch.from_numpy(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])
    except soundfile.LibsndfileError as caught:
        error = caught
    if (error is not None or _is_truncated(sound, stream, count)) and not allow_truncated:
        ends = f"after {count} samples" + (f" of {sound.frames}" if sound.frames > count else "")
        raise AudioError(f"{name} is truncated or damaged: its {sound.format} data end {ends}")
    if count == 0:
        raise AudioError(f"{name} holds no samples")


def _is_truncated(sound: soundfile.SoundFile, stream: BinaryIO, num_samples: int) -> bool:
    """Whether there is less than the file promises, as far as its format tells."""
    if sound.format == "OGG":
        return not _ends_with_last_ogg_page(stream)
    if sound.format == "MP3":
        stream.seek(0)
        head = stream.read(4096)
        return num_samples < sound.frames and (b"Xing" in head or b"Info" in head)  # otherwise frames is an estimate
    for declared, present in _CORRECTED_SIZE.findall(sound.extra_info):
        if int(present) < int(declared) < _UNKNOWN_SIZE:
            return True
    return num_samples < sound.frames


def _ends_with_last_ogg_page(stream: BinaryIO) -> bool:
    """Whether the file's last ogg page is complete and marked as the end of its stream (RFC 3533)."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _LARGEST_OGG_PAGE))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]]) and bool(page[5] & 4)
