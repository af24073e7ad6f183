"""Short convolutions behind the query, key and value projections of other people's Hugging Face decoders."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from seqdyconv.layers import ShortConv1d
from seqdyconv.swap.choice import Layers, number_ranges, select_layers
from seqdyconv.swap.description import write_description
from seqdyconv.swap.families import candidate_patterns, find_modules, number_modules
from seqdyconv.swap.guard import guard_weights
from seqdyconv.swap.recognition import check_model
from seqdyconv.swap.short_conv_projection import (
    LinearWithShortConv,
    short_convs_of,
    stop_watching_calls,
    watch_calls,
)

# Values of config.model_type: decoders whose attention is named and called alike.
DECODERS = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "granite",
    "olmo",
    "olmo2",
    "smollm3",
    "starcoder2",
)
_PATTERN = "layers.*.self_attn"
_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
# All that ``on`` of a configuration may be.
PLACES = [[role for role in _PROJECTIONS if role in chosen] for chosen in ("q", "k", "v", "qk", "qv", "kv", "qkv")]
# Options of the convolution that its place decides.
_DECIDED = ("channels", "padding", "bias", "query_dim", "device", "dtype")


def add_short_conv(
    model: Any,
    on: Iterable[str] = ("q", "k", "v"),
    *,
    kernel_size: int = 4,
    num_heads: int | None = None,
    layers: Layers = None,
    **conv_options: Any,
) -> Any:
    """Put a causal short convolution behind projections of a Hugging Face decoder's self-attention.

    The convolution reads what the projection gives, before a norm of queries or keys and before positions are rotated
    in; its kernels are predicted from what the projection reads, the block's normed hidden states (2026,
    https://arxiv.org/abs/2606.03825). It starts as the identity, so the model computes what it did before. The model
    is changed in place and stays what it was: it trains, generates with its cache, saves with ``save_pretrained`` and
    loads with :func:`load_swapped`. Nothing changes where this raises.

    Args:
        model: a decoder of a type in ``seqdyconv.swap.short_convs.DECODERS``, Llama, Mistral, Qwen, Gemma, OLMo and
            their like, with any head.
        on: the projections, of ``"q"``, ``"k"`` and ``"v"``.
        kernel_size: K.
        num_heads: H of the kernels, divides the projections' widths; None: the attention's heads, of keys and values
            where that is what is projected.
        layers: as for :func:`swap_self_attention`.
        conv_options: of :class:`seqdyconv.ShortConv1d`: ``rank`` (15 with ``generator_bias=True`` in the paper),
            ``static_kernel``, ``dynamic_kernel=False`` with it for Canon layers, ``residual``, ``silu``,
            ``generator_bias``, ``generator_reduction``. A static kernel beside a residual starts at zero here.

    Returns:
        ``model``. Its ``config.seqdyconv`` tells what was added.

    Raises:
        ValueError: a model, layers or options that do not work, layers that have short convolutions already.

    Example:
        >>> from seqdyconv.swap import add_short_conv
        >>> from transformers import Qwen3Config, Qwen3ForCausalLM
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        >>> model = Qwen3ForCausalLM(Qwen3Config(vocab_size=100, num_key_value_heads=2, head_dim=8, **sizes))
        >>> _ = add_short_conv(model, rank=15, generator_bias=True)
        >>> model.model.layers[0].self_attn.v_proj.short_conv
        IdentityShortConv1d(
          16, kernel_size=4, rank=15, padding='causal', static_kernel=False, residual=True
          (generator): Linear(in_features=32, out_features=15, bias=True)
        )
    """
    check_model(model)
    entry = {"on": _roles(on), "kernel_size": kernel_size, "num_heads": num_heads, **_plain_options(conv_options)}
    names = _attention_names(model)
    chosen = select_layers(layers, names)
    put_in_short_convs(model, dict.fromkeys(chosen, entry))
    guard_weights(model)
    return model


class IdentityShortConv1d(ShortConv1d):
    """A short convolution that starts as the identity with a static kernel too, if it has a residual."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.static_kernel is not None and self.residual:
            nn.init.zeros_(self.static_kernel)


def remove_short_conv(model: Any, *, layers: Layers = None) -> Any:
    """Take short convolutions out of a decoder again; its projections stay as they are, trained or not.

    The inverse of :func:`add_short_conv`. The model is changed in place, and is a plain model of its class again where
    no convolution is left. Nothing changes where this raises.

    Args:
        model: with short convolutions.
        layers: which lose theirs, as for :func:`swap_self_attention`; None: all that have some.

    Returns:
        ``model``. Its ``config.seqdyconv`` tells of those that are left, and is gone where none is.

    Raises:
        ValueError: a model or layers without short convolutions.

    Example:
        >>> from seqdyconv.swap import add_short_conv, remove_short_conv
        >>> from transformers import Qwen3Config, Qwen3ForCausalLM
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        >>> model = Qwen3ForCausalLM(Qwen3Config(vocab_size=100, num_key_value_heads=2, head_dim=8, **sizes))
        >>> _ = remove_short_conv(add_short_conv(model), layers=[1])
        >>> model.model.layers[1].self_attn.v_proj
        Linear(in_features=32, out_features=16, bias=False)
    """
    check_model(model)
    having = sorted({projection.key[0] for projection in short_convs_of(model)})
    if not having:
        raise ValueError(f"this {type(model).__name__} has no short convolutions to remove")
    names = _attention_names(model)
    chosen = having if layers is None else select_layers(layers, names)
    if wrong := [number for number in chosen if number not in having]:
        raise ValueError(
            f"layers without short convolutions: {number_ranges(wrong)}; those with some are {number_ranges(having)}"
        )
    for number in chosen:
        for name, child in model.get_submodule(names[number]).named_children():
            if short_convs_of(child) and not isinstance(child, LinearWithShortConv):
                raise ValueError(
                    f"{name} of layer {number} is wrapped, in a {type(child).__name__}: unload the adapters first"
                )
    for number in chosen:
        attention = model.get_submodule(names[number])
        for projection in short_convs_of(attention):
            setattr(attention, _PROJECTIONS[projection.key[1]], projection.linear)
        stop_watching_calls(attention)
    _describe(model)
    return model


def _describe(model: PreTrainedModel) -> None:
    """Let ``config.seqdyconv`` tell which short convolutions there are; where there are none, it is gone."""
    entries: dict[int, dict[str, Any]] = {}
    for projection in short_convs_of(model):
        number, role = projection.key
        entries.setdefault(number, {"on": [], **projection.options})["on"].append(role)
    layers = {str(number): entries[number] for number in sorted(entries)}
    for entry in layers.values():
        entry["on"].sort(key=list(_PROJECTIONS).index)
    write_description(model, {"short_convs": layers} if layers else {})


def _roles(on: Iterable[str]) -> list[str]:
    given = list(on)
    if not given or set(given) - set(_PROJECTIONS):
        raise ValueError(f"on must be of {', '.join(_PROJECTIONS)}, at least one, got {on!r}")
    return [role for role in _PROJECTIONS if role in given]


def short_conv_option_names() -> list[str]:
    """The options of a short convolution that may be set where it is added to a model."""
    return [name for name in inspect.signature(ShortConv1d).parameters if name not in _DECIDED]


def _plain_options(given: Mapping[str, Any]) -> dict[str, Any]:
    known = short_conv_option_names()
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"a short convolution has no option {', '.join(unknown)} here; it has {', '.join(known)}")
    for name, value in given.items():
        if not isinstance(value, (bool, int, float, type(None))):
            raise ValueError(f"{name} must be a number, a bool or None, got {value!r}")
    return dict(given)


def _attention_names(model: PreTrainedModel) -> dict[int, str]:
    model_type = model.config.model_type
    if model_type not in DECODERS:
        found = ", ".join(f"{name!r} ({count})" for name, count in candidate_patterns(model).items()) or "none"
        raise ValueError(
            f"short convolutions are added to decoders of {', '.join(DECODERS)}, got {model_type!r}; modules that look "
            f"like self-attention: {found}"
        )
    return number_modules(list(find_modules(model, _PATTERN)), _PATTERN)


def put_in_short_convs(model: PreTrainedModel, entries: Mapping[int, Mapping[str, Any]]) -> None:
    """Build the convolutions that ``entries`` describe, by layer, and put them in."""
    names = _attention_names(model)
    select_layers(list(entries), names)
    attention: dict[int, Any] = {number: model.get_submodule(names[number]) for number in entries}
    if twice := [number for number, module in attention.items() if short_convs_of(module)]:
        raise ValueError(f"layers that have short convolutions already: {', '.join(map(str, twice))}")
    new = {
        (number, role): _build(attention[number], number, role, entries[number])
        for number in entries
        for role in entries[number]["on"]
    }
    for (number, role), projection in new.items():
        setattr(attention[number], _PROJECTIONS[role], projection)
    for module in attention.values():
        watch_calls(module)
    _describe(model)


def _build(attention: Any, number: int, role: str, entry: Mapping[str, Any]) -> LinearWithShortConv:
    name = _PROJECTIONS[role]
    linear = getattr(attention, name, None)
    if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
        raise ValueError(f"{name} of layer {number} is {type(linear).__name__}, not a plain nn.Linear")
    if not attention.is_causal:
        raise ValueError(f"layer {number} attends in both directions: short convolutions are for causal decoders")
    options = {option: value for option, value in entry.items() if option != "on"}
    heads = linear.out_features // attention.head_dim
    conv = IdentityShortConv1d(
        linear.out_features,
        padding="causal",
        query_dim=linear.in_features if options.get("dynamic_kernel", True) else None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
        **{**options, "num_heads": heads if options["num_heads"] is None else options["num_heads"]},
    )
    return LinearWithShortConv(linear, conv, (number, role), options)
