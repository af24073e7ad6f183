"""Short convolutions behind the query, key and value projections of other people's Hugging Face decoders."""

import inspect
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DummyLayer

from seqdyconv.layers import ShortConv1d
from seqdyconv.layers.masking import last_inputs, zero_padding
from seqdyconv.swap.description import write_description
from seqdyconv.swap.families import candidate_patterns, find_modules, number_modules
from seqdyconv.swap.hooks import remove_hooks
from seqdyconv.swap.replacement import padding_from_attention_mask
from seqdyconv.swap.swapping import Layers, check_model, number_ranges, select_layers

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
# How these families call their attention; all but the first are keywords today.
_ARGUMENTS = ("hidden_states", "position_embeddings", "attention_mask", "cache")
# Steps of the last call that can be taken back from a cache that was not asked before to record.
_TAKEN_BACK = 64
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
        ShortConv1d(
          16, kernel_size=4, rank=15, padding='causal', static_kernel=False, residual=True
          (generator): XavierLinear(in_features=32, out_features=15, bias=True)
        )
    """
    check_model(model)
    entry = {"on": _roles(on), "kernel_size": kernel_size, "num_heads": num_heads, **_plain_options(conv_options)}
    names = _attention_names(model)
    chosen = select_layers(layers, names)
    put_in_short_convs(model, dict.fromkeys(chosen, entry))
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
    having = sorted({projection.key[0] for projection in _projections_of(model)})
    if not having:
        raise ValueError(f"this {type(model).__name__} has no short convolutions to remove")
    names = _attention_names(model)
    chosen = having if layers is None else select_layers(layers, names)
    if wrong := [number for number in chosen if number not in having]:
        raise ValueError(
            f"layers without short convolutions: {number_ranges(wrong)}; those with some are {number_ranges(having)}"
        )
    for number in chosen:
        attention = model.get_submodule(names[number])
        for projection in _projections_of(attention):
            setattr(attention, _PROJECTIONS[projection.key[1]], projection.linear)
        remove_hooks(attention, _begin, _end)
    _describe(model)
    return model


def _describe(model: PreTrainedModel) -> None:
    """Let ``config.seqdyconv`` tell which short convolutions there are; where there are none, it is gone."""
    entries: dict[int, dict[str, Any]] = {}
    for projection in _projections_of(model):
        number, role = projection.key
        entries.setdefault(number, {"on": [], **projection.options})["on"].append(role)
    layers = {str(number): entries[number] for number in sorted(entries)}
    for entry in layers.values():
        entry["on"].sort(key=list(_PROJECTIONS).index)
    write_description(model, {"short_convs": layers} if layers else {})


class ShortConvProjection(nn.Module):
    """A linear projection and a short convolution over its outputs, (batch, time, channels).

    What the convolution must know of a call, its padding and its state, it reads from ``current_call``.

    Its state has one number that nothing reads, under the name that the weight of the projection had: whatever loads
    the weights into a model without the convolution stops at the wrong shape, instead of leaving it out.

    Args:
        linear: the projection.
        conv: over its outputs, with a ``query_dim`` where its kernels are predicted.
        key: that of the state in a cache: number of the layer, and name of the projection.
        options: what the convolution was built from, as :func:`add_short_conv` has them.
    """

    def __init__(self, linear: nn.Linear, conv: ShortConv1d, key: tuple[int, str], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.linear = linear
        self.short_conv = conv
        self.key = key
        self.options = dict(options)
        self.register_buffer("weight", linear.weight.new_zeros(1))
        self.train(linear.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) → (B, T, C)."""
        conv, padding_mask = self.short_conv, current_call.padding_mask
        projected = self.linear(hidden_states)
        query = None if conv.query_dim is None else hidden_states
        if current_call.states is None:
            return conv(projected, padding_mask=padding_mask, query=query)
        return current_call.states.stream(self.key, conv, projected, padding_mask, query)


class ShortConvStates(DummyLayer):
    """The last inputs of all short convolutions of a model: a layer of its cache, after those of the attention.

    Whatever reorders, repeats, selects, crops or resets the cache then does so with them. To transformers the layer is
    one without keys and values.

    Args:
        static: keep the tensors where they are and as long as they are, as a static cache does.
    """

    def __init__(self, static: bool = False) -> None:
        super().__init__()
        self.static = static
        self.record_past = False
        self.inputs: dict[tuple[int, str], Tensor] = {}  # (B, K−1 and what can be taken back, C)
        self.reach: dict[tuple[int, str], int] = {}

    @property
    def is_compileable(self) -> bool:  # type: ignore[override]
        return not self.record_past

    def stream(
        self, key: tuple[int, str], conv: ShortConv1d, input: Tensor, padding_mask: Tensor | None, query: Tensor | None
    ) -> Tensor:
        """The output (B, T, C) of a convolution for its next chunk; its state is kept here under ``key``."""
        known = self.inputs.get(key)
        if known is None:
            known = conv.initial_state(input.shape[0]).to(input.dtype)
        output, state = conv.stream(input, known[:, known.shape[1] - conv.reach :], padding_mask, query)
        if self.static and not self.record_past:
            self._keep_in_place(key, state)
        else:
            # Assisted decoding fills the cache, then takes back a part of that call, without a chance to ask before.
            time = input.shape[1]
            size = known.shape[1] + time if self.record_past else conv.reach + min(time, _TAKEN_BACK)
            window = torch.cat([known.to(input.dtype), zero_padding(input, padding_mask)], dim=1)
            window = F.pad(window, (0, 0, max(0, size + time - window.shape[1]), 0))
            self.inputs[key] = last_inputs(window[:, window.shape[1] - size - time :], padding_mask, size)
        self.reach[key] = conv.reach
        return output

    def _keep_in_place(self, key: tuple[int, str], state: Tensor) -> None:
        known = self.inputs.get(key)
        if known is not None and known.shape == state.shape:
            known.copy_(state)
            return
        self.inputs[key] = state
        if not torch.compiler.is_compiling():
            torch._dynamo.mark_static_address(state)

    def activate_past_recording(self) -> None:
        """Keep all inputs from now on until :meth:`crop` tells how many of them stay."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last ``-tokens_to_remove`` steps back, and forget what is older than the state."""
        if tokens_to_remove > 0:
            raise RuntimeError(f"inputs of short convolutions are cropped by minus a number, got {tokens_to_remove}")
        for key, inputs in self.inputs.items():
            end = inputs.shape[1] + tokens_to_remove
            if end < self.reach[key]:
                raise RuntimeError(
                    f"short convolutions don't remember the inputs of {-tokens_to_remove} steps back: call the cache's "
                    "activate_past_recording() before these steps"
                )
            self.inputs[key] = inputs[:, end - self.reach[key] : end].clone()

    def reset(self) -> None:
        if self.static:
            for inputs in self.inputs.values():
                inputs.zero_()
        else:
            self.inputs.clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.inputs = {key: inputs[indices.to(inputs.device)] for key, inputs in self.inputs.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.inputs = {key: inputs.repeat_interleave(repeats, dim=0) for key, inputs in self.inputs.items()}


class CurrentCall(threading.local):
    """What the projections of an attention must know of its call that runs now, in each thread its own.

    Threads may run one model at once, so nothing of a call can be kept on its modules. A ``ContextVar`` would do as
    well, but ``torch.compile`` can't trace one.
    """

    padding_mask: Tensor | None = None
    states: ShortConvStates | None = None


current_call = CurrentCall()


def _begin(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook of the attention: tell its projections of the call."""
    given = {**dict(zip(_ARGUMENTS, args)), **kwargs}
    if given.get("cu_seq_lens_q") is not None:
        raise ValueError("short convolutions can't tell packed sequences apart: pad them, without cu_seq_lens_q")
    cache = given.get("cache")
    batch, time, _ = given["hidden_states"].shape
    first: Any = 0  # the column of the mask that is the first step of this call
    states = None
    if cache is not None:
        states = _states(cache, attention)
        first = cache.get_query_offset(attention.layer_idx) - cache.get_mask_sizes(time, attention.layer_idx)[1]
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor):
        mask = mask.index_select(-1, first + torch.arange(time, device=mask.device))
    padding_mask = padding_from_attention_mask(mask)
    if padding_mask is not None:
        padding_mask = padding_mask.expand(batch, -1)
    current_call.padding_mask, current_call.states = padding_mask, states


def _end(attention: Any, args: tuple[Any, ...], output: Any) -> None:
    """A forward hook of the attention, also where that raised: forget the call."""
    current_call.padding_mask = current_call.states = None


def _projections_of(attention: nn.Module) -> list[ShortConvProjection]:
    return [part for part in attention.modules() if isinstance(part, ShortConvProjection)]


def _states(cache: Any, attention: Any) -> ShortConvStates:
    """The layer of states in a cache, made where there is none yet."""
    if not isinstance(cache, Cache) or not hasattr(cache, "layers"):
        raise ValueError(f"short convolutions keep their states in a Cache of layers, got {type(cache).__name__}")
    for layer in cache.layers:
        if isinstance(layer, ShortConvStates):
            return layer
    seen = cache.get_seq_length(attention.layer_idx)
    if isinstance(seen, int) and seen > 0:
        raise ValueError(
            f"the cache holds {seen} steps, but not the states of the model's short convolutions: fill a "
            "new one with this model"
        )
    if cache.layer_class_to_replicate is not None:  # it makes its layers when they are used, each at its number
        while len(cache.layers) < attention.config.num_hidden_layers:
            cache.layers.append(cache.layer_class_to_replicate())
    states = ShortConvStates(static=cache.is_compileable)
    cache.layers.append(states)
    return states


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
    if twice := [number for number, module in attention.items() if _projections_of(module)]:
        raise ValueError(f"layers that have short convolutions already: {', '.join(map(str, twice))}")
    new = {
        (number, role): _build(attention[number], number, role, entries[number])
        for number in entries
        for role in entries[number]["on"]
    }
    for (number, role), projection in new.items():
        setattr(attention[number], _PROJECTIONS[role], projection)
    for module in attention.values():
        module.register_forward_pre_hook(_begin, with_kwargs=True)
        module.register_forward_hook(_end, always_call=True)
    _describe(model)


def _build(attention: Any, number: int, role: str, entry: Mapping[str, Any]) -> ShortConvProjection:
    name = _PROJECTIONS[role]
    linear = getattr(attention, name, None)
    if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
        raise ValueError(f"{name} of layer {number} is {type(linear).__name__}, not a plain nn.Linear")
    if not attention.is_causal:
        raise ValueError(f"layer {number} attends in both directions: short convolutions are for causal decoders")
    options = {option: value for option, value in entry.items() if option != "on"}
    heads = linear.out_features // attention.head_dim
    conv = ShortConv1d(
        linear.out_features,
        padding="causal",
        query_dim=linear.in_features if options.get("dynamic_kernel", True) else None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
        **{**options, "num_heads": heads if options["num_heads"] is None else options["num_heads"]},
    )
    if conv.static_kernel is not None and conv.residual:
        nn.init.zeros_(conv.static_kernel)
    return ShortConvProjection(linear, conv, (number, role), options)
