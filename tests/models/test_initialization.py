"""How models start: each layer as it starts alone, and nothing is left uninitialised or redrawn by loading."""

import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seqdyconv import LightweightConv1d, build_mixer
from seqdyconv.layers import MIXERS, ConvMixer
from seqdyconv.models import (
    SeqDyConvCausalLMConfig,
    SeqDyConvConfig,
    SeqDyConvForCausalLM,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvForMaskedLM,
    SeqDyConvForSequenceClassification,
    SeqDyConvForSpeechSeq2Seq,
    SeqDyConvSpeechConfig,
)

SIZES = {
    "vocab_size": 20,
    "hidden_size": 12,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "type_vocab_size": 2,
    "encoder_position_type": "learned",
    "max_position_embeddings": 16,
    "embedding_norm": True,
}
NO_DECODER = {"is_encoder_decoder": False}


def text_config(mixers: list[str], **options) -> SeqDyConvConfig:
    return SeqDyConvConfig(
        encoder_layer_types=mixers,
        encoder_kernel_sizes=[4] * len(mixers),
        decoder_layer_types=mixers,
        decoder_kernel_sizes=[4] * len(mixers),
        **{**SIZES, **options},
    )


def speech_config(mixers: list[str], **options) -> SeqDyConvSpeechConfig:
    options = {"num_mel_bins": 8, "subsampling_channels": 4, "encoder_block": "conformer", **options}
    sizes = {name: value for name, value in SIZES.items() if name != "type_vocab_size"}
    return SeqDyConvSpeechConfig(
        encoder_layer_types=mixers,
        encoder_kernel_sizes=[4] * len(mixers),
        decoder_layer_types=mixers,
        decoder_kernel_sizes=[4] * len(mixers),
        conformer_kernel_size=3,
        **sizes,
        **options,
    )


def causal_config(mixers: list[str]) -> SeqDyConvCausalLMConfig:
    sizes = {name: value for name, value in SIZES.items() if name != "type_vocab_size"}
    return SeqDyConvCausalLMConfig(decoder_layer_types=mixers, decoder_kernel_sizes=[4] * len(mixers), **sizes)


MODELS = {
    "language model": lambda mixers: SeqDyConvForCausalLM(causal_config(mixers)),
    "translation": lambda mixers: SeqDyConvForConditionalGeneration(text_config(mixers, ffn_groups=2)),
    "translation, nothing shared": lambda mixers: SeqDyConvForConditionalGeneration(
        text_config(mixers, share_encoder_decoder_embeddings=False, tie_word_embeddings=False, embedding_size=8)
    ),
    "classification": lambda mixers: SeqDyConvForSequenceClassification(text_config(mixers, **NO_DECODER)),
    "masked LM": lambda mixers: SeqDyConvForMaskedLM(text_config(mixers, **NO_DECODER)),
    "CTC": lambda mixers: SeqDyConvForCTC(speech_config(mixers, subsampling_kernels=2)),
    "speech to text": lambda mixers: SeqDyConvForSpeechSeq2Seq(speech_config(mixers, is_encoder_decoder=True)),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
pytestmark = pytest.mark.usefixtures("nan_filled_memory")


def start_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_starts_in_a_model_as_it_does_alone(name, draws_without_chance):
    model = SeqDyConvForConditionalGeneration(text_config([name]))
    options = {} if name == "self_attention" else {"kernel_size": 4}
    for stack, causal in ((model.encoder, False), (model.decoder, True)):
        alone = start_of(build_mixer(name, 12, 3, causal=causal, **options))
        inside = start_of(stack.layers[0].mixer)
        assert alone.keys() == inside.keys()
        for key, value in alone.items():
            assert torch.equal(inside[key], value), key


def test_all_else_starts_as_the_papers_say(draws_without_chance):
    model = MODELS["translation, nothing shared"](["dynamic_conv"])
    normal = torch.linspace(-2, 2, 20 * 8, dtype=torch.float64).view(20, 8) * 12**-0.5
    normal[1] = 0  # padding
    assert torch.equal(model.encoder.embedding.tokens.weight, normal.float())
    assert torch.equal(model.encoder.embedding.token_types.weight[0, 0], torch.tensor(-2 * 12**-0.5))
    assert model.lm_head.weight.max().item() == pytest.approx(2 * 12**-0.5)
    assert model.encoder.layers[0].ffn.in_proj.weight.max().item() == pytest.approx((6 / (12 + 8)) ** 0.5)
    assert model.encoder.embedding.project.bias.eq(0).all()
    assert MODELS["classification"](["short_conv"]).classifier.weight.max().item() == pytest.approx((6 / 14) ** 0.5)


@pytest.mark.parametrize("name", ["translation, nothing shared", "classification", "CTC"])
def test_a_model_from_the_meta_device_starts_as_any_other(name, draws_without_chance):
    """What FSDP does where a model has no memory yet: to_empty and reset_parameters of modules with tensors."""
    mixers = list(MIXERS)
    expected = start_of(MODELS[name](mixers))
    with torch.device("meta"):
        model = MODELS[name](mixers)
    for module in model.modules():
        if any(True for _ in itertools.chain(module.parameters(recurse=False), module.buffers(recurse=False))):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("turn", range(1, len(MIXERS)))
def test_a_mixer_in_the_place_of_any_other(turn, tmp_path, draws_without_chance):
    """What fits is loaded, what is missing or of another shape starts as it does in a new model."""
    names = list(MIXERS)
    saved = MODELS["classification"](names)
    for parameter in saved.parameters():
        nn.init.constant_(parameter, 3.0)
    saved.save_pretrained(tmp_path)
    kinds = names[turn:] + names[:turn]
    model, found = SeqDyConvForSequenceClassification.from_pretrained(
        tmp_path, encoder_layer_types=kinds, ignore_mismatched_sizes=True, output_loading_info=True
    )
    new = found["missing_keys"] | {key for key, *_ in found["mismatched_keys"]}
    assert len(new) > 5
    expected = start_of(MODELS["classification"](kinds))
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key] if key in new else torch.full_like(value, 3.0)), key


@every_model
@pytest.mark.parametrize("first", [0, 1])
def test_every_other_weight_is_missing(make, first, tmp_path, draws_without_chance):
    """Modules of which a part is loaded: that part stays, the rest starts as in a new model."""
    mixers = [name for name in MIXERS if name != "self_attention"]
    model = make(mixers)
    expected = start_of(model)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 3.0)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    kept = {key: weights[key] for key in list(weights)[first::2]}
    save_file(kept, file, {"format": "pt"})
    loaded, found = type(model).from_pretrained(tmp_path, output_loading_info=True)
    tied = loaded.all_tied_weights_keys
    for key, value in loaded.state_dict().items():
        key = tied.get(key, key)
        if key in tied.values():  # where the source is missing, what is tied to it may stand for it
            assert value.isfinite().all()
            continue
        assert torch.equal(value, expected[key] if key in found["missing_keys"] else torch.full_like(value, 3.0)), key


class OwnStart(ConvMixer):
    """A mixer as users write them: its start is written into the weights without torch.nn.init."""

    def __init__(self, dim, num_heads, *, kernel_size, causal=False):
        padding = "causal" if causal else "same"
        super().__init__(dim, LightweightConv1d(dim, kernel_size, num_heads, padding=padding), glu=False)
        self.gain, self.shift = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))
        self.register_buffer("steps", torch.empty(3), persistent=False)
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.gain.fill_(1)
            self.shift.fill_(0)
            self.steps.copy_(torch.arange(3.0))
            self.conv.weight.fill_(0.5)


def test_a_layer_that_writes_its_start_by_hand(tmp_path, monkeypatch):
    monkeypatch.setitem(MIXERS, "own_start", OwnStart)
    model = MODELS["classification"](["own_start"])
    assert model.encoder.layers[0].mixer.conv.weight.eq(0.5).all()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 3.0)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if not key.endswith("shift")}, file)
    mixer = SeqDyConvForSequenceClassification.from_pretrained(tmp_path).encoder.layers[0].mixer
    assert mixer.steps.tolist() == [0, 1, 2]  # no buffer of a checkpoint
    assert mixer.shift.eq(0).all()
    assert mixer.gain.eq(3).all() and mixer.conv.weight.eq(3).all() and mixer.in_proj.weight.eq(3).all()


def test_a_new_head(tmp_path, draws_without_chance):
    encoder = MODELS["classification"](["dynamic_conv"])
    encoder.save_pretrained(tmp_path)
    with_head = SeqDyConvForMaskedLM.from_pretrained(tmp_path)
    assert with_head.lm_head.bias.eq(0).all()
    more = SeqDyConvForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert torch.equal(more.classifier.weight, start_of(nn.Linear(12, 5).apply(xavier))["weight"])


def xavier(module: nn.Module) -> None:
    nn.init.xavier_uniform_(module.weight)


@pytest.mark.parametrize("mean_resizing", [False, True])
def test_more_tokens(mean_resizing, draws_without_chance):
    model = MODELS["translation"](["dynamic_conv"])
    model.resize_token_embeddings(30, mean_resizing=mean_resizing)
    weights = itertools.chain(model.encoder.embedding.parameters(), model.lm_head.parameters())
    assert all(weight.isfinite().all() and weight.abs().max() < 3 * 12**-0.5 + 1 for weight in weights)
    assert model.encoder.embedding.tokens.weight[20:].abs().max() < 1
