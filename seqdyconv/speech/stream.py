"""Speech while it is spoken: other sampling rates, and words as they come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqdyconv.models.loading import ModelError
from seqdyconv.runtime import samples
from seqdyconv.speech.features import FeatureStream
from seqdyconv.speech.recogniser import Recogniser


class StreamResampler:
    """Changes the sampling rate of samples that come in pieces: :class:`seqdyconv.runtime.samples.StreamResampler`.

    Example:
        >>> resampler = StreamResampler(8000, 16000)
        >>> len(resampler.push(torch.zeros(4000))) + len(resampler.finish())
        8000
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self._resampler = samples.StreamResampler(rate, new_rate)
        self.latency = self._resampler.latency
        """Seconds until a sample comes out, at most."""

    def push(self, piece: Tensor) -> Tensor:
        """Take samples (N,) and return those that are due (M,)."""
        return torch.from_numpy(self._resampler.push(piece.numpy()))

    def finish(self) -> Tensor:
        """Return what is left."""
        return torch.from_numpy(self._resampler.finish())


class RecognitionStream:
    """Words of a CTC model as they come, in constant memory; they are those of the greedy search of the whole.

    Args:
        recogniser: a model with encoder_lookahead, whose features are normalised globally or not at all. How far it
            looks ahead, :meth:`Recogniser.set_lookahead` says before.

    Raises:
        ModelError: the model can't stream.

    Example:
        >>> from seqdyconv.speech import RecognitionStream, load_recogniser, read_blocks
        >>> stream = RecognitionStream(load_recogniser("outputs/speech_czech_streaming"))  # doctest: +SKIP
        >>> for samples in read_blocks("recording.wav", 0.32):  # doctest: +SKIP
        ...     print(*stream.push(samples))
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self.recogniser = recogniser
        model: Any = recogniser.model
        if not recogniser.own_features or not recogniser.is_ctc or model.config.encoder_lookahead is None:
            raise ModelError("this model does not stream: train a CTC model with encoder_lookahead 0 or more")
        try:
            self.features = FeatureStream(recogniser.feature_extractor)
        except ValueError as error:
            raise ModelError(str(error)) from None
        self.model = model
        self.blank = model.config.pad_token_id
        window, _ = recogniser.feature_extractor.frame_sizes
        self.latency = (
            model.base_model.lookahead * recogniser.seconds_per_frame
            + window / recogniser.feature_extractor.sampling_rate
        )
        """Seconds between a sound and the output about it, beside chunks and computing."""
        self._restart()

    def push(self, samples: Tensor) -> list[str]:
        """Take samples (N,) and return the words that they complete."""
        return self._recognise(self.features.push(samples), flush=False)

    def finish(self) -> list[str]:
        """Return the words that are left; then the stream begins anew."""
        words = self._recognise(self.features.finish(), flush=True)
        if self.ids:
            words += self.recogniser.decode_ids(self.ids).split()
        self._restart()
        return words

    def _restart(self) -> None:
        self.state = self.model.initial_state(1)
        self.last = self.blank  # The label of the last frame.
        self.ids: list[int] = []  # The labels of the words that are not complete.
        self.started = False  # Whether there was a frame.

    @torch.no_grad()
    def partial(self) -> list[str]:
        """The words that are not complete, as they would be if nothing came any more; what comes may change them.

        They are of all that was heard but the last frame, not ``lookahead`` steps late.
        """
        if not self.started:
            return []
        nothing = torch.zeros(1, 0, self.model.config.num_mel_bins, device=self.model.device)
        logits, _ = self.model.stream(nothing, self.state, flush=True)
        ids, _ = self._collapse(logits)
        return self.recogniser.decode_ids([*self.ids, *ids]).split()

    @torch.no_grad()
    def _recognise(self, features: Tensor, flush: bool) -> list[str]:
        if not (len(features) or (flush and self.started)):
            return []
        self.started = True
        logits, self.state = self.model.stream(features[None].to(self.model.device), self.state, flush=flush)
        ids, self.last = self._collapse(logits)
        self.ids += ids
        *complete, rest = self._split()
        self.ids = rest
        return [word for ids in complete for word in self.recogniser.decode_ids(ids).split()]

    def _collapse(self, logits: Tensor) -> tuple[list[int], int]:
        """The new labels of the next logits (1, T, V), and the label of their last frame."""
        ids, last = [], self.last
        for label in logits[0].argmax(-1).tolist():
            if label not in (self.blank, last):
                ids.append(label)
            last = label
        return ids, last

    def _split(self) -> list[list[int]]:
        """The labels of each word; the last one may go on."""
        tokens: Any = self.recogniser.tokenizer.convert_ids_to_tokens(self.ids)
        parts: list[list[int]] = [[]]
        for label, token in zip(self.ids, tokens):
            if token.startswith("▁") and parts[-1]:
                parts.append([])
            parts[-1].append(label)
        return parts
