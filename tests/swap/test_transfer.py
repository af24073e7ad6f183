"""What the replaced attention leaves to its mixer."""

import copy

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
)

from seqdyconv.swap import swap_self_attention, swapped_attention
from seqdyconv.swap.transfer import average_attention

WIDTH, HEADS = 16, 4


def bert(seed: int = 0, **options: object) -> BertModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        **options,
    )
    return BertModel(config).eval()


def batch(*lengths: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Rows of the given lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(1, 40, mask.shape, generator=generator)
    return {"input_ids": tokens.masked_fill(~mask, 0), "attention_mask": mask.long()}


def attention_of(model: BertModel) -> dict[int, torch.nn.Module]:
    return {number: layer.attention.self for number, layer in enumerate(model.encoder.layer)}


def test_self_attention_with_the_old_projections_computes_what_the_model_did():
    model = bert()
    inputs = batch(9, 5)
    before = model(**inputs).last_hidden_state
    swap_self_attention(model, mixer="self_attention")
    after = model(**inputs).last_hidden_state
    keep = inputs["attention_mask"].bool()
    torch.testing.assert_close(after[keep], before[keep], atol=1e-5, rtol=1e-5)


def test_attention_without_scaling_keeps_its_scores():
    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, num_heads=4, d_ff=32, num_layers=1)
    model = T5EncoderModel(config).eval()
    attention = model.encoder.block[0].layer[0].SelfAttention
    torch.nn.init.zeros_(attention.relative_attention_bias.weight)
    inputs = batch(7)
    before = model(**inputs).last_hidden_state
    swap_self_attention(model, mixer="self_attention")
    torch.testing.assert_close(model(**inputs).last_hidden_state, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", [[], ["c2p"], ["p2c", "c2p"]], ids=str)
def test_scores_to_which_those_of_positions_are_added_are_smaller(positions):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 32}
    config = DebertaV2Config(
        num_hidden_layers=1, relative_attention=True, pos_att_type=positions, initializer_range=0.5, **sizes
    )
    model = DebertaV2Model(config).eval()
    torch.nn.init.zeros_(model.encoder.rel_embeddings.weight)
    inputs = batch(7)
    before = model(**inputs).last_hidden_state
    swap_self_attention(model, mixer="self_attention")
    torch.testing.assert_close(model(**inputs).last_hidden_state, before, atol=1e-5, rtol=1e-5)


def test_the_value_projection_feeds_the_convolution():
    model = bert()
    value = copy.deepcopy(attention_of(model)[0].value)
    swap_self_attention(model, layers=[0])
    mixer = swapped_attention(model)[0].mixer
    assert torch.equal(mixer.in_proj.weight, value.weight)
    assert torch.equal(mixer.in_proj.bias, value.bias)


def test_a_gated_convolution_starts_as_the_same_function():
    plain, gated = bert(), bert()
    swap_self_attention(plain, mixer="lightweight_conv", kernel_size=5, calibration=[batch(9, 5)])
    swap_self_attention(gated, mixer="lightweight_conv", kernel_size=5, calibration=[batch(9, 5)], glu=True)
    inputs = batch(8, 3)
    expected, actual = plain(**inputs).last_hidden_state, gated(**inputs).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_random_weights_are_an_option():
    model = bert()
    value = copy.deepcopy(attention_of(model)[0].value)
    swap_self_attention(model, weights="random")
    assert not torch.equal(swapped_attention(model)[0].mixer.in_proj.weight, value.weight)


def test_average_attention_is_the_mean_of_the_maps_by_offset():
    model = bert(attn_implementation="eager")
    inputs = batch(6, 4)
    found = average_attention(model, attention_of(model), [inputs])
    maps = model(**inputs, output_attentions=True).attentions
    for number in (0, 1):
        for offset in range(-5, 6):
            values = [
                maps[number][row, :, t, t + offset]
                for row, length in enumerate((6, 4))
                for t in range(length)
                if 0 <= t + offset < length
            ]
            torch.testing.assert_close(found[number][:, 5 + offset].float(), torch.stack(values).mean(0))


def test_average_attention_does_not_see_how_texts_are_batched():
    model = bert()
    attention = attention_of(model)
    long, short = batch(8, seed=3), batch(5, seed=4)
    together = {
        name: torch.cat([long[name], torch.nn.functional.pad(short[name], (0, 3))])
        for name in ("input_ids", "attention_mask")
    }
    alone = average_attention(model, attention, [short, long])
    assert alone[0].shape == (HEADS, 15)
    for number, expected in average_attention(model, attention, [together]).items():
        torch.testing.assert_close(alone[number].float(), expected.float())


@pytest.mark.parametrize("way", ["left", "right", "packed"])
def test_nor_does_that_of_a_decoder(way):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 32}
    model = LlamaModel(LlamaConfig(num_hidden_layers=2, initializer_range=0.5, **sizes)).eval()
    attention = {number: layer.self_attn for number, layer in enumerate(model.layers)}
    long, short = (batch(length, seed=length)["input_ids"] for length in (8, 5))
    if way == "packed":
        steps = torch.cat([torch.arange(8), torch.arange(5)])[None]
        together = {"input_ids": torch.cat([long, short], 1), "position_ids": steps}
    else:
        gap = (3, 0) if way == "left" else (0, 3)
        both, real = (
            torch.cat([one, torch.nn.functional.pad(other, gap)])
            for one, other in ((long, short), (long.clamp(1, 1), short.clamp(1, 1)))
        )
        together = {"input_ids": both, "attention_mask": real}
    alone = average_attention(model, attention, [{"input_ids": long}, {"input_ids": short}])
    for number, found in average_attention(model, attention, [together]).items():
        middle = (found.shape[1] - 15) // 2
        torch.testing.assert_close(found[:, middle : middle + 15].float(), alone[number].float())


def test_averaging_leaves_the_model_as_it_was():
    model = bert().train()
    hooks = []
    for _ in range(2):  # transformers itself adds hooks at the first call that asks for attentions
        average_attention(model, attention_of(model), [batch(6)])
        hooks.append([len(module._forward_hooks) for module in attention_of(model).values()])
    assert hooks[0] == hooks[1]
    assert model.training
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("mixer", ["dynamic_conv", "lightweight_conv"])
def test_kernels_start_from_the_average_attention(mixer):
    model = bert()
    inputs = batch(9, 7)
    average = average_attention(model, attention_of(model), [inputs])[1]
    swap_self_attention(model, mixer=mixer, kernel_size=5, calibration=[inputs])
    conv = swapped_attention(model)[1].mixer.conv
    expected = average[:, 8 - 2 : 8 + 3]
    expected = expected / expected.sum(1, keepdim=True)
    kernels = conv.weight if mixer == "lightweight_conv" else conv.generator(torch.randn(WIDTH)).view(HEADS, 5)
    torch.testing.assert_close(kernels.softmax(-1).double(), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("mixer", ["dynamic_conv", "lightweight_conv"])
def test_kernels_of_several_sizes_start_each_from_its_own_offsets(mixer):
    model = bert()
    inputs = batch(9, 7)
    average = average_attention(model, attention_of(model), [inputs])[1]
    swap_self_attention(model, mixer=mixer, kernel_size=(3, 5), calibration=[inputs])
    conv = swapped_attention(model)[1].mixer.conv
    logits = conv.weight if mixer == "lightweight_conv" else conv.generator(torch.randn(WIDTH))
    for size, heads, part in zip((3, 5), average.split(2), logits.split([2 * 3, 2 * 5])):
        expected = heads[:, 8 - size // 2 : 9 + size // 2]
        expected = expected / expected.sum(1, keepdim=True)
        torch.testing.assert_close(part.view(2, size).softmax(-1).double(), expected, atol=1e-5, rtol=1e-3)


def test_taps_that_no_calibration_text_reached_start_small():
    model = bert()
    swap_self_attention(model, kernel_size=15, calibration=[batch(4)])
    kernels = swapped_attention(model)[0].mixer.conv.generator.bias.view(HEADS, 15).softmax(-1)
    assert (kernels[:, [0, 1, 2, 3, 11, 12, 13, 14]] < 1e-3).all()


def test_neighbouring_heads_are_averaged_where_the_convolution_has_fewer():
    model = bert()
    inputs = batch(9)
    average = average_attention(model, attention_of(model), [inputs])[0]
    swap_self_attention(model, kernel_size=3, num_heads=2, calibration=[inputs])
    kernels = swapped_attention(model)[0].mixer.conv.generator.bias.view(2, 3).softmax(-1)
    expected = average[:, 7:10].view(2, 2, 3).mean(1)
    torch.testing.assert_close(kernels.double(), expected / expected.sum(1, keepdim=True), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mixer": "self_attention"}, "weight_softmax"),
        ({"weight_softmax": False}, "weight_softmax=True"),
        ({"generator_bias": False}, "generator_bias=True"),
        ({"num_heads": 8}, "num_heads must divide the 4 heads"),
    ],
)
def test_kernels_that_cannot_start_so_raise_and_change_nothing(options, message):
    model = bert()
    with pytest.raises(ValueError, match=message):
        swap_self_attention(model, calibration=[batch(6)], **options)
    assert not swapped_attention(model)


def test_calibration_without_batches_raises():
    with pytest.raises(ValueError, match="at least one batch"):
        swap_self_attention(bert(), calibration=[])


def test_mixed_attention_takes_the_first_heads_to_attend_and_the_values_of_all():
    model = bert()
    attention = copy.deepcopy(attention_of(model)[0])
    swap_self_attention(model, mixer="mixed_attention", kernel_size=3, layers=[0])
    mixer = swapped_attention(model)[0].mixer
    assert mixer.attention_heads == HEADS // 2
    for kind in ("weight", "bias"):
        query, key, value = (getattr(getattr(attention, name), kind) for name in ("query", "key", "value"))
        expected = torch.cat([query[: WIDTH // 2], key[: WIDTH // 2], value])
        torch.testing.assert_close(getattr(mixer.in_proj, kind), expected)
    hidden = torch.randn(2, 9, WIDTH)
    torch.testing.assert_close(mixer(hidden)[..., : WIDTH // 2], attention(hidden)[0][..., : WIDTH // 2])


def test_kernels_of_mixed_attention_start_from_the_heads_that_it_convolves():
    model = bert()
    inputs = batch(9)
    average = average_attention(model, attention_of(model), [inputs])[0]
    swap_self_attention(model, mixer="mixed_attention", kernel_size=3, calibration=[inputs])
    kernels = swapped_attention(model)[0].mixer.conv.conv.generator.bias.view(2, 3).softmax(-1)
    expected = average[2:, 7:10]
    torch.testing.assert_close(kernels.double(), expected / expected.sum(1, keepdim=True), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("mixer", ["span_dynamic_conv", "dynamic_conv_2d", "lightweight_conv_2d"])
def test_kernels_inside_a_layer_start_from_the_average_attention(mixer):
    model = bert()
    inputs = batch(9)
    average = average_attention(model, attention_of(model), [inputs])[0]
    swap_self_attention(model, mixer=mixer, kernel_size=3, calibration=[inputs])
    conv = swapped_attention(model)[0].mixer.conv.conv
    logits = conv.weight if mixer.startswith("lightweight") else conv.generator.bias.view(HEADS, 3)
    expected = average[:, 7:10]
    torch.testing.assert_close(
        logits.softmax(-1).double(), expected / expected.sum(1, keepdim=True), atol=1e-5, rtol=1e-3
    )


def test_calibration_leaves_the_mode_of_every_part():
    model = bert().train()
    model.embeddings.eval()
    before = [module.training for module in model.modules()]
    average_attention(model, attention_of(model), [batch(5)])
    assert [module.training for module in model.modules()] == before
