"""What convolutions in other people's decoders remember between calls: one more layer of the model's cache."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DummyLayer

from seqdyconv.errors import InputError
from seqdyconv.layers.masking import last_inputs, zero_padding
from seqdyconv.layers.window import WindowConv

# Steps of the last call that can be taken back from a cache that was not asked before to record.
_TAKEN_BACK = 64
_OF_OTHERS = "the cache holds steps, but not the states of the model's convolutions: fill a new one with this model"


class ConvStates(DummyLayer):
    """The last inputs of all convolutions in a decoder: a layer of its cache, after those of the attention.

    Whatever reorders, repeats, selects, crops or resets the cache then does so with them. To transformers the layer is
    one without keys and values. A static one can't be cropped, unless ``activate_past_recording()`` of the cache was
    called before the steps to take back: it remembers no older inputs than the next step needs.

    Args:
        static: keep the tensors where they are and as long as they are, as a static cache does.
    """

    is_compileable = True  # recording too: what is not makes attention beside it read a static cache's empty places

    def __init__(self, static: bool = False) -> None:
        super().__init__()
        self.static = static
        self.record_past = False
        self.goes_on = False  # the current call, after others
        self.inputs: dict[tuple[int, str], Tensor] = {}  # (B, K−1 and what can be taken back, C)
        self.reach: dict[tuple[int, str], int] = {}

    def stream(
        self, key: tuple[int, str], conv: WindowConv, input: Tensor, padding_mask: Tensor | None, query: Tensor | None
    ) -> Tensor:
        """The output (B, T, C) of a convolution for its next chunk; its state is kept here under ``key``."""
        known = self.inputs.get(key)
        if known is None and self.goes_on:
            raise InputError(_OF_OTHERS)
        if known is None:
            known = input.new_zeros(input.shape[0], conv.reach, conv.channels)
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
        self.inputs[key] = state = state.clone()  # it is a place to write to, which others read
        if not torch.compiler.is_compiling():
            torch._dynamo.mark_static_address(state)

    def activate_past_recording(self) -> None:
        """Keep all inputs from now on until :meth:`crop` tells how many of them stay."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last ``-tokens_to_remove`` steps back, and forget what is older than the state."""
        if tokens_to_remove > 0:
            raise RuntimeError(f"inputs of convolutions are cropped by minus a number, got {tokens_to_remove}")
        for key, inputs in self.inputs.items():
            end = inputs.shape[1] + tokens_to_remove
            if end < self.reach[key]:
                raise RuntimeError(
                    f"convolutions don't remember the inputs of {-tokens_to_remove} steps back: call the cache's "
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


def states_in(cache: Any, attention: Any) -> ConvStates:
    """The layer of states in a cache, made where there is none yet."""
    if not isinstance(cache, Cache) or not hasattr(cache, "layers"):
        raise InputError(f"convolutions keep their states in a Cache of layers, got {type(cache).__name__}")
    seen = cache.get_seq_length(attention.layer_idx)
    is_known = isinstance(seen, int)  # a static cache has it in a tensor, that of a filled one after its first call
    goes_on = is_known and seen > 0
    for layer in cache.layers:
        if isinstance(layer, ConvStates):
            layer.goes_on = goes_on
            return layer
    if goes_on or (not is_known and not torch.compiler.is_compiling() and bool(seen > 0)):
        raise InputError(_OF_OTHERS)
    if cache.layer_class_to_replicate is not None:  # it makes its layers when they are used, each at its number
        while len(cache.layers) < attention.config.num_hidden_layers:
            cache.layers.append(cache.layer_class_to_replicate())
    states = ConvStates(static=cache.is_compileable)
    cache.layers.append(states)
    return states
