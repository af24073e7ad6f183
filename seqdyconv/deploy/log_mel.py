"""Log-mel features as a torch module of standard operators: what a graph computes from raw samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.compliance import kaldi
from torchaudio.functional import melscale_fbanks

from seqdyconv.speech.features import KALDI_SCALE, POWER_FLOOR, VARIANCE_FLOOR, SeqDyConvFeatureExtractor

_PREEMPHASIS = 0.97  # of Kaldi's kind


class LogMel(nn.Module):
    """Padded samples (B, N) to log-mel features (B, T, F), equal to those of a feature extractor.

    A frame is a row of samples, its spectrum a product with a constant matrix, window and Fourier transform in one: no
    operator is special to audio. Mean and pre-emphasis of Kaldi's frames are not in the matrix, since sums of float32
    would leave some of a large mean.

    Args:
        extractor: of any settings. Its dither, which is random, is left out.

    Example:
        >>> import torch
        >>> from seqdyconv.deploy.log_mel import LogMel
        >>> from seqdyconv.speech import SeqDyConvFeatureExtractor
        >>> features, mask = LogMel(SeqDyConvFeatureExtractor())(torch.randn(2, 16000), torch.tensor([16000, 400]))
        >>> features.shape, mask.sum(1)
        (torch.Size([2, 98, 80]), tensor([98,  1]))
    """

    basis: Tensor
    mel: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, extractor: SeqDyConvFeatureExtractor) -> None:
        super().__init__()
        self.window, self.shift = extractor.frame_sizes
        self.num_mel_bins = extractor.feature_size
        self.normalize = extractor.normalize
        self.like_kaldi = extractor.kind == "kaldi"
        self.floor = torch.finfo(torch.float32).eps if extractor.kind == "kaldi" else POWER_FLOOR
        basis, mel = (_kaldi_matrices if extractor.kind == "kaldi" else _torch_matrices)(extractor, self.window)
        used = mel.any(1)  # frequencies that no filter reads are not computed
        self.register_buffer("basis", torch.cat([basis[:, used].real, basis[:, used].imag], 1).float())
        self.register_buffer("mel", mel[used].float())
        if self.normalize == "global":
            self.register_buffer("mean", torch.tensor(extractor.mean))
            self.register_buffer("scale", torch.tensor(extractor.variance).clamp(min=VARIANCE_FLOOR).rsqrt())

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of whole utterances.

        Args:
            samples: (B, N), N of at least one window; what is behind the length of a row is not read.
            lengths: (B,) int, of each row, from 1 to N. Fewer than one window count as one, filled with zeros.

        Returns:
            (B, T, F), normalised as the extractor does, zero behind a row's end; and a mask (B, T), 1 = frame.
        """
        real = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
        features = self.log_mel(torch.where(real, samples, 0.0))
        mask = torch.arange(features.shape[1], device=samples.device) < self.num_frames(lengths)[:, None]
        kept = mask[..., None].to(features.dtype)
        if self.normalize == "utterance":
            count = kept.sum(1, keepdim=True)
            centred = (features - (features * kept).sum(1, keepdim=True) / count) * kept
            variance = centred.square().sum(1, keepdim=True) / count
            return centred / variance.clamp(min=VARIANCE_FLOOR).sqrt(), mask.long()
        return self.normalize_globally(features) * kept, mask.long()

    def log_mel(self, samples: Tensor) -> Tensor:
        """The features (B, T, F) of all windows that lie within the samples (B, N), not normalised."""
        count = (samples.shape[1] - self.window) // self.shift + 1
        starts = torch.arange(count, device=samples.device)[:, None] * self.shift
        frames = samples[:, starts + torch.arange(self.window, device=samples.device)]
        if self.like_kaldi:
            frames = frames - frames.mean(2, keepdim=True)
            before = torch.cat([frames[..., :1], frames[..., :-1]], 2)
            frames = frames - _PREEMPHASIS * before
        real, imaginary = (frames @ self.basis).chunk(2, -1)
        return ((real.square() + imaginary.square()) @ self.mel).clamp(min=self.floor).log()

    def normalize_globally(self, features: Tensor) -> Tensor:
        """``features`` with the global mean and variance taken out, where the extractor does so."""
        return (features - self.mean) * self.scale if self.normalize == "global" else features

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """The number of frames of utterances of so many samples."""
        return (num_samples - self.window).clamp(min=0) // self.shift + 1


def _kaldi_matrices(extractor: SeqDyConvFeatureExtractor, window: int) -> tuple[Tensor, Tensor]:
    """(window, bins) complex, and (bins, F), as ``torchaudio.compliance.kaldi.fbank`` has them."""
    weights = KALDI_SCALE * torch.hann_window(window, periodic=False, dtype=torch.float64) ** 0.85
    filters, _ = kaldi.get_mel_banks(
        extractor.feature_size,
        _fft_size(window),
        extractor.sampling_rate,
        extractor.low_frequency,
        extractor.high_frequency,
        100.0,
        -500.0,
        1.0,
    )
    return weights[:, None] * _fourier(window)[:, :-1], filters.T  # the highest frequency is in no filter


def _torch_matrices(extractor: SeqDyConvFeatureExtractor, window: int) -> tuple[Tensor, Tensor]:
    """The same of ``torchaudio.transforms.MelSpectrogram``."""
    high, nyquist = extractor.high_frequency, extractor.sampling_rate / 2
    filters: Any = melscale_fbanks(
        _fft_size(window) // 2 + 1,
        extractor.low_frequency,
        high if high > 0 else high + nyquist,
        extractor.feature_size,
        extractor.sampling_rate,
    )
    return torch.hann_window(window, dtype=torch.float64)[:, None] * _fourier(window), filters


def _fourier(window: int) -> Tensor:
    """(window, size // 2 + 1) of the transform of a window that zeros fill up to a power of two."""
    size = _fft_size(window)
    turns = torch.arange(window)[:, None] * torch.arange(size // 2 + 1) % size  # exact, as angles would not be
    return torch.polar(torch.ones((), dtype=torch.float64), -2 * math.pi / size * turns.double())


def _fft_size(window: int) -> int:
    return 1 << (window - 1).bit_length()
