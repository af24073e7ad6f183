"""Hugging Face models of our layers. Importing this registers them with the Auto classes and pipelines."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.fairseq import FairseqTranslation, fairseq_tokenizer, load_fairseq_checkpoint
from seqdyconv.models.kernels import plot_kernels, record_kernels
from seqdyconv.models.modeling import (
    SeqDyConvDecoder,
    SeqDyConvForConditionalGeneration,
    SeqDyConvModel,
    SeqDyConvPreTrainedModel,
)
from seqdyconv.models.modeling_encoder import SeqDyConvForMaskedLM, SeqDyConvForSequenceClassification
from seqdyconv.models.pipelines import Seq2SeqTranslationPipeline
from seqdyconv.models.tokenization import SeqDyConvTokenizer

AutoConfig.register(SeqDyConvConfig.model_type, SeqDyConvConfig)
AutoModel.register(SeqDyConvConfig, SeqDyConvModel)
AutoModelForMaskedLM.register(SeqDyConvConfig, SeqDyConvForMaskedLM)
AutoModelForSequenceClassification.register(SeqDyConvConfig, SeqDyConvForSequenceClassification)
AutoModelForSeq2SeqLM.register(SeqDyConvConfig, SeqDyConvForConditionalGeneration)
# Folders whose tokenizer_config.json names another class, as the recipes' do, load that one.
AutoTokenizer.register(SeqDyConvConfig, tokenizer_class=SeqDyConvTokenizer)

__all__ = [
    "FairseqTranslation",
    "Seq2SeqTranslationPipeline",
    "SeqDyConvConfig",
    "SeqDyConvDecoder",
    "SeqDyConvForConditionalGeneration",
    "SeqDyConvForMaskedLM",
    "SeqDyConvForSequenceClassification",
    "SeqDyConvModel",
    "SeqDyConvPreTrainedModel",
    "SeqDyConvTokenizer",
    "fairseq_tokenizer",
    "load_fairseq_checkpoint",
    "plot_kernels",
    "record_kernels",
]
