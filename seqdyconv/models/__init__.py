"""Hugging Face models of our layers. Importing this registers them with the Auto classes and pipelines."""

from transformers import AutoConfig, AutoModelForSeq2SeqLM

from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.modeling import (
    SeqDyConvDecoder,
    SeqDyConvEncoder,
    SeqDyConvForConditionalGeneration,
    SeqDyConvPreTrainedModel,
)

AutoConfig.register(SeqDyConvConfig.model_type, SeqDyConvConfig)
AutoModelForSeq2SeqLM.register(SeqDyConvConfig, SeqDyConvForConditionalGeneration)

__all__ = [
    "SeqDyConvConfig",
    "SeqDyConvDecoder",
    "SeqDyConvEncoder",
    "SeqDyConvForConditionalGeneration",
    "SeqDyConvPreTrainedModel",
]
