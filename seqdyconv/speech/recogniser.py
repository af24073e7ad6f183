"""Speech recognisers: models of this package, pretrained and swapped ones, with what stands before and behind them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SeamlessM4TFeatureExtractor,
    WhisperFeatureExtractor,
)

from seqdyconv.errors import first_line
from seqdyconv.models.loading import (
    ModelError,
    check_model_folder,
    check_vocabulary,
    load_config,
    load_tokenizer,
    vocabulary_size,
)
from seqdyconv.models.modeling import start_token
from seqdyconv.speech.ctc import ctc_greedy
from seqdyconv.speech.features import SeqDyConvFeatureExtractor
from seqdyconv.speech.processing import SeqDyConvSpeechProcessor
from seqdyconv.swap.loading import load_trained

logger = logging.getLogger(__name__)

WHISPER_PROMPT = 4
"""Whisper models put so many tokens before a text (start, language, task, no timestamps)."""
_KIND = "speech recognition model"


@dataclass
class Recogniser:
    """A model with what it needs before and behind it.

    Args:
        model: of the Auto classes for CTC or speech seq2seq, of this package or another, swapped or not.
        feature_extractor: from samples to what the model takes.
        tokenizer: from its output to text.
    """

    model: PreTrainedModel
    feature_extractor: Any
    tokenizer: PreTrainedTokenizerBase

    def to(self, device: torch.device | str) -> Recogniser:
        """The recogniser itself, its model on another device."""
        model: Any = self.model
        model.to(device)
        return self

    @property
    def is_ctc(self) -> bool:
        """Whether it is a CTC model, or one with an attention decoder."""
        return not self.model.config.is_encoder_decoder

    @property
    def own_features(self) -> bool:
        """Whether its features are those of this package, which SpecAugment of this package works on."""
        return isinstance(self.feature_extractor, SeqDyConvFeatureExtractor)

    @property
    def seconds_per_frame(self) -> float:
        """Between two output frames of a CTC model."""
        return self.model.config.inputs_to_logits_ratio / self.feature_extractor.sampling_rate

    @property
    def why_not_streaming(self) -> str | None:
        """Why it can't recognise speech while it is spoken; None where it can."""
        if not self.own_features or not self.is_ctc or self.model.config.encoder_lookahead is None:
            return "this model does not stream: train a CTC model with encoder_lookahead 0 or more"
        reason: str | None = self.feature_extractor.why_not_streaming
        return reason

    def set_lookahead(self, milliseconds: float | None = None) -> float:
        """From now on look at most that far ahead, see :meth:`seqdyconv.models.SeqDyConvSpeechModel.set_lookahead`.

        Args:
            milliseconds: of all layers together, rounded down to steps; None: as far as the model can.

        Returns:
            How far it looks ahead now, in milliseconds; where that is not what was asked for, a warning says so.

        Raises:
            ModelError: the model hears the whole utterance.
        """
        model: Any = self.model
        if not self.own_features or model.config.encoder_lookahead is None:
            raise ModelError("this model hears all of an utterance: a choice needs one trained with encoder_lookahead")
        step = 1000 * self.seconds_per_frame
        steps = None if milliseconds is None else int(milliseconds / step + 1e-6)
        found: float = step * model.base_model.set_lookahead(steps)
        if milliseconds is not None and abs(found - milliseconds) > 1e-6 * step:
            most = step * sum(layer.mixer.lookaheads[-1] for layer in model.base_model.layers)
            logger.warning(
                "looks %g ms ahead instead of %g: steps have %g ms, and the layers look %g ms ahead at most",
                *(found, milliseconds, step, most),
            )
        return found

    def inputs(self, samples: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the model takes for the samples (N,) of several utterances, on its device.

        Raises:
            ModelError: an utterance is longer than the learned positions of a model of ours.
        """
        seconds = max(map(len, samples), default=0) / self.feature_extractor.sampling_rate
        if self.own_features and seconds > self.max_seconds:
            raise ModelError(
                f"an utterance has {seconds:.1f} s, and the model has positions for {self.max_seconds:.1f}"
            )
        if self.is_ctc and not self.own_features:  # whose features fill up what is short themselves
            samples = [F.pad(one, (0, max(0, self.least_samples - len(one)))) for one in samples]
        inputs = model_inputs(self.feature_extractor, samples)
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def frames(self, num_samples: int) -> int:
        """The output frames of a CTC model for an utterance of that many samples."""
        model: Any = self.model
        if self.own_features:
            return int(model.base_model.subsampling.output_lengths(self.feature_extractor.num_frames(num_samples)))
        return int(model._get_feat_extract_output_lengths(torch.tensor([num_samples]))[0])

    def output_lengths(self, inputs: dict[str, Tensor], frames: int) -> Tensor:
        """(B,) the output frames of each utterance of a batch that has `frames` of them with padding."""
        mask = inputs.get("attention_mask")
        if mask is None:
            return torch.full((len(next(iter(inputs.values()))),), frames)
        model: Any = self.model
        if self.own_features:
            return model.output_lengths(mask).cpu()
        return model._get_feat_extract_output_lengths(mask.sum(-1)).cpu().clamp(max=frames)

    @cached_property
    def least_samples(self) -> int:
        """The samples that give one output frame of a CTC model; zeros fill up a shorter utterance."""
        if self.own_features:
            return int(self.feature_extractor.frame_sizes[0])
        if isinstance(self.feature_extractor, SeamlessM4TFeatureExtractor):  # frames of 25 ms each 10 ms, two of them
            return int(0.035 * self.feature_extractor.sampling_rate)
        return next(number for number in range(1, 2**16) if self.frames(number) > 0)

    @property
    def max_seconds(self) -> float:
        """The longest utterance that is heard to its end: 30 seconds with Whisper, which pads all to that.

        Of our models with learned positions what these reach to; else any.
        """
        config: Any = self.model.config
        if self.own_features and config.encoder_position_type == "learned":
            return (config.max_position_embeddings - config.position_offset - 1) * self.seconds_per_frame
        whisper = isinstance(self.feature_extractor, WhisperFeatureExtractor)
        return self.feature_extractor.chunk_length if whisper else math.inf

    @property
    def max_units(self) -> float:
        """The most units that a decoder has positions for; all but Whisper's go on for ever."""
        return getattr(self.model.config, "max_target_positions", math.inf)

    def labels(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts to train on, without the start of a decoder, which the models put before them."""
        rows: list[list[int]] = self.tokenizer(list(texts))["input_ids"]
        start = None if self.is_ctc else start_token(self.model.config)
        return [ids[1:] if ids and ids[0] == start else list(ids) for ids in rows]

    def too_long(self, ids: Sequence[int], num_samples: int) -> str | None:
        """Why an utterance of those labels and that many samples can't be trained on, or None."""
        if self.is_ctc:
            # Between two equal labels CTC needs a blank.
            needed = len(ids) + sum(one == other for one, other in pairwise(ids))
            frames = self.frames(num_samples)
            return f"its text needs {needed} frames, more than the {frames} of its audio" if needed > frames else None
        seconds = num_samples / self.feature_extractor.sampling_rate
        if seconds > self.max_seconds:
            return f"it is {seconds:.1f} s long, and the model hears {self.max_seconds} s"
        if len(ids) > self.max_units:
            return f"its text has {len(ids)} units, more than the model's {self.max_units}"
        return None

    def save(self, folder: str | Path) -> None:
        """Write the feature extractor and the tokenizer, for the Auto classes."""
        if self.own_features:
            SeqDyConvSpeechProcessor(self.feature_extractor, self.tokenizer).save_pretrained(folder)
        else:
            self.feature_extractor.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def recognise(self, inputs: dict[str, Tensor], max_length: int | None = None, **options: Any) -> list[str]:
        """Texts of a batch, greedy.

        Args:
            inputs: of the model.
            max_length: the most units that a decoder writes; None: as many as the model finds fit.
            options: of ``generate``, for models with a decoder.
        """
        if self.is_ctc:
            logits = self.model(**inputs).logits
            return self.decode_logits(logits, self.output_lengths(inputs, logits.shape[1]))
        model: Any = self.model
        if max_length is not None:
            options["max_new_tokens"] = int(min(max_length, self.max_units - WHISPER_PROMPT))
        ids = model.generate(**inputs, **options)
        return [clean(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def decode_logits(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Texts of the best paths of CTC logits (B, T, V)."""
        blank = self.model.config.pad_token_id
        return [self.decode_ids(ids) for ids in ctc_greedy(logits.float().cpu(), lengths, blank)]

    def decode_ids(self, ids: Sequence[int]) -> str:
        """Text of collapsed labels."""
        text: Any = self.tokenizer.decode(list(ids), skip_special_tokens=True, group_tokens=False)
        return clean(text)


def load_recogniser(folder: str) -> Recogniser:
    """Load a trained model, swapped or not, in float32 in evaluation mode.

    Args:
        folder: a folder, that of a run or of a checkpoint in it, or a name on the Hub.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    model = load_speech_model(folder)
    recogniser = Recogniser(model, load_feature_extractor(folder), load_tokenizer(processor_folder(folder)))
    check_units(model, recogniser.tokenizer, folder)
    if not isinstance(recogniser.feature_extractor, WhisperFeatureExtractor):  # which hears 30 seconds, however short
        try:
            recogniser.recognise(recogniser.inputs([torch.zeros(recogniser.feature_extractor.sampling_rate)]), 1)
        except Exception as error:  # whatever a wrong setting has transformers stumble over
            raise ModelError(f"{folder} can't recognise speech: {first_line(error)}") from None
    return recogniser


def check_units(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ModelError where a model does not give the units of a tokenizer, whose special tokens may be more.

    Args:
        model: of the recogniser.
        tokenizer: of the recogniser.
        name: of the model, for messages.
    """
    if model.config.is_encoder_decoder:
        check_vocabulary(model, tokenizer, name)
        return
    special, outputs = set(tokenizer.all_special_tokens), model.config.vocab_size
    units = 1 + max(number for token, number in tokenizer.get_vocab().items() if token not in special)
    if units > outputs or vocabulary_size(tokenizer) < outputs:
        raise ModelError(
            f"the tokenizer has {vocabulary_size(tokenizer)} entries, but {name} gives {outputs} outputs: it is that "
            "of another model (to train, set new_vocabulary)"
        )
    if tokenizer.pad_token_id != model.config.pad_token_id:
        raise ModelError(
            f"the blank of CTC is the padding token, which is {tokenizer.pad_token_id} in the tokenizer, and "
            f"{model.config.pad_token_id} in {name}"
        )


def load_speech_model(name_or_path: str, **options: Any) -> PreTrainedModel:
    """The model of a recogniser alone; ``options`` are those of :func:`seqdyconv.models.loading.load_pretrained`.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    decodes = load_config(name_or_path, _KIND).is_encoder_decoder
    model = load_trained(AutoModelForSpeechSeq2Seq if decodes else AutoModelForCTC, name_or_path, _KIND, **options)
    if not (hasattr(model, "output_lengths") or hasattr(model, "_get_feat_extract_output_lengths")):
        raise ModelError(f"can't load a {_KIND} from {name_or_path}: {type(model).__name__} doesn't tell its frames")
    return model


def load_feature_extractor(name_or_path: str) -> Any:
    """The feature extractor alone.

    Raises:
        ModelError: There is none, or it can't be read.
    """
    folder = processor_folder(name_or_path)
    check_model_folder(folder)
    try:
        return AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"can't load the feature extractor of {folder}: {first_line(error)}") from None


def processor_folder(name_or_path: str) -> str:
    """Where the processor of a model is: a checkpoint's is in the folder of its run."""
    path = Path(name_or_path)
    names = ("processor_config.json", "preprocessor_config.json")
    here, above = (any((folder / name).is_file() for name in names) for folder in (path, path.parent))
    return str(path.parent) if path.is_dir() and above and not here else name_or_path


def model_inputs(feature_extractor: Any, samples: Sequence[Tensor]) -> dict[str, Tensor]:
    """What a model takes, of the samples (N,) of several utterances, padded to the longest or to all that it hears.

    Args:
        feature_extractor: of the model, ours or another.
        samples: float32, at the rate of the feature extractor.
    """
    if isinstance(feature_extractor, SeqDyConvFeatureExtractor):
        return dict(feature_extractor(samples, return_tensors="pt"))
    return dict(
        feature_extractor(
            [utterance.numpy() for utterance in samples],  # transformers takes a list of tensors for one utterance
            sampling_rate=feature_extractor.sampling_rate,
            padding="max_length" if isinstance(feature_extractor, WhisperFeatureExtractor) else "longest",
            return_tensors="pt",
        )
    )


def check_sampling_rate(feature_extractor: Any, sampling_rate: int) -> None:
    """Raise ModelError where a model hears audio of another sampling rate than that of the data."""
    if feature_extractor.sampling_rate != sampling_rate:
        raise ModelError(
            f"the model hears audio at {feature_extractor.sampling_rate} Hz, and the data are at {sampling_rate} Hz"
        )


def clean(text: str) -> str:
    """Single spaces, none around."""
    return " ".join(text.split())
