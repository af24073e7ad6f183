"""Packed training batches: the same texts, losses and gradients as padded ones, without the padding."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    set_seed,
)

from seqdyconv.data.packing import PackingCollator
from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForSequenceClassification,
)
from seqdyconv.models.loading import ModelError, check_packing
from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches
from seqdyconv.training.trainer import TokenBatchTrainer, TokenBatchTrainingArguments
from tests.training.test_trainer import VOCABULARY, make_tokenizer

SIZES = {"hidden_size": 16, "encoder_kernel_sizes": [3, 7], "encoder_attention_heads": 4, "encoder_ffn_dim": 16}
SIZES |= {"decoder_kernel_sizes": [3, 7], "decoder_attention_heads": 4, "decoder_ffn_dim": 16}
SIZES |= {"vocab_size": len(VOCABULARY), "dropout": 0.0, "max_position_embeddings": 64}
COMMON = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
COMMON |= {"learning_rate": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": 0, "optim": "sgd"}


def sequences(number, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (number,), generator=generator)
    return [[*torch.randint(4, len(VOCABULARY), (length,), generator=generator).tolist(), 2] for length in lengths]


def translation_trainer(folder, number=40, **options):
    set_seed(0)
    model = SeqDyConvForConditionalGeneration(SeqDyConvConfig(**SIZES, **options.pop("model", {})))
    tokenizer = make_tokenizer()
    dataset = Dataset.from_dict({"input_ids": sequences(number, 0), "labels": sequences(number, 1)})
    return TokenBatchTrainer(
        model=model,
        args=TokenBatchTrainingArguments(str(folder), **{**COMMON, "max_steps": 3, "max_tokens": 50, **options}),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )


def classification_trainer(folder, number=40, model=None, **options):
    set_seed(0)
    config = SeqDyConvConfig(**SIZES, is_encoder_decoder=False, num_labels=3, type_vocab_size=2)
    texts = sequences(number, 0)
    types = [[index % 2 for index in range(len(text))] for text in texts]
    dataset = Dataset.from_dict({"input_ids": texts, "token_type_ids": types, "labels": [n % 3 for n in range(number)]})
    return TokenBatches(
        model=model or SeqDyConvForSequenceClassification(config),
        args=TokenBatchArguments(str(folder), **{**COMMON, "max_steps": 3, "max_tokens": 50, **options}),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=DataCollatorWithPadding(make_tokenizer()),
    )


TRAINERS = {"translation": translation_trainer, "classification": classification_trainer}
every_task = pytest.mark.parametrize("build", TRAINERS.values(), ids=TRAINERS.keys())


def trained(build, folder, **options):
    """Losses of the steps and weights at the end."""
    trainer = build(folder, **options)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    return torch.tensor(losses), weights, int(trainer.trained_items)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (classification_trainer, {}),
        (classification_trainer, {"gradient_accumulation_steps": 3}),
        (translation_trainer, {}),
        (translation_trainer, {"gradient_accumulation_steps": 3}),
        (translation_trainer, {"label_smoothing_factor": 0.0}),
        (translation_trainer, {"model": {"encoder_layer_types": "self_attention", "decoder_layer_types": "parallel"}}),
        (translation_trainer, {"rdrop_alpha": 1.0}),
        (translation_trainer, {"simcut_alpha": 1.0, "simcut_p": 1.0}),
    ],
    ids=[
        "classes",
        "classes, three batches a step",
        "pairs",
        "pairs, three batches a step",
        "no label smoothing",
        "attention",
        "R-Drop",
        "SimCut",
    ],
)
def test_losses_and_steps_are_those_of_padded_batches(build, options, tmp_path):
    padded, packed = (trained(build, tmp_path, packing=packing, **options) for packing in (False, True))
    for one, other in zip(packed[:2], padded[:2]):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    assert packed[2] == padded[2] > 0


@every_task
def test_bfloat16_trains(build, tmp_path):
    padded, packed = (trained(build, tmp_path, packing=packing, bf16=True)[0] for packing in (False, True))
    torch.testing.assert_close(packed, padded, rtol=0.02, atol=0.02)


@every_task
def test_batches_are_rows_of_the_same_texts(build, tmp_path):
    padded, packed = (list(build(tmp_path, packing=packing).get_train_dataloader()) for packing in (False, True))
    assert len(padded) == len(packed)
    for rows, row in zip(padded, packed):
        assert row["input_ids"].shape == (1, row["cu_seqlens"][-1])
        assert row["input_ids"][0].tolist() == rows["input_ids"][rows["attention_mask"] == 1].tolist()
        assert row["cu_seqlens"].diff().tolist() == rows["attention_mask"].sum(1).tolist()
        assert "attention_mask" not in row


@every_task
def test_mixed_batches_bound_the_tokens_of_their_rows(build, tmp_path):
    trainer = build(tmp_path, packing=True, mix_lengths=True)
    batches = list(trainer.get_train_dataloader())
    assert sum(len(batch["cu_seqlens"]) - 1 for batch in batches) == 40
    assert all(batch["input_ids"].shape[1] <= 50 for batch in batches)
    assert all("labels" not in batch or batch["labels"].numel() <= 50 for batch in batches)
    lengths = [batch["cu_seqlens"].diff() for batch in batches]
    assert all(length.max() - length.min() >= 4 for length in lengths)
    trainer.train()


def test_evaluation_stays_padded(tmp_path):
    padded, packed = (translation_trainer(tmp_path, packing=packing) for packing in (False, True))
    assert "attention_mask" in next(packed.own_batches(packed.eval_dataset))[1]
    assert packed.evaluate()["eval_loss"] == padded.evaluate()["eval_loss"]


class TestCollator:
    def test_of_classes(self):
        examples = [{"input_ids": [5, 6, 2], "labels": 1}, {"input_ids": [7, 2], "labels": 0}]
        batch = PackingCollator(None)(examples)
        assert {name: tensor.tolist() for name, tensor in batch.items()} == {
            "input_ids": [[5, 6, 2, 7, 2]],
            "cu_seqlens": [0, 3, 5],
            "labels": [1, 0],
        }

    def test_of_pairs(self, tmp_path):
        model = translation_trainer(tmp_path).model
        examples = [{"input_ids": [5, 6, 2], "labels": [8, 2]}, {"input_ids": [7, 2], "labels": [9, 10, 2]}]
        batch = PackingCollator(model)(examples)
        assert {name: tensor.tolist() for name, tensor in batch.items()} == {
            "input_ids": [[5, 6, 2, 7, 2]],
            "cu_seqlens": [0, 3, 5],
            "labels": [[8, 2, 9, 10, 2]],
            "decoder_cu_seqlens": [0, 2, 5],
            "decoder_input_ids": [[2, 8, 2, 9, 10]],
        }


def test_other_models_are_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    bert = BertForSequenceClassification(BertConfig(vocab_size=20, **sizes))
    with pytest.raises(ModelError, match="packing needs a model of seqdyconv, got BertForSequenceClassification"):
        check_packing(bert)
    with pytest.raises(ModelError, match="packing needs a model of seqdyconv"):
        classification_trainer(tmp_path, model=bert, packing=True)
