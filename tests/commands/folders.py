"""Folders of tiny models, one of each kind that a command takes."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from seqdyconv.data.word_tokenizers import train_word_tokenizer
from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvForSequenceClassification,
    SeqDyConvSpeechConfig,
)
from seqdyconv.speech import SeqDyConvFeatureExtractor, SeqDyConvSpeechProcessor
from seqdyconv.speech.tokenization import train_character_tokenizer
from seqdyconv.swap import swap_self_attention

SIZES = {"hidden_size": 8, "encoder_kernel_sizes": [3], "decoder_kernel_sizes": [3]}
SIZES |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 8)
SIZES |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
LABELS = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}


def write_models(root: Path) -> None:
    """A folder of each kind of model, by its name."""
    torch.manual_seed(0)
    pieces = train_sentencepiece_tokenizer(["eins zwei drei", "one two three"], 280, "bpe")
    words = train_word_tokenizer(["the old word a b"] * 3, 60)
    letters = train_character_tokenizer(["one two"])
    ids = {"decoder_start_token_id": 2, "pad_token_id": 1, "eos_token_id": 2}
    bert = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        pad_token_id=1,
        **LABELS,
    )
    speech = SeqDyConvSpeechConfig(
        vocab_size=len(letters),
        num_mel_bins=10,
        subsampling_channels=2,
        is_encoder_decoder=False,
        pad_token_id=0,
        **SIZES,
    )
    ours = SeqDyConvConfig(vocab_size=len(words), is_encoder_decoder=False, **SIZES, **LABELS)
    processor = SeqDyConvSpeechProcessor(SeqDyConvFeatureExtractor(10, normalize=None), letters)
    for name, model, tokenizer in (
        ("ours", SeqDyConvForConditionalGeneration(SeqDyConvConfig(vocab_size=280, **SIZES)), pieces),
        (
            "t5",
            T5ForConditionalGeneration(
                T5Config(vocab_size=280, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, **ids)
            ),
            pieces,
        ),
        ("classifier", SeqDyConvForSequenceClassification(ours), words),
        ("swapped", swap_self_attention(BertForSequenceClassification(bert), layers=[1], kernel_size=3), words),
        ("speech", SeqDyConvForCTC(speech), processor),
    ):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
