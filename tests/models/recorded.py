"""Small models whose convolutions are recorded and drawn."""

import torch
from transformers import BertConfig, BertForSequenceClassification

from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvSpeechConfig,
)
from seqdyconv.swap import swap_self_attention
from tests.helpers import randomize

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "kernels", "are", "wide", "$$", "##ly"]


def translation_model(**options):
    torch.manual_seed(0)
    default = {
        "encoder_layer_types": ["dynamic_conv", "lightweight_conv", "self_attention", "dynamic_conv"],
        "encoder_kernel_sizes": [3, 4, 3, 9],
        "decoder_kernel_sizes": [5],
        "dropout": 0.0,
    }
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 8,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
    }
    return SeqDyConvForConditionalGeneration(SeqDyConvConfig(**(sizes | default | options)))


def swapped_bert(num_layers=2, **options):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=20,
    )
    return swap_self_attention(BertForSequenceClassification(config), **({"kernel_size": 5} | options))


def deformable_model():
    return randomize(
        SeqDyConvForConditionalGeneration(
            SeqDyConvConfig(
                vocab_size=len(WORDS),
                hidden_size=8,
                encoder_ffn_dim=8,
                decoder_ffn_dim=8,
                encoder_attention_heads=4,
                decoder_attention_heads=2,
                encoder_layer_types=["deformable_conv", "dynamic_conv", "deformable_conv"],
                encoder_kernel_sizes=[3, 3, 6],
                decoder_layer_types="deformable_conv",
                decoder_kernel_sizes=[5],
            )
        )
    )


def speech_model():
    return randomize(
        SeqDyConvForCTC(
            SeqDyConvSpeechConfig(
                vocab_size=10,
                hidden_size=8,
                encoder_layer_types="deformable_conv",
                encoder_kernel_sizes=[3, 5],
                encoder_attention_heads=2,
                encoder_ffn_dim=8,
                subsampling_channels=2,
                num_mel_bins=16,
            )
        )
    )
