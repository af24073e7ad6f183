"""Speech while it is spoken: words as they come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqdyconv.models.loading import ModelError
from seqdyconv.runtime.samples import StreamResampler, checked_samples
from seqdyconv.runtime.words import WordCollector
from seqdyconv.speech.features import FeatureStream
from seqdyconv.speech.recogniser import Recogniser


class RecognitionStream:
    """Words of a CTC model as they come, in constant memory; they are those of the greedy search of the whole.

    Args:
        recogniser: a model with encoder_lookahead, whose features are normalised globally or not at all. How far it
            looks ahead, :meth:`Recogniser.set_lookahead` says before.
        sampling_rate: of what is pushed, in hertz; None: that of the model.

    Raises:
        ModelError: the model can't stream.

    Example:
        >>> from seqdyconv.speech import RecognitionStream, load_recogniser, read_blocks
        >>> stream = RecognitionStream(load_recogniser("outputs/speech_czech_streaming"))  # doctest: +SKIP
        >>> for samples in read_blocks("recording.wav", 0.32):  # doctest: +SKIP
        ...     print(*stream.push(samples))
    """

    def __init__(self, recogniser: Recogniser, sampling_rate: int | None = None) -> None:
        if (reason := recogniser.why_not_streaming) is not None:
            raise ModelError(reason)
        self.recogniser = recogniser
        extractor = recogniser.feature_extractor
        self.features = FeatureStream(extractor)
        model: Any = recogniser.model
        self.model = model
        tokenizer: Any = recogniser.tokenizer
        blank = model.config.pad_token_id
        self._words = WordCollector(blank, tokenizer.convert_ids_to_tokens, recogniser.decode_ids)
        self._resampler = StreamResampler(sampling_rate or extractor.sampling_rate, extractor.sampling_rate)
        window, _ = extractor.frame_sizes
        self.latency = (
            model.base_model.lookahead * recogniser.seconds_per_frame
            + window / extractor.sampling_rate
            + self._resampler.latency
        )
        """Seconds between a sound and the output about it, beside chunks and computing."""
        self._restart()

    def push(self, samples: Any) -> list[str]:
        """Take samples (N,), N of 0 or more, a tensor or an array of floats, and return the words that they complete.

        Raises:
            AudioError: they are not one channel of finite floating-point numbers.
        """
        return self._hear(self._resampler.push(checked_samples(samples, 0)), flush=False)

    def finish(self) -> list[str]:
        """Return the words that are left; then the stream begins anew."""
        words = self._hear(self._resampler.finish(), flush=True) + self._words.finish()
        self._restart()
        return words

    @torch.no_grad()
    def partial(self) -> list[str]:
        """The words that are not complete, as they would be if nothing came any more; what comes may change them.

        They are of all that was heard but the last frame, not ``lookahead`` steps late.
        """
        if not self.started:
            return []
        nothing = torch.zeros(1, 0, self.model.config.num_mel_bins, device=self.model.device)
        logits, _ = self.model.stream(nothing, self.state, flush=True)
        return self._words.partial(best_path(logits))

    def _restart(self) -> None:
        self.state = self.model.initial_state(1)
        self.started = False  # Whether there was a frame.

    @torch.no_grad()
    def _hear(self, samples: Any, flush: bool) -> list[str]:
        """The words that samples at the model's rate complete, and with `flush` all that are complete at the end."""
        features = self.features.push(torch.from_numpy(samples))
        if flush:
            features = torch.cat([features, self.features.finish()])
        if not (len(features) or (flush and self.started)):
            return []
        self.started = True
        logits, self.state = self.model.stream(features[None].to(self.model.device), self.state, flush=flush)
        return self._words.push(best_path(logits))


def best_path(logits: Tensor) -> list[int]:
    """The most likely label of each frame of logits (1, T, V)."""
    path: list[int] = logits[0].argmax(-1).tolist()
    return path
