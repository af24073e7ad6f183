"""What is put into other people's models starts as it does alone, and loading leaves nothing uninitialised."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

from seqdyconv import ShortConv1d, build_mixer
from seqdyconv.layers import MIXERS
from seqdyconv.swap import add_short_conv, load_swapped, swap_self_attention, swapped_attention
from tests.swap.zoo import CASES, TEXT

transformers.utils.logging.disable_progress_bar()
pytestmark = pytest.mark.usefixtures("nan_filled_memory")


def distilbert():
    return CASES["distilbert"].config(), transformers.DistilBertModel


def llama():
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return transformers.LlamaConfig(**sizes, num_attention_heads=4), transformers.LlamaForCausalLM


def start_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def materialize(model):
    """As FSDP: each module that was made on the meta device gets memory and draws its own weights."""
    model.to_empty(device="cpu")
    for module in model.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)] and hasattr(module, "reset_parameters"):
            module.reset_parameters()


def assert_starts_as(module, expected):
    found = start_of(module)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_starts_as_it_does_alone(mixer, device, draws_without_chance):
    config, model_class = distilbert()
    with torch.device(device):
        model = swap_self_attention(model_class(config), mixer=mixer, weights="random", kernel_size=4)
    if device == "meta":
        materialize(model)
    module = swapped_attention(model)[0]
    options = {name: value for name, value in module.options.items() if name not in ("mixer", "num_heads")}
    alone = start_of(build_mixer(mixer, 16, 4, **options))
    assert_starts_as(module.mixer, alone)
    model.init_weights()  # transformers draws linear layers of BERT's kind otherwise
    assert_starts_as(module.mixer, alone)
    assert all(value.isfinite().all() for value in module.state_dict().values())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "options",
    [{}, {"rank": 2, "generator_bias": True}, {"generator_reduction": 2, "static_kernel": True, "residual": False}],
    ids=str,
)
def test_a_short_convolution_starts_as_it_does_alone(options, device, draws_without_chance):
    config, model_class = llama()
    with torch.device(device):
        model = add_short_conv(model_class(config), **options)
    if device == "meta":
        materialize(model)
    projection = model.model.layers[0].self_attn.q_proj
    alone = start_of(ShortConv1d(16, 4, 4, query_dim=16, **options))
    assert_starts_as(projection.short_conv, alone)
    model.init_weights()
    assert_starts_as(projection.short_conv, alone)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_static_kernel_beside_a_residual_starts_at_zero(device):
    config, model_class = llama()
    with torch.device(device):
        model = add_short_conv(model_class(config), static_kernel=True)
    if device == "meta":
        materialize(model)
    projection, hidden = model.model.layers[0].self_attn.v_proj, torch.randn(2, 5, 16)
    assert torch.equal(projection(hidden), projection.linear(hidden))


@pytest.mark.parametrize("name", ["bert", "distilbert", "albert", "modernbert", "bart", "t5", "wav2vec2", "vit"])
def test_a_new_head_is_drawn(name, tmp_path):
    swap_self_attention(CASES[name].model(), kernel_size=5).save_pretrained(tmp_path)
    model = load_swapped(tmp_path, model_class=getattr(transformers, CASES[name].head))
    for key, value in {**model.state_dict(), **dict(model.named_buffers())}.items():
        assert value.isfinite().all() and value.abs().max() < 100, key


def test_a_head_of_another_size_is_drawn(tmp_path):
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT))
    swap_self_attention(model, layers=[1], kernel_size=5).save_pretrained(tmp_path)
    loaded = load_swapped(tmp_path, num_labels=500, ignore_mismatched_sizes=True)
    assert 0.01 < loaded.classifier.weight.std() < 0.03 and loaded.classifier.bias.eq(0).all()
    weights = load_file(tmp_path / "model.safetensors")
    for key, value in loaded.state_dict().items():
        assert key.startswith("classifier.") or torch.equal(value, weights[key]), key


HEADS = ["", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
         "ForSeq2SeqLM", "ForCTC", "ForAudioClassification", "ForSpeechSeq2Seq"]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_head_of_every_kind_is_drawn_and_the_rest_read(name, tmp_path):
    model = swap_self_attention(CASES[name].model(head=True), kernel_size=5)
    model.save_pretrained(tmp_path)
    known = {key.removeprefix(f"{model.base_model_prefix}."): value for key, value in model.state_dict().items()}
    kinds = [getattr(transformers, f"AutoModel{kind}") for kind in HEADS]
    for kind in [kind for kind in kinds if type(model.config) in kind._model_mapping]:
        loaded = load_swapped(tmp_path, model_class=kind, num_labels=2 if "Question" in kind.__name__ else 3)
        for key, value in {**loaded.state_dict(), **dict(loaded.named_buffers())}.items():
            assert value.isfinite().all() and value.abs().max() < 100, (kind, key)
        body = loaded.encoder if loaded.base_model is loaded and hasattr(loaded, "encoder") else loaded.base_model
        prefix = "encoder." if body is not loaded.base_model else ""
        wanted = {key: value for key, value in body.state_dict().items() if "pooler." not in key}
        assert wanted and all(torch.equal(known[prefix + key], value) for key, value in wanted.items()), kind
