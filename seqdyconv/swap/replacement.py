"""The module that stands in for a self-attention: its call, our mixer, its result."""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqdyconv.functional.context import in_transform
from seqdyconv.layers.masking import zero_padding
from seqdyconv.swap.copying import without_weights
from seqdyconv.swap.decoder_calls import cache_of, read_call
from seqdyconv.swap.families import OF_A_DECODER, OF_PACKED, Family, Projections
from seqdyconv.swap.initialization import keep_start
from seqdyconv.swap.padding import hides_neighbours, padding_from_attention_mask

# Masks of heads, which are the attention's alone.
_OF_HEADS = ("head_mask", "layer_head_mask")


class SwappedAttention(nn.Module):
    """A mixer in the place of a self-attention module of transformers, (batch, time, channels).

    It is called as the replaced module was, and returns what that returned with None for the attention weights. What
    the module did beside attending it goes on doing: dropout, residual connection and norm where they were inside, and
    the position bias that later layers need.

    The names of the replaced projections lead to those of the mixer that do their work: what looks for linear layers by
    name, such as PEFT for ``target_modules=["query", "value"]``, finds them under both names.

    Args:
        number: of the layer.
        family: of the model.
        mixer: of :func:`seqdyconv.build_mixer`, not causal but in :class:`SwappedCausalAttention`.
        options: what the mixer was built from: ``mixer``, its name, ``num_heads`` and its own options.
        attention: the module to replace; nothing in it changes.
    """

    def __init__(
        self, number: int, family: Family, mixer: nn.Module, options: Mapping[str, Any], attention: nn.Module
    ) -> None:
        super().__init__()
        self.number = number
        self.family = family
        self.mixer = keep_start(mixer)
        self.options = dict(options)
        for name in (family.output_dropout, family.residual_norm):
            if name is not None:
                self.add_module(name, attention.get_submodule(name))
        self._argument_names = tuple(inspect.signature(type(attention).forward).parameters)[2:]
        # In tuples: they are no parts of this module, which would be trained and saved with it.
        self._replaced = (without_weights(attention),)
        self._named = (nn.Module(),)
        self._has_asked = False
        self._dropped_position_bias: tuple[nn.Module, ...] = ()
        if (bias := self.position_bias_of(attention)) is not None:
            self.take_position_bias(bias)
        self.train(attention.training)

    @property
    def guarded_weight(self) -> str:
        """The weight that the replaced module has, see ``guard_weights``."""
        weights = {name: weight for name, weight in self.replaced.named_parameters() if weight.dim() > 1}
        projections = self.family.projections
        key = f"{projections.key or projections.fused}.weight" if projections is not None else ""
        return key if key in weights else next(iter(weights))

    def extra_repr(self) -> str:
        return f"layer {self.number}, {self.family.name}"

    def forward(self, hidden_states: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Mix the hidden states (B, T, D); padding is read from the attention mask, all else is for the attention."""
        if hidden_states is None:
            raise ValueError(f"a swapped layer mixes hidden_states, but gets {', '.join(kwargs) or 'nothing'}")
        if hidden_states.dim() != 3:
            raise ValueError(f"a swapped layer mixes (batch, time, channels), but gets {tuple(hidden_states.shape)}")
        kwargs |= zip(self._argument_names, args)
        for name, value in kwargs.items():
            if name.endswith("mask") and name not in (*self.family.masks, *_OF_HEADS) and value is not None:
                raise ValueError(
                    f"a swapped layer reads padding from {', '.join(self.family.masks)}, and can't use {name}"
                )
        output = self.mix(hidden_states, kwargs)
        if self.family.output_dropout is not None:
            output = self.get_submodule(self.family.output_dropout)(output)
        if self.family.residual_norm is not None:
            output = self.get_submodule(self.family.residual_norm)(hidden_states + output)
        if self.family.results is None:
            return output
        bias = kwargs.get("position_bias")
        if bias is None and "position_bias" in self.family.results:
            bias = self._position_bias(hidden_states)
        return output, *(bias if result == "position_bias" else None for result in self.family.results)

    def mix(self, hidden_states: Tensor, given: Mapping[str, Any]) -> Tensor:
        """The mixer's output (B, T, D), from hidden states and what else the module was given, by name."""
        for name in OF_A_DECODER:
            if given.get(name) is not None and given[name] is not False:
                raise ValueError(f"a swapped layer mixes one sequence in both directions, and can't use {name}")
        for name in OF_PACKED:
            if given.get(name) is not None:
                raise ValueError(f"a swapped layer can't tell sequences packed in one row apart by {name}: pad them")
        masks = [given[name] for name in self.family.masks if given.get(name) is not None]
        mask = masks[0] if masks else None
        padding_mask = padding_from_attention_mask(mask, is_product=self.family.mask_is_product)
        if self._asks_for_hidden_steps(mask) and hides_neighbours(
            mask, padding_mask, 1, is_product=self.family.mask_is_product
        ):
            raise ValueError(
                "the attention mask hides later steps from earlier ones (of a causal or streaming encoder, or of "
                "packed texts), which a swapped layer would see"
            )
        if padding_mask is not None and padding_mask.shape[0] == 1:
            padding_mask = padding_mask.expand(hidden_states.shape[0], -1)
        return self.mixer(hidden_states, padding_mask=padding_mask)

    def _asks_for_hidden_steps(self, mask: Any) -> bool:
        """Whether a mask is looked through: on a CPU each, elsewhere the first, since the device has to be waited for;
        none where a graph may not depend on it."""
        if mask is None or torch.compiler.is_compiling() or in_transform():
            return False
        asks = mask.device.type == "cpu" or not self._has_asked
        self._has_asked = True
        return asks

    # The names of the replaced projections

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """As of every module; and the names of those replaced projections for which the mixer has a part."""
        yield from super().named_modules(memo, prefix, remove_duplicate)
        mixer: Any = self.mixer
        roles = (*mixer.in_proj_roles, "fused", "output")
        for role, name in vars(self.family.projections or Projections()).items():
            if name and role in roles and self._place(name) is not None:
                # Not the layer itself, which has its own name already.
                yield f"{prefix}.{name}" if prefix else name, self._named[0]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if (place := self._place(name)) is None:
                raise
            return getattr(self.mixer, place)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and (place := self._place(name)) is not None:
            setattr(self.mixer, place, value)
        else:
            super().__setattr__(name, value)

    def _place(self, name: str) -> str | None:
        """Where the mixer has what does the work of a replaced projection."""
        projections = getattr(self.__dict__.get("family"), "projections", None) or Projections()
        mixer = self.__dict__.get("_modules", {}).get("mixer")
        if mixer is None or not name or name not in vars(projections).values():
            return None
        place = "out_proj" if name == projections.output else "in_proj"
        return place if place in mixer._modules else None

    @property
    def replaced(self) -> nn.Module:
        """The module that was replaced, without its weights."""
        return self._replaced[0]

    # The bias of scores that layers which still attend expect from the first one (Raffel et al. 2020, T5)

    def position_bias_of(self, attention: Any) -> nn.Module | None:
        """The embedding of an attention, swapped or not, that computes the position bias for all layers."""
        spec = self.family.position_bias
        return None if spec is None else getattr(attention, spec.embedding, None)

    @property
    def lacks_position_bias(self) -> bool:
        """The replaced module computed the position bias, and this one can't."""
        return self.position_bias_of(self.replaced) is not None and self.position_bias_of(self) is None

    @property
    def dropped_position_bias(self) -> nn.Module | None:
        return next(iter(self._dropped_position_bias), None)

    def take_position_bias(self, embedding: nn.Module) -> None:
        """Compute the position bias for the layers that read it."""
        assert self.family.position_bias is not None
        self.add_module(self.family.position_bias.embedding, embedding)

    def drop_position_bias(self) -> None:
        """Compute the position bias no more: no layer is left that reads it."""
        if self.family.position_bias is not None and (bias := self.position_bias_of(self)) is not None:
            if not any(weight.is_meta for weight in bias.parameters()):  # while a model is loaded they are none yet
                self._dropped_position_bias = (bias,)
            delattr(self, self.family.position_bias.embedding)

    def _position_bias(self, hidden_states: Tensor) -> Tensor | None:
        spec, embedding = self.family.position_bias, self.position_bias_of(self)
        if spec is None or not isinstance(embedding, nn.Embedding):
            return None
        batch, time, _ = hidden_states.shape
        max_distance = int(getattr(self.replaced, spec.max_distance))
        buckets = relative_buckets(time, embedding.num_embeddings, max_distance, hidden_states.device)
        bias: Tensor = embedding(buckets).permute(2, 0, 1)  # (H, T, T)
        return bias.repeat(batch, 1, 1) if spec.per_row else bias[None]


class SwappedCausalAttention(SwappedAttention):
    """A causal mixer in the place of a decoder's self-attention, (batch, time, channels).

    In a cache, the last inputs of its convolution stand in the place of keys and values, and do not grow with the text.
    What the cache asks its layers for, the number of steps, it gets by a key and a value of one number each.
    """

    def mix(self, hidden_states: Tensor, given: Mapping[str, Any]) -> Tensor:
        attention: Any = self.replaced
        call = read_call(attention, hidden_states, given)
        if call.states is None and call.cu_seqlens is None:
            return self.mixer(hidden_states, padding_mask=call.padding_mask)
        if call.states is not None:
            steps = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            cache_of(given).update(steps, steps, attention.layer_idx)
        mixer: Any = self.mixer
        input, query, gate = mixer.enter(hidden_states, call.padding_mask)
        mixed = call.convolve((self.number, "mixer"), mixer.conv, input, query)
        return zero_padding(mixer.leave(mixed, gate), call.padding_mask)


def relative_buckets(time: int, num_buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """Which bucket the step from each of ``time`` steps to each other is in: (T, T) int64, as T5 and WavLM count.

    Half of the buckets are for steps ahead. Of each half, half are for single distances, the others grow with the
    logarithm of the distance, up to ``max_distance``; the last takes in whatever is farther.
    """
    step = torch.arange(time, device=device)
    offset = step - step[:, None]
    distance = offset.abs()
    half = num_buckets // 2
    exact = half // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (offset > 0)


def swapped_attention(model: nn.Module) -> dict[int, SwappedAttention]:
    """The swapped layers of a model, by number."""
    found = {module.number: module for module in model.modules() if isinstance(module, SwappedAttention)}
    return dict(sorted(found.items()))
