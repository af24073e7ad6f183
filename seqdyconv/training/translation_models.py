"""Models for translation: a new one from its arguments, or any sequence-to-sequence model of a folder or the Hub."""

from typing import Any

from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.models import SeqDyConvForConditionalGeneration
from seqdyconv.models.loading import check_vocabulary, load_pretrained
from seqdyconv.training.model_arguments import EncoderDecoderArguments, check_size, refuse_ignored


def build_model(args: EncoderDecoderArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded, or both were given.
    """
    if args.model_name_or_path is None:
        return SeqDyConvForConditionalGeneration(build_config(args, tokenizer))
    refuse_ignored(args, ["model_name_or_path"])
    model = load_translation_model(args.model_name_or_path)
    check_vocabulary(model, tokenizer, args.model_name_or_path)
    return model


def build_config(args: EncoderDecoderArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
    """The configuration of a new model; without a tokenizer its vocabulary is the default, which checks the rest.

    Raises:
        ModelError: The architecture is impossible.
    """
    start = {} if tokenizer is None else {"decoder_start_token_id": tokenizer.eos_token_id}
    return args.config(tokenizer=tokenizer, decoder=True, **start)


def check_model(args: EncoderDecoderArguments) -> None:
    """Refuse a new model that is impossible, or too large, before any work.

    Raises:
        ModelError: With the reason.
    """
    config = build_config(args)
    check_size(lambda: SeqDyConvForConditionalGeneration(config))


def load_translation_model(name_or_path: str) -> PreTrainedModel:
    """Load a sequence-to-sequence model in float32 in evaluation mode.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    return load_pretrained(AutoModelForSeq2SeqLM, name_or_path, "translation model")
