"""What a run says of its model: arguments that have no effect, and configurations from them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from seqdyconv.errors import first_line
from seqdyconv.models.loading import ModelError, check_folder, load_pretrained, load_tokenizer

__all__ = [  # the last four until their users name models.loading
    "ModelError",
    "check_folder",
    "load_pretrained",
    "load_tokenizer",
    "new_config",
    "one_for_each",
    "refuse_ignored",
]


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
