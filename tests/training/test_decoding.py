"""The search of our own finds what ``generate()`` finds, and steps aside where something else is asked for."""

import random

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from seqdyconv.layers import MIXERS
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
from seqdyconv.models.beams import has_beam_search
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training import decoding
from seqdyconv.training.decoding import generate_batch

VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", *(chr(code) for code in range(0x100, 0x100 + 20))]
SIZES = {"hidden_size": 12, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": len(VOCABULARY)}
SIZES |= {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_kernel_sizes": [3]}


def build(seed: int = 0, **options) -> SeqDyConvForConditionalGeneration:
    """A model that ends many of its outputs early, and prefers other tokens after others."""
    torch.manual_seed(seed)
    sizes = SIZES | {"decoder_kernel_sizes": [4, 3], "tie_word_embeddings": False}
    config = SeqDyConvConfig(
        **(sizes | {"share_encoder_decoder_embeddings": False, "decoder_start_token_id": 2} | options)
    )
    model = SeqDyConvForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def both(tokenizer, monkeypatch):
    """What our search finds, and what ``generate()`` does."""

    def find(model, *given):
        assert has_beam_search(model)
        ours = generate_batch(model, tokenizer, *given)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "has_beam_search", lambda model: False)
            return ours, generate_batch(model, tokenizer, *given)

    return find


def assert_same(ours, theirs):
    assert [[one.text for one in each] for each in ours] == [[one.text for one in each] for each in theirs]
    assert [[one.tokens for one in each] for each in ours] == [[one.tokens for one in each] for each in theirs]
    for our, their in ((one.score, other.score) for pair in zip(ours, theirs) for one, other in zip(*pair)):
        assert our == (None if their is None else pytest.approx(their, abs=1e-5, rel=1e-5))


class TestSearch:
    @pytest.mark.parametrize("seed", range(36))
    def test_it_finds_what_generate_finds(self, both, seed):
        rng = random.Random(seed)
        mixers = [list(MIXERS)[seed % len(MIXERS)], rng.choice(list(MIXERS))]
        model = build(seed, decoder_layer_types=mixers, decoder_normalize_before=rng.random() < 0.5)
        if rng.random() < 0.3:
            model.generation_config.eos_token_id = rng.sample([2, 7, 9, 11], rng.choice([1, 2, 3]))
        inputs = [[rng.randrange(4, 24) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(1, 5))]
        num_beams = rng.randint(1, 5)
        arguments = DecodingArguments(
            num_beams=num_beams,
            length_penalty=rng.choice([-2.0, -0.5, 0.0, 0.6, 1.0, 2.0]),
            max_length_factor=rng.choice([0.0, 0.5, 2.0]),
            max_length_constant=rng.randint(2, 12),
        )
        assert_same(*both(model, inputs, arguments, rng.randint(1, num_beams)))

    def test_in_half_precision(self, both):
        arguments = DecodingArguments(num_beams=4)
        ours, theirs = both(build().to(torch.bfloat16), [[5, 6, 7]], arguments)
        assert ours[0][0].text == theirs[0][0].text
        assert ours[0][0].score == pytest.approx(theirs[0][0].score, rel=2e-2)


class TestChoice:
    def test_what_samples_nothing_changes_nothing(self):
        model = build()
        model.generation_config.update(temperature=0.5, top_k=3, max_length=7, early_stopping=False)
        assert has_beam_search(model)

    @pytest.mark.parametrize(
        "asked",
        [
            {"repetition_penalty": 1.2},
            {"forced_bos_token_id": 5},
            {"forced_bos_token_id": 0},
            {"no_repeat_ngram_size": 2},
            {"min_new_tokens": 3},
            {"early_stopping": True},
            {"suppress_tokens": [5]},
            {"eos_token_id": None},
        ],
        ids=str,
    )
    def test_what_it_does_not_know_is_left_to_generate(self, asked, tokenizer):
        model = build()
        for name, value in asked.items():
            setattr(model.generation_config, name, value)
        assert not has_beam_search(model)

    def test_a_model_in_training_or_of_another_class_is_left_to_generate(self):
        class Other(SeqDyConvForConditionalGeneration):
            pass

        model = build()
        assert not has_beam_search(Other(model.config).eval())
        assert not has_beam_search(model.train())
