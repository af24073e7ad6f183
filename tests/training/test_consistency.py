"""The consistency losses against slow renderings of their definitions: values and gradients."""

import math

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
from seqdyconv.models.loading import ModelError
from seqdyconv.models.losses import ctc_smoothing_loss
from seqdyconv.training.consistency import cr_ctc_loss, rdrop_loss, simcut_loss, token_cutoff, token_embeddings

LABELS = torch.tensor([[1, 2, -100], [3, -100, -100]])
LENGTHS = torch.tensor([2, 1])
REAL = [(0, 0), (0, 1), (1, 0)]


def kl(p, q):
    """KL(p ‖ q) of two lists of logits, term by term."""
    p_sum, q_sum = sum(math.e**x for x in p), sum(math.e**x for x in q)
    terms = [(math.e**x / p_sum) * ((x - torch.log(p_sum)) - (y - torch.log(q_sum))) for x, y in zip(p, q)]
    return sum(terms)


def slow_rdrop(one, other):
    return sum((kl(one[b, t], other[b, t]) + kl(other[b, t], one[b, t])) / 2 for b, t in REAL)


def slow_simcut(one, other):
    return sum(kl(one[b, t], other[b, t]) for b, t in REAL)


def slow_cr_ctc(one, other):
    fixed, other_fixed = one.detach(), other.detach()
    return sum((kl(other_fixed[b, t], one[b, t]) + kl(fixed[b, t], other[b, t])) / 2 for b, t in REAL)


def slow_smoothing(one, other):
    return sum(kl(one[b, t], torch.zeros_like(one[b, t])) for b, t in REAL) + 0 * other.sum()


LOSSES = {
    "R-Drop": (lambda one, other: rdrop_loss(one, other, LABELS), slow_rdrop),
    "SimCut": (lambda one, other: simcut_loss(one, other, LABELS), slow_simcut),
    "CR-CTC": (lambda one, other: cr_ctc_loss(one, other, LENGTHS), slow_cr_ctc),
    "CTC's smoothing": (lambda one, other: ctc_smoothing_loss(one, LENGTHS) + 0 * other.sum(), slow_smoothing),
}
every_loss = pytest.mark.parametrize("loss, slow", LOSSES.values(), ids=LOSSES.keys())


def two_logits(dtype=torch.float32):
    torch.manual_seed(0)
    return [(2 * torch.randn(2, 3, 5)).to(dtype).requires_grad_() for _ in range(2)]


@every_loss
def test_values_and_gradients_are_those_of_the_definition(loss, slow):
    one, other = two_logits()
    expected = slow(one, other)
    expected_gradients = torch.autograd.grad(expected, (one, other))
    found = loss(one, other)
    assert found.dim() == 0 and found > 0
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (one, other)), expected_gradients)
    assert all((gradient[1, 1:] == 0).all() and (gradient[0, 2:] == 0).all() for gradient in expected_gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_loss
def test_half_precision_is_computed_in_float32(loss, slow, dtype):
    one, other = two_logits(dtype)
    found = loss(one, other)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(one.float(), other.float()))
    found.backward()
    assert one.grad.isfinite().all()


@every_loss
def test_what_is_hidden_as_padding_has_no_part_whatever_it_is(loss, slow):
    one, other = two_logits()
    spoilt = one.detach().clone()
    spoilt[0, 2], spoilt[1, 1:] = float("nan"), float("inf")
    torch.testing.assert_close(loss(spoilt, other), loss(one, other))


def test_equal_predictions_cost_nothing_and_nothing_real_is_zero():
    one, _ = two_logits()
    assert all(loss(one, one) == 0 for loss in (LOSSES[name][0] for name in ("R-Drop", "SimCut", "CR-CTC")))
    nothing = torch.full_like(LABELS, -100)
    empty = [simcut_loss(one, -one, nothing), rdrop_loss(one, -one, nothing), cr_ctc_loss(one, -one, 0 * LENGTHS)]
    for loss in (*empty, ctc_smoothing_loss(one, 0 * LENGTHS), ctc_smoothing_loss(torch.zeros(2, 3, 5), LENGTHS)):
        assert abs(loss) < 1e-6
    sum(empty).backward()  # there is a gradient, of zero
    assert (one.grad == 0).all()


SIZES = {"vocab_size": 12, "pad_token_id": 1, "decoder_start_token_id": 2}
STACKS = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 1), ("ffn_dim", 8))}
STACKS |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
OURS = {"hidden_size": 8, "encoder_kernel_sizes": [3], "decoder_kernel_sizes": [3], **SIZES, **STACKS}
TWO_TABLES = {"encoder_vocab_size": 12, "share_encoder_decoder_embeddings": False}
MODELS = {
    "ours": lambda: SeqDyConvForConditionalGeneration(SeqDyConvConfig(**OURS)),
    "two tables": lambda: SeqDyConvForConditionalGeneration(SeqDyConvConfig(**OURS, **TWO_TABLES)),
    "BART": lambda: BartForConditionalGeneration(BartConfig(**SIZES, **STACKS, d_model=8)),
    "T5": lambda: T5ForConditionalGeneration(T5Config(**SIZES, d_model=8, num_layers=1, d_kv=4, d_ff=8, num_heads=2)),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request):
    torch.manual_seed(0)
    return request.param()


class TestTokenCutoff:
    source = torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1]])
    target = torch.tensor([[2, 9, 10, 11]] * 2)
    kept = torch.tensor([0, 1, 2])

    def logits(self, model, source=None, target=None):
        source = self.source if source is None else source
        mask = (self.source != 1).long()
        return model.eval()(source, mask, decoder_input_ids=self.target if target is None else target).logits

    def test_all_tokens_but_those_of_control_are_hidden_on_both_sides(self, model):
        plain = self.logits(model)
        with token_cutoff(token_embeddings(model), 1.0, self.kept):
            cut = self.logits(model)
            # What they are has no part any more, while there are as many.
            other_source = torch.where(self.source > 2, 3, self.source)
            torch.testing.assert_close(self.logits(model, other_source), cut)
            torch.testing.assert_close(self.logits(model, target=torch.tensor([[2, 3, 4, 5]] * 2)), cut)
        assert not torch.allclose(cut, plain)
        torch.testing.assert_close(self.logits(model), plain)  # and it is over

    def test_no_token_and_only_control_tokens_are_as_ever(self, model):
        plain = self.logits(model)
        for probability, kept in ((0.0, self.kept), (1.0, torch.arange(12))):
            with token_cutoff(token_embeddings(model), probability, kept):
                torch.testing.assert_close(self.logits(model), plain)

    def test_each_token_is_hidden_as_often_as_it_should_and_as_the_seed_says(self, model):
        module = token_embeddings(model)[0]
        tokens = torch.full((4, 1000), 5)
        with token_cutoff([module], 0.05, self.kept):
            first = [(torch.manual_seed(seed), module(tokens))[1] for seed in (0, 0, 1)]
        assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
        hidden = (first[0] == 0).all(-1)
        assert 0.03 < hidden.float().mean() < 0.07
        assert torch.equal(first[0][~hidden][0], module(tokens)[0, 0])


def test_a_model_that_does_not_tell_its_embeddings_is_refused():
    with pytest.raises(ModelError, match="simcut_alpha needs a model that tells its token embeddings, Linear does not"):
        token_embeddings(torch.nn.Linear(1, 1))
