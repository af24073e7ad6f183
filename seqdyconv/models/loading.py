"""Pretrained models and tokenizers of a folder or the Hub: loaded whole, or one line that says what doesn't fit."""

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from seqdyconv.errors import InputError, first_line
from seqdyconv.models.control_tokens import read_as_text

# What a number in a configuration may be at most, by a part of the setting's name: more take too long to build.
_LARGEST = {"layer": 1000, "group": 1000, "num_labels": 10**6, "position": 10**7, "dilation": 10**6}
# Sizes of weights, by a part of the setting's name: none is larger than the weights, or than this.
_SIZES = ("size", "dim", "d_model", "d_ff", "d_kv", "channels", "heads")
_ALWAYS_ALLOWED = 10**6
_MOST_LAYERS = 1000
# What our code reads of a model does not depend on what its folder asks for.
PLAIN_OUTPUTS = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}


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
    check_model_folder(name_or_path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # What doesn't fit is an error below, not a printed report.
    try:
        model, info = loader.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **PLAIN_OUTPUTS,
            **options,
        )
    except Exception as error:  # transformers trusts its files, and stumbles over wrong ones in many ways
        raise ModelError(f"can't load a {kind} from {name_or_path}: {_reason(error)}") from None
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
    check_model(model, name_or_path)
    return model.eval()


def load_config(name_or_path: str, kind: str) -> Any:
    """Load the configuration of a model alone.

    Args:
        name_or_path: A folder, or a name on the Hub.
        kind: What the model should be, for messages: "translation model".

    Raises:
        ModelError: There is no such model, or its configuration can't be read.
    """
    check_model_folder(name_or_path)
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # as above
        raise ModelError(f"can't load a {kind} from {name_or_path}: {_reason(error)}") from None


def check_model(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError where a loaded model has weights that are no numbers, or a padding token that it lacks."""
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ModelError(f"the weights in {name} are damaged: {key} holds NaN or infinite numbers")
    _check_padding({key: getattr(model.config, key, None) for key in ("pad_token_id", "vocab_size")}, name)


def _check_padding(config: Mapping[str, Any], name: str) -> None:
    pad, rows = config.get("pad_token_id"), config.get("vocab_size")
    if isinstance(rows, int) and rows < 1:
        raise ModelError(f"{name}: vocab_size in config.json must be at least 1, got {rows}")
    if isinstance(pad, int) and isinstance(rows, int) and not 0 <= pad < rows:
        raise ModelError(f"{name}: pad_token_id in config.json must be from 0 to {rows - 1}, got {pad}")


def load_tokenizer(name_or_path: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, which reads the names of its special tokens in a text as text.

    Args:
        name_or_path: A folder, or a name on the Hub.
        options: Of ``from_pretrained``.

    Raises:
        ModelError: There is none, or it can't be read.
    """
    check_model_folder(name_or_path)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            name_or_path, trust_remote_code=False, split_special_tokens=True, **options
        )
        read_as_text(tokenizer)
    except Exception as error:  # The tokenizers library raises plain Exception for a broken file.
        known = any((Path(name_or_path) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        reason = _reason(error) if known or not Path(name_or_path).is_dir() else "it has none that can be read"
        raise ModelError(f"can't load the tokenizer of {name_or_path}: {reason}") from None
    if not set(tokenizer.get_vocab()).difference(tokenizer.all_special_tokens):  # transformers makes one without files
        raise ModelError(f"the tokenizer of {name_or_path} has no entries but special tokens: its files are missing")
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows of the embeddings that a tokenizer needs: more than its entries where its ids have gaps."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ModelError where the tokenizer has ids that the model `name` has no embedding for, or is far smaller."""
    embeddings: Any = model.get_input_embeddings()
    if embeddings.num_embeddings < (size := vocabulary_size(tokenizer)):
        raise ModelError(
            f"the tokenizer has {size} entries, more than the {embeddings.num_embeddings} embeddings "
            f"of {name}: use its own tokenizer"
        )
    if size < 0.9 * embeddings.num_embeddings - 128:  # models are made with a few rows to spare
        raise ModelError(
            f"the tokenizer has {size} entries, far fewer than the {embeddings.num_embeddings} embeddings of {name}: "
            "use its own tokenizer"
        )


def check_packing(model: PreTrainedModel) -> None:
    """Raise ModelError unless the model takes packed rows."""
    if "cu_seqlens" not in inspect.signature(model.forward).parameters:
        raise ModelError(f"packing needs a model of seqdyconv, got {type(model).__name__}")


def check_model_folder(name_or_path: str) -> None:
    """Raise ModelError for what can only be a folder but isn't there, and for a folder that holds no usable model.

    Its configuration must be JSON with numbers that can be, and its index of weights must name files of the folder.
    """
    path = Path(name_or_path)
    if path.is_file():
        raise ModelError(f"{name_or_path} is a file, not the folder of a model")
    if path.is_dir():
        config_file = path / "config.json"
        if not config_file.is_file() and not (path / "tokenizer_config.json").is_file():
            raise ModelError(f"the folder {name_or_path} holds no model (no config.json in it)")
        config = _read_json(config_file)
        if config and config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
            raise ModelError(f"the model in {name_or_path} needs code of its own, which is never run")
        check_sizes(config, name_or_path, max(_count_weights(path), _ALWAYS_ALLOWED))
        _check_padding(config, name_or_path)
        check_index(path)
    looks_local = path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") != 1
    if not path.exists() and looks_local and "/" in name_or_path:
        raise ModelError(f"there is no model folder {name_or_path}")


def check_sizes(config: Mapping[str, Any], name: str, largest_size: float = math.inf) -> None:
    """Raise ModelError for numbers with which building a model, before any weight is read, would not come to an end.

    Args:
        config: The content of its config.json.
        name: Where that is, for messages.
        largest_size: The most that a size of weights may be.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value, name, largest_size)
            continue
        largest = min(
            [most for part, most in _LARGEST.items() if part in key] + [largest_size for part in _SIZES if part in key],
            default=math.inf,
        )
        if isinstance(value, list) and len(value) > _MOST_LAYERS and ("layer" in key or "kernel" in key):
            raise ModelError(f"{name}: {key} in config.json must have at most {_MOST_LAYERS} entries")
        entries = value if isinstance(value, list) else [value]
        for number in [one for entry in entries for one in (entry if isinstance(entry, list) else [entry])]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ModelError(f"{name}: {key} in config.json must be a number, got {number}")
            if isinstance(number, (int, float)) and number > largest:
                raise ModelError(f"{name}: {key} in config.json must be at most {largest}, got {number}")


def _read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file; an empty one where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is no JSON") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a mapping, got {type(content).__name__}")
    return content


def _count_weights(folder: Path) -> float:
    """How many numbers the weight files hold; infinitely many where that can't be read, which loading tells."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        shapes = [shape for file in files for _, shape in read_header(file).values()]
    except (OSError, SafetensorError):
        return math.inf
    return sum(map(math.prod, shapes)) if files else math.inf


def read_header(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each tensor in a safetensors file, by name; no weights are read.

    Raises:
        OSError, SafetensorError: it can't be read.
    """
    with safe_open(file, framework="pt") as opened:
        parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        return {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}


def check_index(folder: Path) -> None:
    """Raise ModelError if an index of weights is none, or names files that are not in its folder."""
    file = folder / SAFE_WEIGHTS_INDEX_NAME
    if not file.is_file():
        return
    index = _read_json(file)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not isinstance(index.get("metadata"), dict):
        raise ModelError(f"{file} must have metadata and a weight_map")
    whole = (folder / SAFE_WEIGHTS_NAME).is_file()  # which is read instead of the shards
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ModelError(f"{file} must name files of its folder, got {shard!r}")
        if not whole and not (folder / shard).is_file():
            raise ModelError(f"{file} names {shard}, which is not in its folder")


def _reason(error: Exception) -> str:
    """Why a load failed, in a line."""
    if isinstance(error, UnpicklingError):  # torch's advice would be to run the code that is in the file
        return "its weights are no safetensors, and hold more than tensors, which is not read"
    return first_line(error)
