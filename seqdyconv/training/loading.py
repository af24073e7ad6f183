"""Pretrained models and tokenizers of a folder or the Hub for the recipes: what doesn't fit is one line, no report."""

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from seqdyconv.data.tables import first_line
from seqdyconv.errors import InputError

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
    """Load a model's tokenizer; `options` are those of ``from_pretrained``.

    Raises:
        ModelError: There is none, or it can't be read.
    """
    check_folder(name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False, **options)
    except Exception as error:  # The tokenizers library raises plain Exception for a broken file.
        raise ModelError(f"can't load the tokenizer of {name_or_path}: {first_line(error)}") from None


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ModelError where the tokenizer has ids for which the model `name` has no embedding."""
    embeddings: Any = model.get_input_embeddings()
    if embeddings.num_embeddings < len(tokenizer):
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} entries, more than the {embeddings.num_embeddings} embeddings "
            f"of {name}: use its own tokenizer"
        )


def check_packing(model: PreTrainedModel) -> None:
    """Raise ModelError unless the model takes packed rows."""
    if "cu_seqlens" not in inspect.signature(model.forward).parameters:
        raise ModelError(f"packing needs a model of seqdyconv, got {type(model).__name__}")


def refuse_ignored(args: Any, used: Sequence[str]) -> None:
    """Raise ModelError where a field of `args` that a pretrained model decides itself, all but `used`, was set."""
    for item in dataclasses.fields(args):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if item.name not in used and getattr(args, item.name) != default:
            raise ModelError(f"{item.name} has no effect with model_name_or_path, whose model has its own")


def new_config(
    config_class: type[PreTrainedConfig], values: Mapping[str, Any], overrides: Mapping[str, Any] | str | None
) -> Any:
    """A configuration of `values`, then `overrides` (a mapping, or one as JSON).

    Raises:
        ModelError: An override is no field of `config_class`, or the architecture is impossible.
    """
    try:
        return config_class(**{**values, **_mapping(overrides, "config_overrides", config_class)})
    except StrictDataclassError as error:
        raise ModelError(f"this model can't be built: {first_line(error.__cause__ or error)}") from None


def one_for_each(names: list[str], sizes: Sequence[int], side: str) -> list[str]:
    """The layer types of a stack with those kernel `sizes`, where a single name stands for all layers.

    Raises:
        ModelError: There are other numbers of both.
    """
    if len(names) == 1:
        return names * len(sizes)
    if len(names) != len(sizes):
        raise ModelError(
            f"{side}_layer_types names {len(names)} layers and {side}_kernel_sizes {len(sizes)}: "
            "give one name, or one for each kernel size"
        )
    return names


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


def _mapping(values: Mapping[str, Any] | str | None, name: str, config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    parsed: Any = values or {}
    if isinstance(values, str):
        try:
            parsed = json.loads(values)
        except json.JSONDecodeError:
            raise ModelError(f"{name} must be JSON, got {values!r}") from None
    if not isinstance(parsed, Mapping):
        raise ModelError(f"{name} must be a mapping of fields of {config_class.__name__}, got {parsed!r}")
    known = {item.name for item in dataclasses.fields(config_class)}
    for key in parsed:
        if key not in known:
            raise ModelError(f"{name} names {key!r}, which is no field of {config_class.__name__}")
    return dict(parsed)
