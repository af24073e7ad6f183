"""What a decoder remembers between steps: the stream state of each mixer, and the encoder's keys and values."""

from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin


class MixerState(CacheLayerMixin):
    """The stream state of one mixer, whatever it is: a tensor with one row for each sequence.

    For a convolution these are its last K−1 inputs, so its size does not grow with what was decoded.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None
        self.cumulative_length = 0

    def store(self, state: Tensor, time: int) -> None:
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
        if self.state is not None:
            self.state = self.state.index_select(0, beam_idx.to(self.state.device))

    def offload(self) -> None:
        if self.state is not None:
            self.device = self.state.device
            self.state = self.state.to("cpu", non_blocking=True)

    def prefetch(self) -> None:
        if self.state is not None and self.state.device != self.device:
            self.state = self.state.to(self.device, non_blocking=True)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise TypeError("a mixer's state is stored by store(), it has no keys and values")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise TypeError("a mixer's state is stored by store(), it has no keys and values")


def decoder_cache(num_layers: int) -> EncoderDecoderCache:
    """An empty cache for a decoder of ``num_layers`` layers."""
    return EncoderDecoderCache(Cache(layers=[MixerState() for _ in range(num_layers)]), DynamicCache())


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
