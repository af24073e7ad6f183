"""The greedy choice of the layers to swap."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

from seqdyconv.swap import choose_layers, swapped_attention

HARM = {0: 0.30, 1: 0.02, 2: 0.10, 3: 0.01}


@pytest.fixture
def model() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    return BertModel(config).eval()


def quality(model: BertModel) -> float:
    return 1.0 - sum(HARM[number] for number in swapped_attention(model))


def test_the_least_harmful_layers_go_first_until_too_much_is_lost(model):
    before = copy.deepcopy(model.state_dict())
    selection = choose_layers(model, quality, max_loss=0.15, kernel_size=3)
    assert selection.layers == [3, 1, 2]
    assert selection.qualities == pytest.approx([1.0, 0.99, 0.97, 0.87])
    assert selection.rejected == (0, pytest.approx(0.57))
    assert not swapped_attention(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_all_layers_may_go(model):
    selection = choose_layers(model, quality, max_loss=1.0, kernel_size=3)
    assert selection.layers == [3, 1, 2, 0]
    assert selection.rejected is None


def test_only_the_candidates_are_tried(model):
    tried = []

    def recording(candidate: BertModel) -> float:
        tried.append(set(swapped_attention(candidate)))
        return quality(candidate)

    assert choose_layers(model, recording, max_loss=1.0, layers="0,2", kernel_size=3).layers == [2, 0]
    assert tried == [set(), {0}, {2}, {0, 2}]


def test_the_copy_is_trained_after_each_swap(model):
    adapted = []
    choose_layers(
        model,
        quality,
        max_loss=0.05,
        kernel_size=3,
        adapt=lambda trial: adapted.append(sorted(swapped_attention(trial))),
    )
    assert adapted == [[3], [1, 3], [1, 2, 3]]


def test_kernels_start_from_the_attention_of_the_layers_that_are_left(model):
    batches = [{"input_ids": torch.tensor([[3, 4, 5, 6]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}]
    assert choose_layers(model, quality, max_loss=0.05, kernel_size=3, calibration=batches).layers == [3, 1]


def test_progress_is_told(model):
    lines = []
    choose_layers(model, quality, max_loss=0.02, kernel_size=3, progress=lines.append)
    assert lines == ["swapped layer 3: quality 0.9900, -0.0100 in all"]


def test_a_negative_loss_raises(model):
    with pytest.raises(ValueError, match=r"max_loss must be >= 0, got -0\.1"):
        choose_layers(model, quality, max_loss=-0.1)
