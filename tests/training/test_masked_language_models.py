"""Which tokens are masked, and what they cost."""

import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM

from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from seqdyconv.models.loading import ModelError
from seqdyconv.models.losses import IGNORED_LABEL
from seqdyconv.training.language_models import LanguageModelTrainingArguments
from seqdyconv.training.masked_language_models import (
    EncoderRows,
    MaskedLanguageModelTrainer,
    TokenMasks,
    cost_of_masked_rows,
    masked_cost,
)


@pytest.fixture(scope="module")
def tokenizer():
    made = train_sentencepiece_tokenizer(["one two three four five"] * 3, 285, "bpe")
    made.add_special_tokens({"mask_token": "<mask>"})
    return made


def test_shares_of_what_is_chosen(tokenizer):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, len(tokenizer) - 1, (20, 500))
    tokens[:, ::10] = tokenizer.eos_token_id
    labels = tokens.clone()
    labels[:, :100] = IGNORED_LABEL
    inputs, chosen = TokenMasks(tokenizer, 0.2).draw(tokens, labels, generator)
    picked = chosen != IGNORED_LABEL
    assert torch.equal(chosen[picked], tokens[picked]) and torch.equal(inputs[~picked], tokens[~picked])
    assert not picked[:, :100].any() and not picked[:, ::10].any()  # nothing that does not count, nothing special
    assert picked.sum() / (20 * 360) == pytest.approx(0.2, abs=0.02)
    masked = inputs[picked] == tokenizer.mask_token_id
    kept = inputs[picked] == tokens[picked]
    assert masked.float().mean() == pytest.approx(0.8, abs=0.03)
    assert kept.float().mean() == pytest.approx(0.1, abs=0.03)


def test_rows_are_masked_in_the_same_way_each_time_and_alone(tokenizer):
    ids = [list(range(10, 60)), list(range(20, 45)), list(range(10, 60))]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    masks = TokenMasks(tokenizer, 0.3)
    first, again = masks.rows(rows)[:], masks.rows(rows)[:]
    assert first == again and first["input_ids"][0] != first["input_ids"][2]
    assert masks.rows(rows.select([0]))[0] == {name: values[0] for name, values in first.items()}
    assert all(labels[0] == IGNORED_LABEL for labels in first["labels"])


def test_too_short_a_text_to_mask_anything_is_refused_before_the_training(tokenizer, tmp_path):
    rows, masks = Dataset.from_dict({"input_ids": [[2, 7]], "labels": [[2, 7]]}), TokenMasks(tokenizer, 0.01)
    with pytest.raises(ModelError, match="of 2 tokens none is drawn"):
        cost_of_masked_rows(None, rows, masks, batch_size=1)
    model = BertForMaskedLM(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ModelError, match="of 2 tokens none is drawn"):
        MaskedLanguageModelTrainer(
            model=model, args=LanguageModelTrainingArguments(str(tmp_path)), masks=masks, eval_dataset=rows
        )


def test_the_cost_is_that_of_the_masked_tokens_alone(tokenizer):
    def model(input_ids, attention_mask):
        """Token 5 with probability ½ everywhere, what stands there with ¼, the others share the rest."""
        scores = torch.full((*input_ids.shape, len(tokenizer)), 0.25 / (len(tokenizer) - 2))
        scores[..., 5] = 0.5
        return SimpleNamespace(logits=scores.scatter(2, input_ids[..., None], 0.25).log())

    batch = EncoderRows(packing=False)(
        [{"input_ids": [2, 7, 8, 9], "labels": [2, -100, 5, -100]}, {"input_ids": [2, 6], "labels": [2, 6]}]
    )
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    nats, right, number = masked_cost(model, batch)  # 5 for 8, and 6, which stands there
    assert (nats, right, number) == (pytest.approx(math.log(2) + math.log(4)), 1, 2)

    rows = Dataset.from_dict({"input_ids": [[2, *range(10, 30)]] * 5, "labels": [[2, *range(10, 30)]] * 5})
    model.device = torch.device("cpu")
    seen = []
    found = [cost_of_masked_rows(model, rows, TokenMasks(tokenizer, 0.5), size, seen.append) for size in (2, 5)]
    assert found[0] == pytest.approx(found[1]) and seen == [2, 2, 1, 5]
    assert found[0]["perplexity"] == pytest.approx(math.exp(found[0]["loss"]))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_loss_of_a_step_is_the_mean_over_its_masked_tokens_of_a_model_of_transformers_too(
    tokenizer, accumulated, tmp_path
):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).eval()
    rows = [{"input_ids": ids, "labels": list(ids)} for ids in ([2, *range(10, 30)], [2, 7, 8, 9, 5])]
    collate = EncoderRows(packing=False)
    settings = {"report_to": "none", "save_strategy": "no", "eval_strategy": "no", "use_cpu": True}
    args = LanguageModelTrainingArguments(str(tmp_path), gradient_accumulation_steps=accumulated, **settings)
    trainer = MaskedLanguageModelTrainer(
        model=model, args=args, masks=TokenMasks(tokenizer, 0.3), train_dataset=Dataset.from_list(rows)
    )
    batches = [collate([row]) for row in rows] if accumulated == 2 else [collate(rows)]
    batches, number = trainer.get_batch_samples(iter(batches), accumulated, torch.device("cpu"))
    loss = sum(trainer.compute_loss(model, dict(batch), num_items_in_batch=number) for batch in batches)
    nats, _, tokens = (sum(found) for found in zip(*(masked_cost(model, batch) for batch in batches)))
    assert loss.item() == pytest.approx(nats / tokens) and number == tokens
