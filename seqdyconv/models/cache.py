"""What a decoder remembers between steps: the stream state of each mixer, and the encoder's keys and values."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin

from seqdyconv.functional.appending import select_rows
from seqdyconv.layers.states import map_state, tensors_of


class MixerState(CacheLayerMixin):
    """The stream state of one mixer, whatever it is: tensors with one row for each sequence.

    For a convolution it is its last K−1 inputs, so its size does not grow with what was decoded.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.state: Any = None
        self.cumulative_length = 0

    def store(self, state: Any, time: int) -> None:
        """Keep ``state``, that of ``time`` more steps."""
        self.state = state
        self.cumulative_length += time
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def reset(self) -> None:
        self.state, self.cumulative_length, self.is_initialized = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._map(lambda state: select_rows(state, indices.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._map(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def offload(self) -> None:
        if self.state is not None:
            self.device = tensors_of(self.state)[0].device
            self._map(lambda rows: rows.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        self._map(lambda rows: rows.to(self.device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = map_state(function, self.state)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise TypeError("a mixer's state is stored by store(), it has no keys and values")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise TypeError("a mixer's state is stored by store(), it has no keys and values")


def decoder_cache(num_layers: int, *, has_encoder: bool = True) -> EncoderDecoderCache | Cache:
    """An empty cache for a decoder of ``num_layers`` layers, with a place for an encoder's keys and values or not."""
    own = Cache(layers=[MixerState() for _ in range(num_layers)])
    return EncoderDecoderCache(own, DynamicCache()) if has_encoder else own


def mixer_states(cache: EncoderDecoderCache | Cache) -> Any:
    """The :class:`MixerState` of each layer in a cache of :func:`decoder_cache`."""
    return (cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache).layers


def check_cache(cache: EncoderDecoderCache | Cache, num_layers: int) -> None:
    """Raise ValueError unless it is one of :func:`decoder_cache` for so many layers."""
    states = mixer_states(cache)
    if len(states) != num_layers or not all(isinstance(state, MixerState) for state in states):
        raise ValueError(
            f"cache must be one that this model returned, with the states of its {num_layers} mixers; leave it out to "
            f"start one: got a {type(cache).__name__} of {len(states)} layers"
        )


def cross_attention_memory(cache: EncoderDecoderCache, layer: int) -> tuple[Tensor, Tensor] | None:
    """The encoder's keys and values that layer ``layer`` has kept, each (B, S, D), or None before the first step."""
    if not cache.is_updated.get(layer):
        return None
    kept: Any = cache.cross_attention_cache.layers[layer]
    return kept.keys, kept.values


def keep_cross_attention_memory(cache: EncoderDecoderCache, layer: int, memory: tuple[Tensor, Tensor]) -> None:
    """Keep what :func:`cross_attention_memory` returns from then on."""
    cache.cross_attention_cache.update(*memory, layer)
    cache.is_updated[layer] = True
