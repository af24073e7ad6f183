"""Short convolutions in the layers of other people's Hugging Face decoders, behind their projections or before them."""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from seqdyconv.errors import InputError
from seqdyconv.layers import ShortConv1d
from seqdyconv.layers.short import IdentityShortConv1d, JointShortConv1d
from seqdyconv.swap.choice import Layers, number_ranges, select_layers
from seqdyconv.swap.decoder_calls import stop_watching_model, watch_model
from seqdyconv.swap.decoders import body_of, layer_names, tells_packed_sequences_apart
from seqdyconv.swap.description import own_configuration, write_description
from seqdyconv.swap.guard import guard_weights
from seqdyconv.swap.own_models import refuse_own
from seqdyconv.swap.recognition import check_causal, check_model
from seqdyconv.swap.replacement import swapped_attention
from seqdyconv.swap.short_conv_calls import stop_watching, watch_layer
from seqdyconv.swap.short_conv_places import PLACES, Place, attention_name, places_of, read_places
from seqdyconv.swap.short_conv_projection import (
    INPUT_CONV,
    Joint,
    LinearWithShortConv,
    PlacedShortConv,
    ShortConvInput,
    short_convs_of,
)

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
    """Put causal short convolutions into the layers of a Hugging Face decoder.

    Behind a projection, the convolution reads what that gives, before a norm of queries or keys and before positions
    are rotated in; its kernels are predicted from what the projection reads (2026, https://arxiv.org/abs/2606.03825).
    Before the attention or the feed-forward block, they are predicted from what it convolves. It starts as the
    identity, so the model computes what it did before. The model is changed in place and stays what it was: it trains,
    generates with its cache, saves with ``save_pretrained`` and loads with :func:`load_swapped`. Nothing changes where
    this raises.

    Args:
        model: a decoder of a type in ``seqdyconv.swap.decoders.DECODERS``: Llama, Mistral, Qwen, Gemma, OLMo, Phi
            and some fifty others, with any head.
        on: the places: behind the projections ``"q"``, ``"k"``, ``"v"`` and ``"o"`` of the attention, and ``"gate"``,
            ``"up"`` and ``"down"`` of the feed-forward block, the last being its output (``"down_proj"`` is the same);
            and on what these two read, ``"attention_input"`` and ``"mlp_input"``. The letters of Canon layers mean
            ``"A"`` the attention's input, ``"B"`` q, k, v, ``"C"`` the feed-forward block's input, ``"D"`` gate and up.
        kernel_size: K.
        num_heads: H of the kernels, divides the widths of all places; None: heads as wide as the attention's, or as a
            part of that which divides the width.
        layers: as for :func:`swap_self_attention`.
        conv_options: of :class:`seqdyconv.ShortConv1d`: ``rank`` (15 with ``generator_bias=True`` in the paper),
            ``static_kernel``, ``dynamic_kernel=False`` with it for Canon layers, ``residual``, ``silu``,
            ``generator_bias``, ``generator_reduction``. A static kernel beside a residual starts at zero here.

    Returns:
        ``model``. Its ``config.seqdyconv`` tells what was added.

    Raises:
        ValueError: a model, places, layers or options that do not work, layers that have short convolutions already.

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
    refuse_own(model, 'build it with decoder_mixer_options={"short_conv": "dynamic"}, or "static"')
    if swapped := swapped_attention(model):
        raise InputError(
            f"layers {number_ranges(list(swapped))} are swapped: short convolutions are for a model without such layers"
        )
    names = layer_names(model)
    places = read_places(on, [places_of(model.get_submodule(name)) for name in names.values()])
    entry = {"on": places, "kernel_size": kernel_size, "num_heads": num_heads, **_plain_options(conv_options)}
    own_configuration(model)
    put_in_short_convs(model, dict.fromkeys(select_layers(layers, names), entry))
    guard_weights(model)
    return model


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
    having = sorted({placed.layer for placed in short_convs_of(model)})
    if not having:
        raise InputError(f"this {type(model).__name__} has no short convolutions to remove")
    names = layer_names(model)
    chosen = having if layers is None else select_layers(layers, names)
    if wrong := [number for number in chosen if number not in having]:
        raise InputError(
            f"layers without short convolutions: {number_ranges(wrong)}; those with some are {number_ranges(having)}"
        )
    found = {number: model.get_submodule(names[number]) for number in chosen}
    for number, layer in found.items():
        for placed in short_convs_of(layer):
            name = placed.place.projection or INPUT_CONV
            stands = getattr(layer, placed.place.part)._modules[name]
            if not isinstance(stands, PlacedShortConv):
                raise InputError(
                    f"{name} of layer {number} is wrapped, in a {type(stands).__name__}: unload the adapters first"
                )
    for layer in found.values():
        for placed in short_convs_of(layer):
            part = getattr(layer, placed.place.part)
            if isinstance(placed, ShortConvInput):
                delattr(part, INPUT_CONV)
            else:
                setattr(part, str(placed.place.projection), placed.linear)
        vars(getattr(layer, attention_name(layer))).pop("short_conv_joint", None)
        stop_watching(layer, *layer.children())
    if not short_convs_of(model):
        stop_watching_model(body_of(model, names.values()))
    _describe(model)
    return model


def _describe(model: PreTrainedModel) -> None:
    """Let ``config.seqdyconv`` tell which short convolutions there are; where there are none, it is gone."""
    entries: dict[int, dict[str, Any]] = {}
    for placed in short_convs_of(model):
        entries.setdefault(placed.layer, {"on": [], **placed.options})["on"] += placed.place.names
    layers = {str(number): entries[number] for number in sorted(entries)}
    for entry in layers.values():
        entry["on"].sort(key=PLACES.index)
    write_description(model, {"short_convs": layers} if layers else {})


def short_conv_option_names() -> list[str]:
    """The options of a short convolution that may be set where it is added to a model."""
    return [name for name in inspect.signature(ShortConv1d).parameters if name not in _DECIDED]


def _plain_options(given: Mapping[str, Any]) -> dict[str, Any]:
    known = short_conv_option_names()
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"a short convolution has no option {', '.join(unknown)} here; it has {', '.join(known)}")
    for name, value in given.items():
        if not isinstance(value, (bool, int, float, type(None))):
            raise InputError(f"{name} must be a number, a bool or None, got {value!r}")
    return dict(given)


def put_in_short_convs(model: PreTrainedModel, entries: Mapping[int, Mapping[str, Any]]) -> None:
    """Build the convolutions that ``entries`` describe, by layer, and put them in."""
    names = layer_names(model)
    select_layers(list(entries), names)
    layers: dict[int, nn.Module] = {number: model.get_submodule(names[number]) for number in entries}
    if twice := [number for number, layer in layers.items() if short_convs_of(layer)]:
        raise InputError(f"layers that have short convolutions already: {', '.join(map(str, twice))}")
    check_causal(model, {number: getattr(layer, attention_name(layer)) for number, layer in layers.items()})
    new = [placed for number, layer in layers.items() for placed in _build(layer, number, entries[number])]
    for placed in new:
        part = getattr(layers[placed.layer], placed.place.part)
        part.add_module(placed.place.projection or INPUT_CONV, placed)
    for number, layer in layers.items():
        attention: Any = getattr(layer, attention_name(layer))
        behind = {placed.place.part for placed in new if placed.layer == number} - {attention_name(layer)}
        watch_layer(layer, attention, getattr(layer, behind.pop()) if behind else None)
        if joint := _joint([placed for placed in new if placed.layer == number]):
            attention.short_conv_joint = joint
    watch_model(body_of(model, names.values()), packs=tells_packed_sequences_apart(model))
    _describe(model)


def _build(layer: Any, number: int, entry: Mapping[str, Any]) -> list[PlacedShortConv]:
    """The convolutions of a layer."""
    there = places_of(layer)
    if missing := [name for name in entry["on"] if name not in there]:
        raise InputError(f"layer {number} has no place {', '.join(missing)}; it has {', '.join(there)}")
    options = {option: value for option, value in entry.items() if option != "on"}
    built: list[PlacedShortConv] = []
    for place in dict.fromkeys(there[name] for name in entry["on"]):
        if left_out := [name for name in place.names if name not in entry["on"]]:
            raise InputError(
                f"{place.projection} of layer {number} projects {', '.join(place.names)} at once: add "
                f"{', '.join(left_out)} to on, or leave them all out"
            )
        built.append(_build_at(place, layer, there["q"], number, options))
    return built


def _build_at(place: Place, layer: nn.Module, query: Place, number: int, options: Mapping[str, Any]) -> PlacedShortConv:
    read = query if place.projection is None else place  # the input has the width of what the queries are made of
    linear = getattr(layer, read.part)._modules[read.projection]
    if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
        raise InputError(f"{read.projection} of layer {number} is {type(linear).__name__}, not a plain nn.Linear")
    channels = linear.in_features if place.projection is None else linear.out_features
    attention: Any = getattr(layer, query.part)
    width = math.gcd(channels, getattr(attention, "head_dim", 0) or getattr(attention, "head_size", channels))
    conv = IdentityShortConv1d(
        channels,
        padding="causal",
        query_dim=linear.in_features if place.projection and options.get("dynamic_kernel", True) else None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
        **{**options, "num_heads": channels // width if options["num_heads"] is None else options["num_heads"]},
    )
    if place.projection is None:
        return ShortConvInput(conv, number, place, options).train(linear.training)
    return LinearWithShortConv(linear, conv, number, place, options)


def _joint(placed: list[PlacedShortConv]) -> Joint | None:
    """The projections of queries, keys and values as one, if all three have convolutions of one kind."""
    by_name = {module.place.names: module for module in placed}
    three = [by_name[name,] for name in "qkv" if (name,) in by_name]
    if len(three) < 3:
        return None
    try:
        conv = JointShortConv1d([module.short_conv for module in three])
    except ValueError:  # heads of several widths, or a rank
        return None
    return Joint(tuple(str(module.place.projection) for module in three), conv)
