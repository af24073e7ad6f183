"""Pretrained models and tokenizers of a folder or the Hub: loaded whole, or one line that says what doesn't fit."""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from seqdyconv.errors import InputError, first_line
from seqdyconv.models.control_tokens import read_as_text

_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError)


class ModelError(InputError):
    """The model can't be built or loaded; the message is one line for the user."""


def load_pretrained(
    loader: Any, name_or_path: str, kind: str, *, new_head: bool = False, **options: Any
) -> PreTrainedModel:
    """Load a model in float32 in evaluation mode.

    Args:
        loader: An Auto class, or another class with ``from_pretrained``.
        name_or_path: A folder, or a name on the Hub.
        kind: What it should be, for messages: "translation model".
        new_head: The head and the pooler may be missing, and get new weights, and another head may be in the file.
        options: Of ``from_pretrained``.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    check_folder(name_or_path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # What doesn't fit is an error below, not a printed report.
    try:
        model, info = loader.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **options,
        )
    except _ERRORS as error:
        raise ModelError(f"can't load a {kind} from {name_or_path}: {first_line(error)}") from None
    finally:
        logging.set_verbosity(verbosity)
    body = f"{model.base_model_prefix}."
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in info.get(problem) or ())
        if new_head:
            keys = [key for key in keys if key.startswith(body) and ".pooler." not in key]
        if keys:
            names = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise ModelError(
                f"the weights in {name_or_path} don't fit its config.json: {problem.replace('_', ' ')} {names}"
            )
    return model.eval()


def load_tokenizer(name_or_path: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, which reads the names of its special tokens in a text as text.

    Args:
        name_or_path: A folder, or a name on the Hub.
        options: Of ``from_pretrained``.

    Raises:
        ModelError: There is none, or it can't be read.
    """
    check_folder(name_or_path)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            name_or_path, trust_remote_code=False, split_special_tokens=True, **options
        )
        read_as_text(tokenizer)
        return tokenizer
    except Exception as error:  # The tokenizers library raises plain Exception for a broken file.
        raise ModelError(f"can't load the tokenizer of {name_or_path}: {first_line(error)}") from None


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows of the embeddings that a tokenizer needs: more than its entries where its ids have gaps."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ModelError where the tokenizer has ids for which the model `name` has no embedding."""
    embeddings: Any = model.get_input_embeddings()
    if embeddings.num_embeddings < (size := vocabulary_size(tokenizer)):
        raise ModelError(
            f"the tokenizer has {size} entries, more than the {embeddings.num_embeddings} embeddings "
            f"of {name}: use its own tokenizer"
        )


def check_packing(model: PreTrainedModel) -> None:
    """Raise ModelError unless the model takes packed rows."""
    if "cu_seqlens" not in inspect.signature(model.forward).parameters:
        raise ModelError(f"packing needs a model of seqdyconv, got {type(model).__name__}")


def check_folder(name_or_path: str) -> None:
    """Raise ModelError for a folder without a model, and for what can only be a folder but isn't there."""
    path = Path(name_or_path)
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "tokenizer_config.json").is_file():
        raise ModelError(f"the folder {name_or_path} holds no model (no config.json in it)")
    if path.is_dir() and _needs_own_code(path / "config.json"):
        raise ModelError(f"the model in {name_or_path} needs code of its own, which is never run")
    looks_local = path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") != 1
    if not path.exists() and looks_local and "/" in name_or_path:
        raise ModelError(f"there is no model folder {name_or_path}")


def _needs_own_code(config_file: Path) -> bool:
    """Whether a configuration is of a kind that transformers does not have, and names code that has it."""
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading tells what is wrong
    return isinstance(config, dict) and bool(config.get("auto_map")) and config.get("model_type") not in CONFIG_MAPPING
