"""Take mixers out again: the attention of the original model comes back in their places."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import output_capturing

from seqdyconv.layers.states import initial_zeros
from seqdyconv.swap.choice import Layers, number_ranges, select_layers
from seqdyconv.swap.copying import with_weights
from seqdyconv.swap.decoder_calls import stop_watching_model
from seqdyconv.swap.decoders import body_of
from seqdyconv.swap.families import Family
from seqdyconv.swap.output_attentions import refuse_attentions_where_swapped
from seqdyconv.swap.own_models import refuse_own
from seqdyconv.swap.recognition import check_model, module_names
from seqdyconv.swap.replacement import SwappedAttention, swapped_attention
from seqdyconv.swap.swapping import describe_swap


def restore_self_attention(model: Any, original: Any, *, layers: Layers = None) -> Any:
    """Take mixers out of a swapped model, and put the self-attention of the original back.

    The inverse of :func:`swap_self_attention`. The model is changed in place; what was not swapped stays as it is,
    trained or not. A model whose layers are all restored is a plain model of its class again. Nothing changes where
    this raises.

    Args:
        model: with swapped layers.
        original: a model of the same type with any head, such as the teacher of a distillation; or attention modules
            by layer, as ``attention_modules(model)`` gave them before the swap. It stays as it is: what is put in are
            copies, on the device and in the dtype of the mixers, and trained or not as before the swap.
        layers: which to restore, as for :func:`swap_self_attention`; None: all that are swapped.

    Returns:
        ``model``. Its ``config.seqdyconv`` tells what is still swapped, and is gone where nothing is.

    Raises:
        ValueError: a model or layers that are not swapped, or an original that does not fit.

    Example:
        >>> import copy
        >>> from seqdyconv.swap import restore_self_attention, swap_self_attention
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
        >>> original = BertModel(BertConfig(vocab_size=100, **sizes))
        >>> model = swap_self_attention(copy.deepcopy(original), kernel_size=15)
        >>> _ = restore_self_attention(model, original, layers="2-3")
        >>> list(model.config.seqdyconv["layers"])
        ['0', '1']
        >>> model.encoder.layer[3].attention.self
        BertSelfAttention(
          (query): Linear(in_features=32, out_features=32, bias=True)
          (key): Linear(in_features=32, out_features=32, bias=True)
          (value): Linear(in_features=32, out_features=32, bias=True)
          (dropout): Dropout(p=0.1, inplace=False)
        )
    """
    check_model(model)
    refuse_own(model, "load the model as it was before the swap, whose weights were not kept")
    swapped = swapped_attention(model)
    if not swapped:
        raise ValueError(f"this {type(model).__name__} has no swapped layers to restore")
    family = next(iter(swapped.values())).family
    names = module_names(model, family)
    chosen = list(swapped) if layers is None else select_layers(layers, names)
    if wrong := [number for number in chosen if number not in swapped]:
        raise ValueError(
            f"layers that are not swapped: {number_ranges(wrong)}; swapped are {number_ranges(list(swapped))}"
        )
    attention = _attention_of(original, model, family)
    if missing := [number for number in chosen if number not in attention]:
        raise ValueError(f"original has no attention of the layers {number_ranges(missing)}")
    restored = {number: _restored(swapped[number], attention[number]) for number in chosen}
    still = {number: module for number, module in swapped.items() if number not in restored}
    biases = {
        number: _position_bias(module, attention.get(number))
        for number, module in still.items()
        if module.lacks_position_bias
    }
    for number, module in restored.items():
        model.set_submodule(names[number], module)
    for number, bias in biases.items():
        still[number].take_position_bias(bias)
    if not still and family.own_names:
        vars(model).pop("_weight_conversions", None)
    if not still and family.causal:
        stop_watching_model(body_of(model, names.values()))
    refuse_attentions_where_swapped(model)
    _capture_outputs_anew(model)
    describe_swap(model)
    return model


def _attention_of(original: Any, model: PreTrainedModel, family: Family) -> Mapping[int, Any]:
    """The attention modules of ``original`` by layer; those of layers that are swapped there are not left out."""
    if isinstance(original, Mapping):
        return original
    if not isinstance(original, PreTrainedModel):
        raise ValueError(
            f"original must be a model of transformers, or attention modules by layer, got {type(original).__name__}"
        )
    if original.config.model_type != model.config.model_type:
        raise ValueError(f"original must be a {model.config.model_type}, got a {original.config.model_type}")
    check_model(original)
    return {number: original.get_submodule(name) for number, name in module_names(original, family).items()}


def _restored(swapped: SwappedAttention, attention: Any) -> nn.Module:
    like = initial_zeros(swapped.mixer, 0)
    restored = with_weights(swapped.replaced, attention, f"layer {swapped.number} of original", like=like)
    return restored.train(swapped.training)


def _position_bias(swapped: SwappedAttention, attention: Any) -> nn.Module:
    """What a layer that stays swapped needs to compute the position bias, which a restored one will read."""
    source = swapped.dropped_position_bias if attention is None else swapped.position_bias_of(attention)
    if source is None:
        raise ValueError(f"original must have layer {swapped.number} too: it computes the position bias of the others")
    empty: Any = swapped.position_bias_of(swapped.replaced)
    what = f"the position bias of layer {swapped.number} of original"
    return with_weights(empty, source, what, like=initial_zeros(swapped.mixer, 0))


def _capture_outputs_anew(model: nn.Module) -> None:
    """Take out the hooks that collect attentions and hidden states, which the restored layers lack.

    transformers puts them into all layers when outputs are asked for, and only once.
    """
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if getattr(hook, "__module__", None) == output_capturing.__name__:
                del module._forward_hooks[key]
        vars(module).pop("_output_capturing_hooks_installed", None)
