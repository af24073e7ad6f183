"""Models for translation: a new one from its arguments, or any sequence-to-sequence model of a folder or the Hub."""

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.data.external_tokenizers import of_many_languages
from seqdyconv.errors import first_line
from seqdyconv.models import SeqDyConvForConditionalGeneration
from seqdyconv.models.loading import ModelError, check_vocabulary, load_pretrained
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.decoding import generate_batch, most_tokens
from seqdyconv.training.model_arguments import EncoderDecoderArguments, check_size, refuse_ignored
from seqdyconv.training.token_batches import example_lengths


def build_model(
    args: EncoderDecoderArguments, tokenizer: PreTrainedTokenizerBase, data: Mapping[str, Dataset]
) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`.

    Args:
        args: The architecture or the name.
        tokenizer: Its vocabulary.
        data: Tokenised texts, for all of which it must have positions.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded, or texts are too long for it.
    """
    if args.model_name_or_path is None:
        model: PreTrainedModel = SeqDyConvForConditionalGeneration(build_config(args, tokenizer))
    else:
        refuse_ignored(args, ["model_name_or_path"])
        model = load_translation_model(args.model_name_or_path)
        check_translation(model, tokenizer, args.model_name_or_path)
        if not hasattr(model, "prepare_decoder_input_ids_from_labels"):
            raise ModelError(f"{type(model).__name__} can't be trained here: it does not say how its decoder starts")
    for split, rows in data.items():
        longest, most = example_lengths(rows).max(initial=0), most_tokens(model)
        if longest > most:
            way = "set max_source_length and max_target_length" if split == "train" else "shorten it"
            raise ModelError(
                f"the {split} set has a text of {longest} tokens, and the model has positions for {most}: {way}"
            )
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


def check_translation(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ModelError unless a model and a tokenizer belong together and translate, which is tried with one token.

    A model of many languages is set to write the target language of its tokenizer.
    """
    check_vocabulary(model, tokenizer, name)
    if of_many_languages(tokenizer):
        _begin_in_target_language(model, tokenizer, name)
    config, generation = model.config, model.generation_config
    if generation.eos_token_id is None:
        generation.eos_token_id = config.eos_token_id
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    for role, tokens in (("eos_token_id", ends), ("pad_token_id", [config.pad_token_id])):
        own = getattr(tokenizer, role)
        if not tokens or any(token is None or not 0 <= token < config.vocab_size for token in tokens):
            raise ModelError(f"{role} of {name} must be from 0 to {config.vocab_size - 1}, got {tokens}")
        if own is not None and own not in tokens:
            raise ModelError(f"the tokenizer's {role} is {own}, and {name} has {tokens}: it is that of another model")
    end = torch.tensor([[ends[0]]], device=model.device)
    try:
        generate_batch(model, tokenizer, [[ends[0]]], DecodingArguments(max_length_factor=0, max_length_constant=2))
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        with torch.no_grad():
            logits = model(input_ids=end, decoder_input_ids=end if shift is None else shift(labels=end)).logits
    except Exception as error:  # whatever a wrong setting has transformers stumble over
        raise ModelError(f"{name} can't translate: {first_line(error)}") from None
    if logits.isnan().any():
        raise ModelError(f"{name} can't translate: it gives NaN, so its weights are damaged")


def _begin_in_target_language(model: Any, tokenizer: Any, name: str) -> None:
    """Have ``generate`` begin as the labels do in training: with the token of the language, before or as the first."""
    if tokenizer.tgt_lang is None:
        raise ModelError(f"{name} translates between many languages: name them with source_lang and target_lang")
    labels = tokenizer(text_target="", return_tensors="pt")["input_ids"].to(model.device)
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        start = model.prepare_decoder_input_ids_from_labels(labels=labels)[0, 0].item()
        model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = start
    first = labels[0, 0].item()
    model.generation_config.forced_bos_token_id = None if first == tokenizer.eos_token_id else first
