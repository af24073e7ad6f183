"""A tiny saved recogniser."""

from pathlib import Path

import pytest
import torch

from seqdyconv.models import SeqDyConvForCTC, SeqDyConvSpeechConfig
from seqdyconv.speech import (
    SeqDyConvFeatureExtractor,
    SeqDyConvSpeechProcessor,
    global_statistics,
    train_character_tokenizer,
)


@pytest.fixture(scope="session")
def streaming_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a CTC model that streams."""
    folder = tmp_path_factory.mktemp("streaming")
    write_streaming_model(folder)
    return folder


def write_streaming_model(folder: Path) -> None:
    """A CTC model that streams, whose output changes a lot from frame to frame."""
    tokenizer = train_character_tokenizer(["abcde fg"])
    sizes = {"hidden_size": 16, "encoder_ffn_dim": 16, "encoder_attention_heads": 2, "subsampling_channels": 4}
    model = SeqDyConvForCTC(
        SeqDyConvSpeechConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=20,
            encoder_kernel_sizes=[3],
            encoder_lookahead=1,
            encoder_position_type="none",
            pad_token_id=0,
            **sizes,
        )
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_() if name.endswith("bias") else parameter.normal_(0, 0.7, generator=generator)
        model.ctc_head.bias[1:4] = -1000  # No special tokens.
    model.save_pretrained(folder)
    noise = torch.randn(16000, generator=generator) / 10
    mean, variance = global_statistics(SeqDyConvFeatureExtractor(20, normalize=None), [noise])
    extractor = SeqDyConvFeatureExtractor(20, normalize="global", mean=mean, variance=variance)
    SeqDyConvSpeechProcessor(extractor, tokenizer).save_pretrained(folder)
