"""Feature extractor and tokenizer in one, as Hugging Face's Auto classes load them beside a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from seqdyconv.models.losses import IGNORED_LABEL
from seqdyconv.speech.features import SeqDyConvFeatureExtractor


class SeqDyConvSpeechProcessor(ProcessorMixin):
    """Audio to features and transcripts to labels, the input of a speech model; its output ids back to text.

    ``processor.save_pretrained(folder)`` beside a saved model lets ``AutoProcessor.from_pretrained(folder)`` and
    ``pipeline("automatic-speech-recognition", model=folder)`` work.

    Args:
        feature_extractor: of the audio.
        tokenizer: of the transcripts.

    Example:
        >>> import torch
        >>> from seqdyconv.speech.tokenization import train_character_tokenizer
        >>> processor = SeqDyConvSpeechProcessor(SeqDyConvFeatureExtractor(), train_character_tokenizer(["ab"]))
        >>> audio = [torch.randn(16000), torch.randn(8000)]
        >>> batch = processor(audio, ["a b", "a"], sampling_rate=16000, return_tensors="pt")
        >>> {name: tuple(tensor.shape) for name, tensor in batch.items()}
        {'input_features': (2, 98, 80), 'attention_mask': (2, 98), 'labels': (2, 3)}
        >>> batch["labels"][1]
        tensor([   5, -100, -100])
    """

    feature_extractor: SeqDyConvFeatureExtractor
    tokenizer: PreTrainedTokenizerBase

    def __init__(self, feature_extractor: SeqDyConvFeatureExtractor, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        audio: Any = None,
        text: str | list[str] | None = None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Features of ``audio``, labels of ``text``, or both.

        Args:
            audio: samples of one utterance or several, as :class:`SeqDyConvFeatureExtractor` takes them.
            text: one transcript or several.
            sampling_rate: of the audio, in hertz.
            padding: of features and labels to the longest; padded labels are -100, which the models ignore.
            return_tensors: ``"pt"`` or ``"np"``.
            **kwargs: further arguments of the feature extractor.

        Returns:
            ``input_features`` (B, T, F) and ``attention_mask`` (B, T) of the audio, ``labels`` (B, U) of the text.

        Raises:
            ValueError: neither audio nor text, no transcript, or as many of each as do not match.
        """
        if audio is None and text is None:
            raise ValueError("the processor needs audio, text or both, got neither")
        batch = BatchFeature()
        if audio is not None:
            batch = self.feature_extractor(
                audio, sampling_rate=sampling_rate, padding=padding, return_tensors=return_tensors, **kwargs
            )
        if text is not None:
            texts = [text] if isinstance(text, str) else text
            if not texts:
                raise ValueError("text is an empty list: at least one transcript is needed")
            if audio is not None and len(texts) != len(batch["input_features"]):
                raise ValueError(f"got {len(batch['input_features'])} utterances, but {len(texts)} transcripts")
            batch["labels"] = self._labels(texts, padding, return_tensors)
        return batch

    @property
    def model_input_names(self) -> list[str]:
        """What the models take: the features, their mask, and labels."""
        return [*self.feature_extractor.model_input_names, "labels"]

    def _labels(self, texts: list[str], padding: bool | str, return_tensors: str | None) -> Any:
        labels: Any = self.tokenizer(texts)["input_ids"]
        if padding:
            longest = max(map(len, labels))
            labels = [ids + [IGNORED_LABEL] * (longest - len(ids)) for ids in labels]
            if return_tensors is not None:  # whole numbers, also where no text has a label
                labels = np.array(labels, np.int64)
        return BatchFeature({"labels": labels}, tensor_type=return_tensors)["labels"]
