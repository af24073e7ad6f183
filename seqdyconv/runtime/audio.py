"""Audio files read into samples, by libsndfile: wav, flac, ogg (Vorbis, Opus), mp3, aiff and what else it knows."""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import soundfile

from seqdyconv.runtime.quiet import quiet_libraries
from seqdyconv.runtime.samples import AudioError, Samples, resample

AudioSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO

_SAMPLES_PER_READ = 2**20
# Where the data of a file end too early, libsndfile corrects the length and says so in its log alone.
_CORRECTED_SIZE = re.compile(r"(?:data|ssnd|data size)\s*: (\d+) \(should be (\d+)\)", re.IGNORECASE)
# Programs that write into a pipe put a size near to the largest into the header: no promise of so much data.
_UNKNOWN_SIZE = 0x7FFF0000
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_SAMPLING_RATES = range(1000, 768_001)
_LOUDEST = 100.0
_TOLERANCE = 0.1  # seconds by which tables and lossy encoders are wrong about the end of a file


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


def read_audio(source: AudioSource, sampling_rate: int = 16000, *, allow_truncated: bool = False) -> Samples:
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
        AudioError: it is no file (but a folder, a pipe, a device), or empty, not audio, damaged, of a sampling rate
            below 1 kHz or above 768 kHz; it has no samples, or samples that are not finite or a hundred times beyond
            full scale. It is truncated: it has less data than its header says, or an ogg stream has no last page. An
            mp3 file tells its length only by a table of contents (Xing, Info): without one what is cut off is not
            noticed, and of a varying bit rate it is read as far as libsndfile estimates its length.

    Example:
        >>> import io, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros((800, 2)), 8000, format="flac")
        >>> read_audio(file.getvalue()).shape
        (1600,)
    """
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate must be at least 1, got {sampling_rate}")
    with _open(source) as (sound, stream, name):
        samples = np.concatenate(list(_blocks(sound, stream, name, allow_truncated=allow_truncated)))
        rate = sound.samplerate
    return resample(samples, rate, sampling_rate)


def read_parts(
    source: str | os.PathLike[str] | bytes,
    parts: Iterable[tuple[float, float | None]],
    sampling_rate: int = 16000,
    longest: float = math.inf,
) -> Iterator[Samples | AudioError]:
    """Read parts of one audio file, each as :func:`read_audio` would: nothing else of the file is decoded.

    Args:
        source: path, or the content of a file.
        parts: where each begins and ends, in seconds; None is the end of the file. A tenth of a second beyond that is
            taken for it, as tables round and encoders pad.
        sampling_rate: of the results, in hertz.
        longest: the seconds that a part may have.

    Yields:
        For each part its float32 samples (N,), or why there are none.

    Raises:
        AudioError: the file can't be opened.

    Example:
        >>> import io, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(16000), 8000, format="flac")
        >>> [len(part) for part in read_parts(file.getvalue(), [(0.0, 0.5), (0.5, None)])]
        [8000, 24000]
    """
    waiting = deque(parts)
    while waiting:
        with _open(source) as (sound, stream, name):
            last: int | None = 0
            while waiting and last is not None:  # a decoder that has come to the end may not find back
                start, end = waiting.popleft()
                try:
                    first, last = _range(sound, name, start, end, longest)
                    sound.seek(first)
                    samples = np.concatenate(list(_blocks(sound, stream, name, number=last and last - first)))
                except AudioError as error:
                    yield error
                    break
                except soundfile.LibsndfileError as error:
                    yield AudioError(f"{name} is damaged: nothing is found at {start:g} s ({error.error_string})")
                    break
                yield resample(samples, sound.samplerate, sampling_rate)


def read_blocks(source: AudioSource, seconds: float) -> Iterator[Samples]:
    """Read an audio file piece by piece, as one channel at its own rate: memory does not grow with its length.

    Args:
        source: path, the content of a file, or a binary file object.
        seconds: the length of a piece; the last one may be shorter.

    Yields:
        float32 samples (N,); together those that :func:`read_audio` takes.

    Raises:
        AudioError: as :func:`read_audio`, once the place is reached where something is wrong.

    Example:
        >>> import io, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros((800, 2)), 8000, format="flac")
        >>> [len(samples) for samples in read_blocks(file.getvalue(), 0.04)]
        [320, 320, 160]
    """
    with _open(source) as (sound, stream, name):
        yield from _blocks(sound, stream, name, size=max(1, round(seconds * sound.samplerate)))


@contextmanager
def _open(source: AudioSource) -> Iterator[tuple[soundfile.SoundFile, BinaryIO, str]]:
    """The open sound, the bytes behind it (at an unknown position), and what to call it in messages."""
    stream: BinaryIO
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            mode = os.stat(source).st_mode
            if not stat.S_ISREG(mode):  # one would wait for a pipe, and read a device for ever
                kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
                raise AudioError(f"{name} is {kind}, and no file")
            stream = Path(source).open("rb")  # noqa: SIM115 closed below
        except OSError as error:
            raise AudioError(f"{name} cannot be read: {error.strerror}") from None
        except ValueError as error:  # a zero byte in the name
            raise error if isinstance(error, AudioError) else AudioError(f"{name!r} is no name of a file") from None
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
            with quiet_libraries():
                sound = soundfile.SoundFile(handle, closefd=False)
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioError(f"{name} is not audio that can be read: {reason}") from None
        with sound:
            if sound.samplerate not in _SAMPLING_RATES:
                raise AudioError(
                    f"{name} has a sampling rate of {sound.samplerate} Hz, and it must be from {_SAMPLING_RATES[0]} to "
                    f"{_SAMPLING_RATES[-1]}"
                )
            yield sound, stream, name


def _range(
    sound: soundfile.SoundFile, name: str, start: float, end: float | None, longest: float
) -> tuple[int, int | None]:
    """The first frame of a part and the one after its last; None is the end of the file."""
    duration = sound.frames / sound.samplerate
    first = round(start * sound.samplerate)
    if first and first >= sound.frames:
        raise AudioError(f"{name} ends at {duration:g} s, before the part begins, at {start:g} s")
    if end is not None and end > duration + _TOLERANCE:
        raise AudioError(f"{name} ends at {duration:g} s, before the part ends, at {end:g} s")
    last = None if end is None or end >= duration else round(end * sound.samplerate)
    if last is not None and last <= first:
        raise AudioError(f"{name} has no part from {start:g} s to {end:g} s")
    if (seconds := (duration if end is None else end) - start) > longest:
        raise AudioError(f"{name} lasts {seconds:.0f} seconds: cut it into utterances of at most {longest:g}")
    return first, last


def _blocks(
    sound: soundfile.SoundFile,
    stream: BinaryIO,
    name: str,
    *,
    size: int | None = None,
    number: int | None = None,
    allow_truncated: bool = False,
) -> Iterator[Samples]:
    """The samples of an open sound as one channel, with all checks of what is read.

    Args:
        sound: at the place where to begin.
        stream: the bytes behind it.
        name: for messages.
        size: samples of a block.
        number: of samples in all; None: to the end of the file.
        allow_truncated: stop where a file ends before its time, instead of raising.
    """
    size = size or max(1, _SAMPLES_PER_READ // sound.channels)
    begin, count = sound.tell(), 0
    error: soundfile.LibsndfileError | None = None
    # The decoder of mp3 files writes to standard error what it thinks of them.
    quiet = quiet_libraries if "MPEG" in sound.subtype else nullcontext
    try:
        asked, block = 0, ()
        while len(block) == asked and count != number:  # after a short block the decoder may go back
            asked = size if number is None else min(size, number - count)
            with quiet():
                block = sound.read(asked, "float32", always_2d=True)
            if not len(block):
                break
            if not np.isfinite(block).all():
                raise AudioError(f"{name} has samples that are NaN or infinite")
            if (loudest := np.abs(block).max()) > _LOUDEST:
                raise AudioError(f"{name} has samples up to {loudest:g}, and full scale is 1")
            count += len(block)
            yield block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
    except soundfile.LibsndfileError as caught:
        error = caught
    short = _is_truncated(sound, stream, begin + count) if number is None else count < number
    if (error is not None or short) and not allow_truncated:
        count += begin
        ends = f"after {count} samples" + (f" of {sound.frames}" if sound.frames > count else "")
        raise AudioError(f"{name} is truncated or damaged: its {sound.format} data end {ends}")
    if count == 0:
        raise AudioError(f"{name} holds no samples")


def _is_truncated(sound: soundfile.SoundFile, stream: BinaryIO, num_samples: int) -> bool:
    """Whether there is less than the file promises, as far as its format tells."""
    if sound.format == "OGG":  # pages that are damaged or missing are passed over
        return not _ends_with_last_ogg_page(stream) or (num_samples < sound.frames and _begins_with_first_page(stream))
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


def _begins_with_first_page(stream: BinaryIO) -> bool:
    """Whether the first ogg page with sound follows the headers; if not, it was recorded from a broadcast."""
    position = number = 0
    while True:
        stream.seek(position)
        page = stream.read(27 + 255)
        if len(page) < 27 or not page.startswith(b"OggS") or int.from_bytes(page[18:22], "little") != number:
            return False
        if int.from_bytes(page[6:14], "little", signed=True) > 0:  # the samples until its end
            return True
        position += 27 + page[26] + sum(page[27 : 27 + page[26]])
        number += 1
