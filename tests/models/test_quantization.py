"""Layers and models whose linear layers a tool has quantized run, stream and generate, close to the float ones."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from seqdyconv import build_mixer
from seqdyconv.layers.states import map_state
from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvForSequenceClassification,
    SeqDyConvSpeechConfig,
)
from seqdyconv.swap import add_short_conv, swap_self_attention
from tests.layers.mixer_cases import option_cases


class Int8Linear(nn.Linear):
    """As bitsandbytes has it: a linear layer still, whose weights are int8, with a scale for each row."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        weight = linear.weight.detach().float()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True).clamp(min=1e-9) / 127)
        self.weight = nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.to(input.dtype) * self.scale.to(input.dtype), self.bias)


class PackedLinear(nn.Module):
    """As GPTQ and torch's quantized modules: what it keeps is neither a parameter nor called weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.run = Int8Linear(linear).requires_grad_(False).forward

    def forward(self, input: Tensor) -> Tensor:
        return self.run(input)


class Int8Tensor(Tensor):
    """As torchao: the layer stays as it is, its weight is a subclass of Tensor that says it is of float."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs or {})


def replaced(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """As transformers replaces them: those that are among a model's named modules."""
    model = copy.deepcopy(model)
    for name, child in [*model.named_modules()]:
        if isinstance(child, nn.Linear):
            model.set_submodule(name, kind(child))
    return model


def tensor_subclasses(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            rounded = Int8Linear(layer)
            weight = (rounded.weight.float() * rounded.scale).as_subclass(Int8Tensor)
            layer.weight = nn.Parameter(weight, requires_grad=False)
    return model


TOOLS = {
    "torch's, by type": lambda model: quantize_dynamic(model, {nn.Linear}, torch.qint8),
    "int8 parameters": lambda model: replaced(model, Int8Linear),
    "packed": lambda model: replaced(model, PackedLinear),
    "tensor subclass": tensor_subclasses,
}
SHAPING = ("rank", "generator_reduction", "renormalize", "weight_softmax", "clamp", "head_ratio")
CASES = {case: (mixer, options) for case, (mixer, options) in option_cases().items() if {*options} <= {*SHAPING}}
every_tool = pytest.mark.parametrize("quantize", TOOLS.values(), ids=TOOLS)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*[Ll]inear_dynamic.*"),
]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert (actual - expected).norm() < 0.1 * expected.norm()


def linear_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def started_elsewhere(model: nn.Module) -> nn.Module:
    """With no weight at zero, where nothing could go wrong."""
    for parameter in model.parameters():
        if parameter.eq(0).all():
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


@every_tool
@pytest.mark.parametrize(("mixer", "options"), CASES.values(), ids=CASES)
def test_a_mixer(quantize, mixer, options):
    options = options if mixer == "self_attention" else {"kernel_size": 4, **options}
    causal = options.get("clamp", True)
    mixer = started_elsewhere(build_mixer(mixer, 12, 3, causal=causal, **options))
    quantized, input = quantize(mixer), torch.randn(2, 9, 12)
    mask = torch.arange(9) >= torch.tensor([[9], [6]])
    with torch.no_grad():
        expected, output = mixer(input, padding_mask=mask), quantized(input, padding_mask=mask)
        assert_close(output[~mask], expected[~mask])
        if not causal:
            return
        state, outputs = quantized.initial_state(2), []
        for chunk in input.split(4, dim=1):
            output, state = quantized.stream(chunk, state)
            outputs.append(output)
        assert_close(torch.cat(outputs, dim=1), mixer(input))


def test_every_linear_layer_is_found_by_its_type():
    """Where a layer were of a class of its own, quantize_dynamic would leave it out without a word."""
    for mixer, options in CASES.values():
        options = options if mixer == "self_attention" else {"kernel_size": 4, **options}
        assert not linear_layers(quantize_dynamic(build_mixer(mixer, 12, 3, **options), {nn.Linear}))


def test_a_bfloat16_stream_of_int8_layers():
    mixer = started_elsewhere(build_mixer("parallel", 12, 3, kernel_size=3, causal=True)).bfloat16()
    quantized = replaced(mixer, Int8Linear)
    input = torch.randn(1, 4, 12, dtype=torch.bfloat16)
    output, state = quantized.stream(input, quantized.initial_state(1))
    map_state(lambda part: part.dtype in (torch.bfloat16, torch.bool) or pytest.fail(str(part.dtype)), state)
    assert_close(output, mixer(input))


SIZES = {"vocab_size": 40, "hidden_size": 16, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
SIZES |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
MIXERS = ["dynamic_conv", "talk_conv", "span_dynamic_conv", "self_attention"]
LAYERS = {"encoder_layer_types": MIXERS, "encoder_kernel_sizes": [3] * 4}
DECODER = {"decoder_layer_types": MIXERS, "decoder_kernel_sizes": [3] * 4}


@every_tool
def test_translation_generates(quantize):
    model = SeqDyConvForConditionalGeneration(SeqDyConvConfig(**SIZES, **LAYERS, **DECODER)).eval()
    tokens = torch.randint(4, 40, (2, 7))
    quantized = quantize(model)
    assert_close(quantized(tokens, decoder_input_ids=tokens).logits, model(tokens, decoder_input_ids=tokens).logits)
    for options in ({"num_beams": 1}, {"num_beams": 3}):
        options = {"max_new_tokens": 6, "min_new_tokens": 6, **options}
        with_cache, without = (quantized.generate(tokens, use_cache=use, **options) for use in (True, False))
        assert with_cache.tolist() == without.tolist()


@every_tool
def test_classification(quantize):
    config = SeqDyConvConfig(**SIZES, **LAYERS, is_encoder_decoder=False, num_labels=3)
    model, tokens = SeqDyConvForSequenceClassification(config).eval(), torch.randint(4, 40, (2, 7))
    assert_close(quantize(model)(tokens).logits, model(tokens).logits)


@every_tool
def test_speech_streams(quantize):
    sizes = {name: size for name, size in SIZES.items() if "decoder" not in name}
    sizes |= {"num_mel_bins": 8, "subsampling_channels": 4, "encoder_lookahead": 0}
    sizes["encoder_position_type"] = "none"
    layers = {"encoder_layer_types": MIXERS[:3], "encoder_kernel_sizes": [3] * 3}
    model = SeqDyConvForCTC(SeqDyConvSpeechConfig(**sizes, **layers)).eval()
    quantized, features, outputs = quantize(model), torch.randn(1, 30, 8), []
    state = quantized.initial_state(1)
    with torch.no_grad():
        for chunk in features.split(10, dim=1):
            output, state = quantized.stream(chunk, state)
            outputs.append(output)
        outputs.append(quantized.stream(features[:, :0], state, flush=True)[0])
        assert_close(torch.cat(outputs, dim=1), model(features).logits)


@every_tool
def test_a_swapped_encoder(quantize):
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    model, tokens = swap_self_attention(BertModel(config)).eval(), torch.randint(4, 40, (2, 7))
    quantized = quantize(model)
    assert_close(quantized(tokens).last_hidden_state, model(tokens).last_hidden_state)


@every_tool
def test_short_convolutions_of_a_decoder_generate(quantize):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = started_elsewhere(add_short_conv(LlamaForCausalLM(LlamaConfig(vocab_size=50, eos_token_id=None, **sizes))))
    quantized, tokens = quantize(model), torch.randint(4, 50, (2, 7))
    assert_close(quantized(tokens).logits, model(tokens).logits)
    with_cache, without = (quantized.generate(tokens, use_cache=use, max_new_tokens=5) for use in (True, False))
    assert with_cache.tolist() == without.tolist()
