"""A swapped model learns from the original one."""

import copy
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from seqdyconv.models import SeqDyConvForCausalLM, SeqDyConvForMaskedLM
from seqdyconv.swap import DistillationTrainer, swap_self_attention, swapped_attention
from seqdyconv.swap.distillation import hidden_state_loss, logits_loss
from tests.helpers import assert_close, randomize
from tests.models.test_modeling import pad, sentences
from tests.models.test_packing import pack
from tests.swap.zoo import CASES, Case


@pytest.fixture
def teacher() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def student(teacher: BertForSequenceClassification) -> BertForSequenceClassification:
    torch.manual_seed(1)
    return swap_self_attention(copy.deepcopy(teacher), kernel_size=5)


def rows(number: int, labelled: bool) -> list[dict[str, Any]]:
    tokens = torch.randint(1, 40, (number, 8), generator=torch.Generator().manual_seed(2))
    return [
        {"input_ids": row, "attention_mask": torch.ones(8, dtype=torch.long), **({"labels": 1} if labelled else {})}
        for row in tokens
    ]


def trainer(student, teacher, tmp_path, data, steps=20, arguments=None, **options) -> DistillationTrainer:
    args = TrainingArguments(
        tmp_path,
        max_steps=steps,
        per_device_train_batch_size=8,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        **{"learning_rate": 3e-3, **(arguments or {})},
    )
    return DistillationTrainer(student, args, train_dataset=data, eval_dataset=data, teacher=teacher, **options)


def stacked(data: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([torch.as_tensor(row[name]) for row in data]) for name in data[0]}


def test_equal_hidden_states_have_no_loss_and_padding_does_not_count():
    states = tuple(torch.randn(2, 5, 3) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    other = tuple(state + torch.nn.functional.one_hot(mask, 2)[..., :1] for state in states)  # differs where padded
    assert hidden_state_loss(states, states) == 0
    assert hidden_state_loss(other, states, mask) == 0
    assert hidden_state_loss(other, states) > 0


def test_the_loss_is_relative_and_averaged_over_the_layers():
    teacher = (torch.ones(1, 4, 2), torch.full((1, 4, 2), 2.0), torch.full((1, 4, 2), 100.0))
    student = (torch.zeros(1, 4, 2), torch.full((1, 4, 2), 1.0), torch.full((1, 4, 2), 50.0))
    assert hidden_state_loss(student, teacher).item() == pytest.approx(0.25)


def test_models_of_other_sizes_raise():
    states = tuple(torch.randn(2, 5, 3) for _ in range(3))
    with pytest.raises(ValueError, match="must have equal hidden states, got 2"):
        hidden_state_loss(states[:2], states)


def test_matching_on_unlabelled_data_brings_the_student_to_the_teacher(student, teacher, tmp_path):
    data = rows(8, labelled=False)
    matching = trainer(student, teacher, tmp_path, data, steps=40)
    before = matching.evaluate()["eval_loss"]
    matching.train()
    assert matching.evaluate()["eval_loss"] < 0.5 * before


def test_the_teacher_is_not_changed(student, teacher, tmp_path):
    before = copy.deepcopy(teacher.state_dict())
    trainer(student, teacher, tmp_path, rows(8, labelled=True), steps=3).train()
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not teacher.training


def test_with_labels_the_terms_add_up(student, teacher, tmp_path):
    data = rows(4, labelled=True)
    batch = stacked(data)
    distilling = trainer(student, teacher, tmp_path, data, matching_weight=2.0, logits_weight=0.5, temperature=3.0)
    distilling.state.max_steps = 1
    student.train()
    loss = distilling.compute_loss(student, dict(batch))
    ours, theirs = (model(**batch, output_hidden_states=True) for model in (student, teacher))
    matching = hidden_state_loss(ours.hidden_states, theirs.hidden_states)
    target = (theirs.logits / 3).softmax(-1)
    divergence = (target * (target.log() - (ours.logits / 3).log_softmax(-1))).sum(-1).mean() * 9
    torch.testing.assert_close(loss, ours.loss + 2 * matching + 0.5 * divergence)


def test_the_matching_term_is_dropped_after_its_part_of_the_steps(student, teacher, tmp_path):
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    trainer(student, teacher, tmp_path, rows(8, labelled=True), steps=10, matching_until=0.4).train()
    assert len(calls) == 4


def test_evaluation_with_labels_is_the_task_loss(student, teacher, tmp_path):
    data = rows(8, labelled=True)
    found = trainer(student, teacher, tmp_path, data, matching_weight=5.0).evaluate()["eval_loss"]
    assert found == pytest.approx(student(**stacked(data)).loss.item(), rel=1e-5)


def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(student, teacher, tmp_path):
    data = rows(8, labelled=False)
    updated = []
    for size, accumulation in ((8, 1), (2, 4)):
        model = copy.deepcopy(student)
        arguments = {"gradient_accumulation_steps": accumulation, "max_grad_norm": 0.0, "optim": "sgd"}
        run = trainer(model, teacher, tmp_path, data, steps=1, arguments=arguments)
        run.args.per_device_train_batch_size = size
        run._train_batch_size = size
        run.train()
        updated.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    start = torch.cat([parameter.flatten() for parameter in student.parameters()])
    # The loss of a batch is a ratio of sums, so parts of it agree with the whole only roughly.
    steps = [(after - start).norm() for after in updated]
    assert steps[1].item() == pytest.approx(steps[0].item(), rel=0.2)


class TestDropout:
    """``dropout=False``: a student is trained as it is used, and where layers compute again they still do."""

    @pytest.fixture
    def student(self, student: BertForSequenceClassification) -> BertForSequenceClassification:
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        return student.train()

    @pytest.mark.parametrize("labelled", [False, True])
    def test_off_the_loss_is_that_of_eval_mode(self, student, teacher, tmp_path, labelled):
        run = trainer(student, teacher, tmp_path, rows(4, labelled), dropout=False, logits_weight=1.0)
        run.state.max_steps = 1
        batch = stacked(rows(4, labelled))
        found = run.compute_loss(student, batch).item()
        again = run.compute_loss(student.train(), batch).item()
        run.dropout = True
        assert found == again != run.compute_loss(student.train(), batch).item()

    def test_off_layers_still_compute_again(self, student, teacher, tmp_path):
        arguments = {"activation_checkpointing": True}
        run = trainer(student, teacher, tmp_path, rows(8, False), steps=2, arguments=arguments, dropout=False)
        calls = []
        student.bert.encoder.layer[0].intermediate.register_forward_hook(lambda *_: calls.append(student.training))
        run.train()
        assert len(calls) == 2 * 2, "once in the forward pass of a step, once in its backward pass"


@pytest.mark.parametrize("bf16", [False, True])
def test_the_teacher_computes_in_the_precision_of_the_training(student, teacher, tmp_path, bf16):
    kinds = set()
    teacher.bert.encoder.layer[0].intermediate.dense.register_forward_hook(lambda *call: kinds.add(call[-1].dtype))
    trainer(student, teacher, tmp_path, rows(8, labelled=False), steps=1, arguments={"bf16": bf16}).train()
    assert kinds == {torch.bfloat16 if bf16 else torch.float32}


def test_the_mixers_can_be_trained_alone(student, teacher, tmp_path):
    before = copy.deepcopy(student.state_dict())
    trainer(student, teacher, tmp_path, rows(8, labelled=False), steps=2, mixers_only=True).train()
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".mixer." in name for name in changed)


@pytest.mark.parametrize("option", [{"mixers_only": True}, {"mixer_learning_rate": 0.1}], ids=" ".join)
def test_mixers_by_themselves_need_a_swapped_model(teacher, tmp_path, option):
    assert not swapped_attention(teacher)
    with pytest.raises(ValueError, match="no swapped layers"):
        trainer(copy.deepcopy(teacher), teacher, tmp_path, rows(2, labelled=False), **option)


@pytest.mark.parametrize(("rate", "mixer_rate"), [(0.0, 1e-2), (1e-2, 0.0)])
def test_the_mixers_have_their_own_learning_rate(student, teacher, tmp_path, rate, mixer_rate):
    before = copy.deepcopy(student.state_dict())
    arguments = {"learning_rate": rate, "weight_decay": 0.1}
    run = trainer(student, teacher, tmp_path, rows(8, False), 2, arguments, mixer_learning_rate=mixer_rate)
    run.train()
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert {".mixer." in name for name in changed} == {mixer_rate > 0}
    plain = trainer(copy.deepcopy(student), teacher, tmp_path, rows(8, False), 2, arguments).create_optimizer()
    assert sum(len(group["params"]) for group in run.optimizer.param_groups) == sum(
        len(group["params"]) for group in plain.param_groups
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"matching_weight": -1.0}, "matching_weight must be >= 0, got -1"),
        ({"mixer_learning_rate": -1.0}, "mixer_learning_rate must be >= 0, got -1"),
        ({"mixer_learning_rate": 0.1, "mixers_only": True}, "mixers_only trains nothing else"),
        ({"matching_until": 1.5}, r"in \[0, 1\], got 1.5"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0"),
    ],
)
def test_bad_options_raise(student, teacher, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trainer(student, teacher, tmp_path, rows(2, labelled=False), **options)


class TestTokens:
    """Of models that predict tokens those count that are predicted, in nats for each, however they are batched."""

    LENGTHS = (9, 5)

    def models(self, kind: type) -> tuple[Any, Any]:
        sizes = {"vocab_size": 50, "hidden_size": 16, "dropout": 0.0}
        for side in ("encoder", "decoder"):
            sizes |= {f"{side}_attention_heads": 4, f"{side}_kernel_sizes": [3, 1], f"{side}_ffn_dim": 16}
            sizes[f"{side}_layer_types"] = ["dynamic_conv", "self_attention"]
        config = kind.config_class(**sizes, is_encoder_decoder=False)
        return randomize(kind(config), seed=1), randomize(kind(config), seed=2)

    def batches(self, texts: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        (left, mask), (right, right_mask) = pad(texts, "left", filler=7), pad(texts, filler=7)
        of_left, of_right = pad(labels, "left", filler=-100)[0], pad(labels, filler=-100)[0]
        return {
            "left": {"input_ids": left, "attention_mask": mask, "labels": of_left},
            "right": {"input_ids": right, "attention_mask": right_mask, "labels": of_right},
            "without a mask": {"input_ids": right, "labels": of_right},
            "packed": {**pack(texts), "labels": torch.cat(labels)[None]},
        }

    @pytest.mark.parametrize("kind", [SeqDyConvForCausalLM, SeqDyConvForMaskedLM], ids=["causal", "masked"])
    def test_the_terms_are_those_by_hand(self, kind, tmp_path):
        student, teacher = self.models(kind)
        texts = sentences(*self.LENGTHS)
        causal = kind is SeqDyConvForCausalLM
        labels = [text.where(torch.arange(len(text)) % 3 != 1, -100) for text in texts]
        labels[1][-1] = texts[1][-1]
        divergence, number, distances, squares = 0.0, 0, torch.zeros(2), torch.zeros(2)
        for text, of_text in zip(texts, labels):
            ours, theirs = (model(text[None], output_hidden_states=True) for model in (student, teacher))
            counts = (of_text != -100).roll(-1) if causal else of_text != -100
            counts[-1] &= not causal
            p, q = (one.logits[0].log_softmax(-1) for one in (theirs, ours))
            divergence += (p.exp() * (p - q)).sum(-1)[counts].sum()
            number += int(counts.sum())
            pairs = [*zip(ours.hidden_states[1:], theirs.hidden_states[1:])]
            distances += torch.stack([(one - other).square().sum() for one, other in pairs])
            squares += torch.stack([other.square().sum() for _, other in pairs])
        for name, batch in self.batches(texts, labels).items():
            if name == "without a mask" and not causal:
                continue
            task = student(**batch).loss
            for options, expected in (
                ({"matching_weight": 0.0, "logits_weight": 1.0}, divergence / number),
                ({"matching_weight": 1.0}, (distances / squares).mean()),
            ):
                distilling = trainer(student, teacher, tmp_path, [], **options)
                distilling.state.max_steps = 1
                student.train()
                assert_close(distilling.compute_loss(student, dict(batch)) - task, expected, 1e-5, name)
                student.eval()

    def test_smoothed_labels_count_the_same_tokens(self, tmp_path):
        student, teacher = self.models(SeqDyConvForMaskedLM)
        ids = sentences(6)[0][None]
        batch = {"input_ids": ids, "labels": ids.where(torch.arange(6) < 3, -100)}
        counted = batch["labels"] != -100
        distilling = trainer(
            student,
            teacher,
            tmp_path,
            [],
            arguments={"label_smoothing_factor": 0.1},
            matching_weight=0.0,
            logits_weight=1.0,
        )
        distilling.state.max_steps = 1
        student.train()
        with_it = distilling.compute_loss(student, dict(batch))
        distilling.logits_weight = 0.0
        expected = logits_loss(student(input_ids=ids).logits, teacher(input_ids=ids).logits, counted)
        assert_close(with_it - distilling.compute_loss(student, dict(batch)), expected, 1e-5)

    def test_where_nothing_counts_there_is_nothing_to_match(self):
        assert logits_loss(torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.bool)) == 0


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # of WavLM
class TestEveryFamily:
    """Whatever its decoder needs, a family learns from text or sound alone, and from labels."""

    @staticmethod
    def loss(case: Case, tmp_path, batch: dict[str, torch.Tensor], head: bool = True, **options: Any) -> torch.Tensor:
        teacher = case.model(head=head)
        student = swap_self_attention(copy.deepcopy(teacher), kernel_size=5)
        matching = trainer(student, teacher, tmp_path, [], **options)
        loss = matching.compute_loss(student.train(), batch)
        loss.backward()
        mixers = [mixer for module in swapped_attention(student).values() for mixer in module.mixer.parameters()]
        assert loss.isfinite() and any(mixer.grad is not None and mixer.grad.abs().sum() > 0 for mixer in mixers)
        return loss.detach()

    @pytest.mark.parametrize("name", CASES)
    def test_without_labels(self, name: str, tmp_path) -> None:
        case = CASES[name]
        source = {name: value for name, value in case.batch().items() if name != "decoder_input_ids"}
        self.loss(case, tmp_path, source, head=False)
        self.loss(case, tmp_path, source, logits_weight=1.0)
        self.loss(case, tmp_path, case.batch(), logits_weight=1.0)

    @pytest.mark.parametrize("name", CASES)
    def test_with_labels(self, name: str, tmp_path) -> None:
        case = CASES[name]
        source = {name: value for name, value in case.batch().items() if name != "decoder_input_ids"}
        labels = case.labels(case.config())
        self.loss(case, tmp_path, {**source, "labels": labels}, logits_weight=1.0)
        if "decoder_input_ids" in case.batch():
            padded = {**source, "labels": labels.index_fill(1, torch.tensor([2]), -100)}
            self.loss(case, tmp_path, padded, logits_weight=1.0)

    @pytest.mark.parametrize("name", ["t5", "bart", "m2m_100", "whisper"])
    def test_the_decoder_input_of_labels_is_that_of_the_model(self, name: str, tmp_path) -> None:
        model, labels = CASES[name].model(head=True), torch.tensor([[5, 6, 7], [8, 9, -100]])
        source = {name: value for name, value in CASES[name].batch().items() if name != "decoder_input_ids"}
        given = trainer(model, CASES[name].model(head=True), tmp_path, []).decoder_inputs({**source, "labels": labels})
        expected = model(**source, labels=labels).logits
        assert torch.allclose(model(**source, **given).logits, expected, atol=1e-5)
