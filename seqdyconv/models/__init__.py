"""Hugging Face models of our layers. Importing this registers them with the Auto classes and pipelines."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.configuration_causal import SeqDyConvCausalLMConfig
from seqdyconv.models.configuration_speech import SeqDyConvSpeechConfig
from seqdyconv.models.convbert import ConvBertEncoder, load_convbert
from seqdyconv.models.export import export_decoder_step, export_encoder
from seqdyconv.models.fairseq import FairseqTranslation, fairseq_tokenizer, load_fairseq_checkpoint
from seqdyconv.models.joint_decoding import CTCPrefixLogitsProcessor, CTCPrefixScorer
from seqdyconv.models.losses import ctc_loss
from seqdyconv.models.modeling import (
    SeqDyConvDecoder,
    SeqDyConvForConditionalGeneration,
    SeqDyConvModel,
    SeqDyConvPreTrainedModel,
)
from seqdyconv.models.modeling_causal import SeqDyConvForCausalLM
from seqdyconv.models.modeling_encoder import (
    SeqDyConvForMaskedLM,
    SeqDyConvForMultipleChoice,
    SeqDyConvForQuestionAnswering,
    SeqDyConvForSequenceClassification,
    SeqDyConvForTokenClassification,
)
from seqdyconv.models.modeling_speech import SeqDyConvForCTC, SeqDyConvForSpeechSeq2Seq, SeqDyConvSpeechModel
from seqdyconv.models.pipelines import Seq2SeqTranslationPipeline
from seqdyconv.models.recording import Sampling, record_kernels, record_mixtures, record_sampling
from seqdyconv.models.tokenization import SeqDyConvTokenizer

AutoConfig.register(SeqDyConvConfig.model_type, SeqDyConvConfig)
AutoModel.register(SeqDyConvConfig, SeqDyConvModel)
AutoModelForMaskedLM.register(SeqDyConvConfig, SeqDyConvForMaskedLM)
AutoModelForSequenceClassification.register(SeqDyConvConfig, SeqDyConvForSequenceClassification)
AutoModelForTokenClassification.register(SeqDyConvConfig, SeqDyConvForTokenClassification)
AutoModelForQuestionAnswering.register(SeqDyConvConfig, SeqDyConvForQuestionAnswering)
AutoModelForMultipleChoice.register(SeqDyConvConfig, SeqDyConvForMultipleChoice)
AutoModelForSeq2SeqLM.register(SeqDyConvConfig, SeqDyConvForConditionalGeneration)
AutoConfig.register(SeqDyConvCausalLMConfig.model_type, SeqDyConvCausalLMConfig)
AutoModelForCausalLM.register(SeqDyConvCausalLMConfig, SeqDyConvForCausalLM)
AutoConfig.register(SeqDyConvSpeechConfig.model_type, SeqDyConvSpeechConfig)
AutoModel.register(SeqDyConvSpeechConfig, SeqDyConvSpeechModel)
AutoModelForCTC.register(SeqDyConvSpeechConfig, SeqDyConvForCTC)
AutoModelForSpeechSeq2Seq.register(SeqDyConvSpeechConfig, SeqDyConvForSpeechSeq2Seq)
# The pipeline looks in this table, by the name of the class, whether a model generates or is one of CTC.
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES[SeqDyConvSpeechConfig.model_type] = SeqDyConvForSpeechSeq2Seq.__name__
# Folders whose tokenizer_config.json names another class, as the recipes' do, load that one.
AutoTokenizer.register(SeqDyConvConfig, tokenizer_class=SeqDyConvTokenizer)

__all__ = [
    "CTCPrefixLogitsProcessor",
    "CTCPrefixScorer",
    "ConvBertEncoder",
    "FairseqTranslation",
    "Sampling",
    "Seq2SeqTranslationPipeline",
    "SeqDyConvCausalLMConfig",
    "SeqDyConvConfig",
    "SeqDyConvDecoder",
    "SeqDyConvForCTC",
    "SeqDyConvForCausalLM",
    "SeqDyConvForConditionalGeneration",
    "SeqDyConvForMaskedLM",
    "SeqDyConvForMultipleChoice",
    "SeqDyConvForQuestionAnswering",
    "SeqDyConvForSequenceClassification",
    "SeqDyConvForSpeechSeq2Seq",
    "SeqDyConvForTokenClassification",
    "SeqDyConvModel",
    "SeqDyConvPreTrainedModel",
    "SeqDyConvSpeechConfig",
    "SeqDyConvSpeechModel",
    "SeqDyConvTokenizer",
    "ctc_loss",
    "export_decoder_step",
    "export_encoder",
    "fairseq_tokenizer",
    "load_convbert",
    "load_fairseq_checkpoint",
    "record_kernels",
    "record_mixtures",
    "record_sampling",
]
