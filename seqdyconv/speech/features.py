"""Log-mel filterbanks of Kaldi's and torchaudio's kind, for whole utterances, batches and streams.

Every frame is a window that lies fully inside the utterance (Kaldi's ``snip_edges``): frame t begins at sample
t · shift, and what is left at the end after the last full window has no frame. So a frame depends on its own samples
alone, and a stream gives the same frames as the whole utterance. An utterance shorter than one window is filled with
zeros to one window, so that it has one frame.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.transforms import MelSpectrogram
from transformers import BatchFeature, SequenceFeatureExtractor

KINDS = ("kaldi", "torch")
NORMALIZATIONS = ("utterance", "global", None)
KALDI_SCALE = 32768.0

_FRAMES_PER_BLOCK = 6000  # a minute: an hour at once would need gigabytes
VARIANCE_FLOOR = 1e-5  # of silence; log-mel features of speech have 1 to 10
POWER_FLOOR = 1e-10


def log_mel_kaldi(
    samples: Tensor,
    sampling_rate: int = 16000,
    num_mel_bins: int = 80,
    *,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
    low_frequency: float = 20.0,
    high_frequency: float = 0.0,
    dither: float = 0.0,
    preemphasis: float = 0.97,
    window_type: str = "povey",
) -> Tensor:
    """Log-mel filterbank features as ``torchaudio.compliance.kaldi.fbank`` and Kaldi compute them.

    Kaldi works on 16-bit integers, so the samples are multiplied by 32,768 first; of those the result equals
    ``fbank(32768 * samples[None], ...)`` with the same settings.

    Args:
        samples: (N,) within -1 and 1, at least one. Fewer than one window are filled with zeros.
        sampling_rate: in hertz.
        num_mel_bins: F, at least 4.
        frame_length, frame_shift: of the windows, in milliseconds.
        low_frequency, high_frequency: of the filters, in hertz; a high frequency of 0 or less counts from the highest
            there is, half the sampling rate.
        dither: standard deviation of the noise that is added, on the scale of 16-bit integers, from torch's global
            random numbers. 0: none.
        preemphasis: how much of the sample before is subtracted from each.
        window_type: povey, hamming, hanning, blackman or rectangular.

    Returns:
        (T, F), T = 1 + (N - window) // shift.

    Example:
        >>> log_mel_kaldi(torch.randn(16000) / 10).shape
        torch.Size([98, 80])
    """
    window, shift = frame_sizes(sampling_rate, frame_length, frame_shift)

    def block(samples: Tensor) -> Tensor:
        return kaldi.fbank(
            samples[None],
            sample_frequency=sampling_rate,
            num_mel_bins=num_mel_bins,
            frame_length=frame_length,
            frame_shift=frame_shift,
            low_freq=low_frequency,
            high_freq=high_frequency,
            dither=dither,
            preemphasis_coefficient=preemphasis,
            window_type=window_type,
        )

    return _in_blocks(block, KALDI_SCALE * samples, window, shift)


def log_mel_torch(
    samples: Tensor,
    sampling_rate: int = 16000,
    num_mel_bins: int = 80,
    *,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
    low_frequency: float = 20.0,
    high_frequency: float = 0.0,
) -> Tensor:
    """The logarithm of ``torchaudio.transforms.MelSpectrogram``: Hann window, power, HTK mel scale.

    Arguments, frames and result are those of :func:`log_mel_kaldi`; the samples are taken as they are, and powers
    below 1e-10 count as 1e-10.

    Example:
        >>> log_mel_torch(torch.zeros(1)).exp().unique()
        tensor([1.0000e-10])
    """
    window, shift = frame_sizes(sampling_rate, frame_length, frame_shift)
    if high_frequency <= 0:
        high_frequency += sampling_rate / 2
    transform = _mel_spectrogram(sampling_rate, window, shift, low_frequency, high_frequency, num_mel_bins)
    transform = transform.to(samples)
    # The transform puts zeros around the window, up to a power of two: with as many here frame t begins at t · shift.
    left, right = (transform.n_fft - window) // 2, (transform.n_fft - window + 1) // 2

    def block(samples: Tensor) -> Tensor:
        return transform(F.pad(samples, (left, right))).T.clamp(min=POWER_FLOOR).log()

    return _in_blocks(block, samples, window, shift)


def frame_sizes(sampling_rate: int, frame_length: float = 25.0, frame_shift: float = 10.0) -> tuple[int, int]:
    """Window and shift in samples, of lengths in milliseconds; rounded down, as Kaldi does.

    Raises:
        ValueError: the window has fewer than 2 samples, or the shift is not between 1 and the window.
    """
    window, shift = (int(sampling_rate * milliseconds * 0.001) for milliseconds in (frame_length, frame_shift))
    if window < 2 or not 1 <= shift <= window:
        raise ValueError(
            f"frame_length={frame_length} and frame_shift={frame_shift} milliseconds at sampling_rate={sampling_rate} "
            f"are {window} and {shift} samples: the window must have at least 2, the shift between 1 and the window"
        )
    return window, shift


def global_statistics(
    extractor: SeqDyConvFeatureExtractor, utterances: Iterable[Tensor | numpy.ndarray]
) -> tuple[list[float], list[float]]:
    """Mean and variance of each mel bin over all frames of all utterances, before any normalisation.

    Args:
        extractor: says how the features are computed.
        utterances: samples (N,) of each; may be a generator, since they are read once and not kept.

    Returns:
        The ``mean`` and ``variance`` of a ``SeqDyConvFeatureExtractor(normalize="global", ...)``.

    Example:
        >>> extractor = SeqDyConvFeatureExtractor(feature_size=4, normalize=None)
        >>> mean, variance = global_statistics(extractor, [torch.randn(800), torch.randn(1600)])
        >>> extractor = SeqDyConvFeatureExtractor(feature_size=4, normalize="global", mean=mean, variance=variance)
    """
    count = 0
    total = torch.zeros(extractor.feature_size, dtype=torch.float64)
    deviation = torch.zeros_like(total)
    for samples in utterances:
        features = extractor.log_mel(_checked_samples(samples)).double()
        # Two sets of numbers are joined by their means and squared deviations: sums of squares would cancel.
        difference = features.mean(0) - total / max(count, 1)
        deviation += features.var(0, correction=0) * len(features)
        deviation += difference**2 * (count * len(features) / (count + len(features)))
        total += features.sum(0)
        count += len(features)
    if count == 0:
        raise ValueError("global statistics need at least one utterance, got none")
    return (total / count).tolist(), (deviation / count).tolist()


class SeqDyConvFeatureExtractor(SequenceFeatureExtractor):
    """Samples to padded log-mel features, for Hugging Face's models, pipelines and Auto classes.

    A row's features do not depend on the other rows, on padding or on the side of it.

    Args:
        feature_size: number of mel bins, F.
        sampling_rate: of the samples, in hertz.
        kind: ``"kaldi"`` (:func:`log_mel_kaldi`) or ``"torch"`` (:func:`log_mel_torch`).
        normalize: ``"utterance"`` gives each mel bin of each utterance mean 0 and variance 1, ``"global"`` does with
            ``mean`` and ``variance``; None does nothing.
        mean, variance: F numbers each, of :func:`global_statistics`.
        frame_length, frame_shift: in milliseconds.
        low_frequency, high_frequency, dither: see :func:`log_mel_kaldi`.
        padding_value: of the features behind the end of an utterance.

    Raises:
        ValueError: an unknown word, statistics that are missing or not F numbers, sizes that are too small.

    Example:
        >>> extractor = SeqDyConvFeatureExtractor()
        >>> batch = extractor([torch.randn(16000), torch.randn(400)], sampling_rate=16000, return_tensors="pt")
        >>> batch["input_features"].shape, batch["attention_mask"].sum(1)
        (torch.Size([2, 98, 80]), tensor([98,  1]))
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        kind: str = "kaldi",
        normalize: str | None = "utterance",
        mean: Sequence[float] | None = None,
        variance: Sequence[float] | None = None,
        frame_length: float = 25.0,
        frame_shift: float = 10.0,
        low_frequency: float = 20.0,
        high_frequency: float = 0.0,
        dither: float = 0.0,
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize must be one of {NORMALIZATIONS}, got {normalize!r}")
        if feature_size < 4:
            raise ValueError(f"feature_size must be at least 4, got {feature_size}")
        if dither and kind != "kaldi":
            raise ValueError(f"dither={dither} is for kind='kaldi' only")
        highest = high_frequency if high_frequency > 0 else sampling_rate / 2 + high_frequency
        if not 0 <= low_frequency < highest <= sampling_rate / 2:
            raise ValueError(
                f"low_frequency={low_frequency} and high_frequency={high_frequency} must rise from 0 or more "
                f"to {sampling_rate / 2} or less, half the sampling rate"
            )
        for name, statistics in (("mean", mean), ("variance", variance)):
            if statistics is None and normalize == "global":
                raise ValueError(f"normalize='global' needs {name}: global_statistics computes it")
            if statistics is not None and len(statistics) != feature_size:
                raise ValueError(f"{name} must be {feature_size} numbers, one for each mel bin, got {len(statistics)}")
        frame_sizes(sampling_rate, frame_length, frame_shift)
        self.kind = kind
        self.normalize = normalize
        self.mean = None if mean is None else [float(number) for number in mean]
        self.variance = None if variance is None else [float(number) for number in variance]
        self.frame_length = frame_length
        self.frame_shift = frame_shift
        self.low_frequency = low_frequency
        self.high_frequency = high_frequency
        self.dither = dither
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Features of one utterance or several.

        Args:
            raw_speech: samples (N,) between -1 and 1 as numpy array, tensor or list of floats; or a list of these,
                or a batch (B, N).
            sampling_rate: of ``raw_speech``; one that differs from the extractor's raises.
            padding, max_length, truncation, pad_to_multiple_of, return_attention_mask, return_tensors: as in
                ``SequenceFeatureExtractor.pad``; lengths are in frames.

        Returns:
            ``input_features`` (B, T, F) and ``attention_mask`` (B, T), 1 = frame, 0 = padding.

        Raises:
            ValueError: no utterance or no samples, another sampling rate, integers, NaN or infinite samples.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"the features are for a sampling rate of {self.sampling_rate}, got {sampling_rate}: resample first"
            )
        features = [self.features(samples).numpy(force=True) for samples in _utterances(raw_speech)]
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    def features(self, samples: Tensor | numpy.ndarray) -> Tensor:
        """The normalised features (T, F) of one utterance's samples (N,)."""
        features = self.log_mel(_checked_samples(samples))
        if self.normalize == "utterance":
            variance, mean = torch.var_mean(features, 0, correction=0)
            return (features - mean) / variance.clamp(min=VARIANCE_FLOOR).sqrt()
        return self.normalize_globally(features)

    def log_mel(self, samples: Tensor) -> Tensor:
        """The features (T, F) of one utterance's samples (N,), not normalised."""
        settings: dict[str, Any] = {
            "frame_length": self.frame_length,
            "frame_shift": self.frame_shift,
            "low_frequency": self.low_frequency,
            "high_frequency": self.high_frequency,
        }
        if self.kind == "kaldi":
            return log_mel_kaldi(samples, self.sampling_rate, self.feature_size, dither=self.dither, **settings)
        return log_mel_torch(samples, self.sampling_rate, self.feature_size, **settings)

    def normalize_globally(self, features: Tensor) -> Tensor:
        """``features`` (T, F) with the global mean and variance taken out, where the extractor does so."""
        if self.normalize != "global":
            return features
        mean, variance = (features.new_tensor(statistics) for statistics in (self.mean, self.variance))
        return (features - mean) / variance.clamp(min=VARIANCE_FLOOR).sqrt()

    def num_frames(self, num_samples: int) -> int:
        """The number of frames, T, of an utterance of ``num_samples`` samples."""
        window, shift = self.frame_sizes
        return 1 + max(0, num_samples - window) // shift

    @property
    def why_not_streaming(self) -> str | None:
        """Why features can't be computed while samples come; None where they can."""
        if self.normalize == "utterance":
            return "normalize='utterance' needs the whole utterance: a stream can use 'global' or None"
        return None

    @property
    def frame_sizes(self) -> tuple[int, int]:
        """Window and shift in samples."""
        return frame_sizes(self.sampling_rate, self.frame_length, self.frame_shift)


class FeatureStream:
    """The features of samples that come in pieces: equal to those of the whole, in constant memory.

    The samples of an unfinished window are kept for the next push. At the end they have no frame, as in the whole
    utterance; a stream shorter than one window gets its one frame from ``finish``.

    Args:
        extractor: normalising globally or not at all, since an utterance's own mean is known at its end only.

    Raises:
        ValueError: the extractor normalises by utterance.

    Example:
        >>> stream = FeatureStream(SeqDyConvFeatureExtractor(normalize=None))
        >>> [len(stream.push(torch.randn(300))) for _ in range(3)], len(stream.finish())
        ([0, 2, 2], 0)
    """

    def __init__(self, extractor: SeqDyConvFeatureExtractor) -> None:
        if (reason := extractor.why_not_streaming) is not None:
            raise ValueError(reason)
        self.extractor = extractor
        self._buffer = torch.empty(0)
        self._started = False  # whether there was a frame yet

    def push(self, samples: Tensor | numpy.ndarray) -> Tensor:
        """Take the next samples (N,), N ≥ 0, and return the frames (T, F), T ≥ 0, that they complete."""
        if len(samples) == 0:
            return self._no_frames()
        buffer = torch.cat([self._buffer, _checked_samples(samples)])
        window, shift = self.extractor.frame_sizes
        if len(buffer) < window:
            self._buffer = buffer
            return self._no_frames()
        features = self._features(buffer)
        self._buffer = buffer[len(features) * shift :].clone()  # a view would keep all of it in memory
        self._started = True
        return features

    def finish(self) -> Tensor:
        """Return the frames (T, F), T ≤ 1, that are left at the end; the stream can then take another utterance."""
        short = not self._started and len(self._buffer)
        features = self._features(self._buffer) if short else self._no_frames()
        self._buffer, self._started = torch.empty(0), False
        return features

    def _features(self, samples: Tensor) -> Tensor:
        return self.extractor.normalize_globally(self.extractor.log_mel(samples))

    def _no_frames(self) -> Tensor:
        return torch.empty(0, self.extractor.feature_size)


def _utterances(raw_speech: Any) -> list[Any]:
    """A list of utterances, of one or several."""
    if isinstance(raw_speech, (Tensor, numpy.ndarray)):
        if raw_speech.ndim not in (1, 2):
            raise ValueError(f"raw_speech must be (N,) or (B, N), got {raw_speech.ndim} dimensions")
        utterances = list(raw_speech) if raw_speech.ndim == 2 else [raw_speech]
    elif isinstance(raw_speech, (list, tuple)):
        utterances = [raw_speech] if raw_speech and isinstance(raw_speech[0], numbers.Real) else list(raw_speech)
    else:
        raise ValueError(f"raw_speech must be an array, a tensor or a list, got {type(raw_speech).__name__}")
    if not utterances:
        raise ValueError("raw_speech is empty: at least one utterance is needed")
    return utterances


def _checked_samples(samples: Any) -> Tensor:
    """float32 samples (N,), N ≥ 1."""
    if isinstance(samples, numpy.ndarray):  # of any strides and byte order, perhaps read-only
        samples = numpy.require(samples, samples.dtype.newbyteorder("="), ["C", "W"])
    try:
        samples = torch.as_tensor(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the samples of an utterance must be numbers: {error}") from None
    if samples.dim() != 1:
        raise ValueError(f"the samples of an utterance must be (N,), got shape {tuple(samples.shape)}")
    if len(samples) == 0:
        raise ValueError("an utterance has no samples")
    if not samples.is_floating_point():
        raise ValueError(f"samples must be floating-point numbers between -1 and 1, got {samples.dtype}")
    samples = samples.float()
    if not samples.isfinite().all():
        raise ValueError("an utterance has samples that are NaN or infinite")
    return samples


def _in_blocks(function: Callable[[Tensor], Tensor], samples: Tensor, window: int, shift: int) -> Tensor:
    """``function`` on blocks of whole frames, the results joined: memory grows with the result alone."""
    if samples.dim() != 1 or len(samples) == 0:
        raise ValueError(f"samples must be (N,) with N of at least 1, got shape {tuple(samples.shape)}")
    samples = F.pad(samples, (0, max(0, window - len(samples))))
    num_frames = 1 + (len(samples) - window) // shift
    starts = range(0, num_frames, _FRAMES_PER_BLOCK)
    last_frames = [min(start + _FRAMES_PER_BLOCK, num_frames) - 1 for start in starts]
    return torch.cat(
        [function(samples[start * shift : last * shift + window]) for start, last in zip(starts, last_frames)]
    )


@lru_cache(maxsize=8)
def _mel_spectrogram(
    sampling_rate: int, window: int, shift: int, low_frequency: float, high_frequency: float, num_mel_bins: int
) -> MelSpectrogram:
    return MelSpectrogram(
        sampling_rate,
        n_fft=2 ** math.ceil(math.log2(window)),
        win_length=window,
        hop_length=shift,
        f_min=low_frequency,
        f_max=high_frequency,
        n_mels=num_mel_bins,
        center=False,
    )
