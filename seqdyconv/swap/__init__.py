"""Put the layers of this package into other people's Hugging Face models, train, save and load the result."""

import seqdyconv.swap.auto  # noqa: F401  # registers swapped models with the Auto classes
from seqdyconv.swap.causal_conv1d import restore_causal_conv1d, swap_causal_conv1d
from seqdyconv.swap.choice import select_layers
from seqdyconv.swap.distillation import DistillationTrainer, hidden_state_loss, train_mixers_only
from seqdyconv.swap.families import FAMILIES
from seqdyconv.swap.loading import load_swapped
from seqdyconv.swap.positions import extend_positions
from seqdyconv.swap.replacement import SwappedAttention, swapped_attention
from seqdyconv.swap.restoring import restore_self_attention
from seqdyconv.swap.selection import Selection, choose_layers
from seqdyconv.swap.short_conv_projection import ShortConvProjection
from seqdyconv.swap.short_convs import add_short_conv, remove_short_conv
from seqdyconv.swap.swapping import attention_modules, swap_self_attention

__all__ = [
    "FAMILIES",
    "DistillationTrainer",
    "Selection",
    "ShortConvProjection",
    "SwappedAttention",
    "add_short_conv",
    "attention_modules",
    "choose_layers",
    "extend_positions",
    "hidden_state_loss",
    "load_swapped",
    "remove_short_conv",
    "restore_causal_conv1d",
    "restore_self_attention",
    "select_layers",
    "swap_causal_conv1d",
    "swap_self_attention",
    "swapped_attention",
    "train_mixers_only",
]
