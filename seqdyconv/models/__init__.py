"""Hugging Face models of our layers. Importing this registers them with the Auto classes and pipelines."""

from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.fairseq import FairseqTranslation, fairseq_tokenizer, load_fairseq_checkpoint
from seqdyconv.models.modeling import (
    SeqDyConvDecoder,
    SeqDyConvEncoder,
    SeqDyConvForConditionalGeneration,
    SeqDyConvPreTrainedModel,
)
from seqdyconv.models.pipelines import Seq2SeqTranslationPipeline
from seqdyconv.models.tokenization import SeqDyConvTokenizer

AutoConfig.register(SeqDyConvConfig.model_type, SeqDyConvConfig)
AutoModelForSeq2SeqLM.register(SeqDyConvConfig, SeqDyConvForConditionalGeneration)
# Folders whose tokenizer_config.json names another class, as the recipes' do, load that one.
AutoTokenizer.register(SeqDyConvConfig, tokenizer_class=SeqDyConvTokenizer)

__all__ = [
    "FairseqTranslation",
    "Seq2SeqTranslationPipeline",
    "SeqDyConvConfig",
    "SeqDyConvDecoder",
    "SeqDyConvEncoder",
    "SeqDyConvForConditionalGeneration",
    "SeqDyConvPreTrainedModel",
    "SeqDyConvTokenizer",
    "fairseq_tokenizer",
    "load_fairseq_checkpoint",
]
