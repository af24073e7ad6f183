"""Put mixers in the place of self-attention: choose, check, build, and only then change the model."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdyconv.errors import InputError
from seqdyconv.layers.kernel_sizes import KernelSize
from seqdyconv.swap.building import build_replacements, checked_options
from seqdyconv.swap.choice import Layers, number_ranges, select_layers
from seqdyconv.swap.decoder_calls import watch_model
from seqdyconv.swap.decoders import body_of, tells_packed_sequences_apart
from seqdyconv.swap.description import own_configuration, write_description
from seqdyconv.swap.families import FAMILIES, RECOGNISED, Family
from seqdyconv.swap.guard import guard_weights
from seqdyconv.swap.output_attentions import attention_recorded, refuse_attentions_where_swapped
from seqdyconv.swap.own_models import is_own, swap_own_attention
from seqdyconv.swap.recognition import (
    check_model,
    find_family,
    inner_width,
    module_names,
    num_heads_of,
    projections_of,
    recognise_attention,
)
from seqdyconv.swap.replacement import SwappedAttention, swapped_attention
from seqdyconv.swap.transfer import average_attention, start_kernels, transfer_projections

WEIGHTS = ("transfer", "random")


def swap_self_attention(
    model: Any,
    *,
    mixer: str = "dynamic_conv",
    layers: Layers = None,
    kernel_size: KernelSize = 31,
    num_heads: int | None = None,
    pattern: str | None = None,
    weights: str = "transfer",
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    **mixer_options: Any,
) -> Any:
    """Replace self-attention by a mixer, in all layers of a Hugging Face model or in chosen ones.

    The model, of any head, is changed in place and stays what it was: it trains, saves with ``save_pretrained`` and
    loads with :func:`load_swapped`. In an encoder-decoder the encoder is swapped. In a causal decoder the mixer is
    causal, and ``generate()`` keeps the last inputs of its convolution in the model's cache. Nothing changes where this
    raises.

    Args:
        model: of a family in ``seqdyconv.swap.FAMILIES``: BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT, MPNet, ALBERT,
            DeBERTa-v2, ModernBERT, BART, Marian, T5, Wav2Vec2, HuBERT, WavLM, Wav2Vec2-BERT, Whisper, ViT; or of
            another one whose self-attention is recognised by its modules; or a decoder of a type in
            ``seqdyconv.swap.decoders.DECODERS`` with three projections: Llama, Mistral, Qwen, Gemma, OLMo ...
        mixer: a name in ``seqdyconv.layers.MIXERS``; in a decoder one whose state is the last inputs of its
            convolution: ``"dynamic_conv"``, ``"lightweight_conv"``, ``"short_conv"``, ``"gated_short_conv"``.
        layers: which to swap, by their numbers from 0 on. None: all. A number or several, negative ones from the last
            layer on; a string of numbers and ranges such as ``"0,2,4-6"``; ``"every 2"``: the last of each two, 1, 3,
            5 ...; or a function of the number that says whether.
        kernel_size: K of a convolution, or several, see :class:`seqdyconv.LightweightConv1d`; others ignore it.
        num_heads: H of the mixer; None: as many as the replaced attention has.
        pattern: where a model has several stacks of layers, or none that is recognised, the end of its self-attention
            modules' names, with ``*`` for each number, such as ``"encoder.layer.*.attention.self"``. Those of no known
            family are taken to work as most do: hidden states first, ``attention_mask`` or ``mask``, usual names of
            the projections.
        weights: ``"transfer"``: value and output projections, and for a mixer that attends query and key, are those of
            the replaced attention; ``"random"``: all are new.
        calibration: batches of the model's inputs. The kernels of a convolution start from the average attention over
            them by relative offset.
        mixer_options: of the mixer, see :func:`seqdyconv.build_mixer`. Unlike there, ``glu`` is False and
            ``generator_bias`` True where they are not given.

    Returns:
        ``model``. Its ``config.seqdyconv`` tells what was swapped. It refuses ``output_attentions=True``.

    Raises:
        ValueError: a model, layers or options that do not work, layers that are swapped already.

    Example:
        >>> from seqdyconv.swap import swap_self_attention
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
        >>> model = BertForSequenceClassification(BertConfig(vocab_size=100, **sizes))
        >>> _ = swap_self_attention(model, mixer="dynamic_conv", layers="2-3", kernel_size=15)
        >>> model.config.seqdyconv["layers"]["3"]["kernel_size"]
        15
        >>> model.bert.encoder.layer[3].attention.self.mixer.conv.num_heads
        4
    """
    check_model(model)
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    own_configuration(model)
    if is_own(model):
        return swap_own_attention(
            model, mixer, layers, kernel_size, num_heads, pattern, weights, calibration, mixer_options
        )
    options = checked_options(mixer, kernel_size, mixer_options)
    if "short_convs" in (getattr(model.config, "seqdyconv", None) or {}):
        raise InputError("this model has short convolutions: swap a model without them, or remove_short_conv first")
    family = find_family(model, pattern)
    names = module_names(model, family)
    chosen = _choose(model, family, layers, list(names))
    attention = {number: model.get_submodule(names[number]) for number in chosen}
    if family.projections is None:
        family = recognise_attention(model, family, attention)
    projections = projections_of(family)
    entries = {
        number: {
            "mixer": mixer,
            "num_heads": num_heads_of(module, projections) if num_heads is None else num_heads,
            **options,
        }
        for number, module in attention.items()
    }
    new = build_replacements(model, family, attention, entries)
    if weights == "transfer":
        for number, module in attention.items():
            heads = num_heads_of(module, projections)
            transfer_projections(module, projections, new[number].mixer, heads, inner_width(module, projections))
    if calibration is not None:
        with attention_recorded():
            averages = average_attention(model, attention, calibration)
        for number, attended in averages.items():
            start_kernels(new[number].mixer, attended)
    put_in(model, new)
    guard_weights(model)
    return model


def attention_modules(model: Any, pattern: str | None = None) -> dict[int, nn.Module]:
    """The self-attention modules of a model's encoder that are not swapped, by number.

    Raises:
        ValueError: a model of no known family, where ``pattern`` does not name them.
    """
    check_model(model)
    names = module_names(model, find_family(model, pattern))
    modules = {number: model.get_submodule(name) for number, name in names.items()}
    return {number: module for number, module in modules.items() if not isinstance(module, SwappedAttention)}


def _choose(model: PreTrainedModel, family: Family, layers: Layers, numbers: list[int]) -> list[int]:
    swapped = swapped_attention(model)
    for other in swapped.values():
        if other.family.pattern != family.pattern:
            raise ValueError(f"layers of {other.family.pattern!r} are swapped already: choose among those")
    try:
        chosen = select_layers(layers, numbers)
    except ValueError as error:
        shared = f" ({model.config.model_type} runs one module in several layers)" if family.shared else ""
        raise ValueError(f"{error}{shared}") from None
    if twice := [number for number in chosen if number in swapped]:
        raise ValueError(f"layers swapped already: {number_ranges(twice)}; choose among the others, or restore them")
    return chosen


def put_in(model: PreTrainedModel, new: Mapping[int, SwappedAttention]) -> None:
    """Put new modules in the places of the attention that they replace, by number."""
    family = next(iter(new.values())).family
    names = module_names(model, family)
    for number, module in new.items():
        model.set_submodule(names[number], module)
    if family.causal:
        watch_model(body_of(model, names.values()), packs=tells_packed_sequences_apart(model))
    swapped = swapped_attention(model)
    if swapped.keys() == names.keys():
        for module in swapped.values():
            module.drop_position_bias()
    if family.own_names:
        vars(model)["_weight_conversions"] = []
    refuse_attentions_where_swapped(model)
    describe_swap(model)


def describe_swap(model: PreTrainedModel) -> None:
    """Let ``config.seqdyconv`` tell which layers are swapped; where none is, it is gone."""
    swapped = swapped_attention(model)
    told: dict[str, Any] = {}
    if swapped:
        family = next(iter(swapped.values())).family
        told["family"] = family.name
        if family not in FAMILIES:
            told["pattern"] = family.pattern
        if family.name in RECOGNISED:
            told["results"] = -1 if family.results is None else len(family.results)
            told["own_names"] = family.own_names
        told["layers"] = {str(number): module.options for number, module in swapped.items()}
    write_description(model, told)
