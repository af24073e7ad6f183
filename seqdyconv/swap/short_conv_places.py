"""Where short convolutions may stand in a layer of other people's decoders: the names of its parts and projections."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from seqdyconv.errors import InputError

_ATTENTION = ("self_attn", "attention", "attn", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_BEHIND = {
    ("q",): ("attention", ("q_proj",)),
    ("k",): ("attention", ("k_proj",)),
    ("v",): ("attention", ("v_proj",)),
    ("q", "k", "v"): ("attention", ("qkv_proj", "query_key_value", "Wqkv")),
    ("o",): ("attention", ("o_proj", "out_proj", "dense", "Wo")),
    ("gate",): ("mlp", ("gate_proj",)),
    ("up",): ("mlp", ("up_proj", "fc1", "c_fc", "fc_in", "dense_h_to_4h")),
    ("gate", "up"): ("mlp", ("gate_up_proj",)),
    ("down",): ("mlp", ("down_proj", "fc2", "c_proj", "fc_out", "dense_4h_to_h")),
}
PLACES = ("attention_input", "q", "k", "v", "o", "mlp_input", "gate", "up", "down")
"""What the places in a layer are called, in the order in which the layer comes to them."""
CANON = {"A": ("attention_input",), "B": ("q", "k", "v"), "C": ("mlp_input",), "D": ("gate", "up")}
"""The places of Canon layers (2025, https://arxiv.org/abs/2512.17351), by their letter."""


@dataclass(frozen=True)
class Place:
    """One place in a layer.

    Args:
        names: of :data:`PLACES`; several where one projection does the work of several.
        part: name of the layer's attention, or of its feed-forward block.
        projection: name of the linear layer in that; None: before the part.
    """

    names: tuple[str, ...]
    part: str
    projection: str | None = None


def places_of(layer: nn.Module) -> dict[str, Place]:
    """The places in a decoder's layer, by name; none where it has no self-attention with projections of usual names."""
    parts = {kind: next((name for name in names if _child(layer, name)), None)
             for kind, names in (("attention", _ATTENTION), ("mlp", _MLP))}  # fmt: skip
    found: dict[str, Place] = {}
    for names, (kind, projections) in _BEHIND.items():
        part = parts[kind]
        known = [name for name in projections if part and _child(getattr(layer, part), name)]
        if part and known:
            found |= dict.fromkeys(names, Place(names, part, known[0]))
    if "q" not in found:
        return {}
    for kind, part in parts.items():
        if part:
            found[f"{kind}_input"] = Place((f"{kind}_input",), part)
    return {name: found[name] for name in PLACES if name in found}


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return module._modules.get(name)


def attention_name(layer: nn.Module) -> str:
    """What the self-attention of a layer with places is called."""
    return places_of(layer)["attention_input"].part


def decoder_layers(model: nn.Module) -> dict[int, str]:
    """The names of the layers of a decoder that have places, by number.

    Raises:
        InputError: two of them have one number.
    """
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        number = re.fullmatch(r"(?:.*\.)?(\d+)", name)
        if number is None or not places_of(module):
            continue
        if int(number[1]) in found:
            raise InputError(f"two layers have the number {number[1]}: {found[int(number[1])]} and {name}")
        found[int(number[1])] = name
    return found


def read_places(on: Iterable[str], layers: Iterable[Mapping[str, Place]]) -> list[str]:
    """The places that ``on`` of :func:`add_short_conv` means, in the order of :data:`PLACES`.

    Args:
        on: names, also with the ending ``_proj``, or the letters of Canon layers; a string is one name or letters.
        layers: the places of each layer; of a Canon layer's places it has those that one of them has.

    Raises:
        InputError: it is none of them.
    """
    there = {name for places in layers for name in places}
    names: dict[str, tuple[str, ...]] = {
        **{name: (name,) for name in PLACES},
        **{f"{name}_proj": (name,) for name in PLACES if len(name) < 5},
    }
    names |= {letter: tuple(n for n in group if n in there) or group for letter, group in CANON.items()}
    given = [on] if isinstance(on, str) and on in names else list(on)
    if not given or any(name not in names for name in given):
        raise InputError(
            f"on must be of {', '.join(PLACES)}, or of the Canon layers {', '.join(CANON)}, at least one, got {on!r}"
        )
    chosen = {name for each in given for name in names[each]}
    return [name for name in PLACES if name in chosen]
