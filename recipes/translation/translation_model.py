"""Models for translation: a new one from its arguments, or any sequence-to-sequence model of a folder or the Hub."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration


class ModelError(ValueError):
    """The model can't be built or loaded; the message is one line for the user."""


@dataclass
class ModelArguments:
    """The architecture. Keys without a side hold for encoder and decoder; the names are those of SeqDyConvConfig."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Fine-tune this model (a folder or a name on the Hub) instead of a new one."}
    )
    encoder_layer_types: list[str] = field(
        default_factory=lambda: ["dynamic_conv"],
        metadata={"help": "dynamic_conv, lightweight_conv or self_attention: one for all encoder layers, or one each."},
    )
    decoder_layer_types: list[str] = field(
        default_factory=lambda: ["dynamic_conv"], metadata={"help": "The same for the decoder layers."}
    )
    encoder_kernel_sizes: list[int] = field(
        default_factory=lambda: [3, 7, 15, 31, 31, 31, 31],
        metadata={"help": "Kernel size of each encoder layer; their number is that of the layers."},
    )
    decoder_kernel_sizes: list[int] = field(
        default_factory=lambda: [3, 7, 15, 31, 31, 31], metadata={"help": "The same for the decoder layers."}
    )
    hidden_size: int = field(default=512, metadata={"help": "Width of the model."})
    ffn_dim: int = field(default=1024, metadata={"help": "Width inside the feed-forward blocks."})
    attention_heads: int = field(default=4, metadata={"help": "Heads of convolution and attention."})
    conv_dim: int | None = field(default=None, metadata={"help": "Width of the convolutions; None is hidden_size."})
    glu: bool = field(default=True, metadata={"help": "Gated linear unit before each convolution."})
    normalize_before: bool = field(default=False, metadata={"help": "Pre-norm instead of post-norm."})
    position_type: str = field(default="sinusoidal", metadata={"help": "Positions: sinusoidal, learned or none."})
    max_position_embeddings: int = field(default=1024, metadata={"help": "Longest sequence with learned positions."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout on embeddings and before each residual sum."})
    attention_dropout: float = field(default=0.0, metadata={"help": "Dropout on attention weights."})
    activation_dropout: float = field(default=0.0, metadata={"help": "Dropout inside the feed-forward blocks."})
    input_dropout: float = field(default=0.0, metadata={"help": "Dropout on the inputs of the convolution blocks."})
    weight_dropout: float = field(default=0.0, metadata={"help": "DropConnect: dropout on the convolution kernels."})
    weight_softmax: bool = field(default=True, metadata={"help": "Softmax over the taps of the kernels."})
    config_overrides: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Any other field of SeqDyConvConfig, such as {"decoder_glu": false}.'}
    )


def build_model(args: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded, or both were given.
    """
    if args.model_name_or_path is not None:
        for item in dataclasses.fields(args):
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            if item.name != "model_name_or_path" and getattr(args, item.name) != default:
                raise ModelError(f"{item.name} has no effect with model_name_or_path, whose model has its own")
        model = load_model(args.model_name_or_path)
        embeddings = model.get_input_embeddings().num_embeddings
        if embeddings < len(tokenizer):
            raise ModelError(
                f"the tokenizer has {len(tokenizer)} entries, more than the {embeddings} embeddings "
                f"of {args.model_name_or_path}: use its own tokenizer"
            )
        return model
    return SeqDyConvForConditionalGeneration(build_config(args, tokenizer))


def build_config(args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> SeqDyConvConfig:
    """The configuration of a new model; without a tokenizer its vocabulary is the default, which checks the rest.

    Raises:
        ModelError: The architecture is impossible.
    """
    try:
        return SeqDyConvConfig(**_config_fields(args, tokenizer))
    except StrictDataclassError as error:
        raise ModelError(f"this model can't be built: {_first_line(error.__cause__ or error)}") from None


def _config_fields(args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: getattr(args, name)
        for name in (
            "hidden_size",
            "max_position_embeddings",
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "input_dropout",
            "weight_dropout",
            "weight_softmax",
        )
    }
    for side in ("encoder", "decoder"):
        kernel_sizes = getattr(args, f"{side}_kernel_sizes")
        layer_types = getattr(args, f"{side}_layer_types")
        if len(layer_types) == 1:
            layer_types = layer_types * len(kernel_sizes)
        if len(layer_types) != len(kernel_sizes):
            raise ModelError(
                f"{side}_layer_types names {len(layer_types)} layers and {side}_kernel_sizes {len(kernel_sizes)}: "
                "give one name, or one for each kernel size"
            )
        values |= {f"{side}_layer_types": layer_types, f"{side}_kernel_sizes": kernel_sizes}
        for name in ("ffn_dim", "attention_heads", "conv_dim", "glu", "normalize_before", "position_type"):
            values[f"{side}_{name}"] = getattr(args, name)
    if tokenizer is not None:
        values |= {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "decoder_start_token_id": tokenizer.eos_token_id,
        }
    known = {item.name for item in dataclasses.fields(SeqDyConvConfig)}
    overrides = args.config_overrides or {}
    if isinstance(overrides, str):
        try:
            overrides = json.loads(overrides)
        except json.JSONDecodeError:
            raise ModelError(f"config_overrides must be JSON, got {args.config_overrides!r}") from None
    if not isinstance(overrides, dict):
        raise ModelError(f"config_overrides must be a mapping of fields of SeqDyConvConfig, got {overrides!r}")
    for name in overrides:
        if name not in known:
            raise ModelError(f"config_overrides names {name!r}, which is no field of SeqDyConvConfig")
    return values | overrides


def load_model(name_or_path: str) -> PreTrainedModel:
    """Load a sequence-to-sequence model in float32 in evaluation mode.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    _check_folder(name_or_path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # What doesn't fit is an error below, not a printed report.
    try:
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            name_or_path, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"can't load a translation model from {name_or_path}: {_first_line(error)}") from None
    finally:
        logging.set_verbosity(verbosity)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(key if isinstance(key, str) else str(key[0]) for key in info.get(kind) or ()):
            names = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise ModelError(
                f"the weights in {name_or_path} don't fit its config.json: {kind.replace('_', ' ')} {names}"
            )
    return model.eval()


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        ModelError: There is none, or it can't be read.
    """
    _check_folder(name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except Exception as error:  # The tokenizers library raises plain Exception for a broken file.
        raise ModelError(f"can't load the tokenizer of {name_or_path}: {_first_line(error)}") from None


def _check_folder(name_or_path: str) -> None:
    path = Path(name_or_path)
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "tokenizer_config.json").is_file():
        raise ModelError(f"the folder {name_or_path} holds no model (no config.json in it)")
    looks_local = path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") != 1
    if not path.exists() and looks_local and "/" in name_or_path:
        raise ModelError(f"there is no model folder {name_or_path}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
