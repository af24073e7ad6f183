"""Hugging Face's speech recognition pipeline, which reads files of itself for the models of this package."""

from __future__ import annotations

import os
from typing import Any

from huggingface_hub import get_session
from transformers import AutomaticSpeechRecognitionPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from seqdyconv.speech.audio import read_audio
from seqdyconv.speech.features import SeqDyConvFeatureExtractor

TASK = "automatic-speech-recognition"


class SpeechRecognitionPipeline(AutomaticSpeechRecognitionPipeline):
    """``pipeline("automatic-speech-recognition")`` that reads audio as :func:`seqdyconv.speech.read_audio` does.

    For models of this package, which :class:`SeqDyConvFeatureExtractor` tells, a file name, a URL or the content of a
    file is read by libsndfile, of any sampling rate and number of channels; Hugging Face's own pipeline starts the
    program ffmpeg for that. With all other models, and with samples in place of a file, it is Hugging Face's.

    ``import seqdyconv.speech`` makes ``pipeline`` choose it.

    Example:
        >>> from transformers import pipeline
        >>> recognise = pipeline("automatic-speech-recognition", model="outputs/speech_czech")  # doctest: +SKIP
        >>> recognise("recording.ogg")["text"]  # doctest: +SKIP
        'a co když má pravdu'
    """

    def preprocess(self, inputs: Any, **parameters: Any) -> Any:  # type: ignore[override]
        """Features of the audio, in pieces where ``chunk_length_s`` says so.

        Raises:
            AudioError: the file can't be used.
        """
        extractor = self.feature_extractor
        if isinstance(extractor, SeqDyConvFeatureExtractor) and isinstance(inputs, (str, bytes, os.PathLike)):
            if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
                inputs = get_session().get(inputs, follow_redirects=True).raise_for_status().content
            inputs = read_audio(inputs, extractor.sampling_rate)
        yield from super().preprocess(inputs, **parameters)


def register_pipeline() -> None:
    """Make ``pipeline("automatic-speech-recognition")`` choose ours, unless somebody's own is registered already.

    Only the class changes. ``PIPELINE_REGISTRY.register_pipeline`` would also warn, drop the task's default model and
    write the class into each folder that the pipeline saves, as code to be run there.
    """
    task = PIPELINE_REGISTRY.check_task(TASK)[1]
    if task["impl"] == f"{AutomaticSpeechRecognitionPipeline.__module__}.{AutomaticSpeechRecognitionPipeline.__name__}":
        task["impl"] = SpeechRecognitionPipeline
