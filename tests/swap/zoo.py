"""Tiny models of every family with random weights, and inputs for them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

LENGTH = 9
SHORT = 5  # real steps of the second row

TEXT = {"vocab_size": 40, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
        "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}  # fmt: skip
SEQ2SEQ = {"vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
           "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}  # fmt: skip
SPEECH = {"vocab_size": 12, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4,
          "intermediate_size": 24, "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4),
          "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
          "feat_extract_norm": "layer", "do_stable_layer_norm": True, "apply_spec_augment": False,
          "layerdrop": 0.0}  # fmt: skip


def text(heads: str) -> dict[str, Tensor]:
    ids = torch.randint(4, 40, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, SHORT:] = 0
    inputs = {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}
    if heads == "seq2seq":
        inputs["decoder_input_ids"] = ids[:, :3]
    return inputs


def waves(_: str) -> dict[str, Tensor]:
    waves = torch.randn(2, 400, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 230:] = 0
    return {"input_values": waves * mask, "attention_mask": mask}


def filterbanks(_: str) -> dict[str, Tensor]:
    features = torch.randn(2, LENGTH, 20, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, SHORT:] = 0
    return {"input_features": features, "attention_mask": mask}


def spectrogram(_: str) -> dict[str, Tensor]:
    features = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))
    return {"input_features": features, "decoder_input_ids": torch.tensor([[2, 5, 7], [2, 9, 8]])}


def images(_: str) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))}


def shorter(batch: dict[str, Tensor], side: str = "") -> dict[str, Tensor]:
    """The second row: its real steps alone, or padded on the left."""
    steps = {name for name in batch if name.startswith("input") or name == "attention_mask"}
    real = int(batch["attention_mask"][1].sum())
    row = {name: value[1:] for name, value in batch.items()}
    if side == "left":
        return {name: torch.roll(value, -real, 1) if name in steps else value for name, value in row.items()}
    return {name: value[:, :real] if name in steps else value for name, value in row.items()}


def encoded(outputs: Any) -> Tensor:
    """The encoder's hidden states (B, T, D)."""
    return outputs["encoder_last_hidden_state"] if "encoder_last_hidden_state" in outputs else outputs[0]


def first_loss(outputs: Any) -> Tensor:
    """A scalar that depends on every hidden state."""
    return outputs[0].float().square().mean()


@dataclass(frozen=True)
class Case:
    """One model type: its configuration, its classes, and how it is tested.

    Args:
        config: makes a tiny configuration.
        base, head: the class without a head, and one with, by name.
        path: name of the layer's attention in the model without head, with {} for its number.
        inputs: makes a batch of two; rows of unequal length where the type has masks.
        kind: passed to ``inputs``.
        left: padding may be on the left too; ``"position_ids"``: if these are given.
        padding: the family promises that real steps do not depend on padding.
        checkpointing: it has activation checkpointing.
        layers: of the encoder.
    """

    config: Callable[[], Any]
    base: str
    head: str
    path: str
    inputs: Callable[[str], dict[str, Tensor]] = text
    kind: str = ""
    left: bool | str = True
    padding: bool = True
    checkpointing: bool = True
    layers: int = 2
    labels: Callable[[Any], Any] = field(default=lambda config: torch.tensor([0, 1]))

    def model(self, head: bool = False, seed: int = 0, **settings: Any) -> Any:
        torch.manual_seed(seed)
        config = self.config()
        for name, value in settings.items():
            setattr(config, name, value)
        model = getattr(transformers, self.head if head else self.base)(config)
        with torch.no_grad():  # new weights are so small that a layer hardly matters, and biases are zero
            for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
                noise = torch.randn(parameter.shape)
                parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else parameter + 0.1 * noise)
        return model.eval()

    def batch(self) -> dict[str, Tensor]:
        return self.inputs(self.kind)

    def attention(self, model: Any, number: int) -> nn.Module:
        return model.base_model.get_submodule(self.path.format(number))


def _of(name: str, sizes: dict[str, Any], **more: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**{**sizes, **more})


def _without_experts(config: Any) -> Any:
    config.encoder_sparse_step = config.decoder_sparse_step = 0
    return config


BERT_PATH = "encoder.layer.{}.attention.self"
BART_PATH = "encoder.layers.{}.self_attn"
W2V_PATH = "encoder.layers.{}.attention"
_ids = {"labels": lambda config: torch.randint(4, 40, (2, 3), generator=torch.Generator().manual_seed(2))}
_ctc = {"labels": lambda config: torch.tensor([[3, 4], [5, 6]]), "inputs": waves, "left": False}

CASES = {
    "bert": Case(_of("BertConfig", TEXT), "BertModel", "BertForSequenceClassification", BERT_PATH, left="position_ids"),
    "roberta": Case(_of("RobertaConfig", TEXT), "RobertaModel", "RobertaForSequenceClassification", BERT_PATH),
    "xlm-roberta": Case(
        _of("XLMRobertaConfig", TEXT), "XLMRobertaModel", "XLMRobertaForSequenceClassification", BERT_PATH
    ),
    "electra": Case(
        _of("ElectraConfig", TEXT, embedding_size=8), "ElectraModel", "ElectraForSequenceClassification", BERT_PATH,
        left="position_ids",
    ),
    "camembert": Case(_of("CamembertConfig", TEXT), "CamembertModel", "CamembertForSequenceClassification", BERT_PATH),
    "data2vec-text": Case(
        _of("Data2VecTextConfig", TEXT), "Data2VecTextModel", "Data2VecTextForSequenceClassification", BERT_PATH
    ),
    "distilbert": Case(
        _of("DistilBertConfig", {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24,
                                 "max_position_embeddings": 64}),
        "DistilBertModel", "DistilBertForSequenceClassification", "transformer.layer.{}.attention", left="position_ids",
    ),
    "mpnet": Case(
        _of("MPNetConfig", TEXT), "MPNetModel", "MPNetForSequenceClassification", "encoder.layer.{}.attention.attn",
        checkpointing=False,
    ),
    "albert": Case(
        _of("AlbertConfig", TEXT, embedding_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        "AlbertModel", "AlbertForSequenceClassification",
        "encoder.albert_layer_groups.{}.albert_layers.0.attention", left="position_ids", checkpointing=False, layers=1,
    ),
    "deberta-v2": Case(
        _of("DebertaV2Config", TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False),
        "DebertaV2Model", "DebertaV2ForSequenceClassification", BERT_PATH,
    ),
    "modernbert": Case(
        _of("ModernBertConfig", TEXT, local_attention=4, global_attn_every_n_layers=2, cls_token_id=2, sep_token_id=3),
        "ModernBertModel", "ModernBertForSequenceClassification", "layers.{}.attn",
    ),
    "bart": Case(
        _of("BartConfig", SEQ2SEQ), "BartModel", "BartForConditionalGeneration", BART_PATH, kind="seq2seq", left=False,
        **_ids,
    ),
    "marian": Case(
        _of("MarianConfig", SEQ2SEQ), "MarianModel", "MarianMTModel", BART_PATH, kind="seq2seq", left=False, **_ids
    ),
    "mbart": Case(
        _of("MBartConfig", SEQ2SEQ), "MBartModel", "MBartForConditionalGeneration", BART_PATH, kind="seq2seq",
        left=False, **_ids,
    ),
    "pegasus": Case(
        _of("PegasusConfig", SEQ2SEQ), "PegasusModel", "PegasusForConditionalGeneration", BART_PATH, kind="seq2seq",
        left=False, **_ids,
    ),
    "m2m_100": Case(
        _of("M2M100Config", SEQ2SEQ, encoder_layerdrop=0.0, decoder_layerdrop=0.0), "M2M100Model",
        "M2M100ForConditionalGeneration", BART_PATH, kind="seq2seq", **_ids,
    ),
    "t5": Case(
        _of("T5Config", {"vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3,
                         "num_decoder_layers": 1, "num_heads": 4, "relative_attention_num_buckets": 8,
                         "relative_attention_max_distance": 6,
                         "pad_token_id": 1, "eos_token_id": 3, "decoder_start_token_id": 1}),
        "T5Model", "T5ForConditionalGeneration", "encoder.block.{}.layer.0.SelfAttention", kind="seq2seq", layers=3,
        **_ids,
    ),
    "switch_transformers": Case(
        lambda: _without_experts(transformers.SwitchTransformersConfig(
            vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=4,
            pad_token_id=1, eos_token_id=3, decoder_start_token_id=1,
        )),
        "SwitchTransformersModel", "SwitchTransformersForConditionalGeneration",
        "encoder.block.{}.layer.0.SelfAttention", kind="seq2seq", **_ids,
    ),
    "mt5": Case(
        _of("MT5Config", {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2,
                          "num_decoder_layers": 1, "num_heads": 4, "pad_token_id": 1, "eos_token_id": 3,
                          "decoder_start_token_id": 1}),
        "MT5Model", "MT5ForConditionalGeneration", "encoder.block.{}.layer.0.SelfAttention", kind="seq2seq", **_ids,
    ),
    "wav2vec2": Case(_of("Wav2Vec2Config", SPEECH), "Wav2Vec2Model", "Wav2Vec2ForCTC", W2V_PATH, **_ctc),
    "hubert": Case(_of("HubertConfig", SPEECH), "HubertModel", "HubertForCTC", W2V_PATH, **_ctc),
    "wavlm": Case(_of("WavLMConfig", SPEECH, num_hidden_layers=3, num_buckets=8, max_bucket_distance=6), "WavLMModel",
                  "WavLMForCTC", W2V_PATH, layers=3, **_ctc),
    "data2vec-audio": Case(
        _of("Data2VecAudioConfig", SPEECH, conv_pos_kernel_size=5, num_conv_pos_embeddings=2), "Data2VecAudioModel",
        "Data2VecAudioForCTC", W2V_PATH, padding=False, **_ctc,
    ),
    "unispeech": Case(_of("UniSpeechConfig", SPEECH), "UniSpeechModel", "UniSpeechForCTC", W2V_PATH, **_ctc),
    "unispeech-sat": Case(
        _of("UniSpeechSatConfig", SPEECH), "UniSpeechSatModel", "UniSpeechSatForCTC", W2V_PATH, **_ctc
    ),
    "wav2vec2-bert": Case(
        _of("Wav2Vec2BertConfig", TEXT, feature_projection_input_dim=20, apply_spec_augment=False, layerdrop=0.0,
            conv_depthwise_kernel_size=3, left_max_position_embeddings=4, right_max_position_embeddings=2),
        "Wav2Vec2BertModel", "Wav2Vec2BertForCTC", BART_PATH, **{**_ctc, "inputs": filterbanks},
    ),
    "eurobert": Case(
        _of("EuroBertConfig", TEXT, num_key_value_heads=2, mask_token_id=4), "EuroBertModel",
        "EuroBertForSequenceClassification", "layers.{}.self_attn",
    ),
    "whisper": Case(
        _of("WhisperConfig", SEQ2SEQ, num_mel_bins=8, max_source_positions=20, max_target_positions=16,
            begin_suppress_tokens=None),
        "WhisperModel", "WhisperForConditionalGeneration", BART_PATH, inputs=spectrogram, left=False, padding=False,
        **_ids,
    ),
    "vit": Case(
        _of("ViTConfig", TEXT, image_size=12, patch_size=4), "ViTModel", "ViTForImageClassification",
        "layers.{}.attention", inputs=images, left=False, padding=False,
    ),
}  # fmt: skip
