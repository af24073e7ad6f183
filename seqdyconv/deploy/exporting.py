"""Export a model's folder: what kind of model it holds, and what is written of each kind."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerBase,
)

from seqdyconv.deploy.card import write_card
from seqdyconv.deploy.encoders import TASKS, text_examples, write_embedding, write_forward
from seqdyconv.deploy.folder import Written, new_folder, write_manifest
from seqdyconv.deploy.graphs import ExportError
from seqdyconv.deploy.precision import PRECISIONS, convert
from seqdyconv.deploy.translation import write_translation, write_word_tokenizer
from seqdyconv.models import SeqDyConvForConditionalGeneration, SeqDyConvTokenizer
from seqdyconv.models.loading import load_config, load_tokenizer
from seqdyconv.runtime.folder import Exported, open_folder
from seqdyconv.swap.loading import load_trained
from seqdyconv.training.classifiers import label_names, lengths_of_run, load_classifier
from seqdyconv.training.sentence_encoders import is_sentence_encoder, load_sentence_encoder
from seqdyconv.training.translation_models import check_translation, load_translation_model

_LOADERS = {
    "classification": AutoModelForSequenceClassification,
    "token classification": AutoModelForTokenClassification,
    "question answering": AutoModelForQuestionAnswering,
    "multiple choice": AutoModelForMultipleChoice,
    "masked language model": AutoModelForMaskedLM,
    "image classification": AutoModelForImageClassification,
}


def export_model(
    model_dir: str | Path,
    output_dir: str | Path,
    precision: str = "float32",
    *,
    overwrite: bool = False,
    lookahead_ms: float | None = None,
) -> Exported:
    """Write a trained or swapped model as graphs in ONNX, with all that :mod:`seqdyconv.runtime` needs beside them.

    Args:
        model_dir: a folder as ``save_pretrained`` or a recipe writes it, or a name on the Hub. Models of this package
            and encoders of transformers, swapped or not, with any head.
        output_dir: the folder to make.
        precision: of the weights: ``"float32"``, ``"float16"``, ``"int8"`` or ``"int4"``, see
            :mod:`seqdyconv.deploy.precision`.
        overwrite: replace what an earlier export wrote there.
        lookahead_ms: of a speech model that streams, how far its graphs look ahead, which is fixed in them: see
            :meth:`seqdyconv.speech.Recogniser.set_lookahead`; None: as far as it can.

    Returns:
        What was written, ready to run.

    Raises:
        ModelError: there is no such model, or it is damaged.
        ExportError: it can't be exported, or there is something else at ``output_dir``.

    Example:
        >>> from seqdyconv.deploy import export_model
        >>> export_model("outputs/translation_quickstart", "outputs/translation_int8", "int8")  # doctest: +SKIP
    """
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    name = str(model_dir)
    with new_folder(output_dir, overwrite) as folder:
        writer = _writer(name)
        if lookahead_ms is not None:
            if writer is not _write_recognition:
                raise ExportError(f"lookahead_ms is for speech recognition models that stream, and {name} is none")
            writer = partial(_write_recognition, lookahead_ms=lookahead_ms)
        model, written = writer(name, folder)
        model.config.save_pretrained(folder)
        for graph, file in written.graphs.items():
            convert(folder / file, precision, written.in_float.get(graph, ()))
        write_manifest(folder, written, precision)
        write_card(folder, name, model, written, precision)
    return open_folder(output_dir)


def _writer(name: str) -> Callable[[str, Path], tuple[Any, Written]]:
    """What writes a model of the kind that a configuration names."""
    config: Any = load_config(name, "model")
    architecture = next(iter(config.architectures or ()), "")
    if architecture == SeqDyConvForConditionalGeneration.__name__:
        return _write_translation
    if architecture.endswith(("ForCTC", "ForSpeechSeq2Seq")) or config.model_type == "whisper":
        return _write_recognition
    if architecture.endswith("ForSequenceClassification"):
        return _write_classification
    if not any(architecture.endswith(end) for end in TASKS) and is_sentence_encoder(name, config):
        return _write_embedding
    return _write_forward


def _write_translation(name: str, folder: Path) -> tuple[Any, Written]:
    model: Any = load_translation_model(name)
    tokenizer = load_tokenizer(name)
    check_translation(model, tokenizer, name)
    written = write_translation(model, folder)
    if isinstance(tokenizer, SeqDyConvTokenizer):
        written.settings.update(write_word_tokenizer(tokenizer, folder))
    elif not tokenizer.is_fast:
        raise ExportError(f"the tokenizer of {name} has no tokenizer.json, which the runtime reads")
    tokenizer.save_pretrained(folder)
    return model, written


def _write_recognition(name: str, folder: Path, lookahead_ms: float | None = None) -> tuple[Any, Written]:
    from seqdyconv.deploy.speech import write_recogniser
    from seqdyconv.speech.recogniser import load_recogniser

    recogniser = load_recogniser(name)
    if lookahead_ms is not None:
        recogniser.set_lookahead(lookahead_ms)
    written = write_recogniser(recogniser, folder)
    recogniser.save(folder)
    return recogniser.model, written


def _write_classification(name: str, folder: Path) -> tuple[Any, Written]:
    model, tokenizer = load_classifier(name)
    if not tokenizer.is_fast:
        raise ExportError(f"the tokenizer of {name} has no tokenizer.json, which the runtime reads")
    written = write_forward(model, folder, text_examples(model, tokenizer.model_input_names))
    tokenizer.save_pretrained(folder)
    written.settings.update(_reading(name, model, tokenizer), labels=label_names(model))
    return model, written


def _write_embedding(name: str, folder: Path) -> tuple[Any, Written]:
    model, tokenizer, reading = load_sentence_encoder(name)
    if not tokenizer.is_fast:
        raise ExportError(f"the tokenizer of {name} has no tokenizer.json, which the runtime reads")
    written = write_embedding(model, folder, reading)
    tokenizer.save_pretrained(folder)
    written.settings.update(_reading(name, model, tokenizer), max_length=reading.max_length, windows=False)
    return model, written


def _write_forward(name: str, folder: Path) -> tuple[Any, Written]:
    """Any other model, whose graph a program runs by itself."""
    config: Any = load_config(name, "model")
    architecture = next(iter(config.architectures or ()), "")
    task = next((task for end, task in TASKS.items() if architecture.endswith(end)), None)
    generates = architecture.endswith(("ForConditionalGeneration", "MTModel"))
    loader = AutoModelForSeq2SeqLM if generates else _LOADERS[task] if task else AutoModel
    model: Any = load_trained(loader, name, "model")
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        shape = (size, size) if isinstance(size, int) else tuple(size)
        written = write_forward(model, folder, {"pixel_values": torch.zeros(2, model.config.num_channels, *shape)})
        AutoImageProcessor.from_pretrained(name, trust_remote_code=False).save_pretrained(folder)
        return model, written
    if model.main_input_name != "input_ids":
        raise ExportError(
            f"{type(model).__name__} can't be exported: it reads {model.main_input_name}, and has no head"
        )
    tokenizer = load_tokenizer(name)
    written = write_forward(model, folder, text_examples(model, tokenizer.model_input_names))
    tokenizer.save_pretrained(folder)
    return model, written


def _reading(name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How a model reads texts, as in its training, for :class:`seqdyconv.runtime.tokenizer.TextReader`."""
    lengths = lengths_of_run(name)
    return {
        "vocab_size": model.get_input_embeddings().num_embeddings,
        "pad_token_id": tokenizer.pad_token_id,
        "filler_token_id": tokenizer.unk_token_id or tokenizer.eos_token_id or 0,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "max_length": int(min(lengths.max_length, tokenizer.model_max_length)),
        "windows": lengths.long_texts == "windows",
        "window_stride": lengths.window_stride,
        "max_windows": lengths.max_windows,
    }
