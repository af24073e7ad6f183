"""A language model and its teacher: what is learnt, what it costs, what does not fit."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict

from seqdyconv.data.language_modeling import DataArguments, load_documents, make_tokenizer, tokenize
from seqdyconv.models.loading import ModelError
from seqdyconv.swap import swap_self_attention
from seqdyconv.swap.distillation import logits_loss
from seqdyconv.training.distilling import TeacherArguments
from seqdyconv.training.hybrid_language_models import costs_of, make_teacher, make_trainer
from seqdyconv.training.language_models import LanguageModelTrainingArguments, ModelArguments, build_model
from tests.helpers import randomize

SIZES = {"hidden_size": 8, "ffn_dim": 8, "attention_heads": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "train.txt"
    file.write_text("the cat sat\n\na dog ran off\n\nthe end of it")
    args = DataArguments(
        train_file=str(file), vocab_size=286, validation_fraction=0, block_size=6, join_documents=False
    )
    documents = load_documents(args)
    tokenizer = make_tokenizer(args, documents["train"], masks=True)
    return tokenizer, tokenize(DatasetDict(documents), tokenizer, args)


def model_arguments(objective: str = "causal", **options: object) -> ModelArguments:
    side = "decoder" if objective == "causal" else "encoder"
    layers = {f"{side}_layer_types": ["dynamic_conv", "self_attention"], f"{side}_kernel_sizes": [3, 1]}
    return ModelArguments(objective=objective, **(layers | SIZES | options))


def arguments(folder: Path, packing: bool = False, **options: object) -> LanguageModelTrainingArguments:
    settings = {"report_to": "none", "eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    settings |= {"use_cpu": True, "max_tokens": 20, "packing": packing}
    return LanguageModelTrainingArguments(str(folder), **settings, **options)


@pytest.mark.parametrize(("objective", "packing"), [("causal", True), ("masked", False)])
def test_a_hybrid_comes_nearer_to_the_model_that_it_was(texts, objective, packing, tmp_path):
    tokenizer, data = texts
    model_args, args = model_arguments(objective), arguments(tmp_path, packing, max_steps=20, learning_rate=1e-2)
    model = randomize(build_model(model_args, tokenizer, {}))
    teaching = TeacherArguments(matching_weight=100.0, matching_until=1.0, distil_logits_weight=100.0)
    teacher = make_teacher(model, tokenizer, data, teaching, model_args, args)
    before = copy.deepcopy(teacher.state_dict())
    swap_self_attention(model, kernel_size=3, weights="random")

    def distance() -> float:
        rows = torch.tensor(data["train"]["input_ids"][:2])
        with torch.no_grad():
            return logits_loss(model.eval()(rows).logits, teacher(rows).logits).item()

    at_first, rows = distance(), data["train"]
    trainer = make_trainer(model_args, tokenizer, teacher, teaching, model=model, args=args, train_dataset=rows)
    trainer.train()
    assert distance() < 0.7 * at_first and trainer.trained_items > 0
    found = costs_of(trainer, rows)
    assert found["loss"] != found["teacher_loss"] and trainer.model is model
    alone = make_trainer(model_args, tokenizer, None, teaching, model=teacher, args=args, train_dataset=rows)
    own = {f"teacher_{name}": value for name, value in costs_of(alone, rows).items()}
    assert own == pytest.approx({name: found[name] for name in own})
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("options", "teaching", "message"),
    [
        ({"decoder_layer_types": ["talk_conv"] * 3, "decoder_kernel_sizes": [3] * 3}, {}, "has other layers"),
        ({"hidden_size": 16}, {}, "equal hidden states, .* set matching_weight: 0"),
        ({"config_overrides": {"vocab_size": 300}}, {}, "has a vocabulary of 300 tokens, but the model of 286"),
        ({"position_type": "learned", "max_position_embeddings": 4}, {}, "the model has positions for 4"),
        ({"objective": "masked"}, {}, "can't load a language model"),
        ({"hidden_size": 16}, {"matching_weight": 0.0}, None),
    ],
    ids=["layers", "width", "vocabulary", "positions", "objective", "logits alone"],
)
def test_a_teacher_that_does_not_fit_is_one_line(texts, options, teaching, message, tmp_path):
    tokenizer, data = texts
    build_model(model_arguments(**options), tokenizer, {}).save_pretrained(tmp_path)
    settings = {"matching_weight": 1.0, "distil_logits_weight": 1.0, "teacher_name_or_path": str(tmp_path)}
    ours = model_arguments()
    given = (build_model(ours, tokenizer, {}), tokenizer, data, TeacherArguments(**(settings | teaching)), ours)
    if message is None:
        assert make_teacher(*given, arguments(tmp_path / "run")) is not None
    else:
        with pytest.raises(ModelError, match=message):
            make_teacher(*given, arguments(tmp_path / "run"))
