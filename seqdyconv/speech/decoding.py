"""How a recogniser's output becomes text: greedy, or a beam search with a language model and a word list."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from seqdyconv.errors import first_line
from seqdyconv.files import decode_lines, open_lines
from seqdyconv.models.loading import ModelError
from seqdyconv.ranges import Count, Options, Range, Share, Weight
from seqdyconv.runtime.words import Word
from seqdyconv.speech.alignment import align_words
from seqdyconv.speech.ctc import CTCBeamSearch, Transcript, greedy_transcripts, word_times
from seqdyconv.speech.language_model import MAX_ORDER, MIN_ORDER, read_vocabulary, train_ngram_model
from seqdyconv.speech.recogniser import Recogniser, clean
from seqdyconv.speech.segments import read_segments

TRAIN_TEXTS = "train_texts.txt"
"""In a run's folder: the texts of its training utterances."""
DEFAULT_ORDERS = {"token": 6, "word": 3}
"""Length of the n-grams of a language model, by its unit."""


@dataclass
class SpeechDecodingArguments(Options):
    """Greedy or beam search; the language model and the word list are for CTC models."""

    beam_size: Annotated[int, Range(1, 10_000)] = field(
        default=1, metadata={"help": "Beams of the search; 1 without a language model is greedy."}
    )
    language_model: str = field(
        default="none",
        metadata={"help": "none, an ARPA file (words with a word list, else units), or auto: of the training texts."},
    )
    word_list: str = field(
        default="none",
        metadata={
            "help": "none, a file with a word per line, or auto: those of the ARPA file, or of the training texts."
        },
    )
    lm_order: Annotated[int, Range(MIN_ORDER, MAX_ORDER)] | None = field(
        default=None, metadata={"help": "Length of the n-grams with auto; 2 to 6; None is 3 for words, 6 for units."}
    )
    lm_weight: Weight = field(default=0.6, metadata={"help": "Weight of the language model."})
    word_score: float = field(default=0.0, metadata={"help": "Added for each word, with a word list."})
    unit_score: float = field(default=0.0, metadata={"help": "Added for each unit, without a word list."})
    ctc_weight: Share | None = field(
        default=None, metadata={"help": "Weight of CTC beside an attention decoder; None is that of the training."}
    )
    max_label_length: Count | None = field(
        default=None, metadata={"help": "The most units that an attention decoder writes; None: what the model allows."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("language_model", "word_list"):
            if (value := getattr(self, name)) not in ("none", "auto") and not Path(value).is_file():
                raise ValueError(f"{name} must be none, auto or a file, got {value!r}")
        if self.beam_size == 1 and (self.language_model != "none" or self.word_list != "none"):
            raise ValueError("a language model or a word list needs a beam search: set beam_size to 16, for example")
        searches, lists = self.beam_size > 1, self.word_list != "none"
        default = type(self)
        for name, applies, needed in (
            ("lm_order", self.language_model == "auto", "without language_model: auto"),
            ("lm_weight", self.language_model != "none", "without a language_model"),
            ("word_score", lists, "without a word_list"),
            ("unit_score", searches and not lists, "with a word_list" if lists else "without a beam search"),
        ):
            if getattr(self, name) != getattr(default, name) and not applies:
                raise ValueError(f"{name} has no effect {needed}, got {getattr(self, name)}")


class Decoder:
    """Writes down what a recogniser hears: batches of utterances, one utterance with times, whole files.

    Args:
        recogniser: the model and its processor.
        args: how; None is greedy.
        model_dir: where its run has left the training texts, of which ``auto`` makes language models and word lists.

    Raises:
        ModelError: the arguments don't go with the model or its folder.

    Example:
        >>> from seqdyconv.speech import Decoder, load_recogniser
        >>> decoder = Decoder(load_recogniser("outputs/speech_czech"))  # doctest: +SKIP
        >>> [word.text for word in decoder.transcribe("recording.ogg")]  # doctest: +SKIP
        ['a', 'co', 'když', 'má', 'pravdu']
    """

    def __init__(
        self, recogniser: Recogniser, args: SpeechDecodingArguments | None = None, model_dir: str | Path = ""
    ) -> None:
        args = args or SpeechDecodingArguments()
        self.recogniser = recogniser
        self.args = args
        self._search: CTCBeamSearch | None = None
        plain = args.language_model == "none" and args.word_list == "none"
        if not recogniser.is_ctc and not plain:
            raise ModelError("a language model or a word list is for CTC models, and this one has a decoder")
        if not recogniser.is_ctc and args.unit_score:
            raise ModelError(f"unit_score is for CTC models, and this one has a decoder, got {args.unit_score}")
        for name in ("ctc_weight", "max_label_length"):
            if recogniser.is_ctc and getattr(args, name) is not None:
                raise ModelError(f"{name} is for models with a decoder, and this is a CTC model")
        if recogniser.is_ctc and args.beam_size > 1:
            try:
                self._search = _beam_search(recogniser, args, Path(model_dir))
            except (ValueError, ImportError) as error:
                raise ModelError(first_line(error)) from None

    def transcribe(self, path: str | Path, segment_seconds: float = 20.0) -> list[Word]:
        """The words of an audio file of any length with their times, in constant memory.

        Args:
            path: the file, of any format, sampling rate and number of channels.
            segment_seconds: the longest piece that is recognised at once; pieces end at pauses.

        Raises:
            AudioError: the file can't be used.
        """
        recogniser = self.recogniser
        longest = min(segment_seconds, recogniser.max_seconds)
        segments = read_segments(path, recogniser.feature_extractor.sampling_rate, longest)
        return [word for start, samples in segments for word in self.words(samples, start)]

    def texts(self, samples: Sequence[Tensor]) -> list[str]:
        """What is said in the samples (N,) of each utterance."""
        if not self.recogniser.is_ctc:
            return self._generated(self.recogniser.inputs(samples))
        return [transcript.text for transcript in self.transcripts(*self._logits(samples))]

    def words(self, samples: Tensor, offset: float = 0.0) -> list[Word]:
        """What is said in the samples (N,) of one utterance, with times in seconds from its start plus `offset`.

        A pretrained model with an attention decoder knows no times: its text comes as one "word" of the whole length.
        """
        recogniser = self.recogniser
        seconds = recogniser.seconds_per_frame if recogniser.is_ctc or recogniser.own_features else 0.0
        if recogniser.is_ctc:
            transcript = self.transcripts(*self._logits([samples]))[0]
            return word_times(transcript, recogniser.tokenizer, seconds, offset)
        inputs = recogniser.inputs([samples])
        text = self._generated(inputs)[0]
        if not text:
            return []
        if recogniser.own_features:
            model: Any = recogniser.model
            with torch.no_grad():
                log_probs = model.ctc_head(model.encoder(**inputs).last_hidden_state)[0].log_softmax(-1).cpu()
            try:
                return align_words(recogniser.tokenizer, log_probs, text, seconds, offset)
            except ValueError:  # The decoder has written more than the frames have room for.
                pass
        return [Word(text, offset, offset + len(samples) / recogniser.feature_extractor.sampling_rate)]

    def transcripts(self, logits: Tensor, lengths: Tensor) -> list[Transcript]:
        """The best transcript of each row of CTC logits (B, T, V)."""
        tokenizer = self.recogniser.tokenizer
        if self._search is not None:
            found = [best[0] for best in self._search(logits, lengths)]
        else:
            found = greedy_transcripts(tokenizer, logits, lengths)
        return [one._replace(text=self.recogniser.decode_ids(one.tokens)) for one in found]

    @torch.no_grad()
    def _logits(self, samples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        inputs = self.recogniser.inputs(samples)
        logits = self.recogniser.model(**inputs).logits.float().cpu()
        if logits.isnan().any():
            raise ModelError("the model gives NaN: its weights are damaged")
        return logits, self.recogniser.output_lengths(inputs, logits.shape[1])

    def _generated(self, inputs: dict[str, Tensor]) -> list[str]:
        options: dict[str, Any] = {"num_beams": self.args.beam_size, "max_length": self.args.max_label_length}
        if self.args.ctc_weight is not None:
            options["ctc_weight"] = self.args.ctc_weight
        return self.recogniser.recognise(inputs, **options)


def _beam_search(recogniser: Recogniser, args: SpeechDecodingArguments, model_dir: Path) -> CTCBeamSearch:
    words: list[str] | None = None
    if args.word_list == "auto" and args.language_model not in ("none", "auto"):
        words = read_vocabulary(args.language_model)
    elif args.word_list == "auto":
        words = sorted({word for text in read_train_texts(model_dir) for word in text.split()})
    elif args.word_list != "none":
        try:
            words = Path(args.word_list).read_text(encoding="utf-8-sig").split()
        except UnicodeDecodeError:
            raise ModelError(f"word_list is {args.word_list}, which is not UTF-8 text") from None
    score = {"token_score": args.unit_score} if words is None else {"word_score": args.word_score}
    options: dict[str, Any] = {"words": words, "beam_size": args.beam_size, "lm_weight": args.lm_weight, **score}
    if args.language_model != "auto":
        path = None if args.language_model == "none" else args.language_model
        return CTCBeamSearch(recogniser.tokenizer, language_model=path, **options)
    unit: dict[str, Any] = {"unit": "token", "tokenizer": recogniser.tokenizer} if words is None else {"unit": "word"}
    with tempfile.TemporaryDirectory(prefix="seqdyconv-") as folder:
        counted = Path(folder) / "language_model.arpa"
        order = args.lm_order or DEFAULT_ORDERS[unit["unit"]]
        train_ngram_model(read_train_texts(model_dir), order, counted, **unit)
        return CTCBeamSearch(recogniser.tokenizer, language_model=counted, **options)


def read_train_texts(model_dir: Path) -> list[str]:
    """The texts that a recogniser was trained on.

    Raises:
        ModelError: the folder, or for a checkpoint the one above, is of no run of train.py.
    """
    for folder in (model_dir, model_dir.parent):  # A checkpoint is in the folder of its run.
        if (file := folder / TRAIN_TEXTS).is_file():
            return [clean(line) for line in decode_lines(open_lines(file), str(file))]
    raise ModelError(f"auto needs {TRAIN_TEXTS}, the training texts of a run of train.py, which {model_dir} has not")
