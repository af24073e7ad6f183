"""Models for speech recognition: new ones, pretrained ones of a folder or the Hub, and swapped ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.data.speech_recognition import SAMPLING_RATE
from seqdyconv.errors import first_line
from seqdyconv.models import SeqDyConvForCTC, SeqDyConvForSpeechSeq2Seq, SeqDyConvSpeechConfig
from seqdyconv.models.configuration_speech import ENCODER_BLOCKS
from seqdyconv.models.loading import ModelError, load_tokenizer
from seqdyconv.ranges import Count, Dropout, KernelSize, Number, OneOf, Range, Share, VocabSize, Weight
from seqdyconv.speech import SeqDyConvFeatureExtractor, global_statistics
from seqdyconv.speech.recogniser import check_sampling_rate, check_units, load_feature_extractor, load_speech_model
from seqdyconv.speech.tokenization import train_character_tokenizer, train_subword_tokenizer
from seqdyconv.swap import swap_self_attention
from seqdyconv.training.model_arguments import (
    EncoderDecoderArguments,
    Mixer,
    check_size,
    kernel_sizes_help,
    layer_types_help,
    refuse_ignored,
)

HEADS = ("ctc", "seq2seq")
UNITS = ("characters", "bpe")
STATISTICS_UTTERANCES = 2000
"""So many training utterances, evenly spaced, give the global mean and variance of the features."""
_OF_ANY_MODEL = ("units", "vocab_size", "min_frequency", "lookahead_ms")
_PRETRAINED = ("model_name_or_path", "new_vocabulary", "whisper_language", *_OF_ANY_MODEL)


@dataclass
class ModelArguments(EncoderDecoderArguments):
    """A pretrained model, or the architecture of a new one; the names are those of SeqDyConvSpeechConfig."""

    new_vocabulary: bool = field(
        default=False, metadata={"help": "Give a pretrained CTC model the units of the training texts and a new head."}
    )
    whisper_language: str | None = field(
        default=None,
        metadata={"help": "The language that a Whisper model hears and writes (cs, czech); None: it finds out itself."},
    )
    head: Annotated[str, OneOf(*HEADS)] = field(
        default="ctc", metadata={"help": "ctc, or seq2seq: an attention decoder beside it."}
    )
    units: Annotated[str, OneOf(*UNITS)] = field(
        default="characters", metadata={"help": "What is recognised: characters or bpe."}
    )
    vocab_size: VocabSize = field(default=256, metadata={"help": "The most entries of the vocabulary of bpe."})
    min_frequency: Count = field(
        default=1, metadata={"help": "Characters that occur less often in the training texts are unknown ones."}
    )

    num_mel_bins: Annotated[int, Range(4, 1024)] = field(default=80, metadata={"help": "Mel filters of the features."})
    feature_kind: Annotated[str, OneOf("kaldi", "torch")] = field(
        default="kaldi", metadata={"help": "How the features are computed: kaldi or torch."}
    )
    feature_normalize: Annotated[str, OneOf("global", "utterance", "none")] = field(
        default="global",
        metadata={"help": "Mean and variance taken out: global (of train; can stream), utterance or none."},
    )
    subsampling_channels: Count = field(default=64, metadata={"help": "Channels of the subsampling convolutions."})
    subsampling_kernels: Count = field(
        default=1, metadata={"help": "Kernels of each subsampling convolution; above 1 attention mixes them."}
    )
    kernel_temperature: Annotated[float, Range(1)] = field(
        default=30.0,
        metadata={"help": "Temperature of the attention over these kernels at first; it falls to 1."},
    )
    encoder_block: Annotated[str, OneOf(*ENCODER_BLOCKS)] = field(
        default="transformer", metadata={"help": "The encoder's blocks: transformer, conformer."}
    )
    encoder_lookahead: Number | None = field(
        default=None,
        metadata={"help": "Frames (40 ms) ahead that each layer sees, for streaming; None is the whole utterance."},
    )
    lookahead_ms: list[Weight] | None = field(
        default=None,
        metadata={
            "help": "Milliseconds ahead, of all layers together, one of which, or the model's own with "
            "encoder_lookahead, is drawn for each batch of training: one model for many latencies."
        },
    )
    conformer_kernel_size: KernelSize = field(
        default=31, metadata={"help": "Kernel of the conformer's convolution module; several: [7,31]."}
    )
    encoder_layerdrop: Dropout = field(
        default=0.0, metadata={"help": "How often an utterance leaves out an encoder layer in training."}
    )
    intermediate_ctc_layers: list[Count] | None = field(
        default=None, metadata={"help": "CTC on these encoder layers too (1 is the first one)."}
    )
    intermediate_ctc_weight: Share = field(default=0.3, metadata={"help": "Weight of these in the CTC loss."})
    ctc_weight: Share = field(default=0.3, metadata={"help": "Weight of CTC beside the decoder, with head seq2seq."})

    # Other defaults than those of all recipes.
    encoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [31] * 6, metadata=kernel_sizes_help("encoder")
    )
    decoder_layer_types: list[Mixer] = field(
        default_factory=lambda: ["dynamic_conv"], metadata=layer_types_help("decoder, with head seq2seq")
    )
    decoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [15] * 3, metadata=kernel_sizes_help("decoder")
    )
    hidden_size: Count = field(default=192, metadata={"help": "Width of the model."})
    ffn_dim: Count = field(default=768, metadata={"help": "Width inside the feed-forward blocks."})
    normalize_before: bool = field(default=True, metadata={"help": "Pre-norm instead of post-norm."})

    swap_mixer: Mixer | None = field(
        default=None,
        metadata={"help": "Put this mixer (dynamic_conv, lightweight_conv) in the place of its self-attention."},
    )
    swap_layers: str | None = field(
        default=None, metadata={"help": 'In which layers: numbers and ranges ("0,2-5") or "every 2"; None is all.'}
    )
    swap_kernel_size: KernelSize = field(default=31, metadata={"help": "Kernel size of these mixers; several: [7,31]."})
    swap_mixer_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Other options of the mixer, such as {"glu": true} (JSON on the command line).'}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.swap_mixer is not None and self.model_name_or_path is None:
            raise ValueError("swap_mixer swaps the self-attention of a pretrained model: give model_name_or_path")
        for name in ("new_vocabulary", "whisper_language"):
            if getattr(self, name) not in (None, False) and self.model_name_or_path is None:
                raise ValueError(f"{name} is for a pretrained model: give model_name_or_path")
        if self.encoder_lookahead is not None and self.feature_normalize == "utterance":
            raise ValueError("a streaming model (encoder_lookahead) needs feature_normalize: global or none")


def load_processor(args: ModelArguments, name_or_path: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """The feature extractor and the tokenizer of a model, of a run or pretrained.

    Raises:
        ModelError: One of them is missing or can't be read, or the model hears audio of another sampling rate.
    """
    language = args.whisper_language
    options = {} if language is None else {"language": language, "task": "transcribe"}
    return _load_extractor(name_or_path), load_tokenizer(name_or_path, **options)


def make_processor(
    args: ModelArguments, texts: Iterable[str], samples: Sequence[Tensor]
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The feature extractor and the tokenizer to train a model with, new ones or those of the pretrained model.

    Args:
        args: the model.
        texts: of train, whose units a new tokenizer knows.
        samples: of the same utterances, (N,) each, whose global mean and variance new features have.

    Raises:
        ModelError: The texts don't allow it, or the pretrained model has none that can be used.
    """
    if args.model_name_or_path is None:
        chosen = np.linspace(0, len(samples) - 1, min(len(samples), STATISTICS_UTTERANCES)).astype(int)
        tokenizer = make_tokenizer(args, texts)
        return make_feature_extractor(args, (samples[int(row)] for row in chosen)), tokenizer
    if args.new_vocabulary:
        return _load_extractor(args.model_name_or_path), make_tokenizer(args, texts)
    return load_processor(args, args.model_name_or_path)


def _load_extractor(name_or_path: str) -> Any:
    extractor = load_feature_extractor(name_or_path)
    check_sampling_rate(extractor, SAMPLING_RATE)
    return extractor


def make_tokenizer(args: ModelArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a new model or head, of the training texts.

    Raises:
        ModelError: The texts don't allow it, with the reason.
    """
    add_eos = args.head == "seq2seq"
    try:
        if args.units == "characters":
            return train_character_tokenizer(texts, min_frequency=args.min_frequency, add_eos=add_eos)
        return train_subword_tokenizer(texts, args.vocab_size, add_eos=add_eos)
    except ValueError as error:
        raise ModelError(f"can't make the units of the training texts: {first_line(error)}") from None


def make_feature_extractor(args: ModelArguments, utterances: Iterable[Tensor]) -> SeqDyConvFeatureExtractor:
    """The features of a new model; global mean and variance are those of the samples (N,) of `utterances`."""
    options: dict[str, Any] = {"feature_size": args.num_mel_bins, "kind": args.feature_kind}
    plain = SeqDyConvFeatureExtractor(**options, normalize=None)
    if args.feature_normalize == "none":
        return plain
    if args.feature_normalize == "utterance":
        return SeqDyConvFeatureExtractor(**options, normalize="utterance")
    mean, variance = global_statistics(plain, utterances)
    return SeqDyConvFeatureExtractor(**options, normalize="global", mean=mean, variance=variance)


def build_config(args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
    """The configuration of a new model; without a tokenizer its vocabulary is the default, which checks the rest.

    Raises:
        ModelError: The architecture is impossible.
    """
    decoder = args.head == "seq2seq"
    values: dict[str, Any] = {"encoder_vocab_size": None}  # The encoder hears; vocab_size is of what is written.
    if decoder and tokenizer is not None:
        values["decoder_start_token_id"] = tokenizer.bos_token_id
    config = args.config(SeqDyConvSpeechConfig, tokenizer, decoder=decoder, **values)
    _check_lookahead(args, config)
    return config


def _check_lookahead(args: ModelArguments, config: Any) -> None:
    if args.lookahead_ms is not None and getattr(config, "encoder_lookahead", None) is None:
        raise ModelError("lookahead_ms is for models that look ahead a number of steps: set encoder_lookahead")


def _new_model(args: ModelArguments, config: Any) -> PreTrainedModel:
    return SeqDyConvForSpeechSeq2Seq(config) if args.head == "seq2seq" else SeqDyConvForCTC(config)


def check_model(args: ModelArguments) -> None:
    """Refuse a new model that is impossible, or too large, before any work.

    Raises:
        ModelError: With the reason.
    """
    config = build_config(args)
    check_size(lambda: _new_model(args, config))


def build_model(args: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`, perhaps swapped, to be trained.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded, or both were given.
    """
    if args.model_name_or_path is None:
        return _new_model(args, build_config(args, tokenizer))
    refuse_ignored(args, [*_PRETRAINED, "swap_mixer", "swap_layers", "swap_kernel_size", "swap_mixer_options"])
    options: dict[str, Any] = {}
    if args.new_vocabulary:
        options = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "new_head": True}
    model = load_speech_model(args.model_name_or_path, **options)
    _check_lookahead(args, model.config)
    if not args.new_vocabulary:
        check_units(model, tokenizer, args.model_name_or_path)
    if args.whisper_language is not None:
        if model.config.model_type != "whisper":
            raise ModelError(f"whisper_language is for Whisper models, and {args.model_name_or_path} is none")
        generation: Any = model.generation_config
        generation.language, generation.task = args.whisper_language, "transcribe"
    if args.swap_mixer is not None:
        mixer_options: Any = args.swap_mixer_options or {}
        try:
            swap_self_attention(
                model,
                mixer=args.swap_mixer,
                layers=args.swap_layers,
                kernel_size=args.swap_kernel_size,
                **mixer_options,
            )
        except (ValueError, TypeError) as error:
            raise ModelError(f"can't swap the attention of {args.model_name_or_path}: {first_line(error)}") from None
    return model
