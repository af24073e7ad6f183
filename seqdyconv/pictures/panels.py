"""What pictures of a model's encoder share: a text's tokens, and which heads of which layers have a panel."""

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdyconv.errors import InputError
from seqdyconv.files import shorten
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.pictures.figures import FONT, LONGEST_NAME, PAGE

if TYPE_CHECKING:
    from matplotlib.text import Text

TOKEN = 0.108  # inches of a token on an axis: the labels, of FONT points, just do not touch
MARGIN = 1.1  # inches of a page for the labels of the axes and the colour bar
LETTER = 0.055  # inches of a letter of a token that stands upright


class Named(Protocol):
    """What was recorded of a run of a convolution, such as :class:`seqdyconv.models.recording.KernelRun`."""

    @property
    def name(self) -> str: ...


Run = TypeVar("Run", bound=Named)


class Tokens(NamedTuple):
    """The tokens of a text."""

    strings: list[str]
    """As the tokenizer writes them."""
    special: list[bool]
    """Which of them are, such as those that begin and end the text."""
    inputs: dict[str, Tensor]
    """Of the model, a batch of one."""


def tokenize(model: Any, text: Any, tokenizer: Any = None) -> Tokens:
    """The tokens of a text or a pair of texts; without a tokenizer by the one that lies beside the model's weights.

    Raises:
        InputError: no tokenizer there, no text, or one that is too long for it.
    """
    tokenizer = _own_tokenizer(model) if tokenizer is None else tokenizer
    texts = tuple(text) if isinstance(text, (tuple, list)) else (text,)
    if len(texts) not in (1, 2) or not all(isinstance(one, str) and one.strip() for one in texts):
        raise InputError(f"text must be a text or a pair of texts, not empty, got {text!r}")
    encoded = tokenizer(*texts, return_tensors="pt")
    return _named("text", encoded["input_ids"], tokenizer, dict(encoded))


def decoder_tokens(model: Any, tokens: Tokens, target: str, tokenizer: Any = None) -> Tokens:
    """The tokens that a model's decoder reads, which is to write a target for a text; with the inputs of both.

    Raises:
        InputError: the model has no decoder beside an encoder, or there is no target.
    """
    tokenizer = _own_tokenizer(model) if tokenizer is None else tokenizer
    if not model.config.is_encoder_decoder or not hasattr(model, "prepare_decoder_input_ids_from_labels"):
        raise InputError(f"target is for models with an encoder and a decoder, got a {type(model).__name__}")
    if not target.strip():
        raise InputError(f"target must not be empty, got {target!r}")
    ids = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
    read = model.prepare_decoder_input_ids_from_labels(labels=ids)
    known = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in tokens.inputs.items() if name in known} | {"decoder_input_ids": read}
    return _named("target", read, tokenizer, {name: value.to(model.device) for name, value in inputs.items()})


def _named(name: str, ids: Tensor, tokenizer: Any, inputs: dict[str, Tensor]) -> Tokens:
    numbers = ids[0].tolist()
    longest = tokenizer.model_max_length
    if len(numbers) > longest:
        raise InputError(f"{name} must have at most the tokenizer's {longest} tokens, got {len(numbers)}")
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    strings = [shorten(token, LONGEST_NAME) for token in tokenizer.convert_ids_to_tokens(numbers)]
    return Tokens(strings, [one in special for one in numbers], inputs)


def _own_tokenizer(model: Any) -> Any:
    name = getattr(model, "name_or_path", "")
    try:
        if not name:
            raise InputError("the model was not loaded by from_pretrained")
        return load_tokenizer(name)
    except InputError as error:
        raise InputError(f"found no tokenizer beside the model ({name or error}): pass tokenizer=") from error


def encoder_call(model: Any, inputs: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """What is to be run, and the inputs it takes: of a model with a decoder the encoder alone."""
    run = model
    if model.config.is_encoder_decoder and isinstance(model.get_encoder(), PreTrainedModel):
        run = model.get_encoder()
    known = inspect.signature(run.forward).parameters
    return run, {name: value.to(model.device) for name, value in inputs.items() if name in known}


def by_layer(runs: Sequence[Run]) -> dict[int, Run]:
    """By the layer's number, which is the first in a module's name; where these aren't unique, by order."""
    found = [re.search(r"(?:^|\.)(\d+)(?:\.|$)", run.name) for run in runs]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) < len(runs):
        numbers = list(range(len(runs)))
    return dict(zip(numbers, runs))


def choose(name: str, wanted: Iterable[int] | None, allowed: Sequence[int], default: Sequence[int]) -> list[int]:
    """Those that are wanted, if all of them are allowed.

    Raises:
        InputError: one is not, or none is wanted.
    """
    chosen = list(default if wanted is None else wanted)
    if not chosen or not set(chosen) <= set(allowed):
        raise InputError(f"{name} must be of {', '.join(map(str, allowed))}, got {chosen}")
    return chosen


def choose_panels(
    num_heads: Mapping[int, int], layers: Iterable[int] | None, heads: Iterable[int] | None, most_heads: int
) -> dict[int, list[int]]:
    """The heads to draw, by the number of their layer.

    Args:
        num_heads: of each layer.
        layers, heads: that were asked for; None: up to four layers, from the first to the last, and the first heads.
        most_heads: of a layer, where ``heads`` is None.

    Raises:
        InputError: a layer or head that is not there.
    """
    heads = None if heads is None else list(heads)
    every = list(num_heads)
    last = len(every) - 1
    spread = every if len(every) <= 4 else [every[round(index * last / 3)] for index in range(4)]
    return {
        layer: choose("heads", heads, range(num_heads[layer]), range(min(num_heads[layer], most_heads)))
        for layer in choose("layers", layers, every, spread)
    }


def columns_on_page(tokens: Tokens) -> int:
    """How many panels with the tokens on their axis fit side by side on a page, at least one."""
    return max(1, int((PAGE - MARGIN) / (TOKEN * len(tokens.strings) + 0.1)))


def arrange(panels: Mapping[int, list[int]], columns: int) -> tuple[list[tuple[int, list[int]]], int]:
    """Rows of panels (layer, heads), and in how many of the columns they stand.

    Rows of a layer have equal lengths: four heads stand as 2 × 2, not as 3 + 1.
    """
    most = max(map(len, panels.values()))
    columns = math.ceil(most / math.ceil(most / columns))
    rows = [(layer, heads[i : i + columns]) for layer, heads in panels.items() for i in range(0, len(heads), columns)]
    return rows, columns


def picture_title(title: str, num_heads: Mapping[int, int], panels: Mapping[int, list[int]]) -> str:
    """The title and, where not all layers and heads are drawn, a line that says how many are."""
    heads = {head for chosen in panels.values() for head in chosen}
    parts = []
    if len(panels) < len(num_heads):
        parts.append(f"{len(panels)} of {len(num_heads)} layers")
    if len(heads) < max(num_heads.values()):
        parts.append(f"{len(heads)} of {max(num_heads.values())} heads")
    return title + (f"\n{', '.join(parts)}" if parts else "")


def label_tokens(axis: Any, tokens: Tokens, both: bool = False) -> None:
    """Write the tokens on the horizontal axis, or on both; special ones are dimmed."""
    places = range(len(tokens.strings))
    axis.set_xticks(places, tokens.strings, rotation=90, fontsize=FONT, parse_math=False)
    labels: list[tuple[Text, bool]] = list(zip(axis.get_xticklabels(), tokens.special))
    if both:
        axis.set_yticks(places, tokens.strings, fontsize=FONT, parse_math=False)
        labels += zip(axis.get_yticklabels(), tokens.special)
    for label, special in labels:
        label.set_color("0.6" if special else "black")
