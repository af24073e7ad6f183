"""Load a swapped model: build the original, swap as its configuration says, then read the weights."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, initialization

from seqdyconv.errors import first_line
from seqdyconv.layers import MIXERS
from seqdyconv.models.loading import (
    PLAIN_OUTPUTS,
    ModelError,
    check_index,
    check_model,
    check_sizes,
    load_config,
    load_pretrained,
)
from seqdyconv.swap.building import build_replacements, swap_options
from seqdyconv.swap.choice import select_layers
from seqdyconv.swap.families import DECODER, FAMILIES, RECOGNISED, UNKNOWN
from seqdyconv.swap.guard import guard_configuration, guard_names, guard_weights
from seqdyconv.swap.recognition import find_family, module_names, with_projections
from seqdyconv.swap.short_conv_places import PLACES
from seqdyconv.swap.short_convs import put_in_short_convs, short_conv_option_names
from seqdyconv.swap.swapping import put_in

# Options of from_pretrained that say where the files are: the configuration is read from there too.
WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Options of the weights that a configuration would take for its own.
_DTYPE = ("dtype", "torch_dtype")


def load_swapped(path: str | os.PathLike[str], *, model_class: Any = None, **options: Any) -> Any:
    """Load what ``save_pretrained`` of a model wrote whose attention was swapped, or got short convolutions.

    Weights are looked for in safetensors alone, and no code from the folder runs.

    Args:
        path: the folder, or the name of a repository on the Hub.
        model_class: another class of the same model, such as ``AutoModelForSequenceClassification`` for a swapped
            encoder that was trained without a head. Its head, and a pooler, may be missing in the folder, or of another
            size there; they start at random, and a report says so. The weights of the folder that it has no use for are
            left out. None: the class that was saved.
        options: of ``from_pretrained``: ``dtype``, ``device_map``, ``num_labels``, ``ignore_mismatched_sizes`` ...

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: a folder that is no swapped model, or whose configuration and weights are not what they should be.
        OSError: files that are not there.

    Example:
        >>> import tempfile
        >>> from seqdyconv.swap import load_swapped, swap_self_attention
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        >>> model = swap_self_attention(BertModel(BertConfig(vocab_size=100, **sizes)), layers=[1], kernel_size=7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     loaded = load_swapped(folder)
        >>> loaded.encoder.layer[1].attention.self.mixer.conv.kernel_size
        7
    """
    for name in ("trust_remote_code", "use_safetensors", "output_loading_info", "config", "state_dict"):
        if name in options:
            raise ValueError(f"load_swapped has no option {name}")
    where = {name: options[name] for name in WHERE if name in options}
    with _errors_in_one_line(f"{path} can't be loaded as a swapped model"):
        saved: Any = PreTrainedConfig.get_config_dict(path, **where)[0]
    if not saved:
        raise OSError(f"{path} has no config.json")
    if not isinstance(saved, dict) or "seqdyconv" not in saved:
        raise ValueError(f"{path} is no swapped model, its config.json has no seqdyconv: load it with from_pretrained")
    if "quantization_config" in saved or "attn_implementation" in saved:
        raise ValueError(
            f"{path}: the config.json of a swapped model has no quantization and no attn_implementation: "
            "quantize what is loaded from a folder without, by quantization_config"
        )
    check_sizes(saved, str(path))
    check_index(Path(path, options.get("subfolder", "")))
    swap = _read(saved["seqdyconv"], path)
    dtype = {name: options[name] for name in _DTYPE if name in options}
    with _errors_in_one_line(f"{path} can't be loaded as a swapped model"):
        config, options = AutoConfig.from_pretrained(
            path, trust_remote_code=False, return_unused_kwargs=True, **where, **_without(options, {**where, **dtype})
        )
    original = _model_class(config, model_class, path)
    # Tables of sines, which the saved class leaves out and every class computes anew.
    saved_class: Any = getattr(transformers, str(next(iter(config.architectures or []), None)), None)
    left_out = getattr(saved_class, "_keys_to_ignore_on_save", None) or ()
    not_saved = [re.escape(name.removeprefix(f"{saved_class.base_model_prefix}.")) for name in left_out]

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        original.__init__(self, config, *args, **kwargs)
        _restore(self, swap)
        if swap.own_names:  # transformers renames weights of some models, but of none whose code is not its own
            for part in _parts(self):
                part.is_custom_code = lambda: True
        guards = [re.escape(name.removeprefix(f"{self.base_model_prefix}.")) for name in guard_names(self)]
        self._keys_to_ignore_on_load_unexpected = {*(self._keys_to_ignore_on_load_unexpected or ()), *guards}
        self._keys_to_ignore_on_load_missing = {*(self._keys_to_ignore_on_load_missing or ()), *not_saved}

    def init_weights(self: Any, module: Any) -> None:
        for weight in module.parameters(recurse=False):
            initialization.zeros_(weight)  # what the original leaves as it is
        original._init_weights(self, module)

    # from_pretrained of a class that swaps when it is built: on the meta device, sharded, with tied weights and all.
    methods = {"__init__": init, "_init_weights": init_weights, "__module__": original.__module__}
    swapping = type(original.__name__, (original,), methods)
    guard_configuration(config, False)
    if model_class is not None:
        options.setdefault("ignore_mismatched_sizes", True)  # of the head: all other weights are checked below
    with _errors_in_one_line(f"{path} can't be loaded as a swapped {original.__name__}"):
        model, info = swapping.from_pretrained(  # type: ignore[attr-defined]
            path,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **where,
            **dtype,
            **_without(options, where),
        )
    model.__class__ = original
    if swap.own_names:
        vars(model)["_weight_conversions"] = []
        for part in _parts(model):
            vars(part).pop("is_custom_code", None)
    del model._keys_to_ignore_on_load_unexpected, model._keys_to_ignore_on_load_missing
    _check_keys(model, info, path, head_may_be_new=model_class is not None)
    guard_weights(model)
    return model


def load_trained(
    loader: Any, name_or_path: str, kind: str, *, new_head: bool = False, **options: Any
) -> PreTrainedModel:
    """Load a trained model, swapped or not, in float32 in evaluation mode.

    Args:
        loader: the Auto class of its task.
        name_or_path: a folder, or a name on the Hub.
        kind: what it should be, for messages: "text classification model".
        new_head: the head may be missing, or be another one, and gets new weights; else the model is used as it is.
        options: of ``from_pretrained``, for models that are not swapped or get a new head.

    Raises:
        ModelError: there is no such model, it is of another kind, or its weights are damaged or don't fit.
    """
    if getattr(load_config(name_or_path, kind), "seqdyconv", None) is None:
        return load_pretrained(loader, name_or_path, kind, new_head=new_head, **options)
    options = {"model_class": loader, **options} if new_head else {}
    try:
        model = load_swapped(name_or_path, dtype=torch.float32, **PLAIN_OUTPUTS, **options)
        fits = not hasattr(loader, "_model_mapping") or type(model) is _model_class(model.config, loader, name_or_path)
    except Exception as error:  # transformers trusts its files, and stumbles over wrong ones in many ways
        raise ModelError(f"can't load a {kind} from {name_or_path}: {first_line(error)}") from None
    if not fits:
        raise ModelError(f"can't load a {kind} from {name_or_path}: it holds a swapped {type(model).__name__}")
    check_model(model, name_or_path)
    return model.eval()


def _parts(model: Any) -> list[Any]:
    """A model and the models inside it."""
    return [part for part in model.modules() if isinstance(part, PreTrainedModel)]


@contextmanager
def _errors_in_one_line(what: str) -> Iterator[None]:
    """Errors inside as one line: transformers trusts its files, and stumbles over wrong ones in many ways."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and "\n" not in str(error):
            raise
        raise ValueError(f"{what}: {' '.join(str(error).split())[:300]}") from error


def _without(options: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in others}


@dataclass(frozen=True)
class _Swap:
    """What ``config.seqdyconv`` says, checked as far as that goes without the model."""

    path: str
    family: str | None  # None: short convolutions were added
    pattern: str | None
    results: int | None
    own_names: bool
    entries: dict[int, dict[str, Any]]


def _read(saved: Any, path: Any) -> _Swap:
    """What a configuration describes; ValueError for what neither a swap nor :func:`add_short_conv` would write."""

    def check(fine: bool, what: str) -> None:
        if not fine:
            raise ValueError(f"{path}: seqdyconv in config.json is damaged: {what}")

    def read_layers(layers: Any, allowed: Callable[[str, dict[str, Any]], set[str]]) -> dict[int, dict[str, Any]]:
        check(isinstance(layers, dict) and bool(layers), f"layers is {layers!r}")
        for number, entry in layers.items():
            check(number.isdecimal() and len(number) < 9 and isinstance(entry, dict), f"layer {number!r} is {entry!r}")
            check(not set(entry) - allowed(number, entry), f"layer {number} has the options {', '.join(entry)}")
            check("num_heads" in entry, f"layer {number} has no num_heads")
            for name, value in entry.items():
                plain = isinstance(value, (bool, int, float, type(None)))
                text = isinstance(value, str) and "mixer" in entry and name != "num_heads"  # which it may be, it checks
                sizes = name == "kernel_size" and isinstance(value, list) and "mixer" in entry  # the mixer checks them
                check(plain or text or sizes or name == "on", f"layer {number} has {name}={value!r}")
        return {int(number): entry for number, entry in layers.items()}

    def of_short_conv(number: str, entry: dict[str, Any]) -> set[str]:
        on = entry.get("on")
        in_order = isinstance(on, list) and on == [name for name in PLACES if name in on]
        check(bool(on) and in_order, f"layer {number} has short convolutions on {on!r}")
        check("kernel_size" in entry, f"layer {number} has no kernel_size")
        return {"on", *short_conv_option_names()}

    def of_mixer(number: str, entry: dict[str, Any]) -> set[str]:
        mixer = entry.get("mixer")
        check(
            isinstance(mixer, str) and mixer in MIXERS,
            f"layer {number} has the mixer {mixer!r}, not one of {', '.join(MIXERS)}",
        )
        return {"mixer", "num_heads", *swap_options(str(mixer))}

    check(isinstance(saved, dict), f"not a mapping, but {type(saved).__name__}")
    if "short_convs" in saved:
        check(len(saved) == 1, f"has the keys {', '.join(map(str, saved))}")
        return _Swap(str(path), None, None, None, False, read_layers(saved["short_convs"], of_short_conv))
    check(
        not set(saved) - {"family", "pattern", "results", "own_names", "layers"},
        f"has the keys {', '.join(map(str, saved))}",
    )
    families = [family.name for family in (*FAMILIES, UNKNOWN, DECODER)]
    check(saved.get("family") in families, f"family is {saved.get('family')!r}, not one of {', '.join(families)}")
    pattern, results = saved.get("pattern"), saved.get("results")
    check(pattern is None or isinstance(pattern, str), f"pattern is {pattern!r}")
    check((saved["family"] in RECOGNISED) == (results is not None), f"results is {results!r}")
    check(results is None or (type(results) is int and -1 <= results <= 9), f"results is {results!r}")
    own_names = saved.get("own_names", False)
    check(isinstance(own_names, bool), f"own_names is {own_names!r}")
    return _Swap(str(path), saved["family"], pattern, results, own_names, read_layers(saved.get("layers"), of_mixer))


def _restore(model: PreTrainedModel, swap: _Swap) -> None:
    """Do to ``model`` what its configuration says was done."""
    if swap.family is None:
        put_in_short_convs(model, swap.entries)
        return
    family = replace(find_family(model, swap.pattern), own_names=swap.own_names)
    if family.name != swap.family:
        raise ValueError(
            f"{swap.path}: config.json has a model of the family {family.name}, but a swap of {swap.family}"
        )
    names = module_names(model, family)
    select_layers(list(swap.entries), names)
    attention = {number: model.get_submodule(names[number]) for number in swap.entries}
    if swap.results is not None:
        results = None if swap.results < 0 else (None,) * swap.results
        family = replace(with_projections(family, attention, model.config.model_type), results=results)
    put_in(model, build_replacements(model, family, attention, swap.entries))


def _model_class(config: PreTrainedConfig, wanted: Any, path: Any) -> type[PreTrainedModel]:
    """The class to build: ``wanted``, or of an Auto class its choice, or the one that the configuration names."""
    if wanted is None:
        name = next(iter(config.architectures or []), None)
        wanted = getattr(transformers, str(name), None)
        if not _is_model_of(wanted, config):
            raise ValueError(
                f"{path} was saved from {name}, no model of transformers for {config.model_type}: give model_class"
            )
    elif hasattr(wanted, "_model_mapping"):
        if type(config) not in wanted._model_mapping:
            raise ValueError(f"{wanted.__name__} has no model for {config.model_type}")
        wanted = wanted._model_mapping[type(config)]
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    if not _is_model_of(wanted, config):
        raise ValueError(
            f"model_class must be a model or Auto class of transformers for {config.model_type}, got {wanted!r}"
        )
    return wanted


def _is_model_of(wanted: Any, config: PreTrainedConfig) -> bool:
    return (
        isinstance(wanted, type)
        and issubclass(wanted, PreTrainedModel)
        and wanted.config_class is not None
        and isinstance(config, wanted.config_class)
    )


def _is_ours(name: str) -> bool:
    return ".mixer." in name or ".short_conv." in name


def _is_head(model: Any, name: str) -> bool:
    """Whether a weight is outside of what models of other heads have in common, or of a pooler."""
    if "pooler." in name:
        return True
    if model.base_model is not model:
        return not name.startswith(f"{model.base_model_prefix}.")
    bodies = [part for part in model.children() if isinstance(part, PreTrainedModel)]  # as in T5 with its output layer
    part = getattr(model, name.split(".")[0])
    return bool(bodies) and not any(part is body for body in (*bodies, model.get_input_embeddings()))


def _check_keys(model: Any, info: Mapping[str, Any], path: Any, *, head_may_be_new: bool) -> None:
    """Raise ValueError if weights are missing or left over, other than those of a head."""
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(name for name, *_ in info["mismatched_keys"])
    if head_may_be_new:
        missing, mismatched = ([name for name in names if not _is_head(model, name)] for names in (missing, mismatched))
        unexpected = [name for name in unexpected if _is_ours(name)]
    else:
        mismatched = [name for name in mismatched if _is_ours(name)]
    for names, what in (
        (missing, "lacks weights of the model"),
        (unexpected, "has weights that the model lacks"),
        (mismatched, "has weights of other shapes than the swap"),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{path} {what}: {', '.join(names[:3])}{more}")
