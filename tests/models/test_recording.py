"""What the convolutions of a model do with an input: their kernels, their mixtures, and where their taps read."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from seqdyconv import (
    DeformableConv1d,
    DeformableDepthwiseConv1d,
    KernelAttentionConv2d,
    LightweightConv1d,
    ODConv1d,
    build_mixer,
)
from seqdyconv.models import record_kernels, record_mixtures, record_sampling
from tests.helpers import assert_close, randomize
from tests.models.recorded import deformable_model, swapped_bert, translation_model


class TestRecordKernels:
    def test_encoder_and_decoder(self):
        source, target = torch.randint(4, 10, (2, 7)), torch.randint(4, 10, (2, 3))
        kernels = record_kernels(translation_model(), input_ids=source, decoder_input_ids=target)
        assert {name: tuple(kernel.shape) for name, kernel in kernels.items()} == {
            "encoder.layers.0.mixer.conv": (2, 7, 4, 3),
            "encoder.layers.1.mixer.conv": (2, 7, 4, 4),
            "encoder.layers.3.mixer.conv": (2, 7, 4, 9),
            "decoder.layers.0.mixer.conv": (2, 3, 2, 5),
        }
        for kernel in kernels.values():
            assert not kernel.requires_grad
            assert_close(kernel.sum(-1), torch.ones(kernel.shape[:-1]), 1e-5)
        lightweight = kernels["encoder.layers.1.mixer.conv"]
        assert_close(lightweight, lightweight[:1, :1].expand_as(lightweight))

    def test_a_swapped_model(self):
        model = swapped_bert(layers=[1])
        kernels = record_kernels(model, input_ids=torch.randint(4, 10, (2, 7)))
        assert [tuple(kernel.shape) for kernel in kernels.values()] == [(2, 7, 2, 5)]
        assert all("layer.1." in name and isinstance(model.get_submodule(name), nn.Module) for name in kernels)

    @pytest.mark.parametrize("mixer", ["dynamic_conv", "lightweight_conv"])
    @pytest.mark.parametrize("renormalize", [False, True])
    def test_they_are_what_the_layer_convolves_with(self, mixer, renormalize):
        """Each channel of the input an impulse at another step: the output is the kernel as seen from there."""
        conv = build_mixer(mixer, 9, 1, kernel_size=4, renormalize=renormalize).conv.double()
        kernels = record_kernels(conv, input=torch.eye(9)[None].double())[""]
        output = conv(torch.eye(9)[None].double())[0]
        for step in range(9):
            for tap in range(4):
                if 0 <= step + tap - conv.left < 9:
                    assert_close(output[step, step + tap - conv.left], kernels[0, step, 0, tap])

    def test_padding_is_known(self):
        mask = torch.arange(9) >= torch.tensor([[9], [5]])
        model = build_mixer("lightweight_conv", 8, 2, kernel_size=5, renormalize=True)
        kernels = record_kernels(model, input=torch.randn(2, 9, 8), padding_mask=mask)["conv"]
        assert (kernels[1, 4, :, 3:] == 0).all() and (kernels[0, 4] > 0).all()

    def test_another_thread_that_runs_the_model_is_not_recorded(self):
        conv = build_mixer("dynamic_conv", 8, 2, kernel_size=3).conv
        ours, theirs = torch.randn(1, 5, 8), torch.randn(2, 9, 8)
        expected = record_kernels(conv, input=ours)
        model = torch.nn.Sequential(conv)  # runs in two threads before the recorded run ends
        model.forward = lambda input: ThreadPoolExecutor(1).submit(conv, theirs).result() is None or conv(input)
        recorded = record_kernels(model, input=ours)
        assert list(recorded) == ["0"] and torch.equal(recorded["0"], expected[""])

    def test_the_model_is_left_as_it_was(self):
        model = translation_model(weight_dropout=0.9).train()
        model.encoder.layers[0].eval()
        modes = [module.training for module in model.modules()]
        inputs = {"input_ids": torch.randint(4, 10, (2, 7)), "decoder_input_ids": torch.randint(4, 10, (2, 3))}
        kernels = record_kernels(model, **inputs)
        assert all((kernel > 0).all() for kernel in kernels.values())  # none dropped
        with pytest.raises(ValueError, match="decoder needs"):
            record_kernels(model, input_ids=inputs["input_ids"])
        assert modes == [module.training for module in model.modules()]
        assert not any(module._forward_hooks for module in model.modules())
        assert model(**inputs).logits.requires_grad

    def test_a_module_that_runs_twice(self):
        layer = LightweightConv1d(8, 3, 2)
        twice = nn.Sequential(layer, nn.ReLU(), layer)
        assert list(record_kernels(twice, input=torch.randn(1, 5, 8))) == ["0", "0 (run 2)"]

    def test_no_convolution(self):
        with pytest.raises(ValueError, match=r"must have a LightweightConv1d or a DynamicConv1d, got a Linear without"):
            record_kernels(nn.Linear(3, 3), input=torch.zeros(1, 3))

    def test_none_that_ran(self):
        model = translation_model(encoder_layer_types="self_attention")
        source = torch.randint(4, 10, (2, 7))
        with pytest.raises(ValueError, match=r"ran none of its 1 convolutions on a whole sequence, such as decoder"):
            record_kernels(model, input_ids=source, decoder_input_ids=source, use_cache=True)


class TestRecordSampling:
    def test_encoder_and_decoder(self):
        source, target = torch.randint(4, 10, (2, 7)), torch.randint(4, 10, (2, 3))
        found = record_sampling(deformable_model(), input_ids=source, decoder_input_ids=target)
        assert {name: tuple(one.positions.shape) for name, one in found.items()} == {
            "encoder.layers.0.mixer.conv": (2, 7, 4, 3),
            "encoder.layers.2.mixer.conv": (2, 7, 4, 6),
            "decoder.layers.0.mixer.conv": (2, 3, 2, 5),
        }
        for one in found.values():
            assert one.weights.shape == one.positions.shape and not one.weights.requires_grad
        decoder = found["decoder.layers.0.mixer.conv"].positions
        assert (decoder <= torch.arange(3)[:, None, None]).all()

    def test_they_are_the_layers(self):
        layer, input = randomize(DeformableConv1d(6, 4, 3, padding=1)), torch.randn(2, 9, 6)
        mask = torch.arange(9) >= torch.tensor([[9], [5]])
        found = record_sampling(nn.Sequential(layer), input=input)["0"]
        for actual, expected in zip(found, layer.sampling(input)):
            assert_close(actual, expected)
        found = record_sampling(build_mixer("deformable_conv", 6, 3, kernel_size=3), input=input, padding_mask=mask)
        assert (found["conv"].positions[0, 4, 0]).tolist() == [3, 4, 5]

    def test_the_model_is_left_as_it_was(self):
        model = deformable_model().train()
        model.encoder.layers[0].eval()
        modes = [module.training for module in model.modules()]
        source = torch.randint(4, 10, (2, 7))
        record_sampling(model, input_ids=source, decoder_input_ids=source)
        assert modes == [module.training for module in model.modules()]
        assert not any(module._forward_hooks for module in model.modules())

    def test_no_deformable_convolution(self):
        with pytest.raises(ValueError, match="must have a DeformableConv1d or a DeformableDepthwiseConv1d, got a Lin"):
            record_sampling(nn.Linear(3, 3), input=torch.zeros(1, 3))

    def test_packed_sequences(self):
        layer = DeformableDepthwiseConv1d(6, 3, 3)
        with pytest.raises(ValueError, match="are recorded of padded batches: give the sequences without cu_seqlens"):
            record_sampling(layer, input=torch.zeros(1, 9, 6), cu_seqlens=torch.tensor([0, 4, 9]))


class TestRecordMixtures:
    def test_they_are_the_layers(self):
        model = nn.Sequential(KernelAttentionConv2d(1, 4, 3, num_kernels=3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
        images = torch.rand(5, 1, 8, 8)
        found = record_mixtures(model, input=images)
        assert list(found) == ["0"] and found["0"].shape == (5, 3, 1, 1)
        assert torch.equal(found["0"], model[0].mixture(images))

    def test_padding_is_known(self):
        layer = ODConv1d(6, 6, 3, padding="same", num_kernels=2).double()
        input = torch.randn(2, 9, 6).double()
        mask = torch.arange(9) >= torch.tensor([[9], [5]])
        found = record_mixtures(layer, input=input, padding_mask=mask)[""]
        assert_close(found[1:], record_mixtures(layer, input=input[1:, :5])[""])

    def test_no_such_layer(self):
        with pytest.raises(ValueError, match=r"must have a KernelAttentionConv1d or .* ODConv2d, got a Linear without"):
            record_mixtures(nn.Linear(3, 3), input=torch.zeros(1, 3))
