"""Every family of the table: one list of behaviours, and what is special to some."""

import copy
import inspect

import pytest
import torch
import transformers
from torch import nn
from transformers import Trainer, TrainingArguments

from seqdyconv.swap import load_swapped, restore_self_attention, swap_self_attention, swapped_attention
from seqdyconv.swap.families import FAMILIES
from seqdyconv.swap.padding import padding_from_attention_mask
from seqdyconv.swap.replacement import SwappedAttention, relative_buckets
from tests.helpers import assert_close
from tests.swap.any_model import REAL, TESTED, first, run, tiny_model
from tests.swap.zoo import CASES, LENGTH, SHORT, encoded, first_loss, shorter

transformers.utils.logging.disable_progress_bar()

# The copies of other families' code have the first test alone.
COPIES = {
    "camembert",
    "data2vec-text",
    "mbart",
    "pegasus",
    "m2m_100",
    "mt5",
    "switch_transformers",
    "data2vec-audio",
    "unispeech",
    "unispeech-sat",
}
MAIN = [name for name in CASES if name not in COPIES]
PADDED = [name for name in MAIN if CASES[name].padding]
# One of each row of the table.
ROWS = [family.model_types[0] for family in FAMILIES]

# WavLM gives torch a mask and a bias of two types.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


def swapped(name, layers=None, head=False, **options):
    model = CASES[name].model(head=head)
    return swap_self_attention(model, layers=layers, **{"kernel_size": 5} | options)


def tensors(outputs):
    return [value for value in outputs.to_tuple() if isinstance(value, torch.Tensor)]


def labelled(name):
    case = CASES[name]
    batch = {key: value for key, value in case.batch().items() if key != "decoder_input_ids"}
    return {**batch, "labels": case.labels(None)}


def test_all_model_types_are_tested():
    known = {name for family in FAMILIES for name in family.model_types}
    assert CASES.keys() == known | {"eurobert"}  # which is recognised by its modules


@pytest.mark.parametrize("layers", [None, [0], [-1]], ids=["all", "first", "last"])
@pytest.mark.parametrize("name", CASES)
def test_trains_saves_and_loads(name, layers, tmp_path):
    model = swapped(name, layers, head=True)
    outputs = model(**labelled(name))
    outputs.loss.backward()
    for module in swapped_attention(model).values():
        for parameter, value in module.mixer.named_parameters():
            assert value.grad.isfinite().all() and value.grad.any(), parameter
    model.save_pretrained(tmp_path)
    loaded = load_swapped(tmp_path)
    assert type(loaded) is type(model)
    assert swapped_attention(loaded).keys() == swapped_attention(model).keys()
    for ours, theirs in zip(tensors(loaded(**labelled(name))), tensors(outputs), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.config.seqdyconv == model.config.seqdyconv
    with pytest.raises(ValueError, match="load it with seqdyconv"):  # the original class does not start at random
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", MAIN)
def test_only_the_swapped_modules_change(name):
    case = CASES[name]
    model, original = case.model(), case.model()
    before = dict(model.named_modules())
    swap_self_attention(model, layers=[0])
    (place,) = [place for place, module in model.named_modules() if isinstance(module, SwappedAttention)]
    assert before[place] is case.attention(original, 0) or type(before[place]) is type(case.attention(original, 0))
    for other, module in model.named_modules():
        assert other.startswith(place) or module is before[other]
    numbers = dict(original.named_parameters())
    for parameter, value in model.named_parameters():
        assert value.requires_grad == (parameter.startswith(place) or numbers[parameter].requires_grad)
        assert parameter.startswith(place) or torch.equal(value, numbers[parameter])


@pytest.mark.parametrize("name", MAIN)
def test_a_layer_is_swapped_once(name):
    model = swapped(name, [0])
    with pytest.raises(ValueError, match="swapped already: 0"):
        swap_self_attention(model, layers=[0])
    with pytest.raises(ValueError, match="swapped already: 0"):
        swap_self_attention(model)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("layers", [None, [0]], ids=["all", "first"])
@pytest.mark.parametrize("name", PADDED)
def test_real_steps_do_not_depend_on_padding(name, layers, side):
    case = CASES[name]
    if side == "left" and not case.left:
        pytest.skip("the family counts positions from the left, or takes no padding there")
    for model in (case.model(), swapped(name, layers)):  # the promise of the family, and ours
        batch = case.batch()
        with torch.no_grad():
            alone = encoded(model(**shorter(batch)))
            if side == "right":
                padded = encoded(model(**batch))[1:, : alone.shape[1]]
            else:
                row = shorter(batch, "left")
                if case.left == "position_ids":
                    row["position_ids"] = (row["attention_mask"].cumsum(1) - 1).clamp(min=0)
                padded = encoded(model(**row))[:, -alone.shape[1] :]
        assert_close(padded, alone, 5e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PADDED)
def test_padding_is_read_from_the_mask(name, implementation):
    model = swapped(name)
    if implementation == "eager" or model._supports_sdpa:
        model.set_attn_implementation(implementation)
    seen = []
    for module in swapped_attention(model).values():
        module.mixer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0].shape[:2], kwargs["padding_mask"])), with_kwargs=True
        )
    batch = CASES[name].batch()
    model(**batch)
    mask = batch["attention_mask"]
    for shape, padding in seen:
        expected = mask if mask.shape == shape else model._get_feature_vector_attention_mask(shape[1], mask)
        assert torch.equal(padding, expected == 0)
    assert len(seen) >= CASES[name].layers


# Models whose attention has, with these settings, no positions in its scores: ours can take its place unchanged.
PLAIN = {
    "deberta-v2": {"relative_attention": False, "pos_att_type": []},
    "t5": {"d_kv": 4},
    "wav2vec2-bert": {"position_embeddings_type": None},
}


@pytest.mark.parametrize("name", MAIN)
def test_attention_in_the_place_of_attention_changes_nothing(name):
    case = CASES[name]
    model = case.model(**PLAIN.get(name, {}))
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if any(bias in parameter for bias in ("relative_attention_bias", "rel_attn_embed")):
                value.zero_()
    batch = case.batch()
    if name in ("modernbert", "eurobert"):
        batch["position_ids"] = torch.zeros(1, LENGTH, dtype=torch.long)  # turned by no angle
        model.config.sliding_window = 99
    expected = encoded(model(**batch))
    swap_self_attention(model, mixer="self_attention")
    actual = encoded(model(**batch))
    if case.padding:
        mask = batch["attention_mask"]
        if mask.shape[1] != actual.shape[1]:
            mask = model._get_feature_vector_attention_mask(actual.shape[1], mask)
        actual, expected = actual[mask > 0], expected[mask > 0]
    assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("name", MAIN)
def test_bfloat16(name, tmp_path):
    model = swapped(name)
    model.save_pretrained(tmp_path)
    expected = encoded(model(**CASES[name].batch()))
    batch = {
        key: value.bfloat16() if value.is_floating_point() else value for key, value in CASES[name].batch().items()
    }
    late = swap_self_attention(CASES[name].model().bfloat16(), kernel_size=5)
    for other in (late, load_swapped(tmp_path, dtype=torch.bfloat16)):
        parameters = [value for module in swapped_attention(other).values() for value in module.mixer.parameters()]
        assert {value.dtype for value in parameters} == {torch.bfloat16}
        actual = encoded(other(**batch))
        assert actual.dtype == torch.bfloat16 and actual.isfinite().all()
    assert_close(actual.float(), expected, 0.1)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("name", ROWS)
def test_compiles(name):
    model = swap_self_attention(CASES[name].model(num_hidden_layers=1), kernel_size=5)
    batch = CASES[name].batch()
    if batch.pop("decoder_input_ids", None) is not None:
        model = model.get_encoder()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_close(encoded(compiled(**batch)), encoded(model(**batch)), 1e-5)


@pytest.mark.parametrize("name", [name for name in MAIN if CASES[name].checkpointing])
def test_activation_checkpointing_changes_no_gradient(name):
    def gradients(checkpointing):
        model = swapped(name).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        first_loss(model(**CASES[name].batch())).backward()
        return {parameter: value.grad for parameter, value in model.named_parameters() if value.grad is not None}

    torch.manual_seed(1)
    plain = gradients(False)
    saved = gradients(True)
    assert plain.keys() == saved.keys()
    for parameter, value in plain.items():
        assert_close(saved[parameter], value, 1e-5, parameter)


@pytest.mark.parametrize("name", ROWS)
def test_a_step_of_the_trainer(name, tmp_path):
    model = swapped(name, head=True)
    rows = [{key: value[row] for key, value in labelled(name).items()} for row in range(2)]
    before = copy.deepcopy(swapped_attention(model)[0].mixer.state_dict())
    arguments = TrainingArguments(
        tmp_path, max_steps=1, per_device_train_batch_size=2, use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    Trainer(model, arguments, train_dataset=rows).train()
    for parameter, value in swapped_attention(model)[0].mixer.state_dict().items():
        assert not torch.equal(value, before[parameter]), parameter


@pytest.mark.parametrize("name", MAIN)
def test_kernels_start_from_the_attention(name):
    model = CASES[name].model()
    batch = CASES[name].batch()
    for number in range(CASES[name].layers):  # the later ones beside layers that are swapped
        swap_self_attention(model, layers=[number], kernel_size=5, calibration=[batch])
        assert swapped_attention(model)[number].mixer.conv.generator.bias.unflatten(0, (4, 5)).std(1).all()
    assert encoded(model(**batch)).isfinite().all()


class TestModelsRecognisedByTheirModules:
    # The others are tried when docs/swap_families.md is made.
    @pytest.mark.parametrize("name", TESTED)
    def test_run_do_not_see_padding_and_come_back(self, name, tmp_path):
        model = swap_self_attention(tiny_model(name), kernel_size=3)
        assert next(iter(swapped_attention(model).values())).family.name == "unknown"
        batch, outputs = run(model)
        if "input_ids" in batch:
            short = {key: value[1:, :REAL] if "decoder" not in key else value[1:] for key, value in batch.items()}
            assert_close(outputs[1:, :REAL], first(model(**short)), 1e-5)
        model.save_pretrained(tmp_path)
        assert_close(run(load_swapped(tmp_path))[1], outputs, 1e-5)

    def test_projections_of_grouped_heads_serve_each_of_their_heads(self):
        model = CASES["eurobert"].model()
        value = CASES["eurobert"].attention(model, 0).v_proj
        swap_self_attention(model, layers=[0])
        heads = swapped_attention(model)[0].mixer.in_proj.weight.view(4, 4, 16)
        assert torch.equal(heads, value.weight.view(2, 4, 16).repeat_interleave(2, 0))

    def test_take_weights_whose_names_in_files_are_others(self, tmp_path):
        """Nomic's files have one projection instead of three; a swapped model's have those of the model."""
        original = tiny_model("nomic_bert")
        original.save_pretrained(tmp_path / "original")
        model = type(original).from_pretrained(tmp_path / "original")
        swap_self_attention(model, layers=[0], kernel_size=3).save_pretrained(tmp_path / "swapped")
        loaded = load_swapped(tmp_path / "swapped")
        assert_close(run(loaded)[1], run(model)[1], 1e-6)
        loaded.save_pretrained(tmp_path / "again")
        assert_close(run(load_swapped(tmp_path / "again"))[1], run(model)[1], 1e-6)
        restore_self_attention(loaded, original).save_pretrained(tmp_path / "restored")
        assert_close(run(type(original).from_pretrained(tmp_path / "restored"))[1], run(original)[1], 1e-6)


class TestPositionBiasGoesOn:
    @pytest.mark.parametrize("name", ["t5", "wavlm"])
    def test_as_the_original_computes_it(self, name):
        case = CASES[name]

        def biases(model):
            seen = []
            case.attention(model, 1).register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(kwargs["position_bias"]), with_kwargs=True
            )
            model(**case.batch())
            return seen[0]

        assert torch.equal(biases(swapped(name, [0])), biases(case.model()))
        assert torch.equal(biases(swapped(name, [0, 1])), biases(case.model()))

    @pytest.mark.parametrize("name", ["t5", "wavlm"])
    def test_and_is_trained_while_a_layer_reads_it(self, name):
        model = swapped(name, [0])
        first_loss(model(**CASES[name].batch())).backward()
        (bias,) = [value for path, value in model.named_parameters() if "encoder." in path and self.is_bias(path)]
        assert bias.grad.any()

    @pytest.mark.parametrize("name", ["t5", "wavlm"])
    def test_until_none_is_left(self, name):
        at_once, later = swapped(name), swapped(name, [0])
        swap_self_attention(later, layers=[1, 2], kernel_size=5)
        for model in (at_once, later):
            assert not [path for path, _ in model.named_parameters() if "encoder." in path and self.is_bias(path)]
            assert encoded(model(**CASES[name].batch())).isfinite().all()

    @staticmethod
    def is_bias(path):
        return "relative_attention_bias" in path or "rel_attn_embed" in path

    def test_in_the_buckets_of_t5(self):
        attention = transformers.models.t5.modeling_t5.T5Attention
        offsets = torch.arange(300) - torch.arange(300)[:, None]
        for buckets, distance in ((32, 128), (320, 800), (8, 6)):
            expected = attention._relative_position_bucket(offsets, True, buckets, distance)
            assert torch.equal(relative_buckets(300, buckets, distance, torch.device("cpu")), expected)


def test_albert_keeps_residual_and_norm():
    model = CASES["albert"].model()
    norm = CASES["albert"].attention(model, 0).LayerNorm
    module = CASES["albert"].attention(swap_self_attention(model), 0)
    assert module.LayerNorm is norm
    nn.init.zeros_(module.mixer.out_proj.weight)
    nn.init.zeros_(module.mixer.out_proj.bias)
    hidden = torch.randn(2, 7, 16)
    assert torch.equal(module(hidden)[0], norm(hidden))


def test_albert_layers_share_one_module():
    model = CASES["albert"].model()
    with pytest.raises(ValueError, match=r"no layer 1; the layers are 0 \(albert runs one module in several layers\)"):
        swap_self_attention(model, layers="1")
    swap_self_attention(model, layers=0)
    assert not [module for module in model.modules() if type(module).__name__ == "AlbertAttention"]


def test_modernbert_keeps_its_dropout():
    model = swap_self_attention(CASES["modernbert"].model(attention_dropout=0.5))
    module = CASES["modernbert"].attention(model, 0).train()
    assert (module(torch.randn(2, 7, 16))[0] == 0).float().mean() > 0.2


@pytest.mark.parametrize("name", ["bart", "marian", "t5", "whisper"])
def test_generates(name, tmp_path):
    model = swapped(name, head=True)
    batch = {key: value for key, value in CASES[name].batch().items() if key != "decoder_input_ids"}
    settings = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False}
    expected = model.generate(**batch, **settings)
    assert torch.equal(model.generate(**batch, **settings, use_cache=False), expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(load_swapped(tmp_path).generate(**batch, **settings), expected)
    # Only the encoder is swapped.
    assert all(
        ".decoder." not in path for path, module in model.named_modules() if isinstance(module, SwappedAttention)
    )


@pytest.mark.parametrize(
    "head",
    [
        "BertForTokenClassification",
        "BertForQuestionAnswering",
        "BertForMaskedLM",
        "BertForPreTraining",
        "BertForMultipleChoice",
        "BertForNextSentencePrediction",
        "RobertaForMaskedLM",
        "ElectraForPreTraining",
        "ElectraForMaskedLM",
        "DistilBertForQuestionAnswering",
        "DistilBertForMaskedLM",
        "MPNetForTokenClassification",
        "AlbertForMaskedLM",
        "AlbertForQuestionAnswering",
        "DebertaV2ForMaskedLM",
        "DebertaV2ForTokenClassification",
        "ModernBertForMaskedLM",
        "ModernBertForTokenClassification",
        "BartForSequenceClassification",
        "BartForQuestionAnswering",
        "T5EncoderModel",
        "T5ForTokenClassification",
        "T5ForSequenceClassification",
        "Wav2Vec2ForSequenceClassification",
        "HubertForSequenceClassification",
        "WavLMForXVector",
        "Wav2Vec2ForAudioFrameClassification",
        "Wav2Vec2BertForSequenceClassification",
        "WhisperForAudioClassification",
        "ViTForMaskedImageModeling",
    ],
)
def test_other_heads(head, tmp_path):
    (name,) = [name for name in CASES if getattr(transformers, head).config_class is type(CASES[name].config())]
    case = CASES[name]
    config = case.config()
    config.encoder_stride = 4  # of the images' reconstruction
    config.tdnn_dim, config.tdnn_kernel, config.tdnn_dilation, config.xvector_output_dim = (8,), (3,), (1,), 8
    model = getattr(transformers, head)(config).eval()
    batch = {key: value for key, value in case.batch().items() if key in inspect.signature(model.forward).parameters}
    if head == "BertForMultipleChoice":
        batch = {key: value[None] for key, value in batch.items()}
    if head in ("BartForSequenceClassification", "T5ForSequenceClassification"):
        batch["input_ids"][:, 3] = config.eos_token_id
        batch["input_ids"] = batch["input_ids"].where(torch.arange(LENGTH) == 3, 7)
        batch = {key: value for key, value in batch.items() if key != "decoder_input_ids"}
    swap_self_attention(model, layers="every 1", kernel_size=5)
    outputs = model(**batch)
    first_loss(outputs).backward()
    assert all(module.mixer.in_proj.weight.grad is not None for module in swapped_attention(model).values())
    model.save_pretrained(tmp_path)
    loaded = load_swapped(tmp_path)
    for ours, theirs in zip(tensors(loaded(**batch)), tensors(outputs), strict=True):
        assert_close(ours, theirs, 1e-5)  # not equal: a processor's sums may depend on where a tensor lies


class TestPaddingFromAttentionMask:
    PADDING = torch.tensor([[False, False, False, True], [False, True, True, True]])

    def test_no_mask_is_no_padding(self):
        assert padding_from_attention_mask(None) is None

    @pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
    def test_of_two_dimensions(self, dtype):
        assert torch.equal(padding_from_attention_mask((~self.PADDING).to(dtype)), self.PADDING)

    @pytest.mark.parametrize("windowed", [False, True])
    def test_of_the_diagonal(self, windowed):
        keep = (~self.PADDING)[:, None, None, :].expand(2, 1, 4, 4)
        if windowed:
            keep = keep & torch.ones(4, 4).tril(1).triu(-1).bool()
        added = torch.zeros(2, 1, 4, 4).masked_fill(~keep, torch.finfo(torch.float32).min)
        for mask in (keep, keep.long(), added):
            assert torch.equal(padding_from_attention_mask(mask), self.PADDING)

    def test_of_a_row_for_all_steps(self):
        keep = (~self.PADDING)[:, None, None, :]
        assert torch.equal(padding_from_attention_mask(keep), self.PADDING)

    def test_of_a_product(self):
        keep = (~self.PADDING).float()
        mask = keep[:, None, :, None] * keep[:, None, None, :]
        assert torch.equal(padding_from_attention_mask(mask, is_product=True), self.PADDING)

    @pytest.mark.parametrize("name", ["causal", "chunks", "packed", "window", "padding"])
    @pytest.mark.parametrize("kind", ["bool", "added"])
    def test_what_hides_more_than_padding_is_refused(self, name, kind):
        module = swapped_attention(swapped("bert"))[0]
        keep = (~self.PADDING)[:, None, None, :].expand(2, 1, 4, 4)
        ones = torch.ones(4, 4)
        hidden = {
            "causal": ones.tril(),
            "chunks": ones.tril() + torch.block_diag(ones[:2, :2], ones[:2, :2]),
            "packed": torch.block_diag(ones[:2, :2], ones[:2, :2]),
            "window": ones.tril(1).triu(-1),
            "padding": ones,
        }
        mask = keep & hidden[name].bool()
        mask = mask if kind == "bool" else torch.zeros(2, 1, 4, 4).masked_fill(~mask, -1e9)
        if name in ("window", "padding"):
            module(torch.randn(2, 4, 16), mask)
        else:
            with pytest.raises(ValueError, match="hides later steps"):
                module(torch.randn(2, 4, 16), mask)

    def test_a_mask_for_all_rows(self):
        model = swapped("bert")
        module = swapped_attention(model)[0]
        hidden = torch.randn(3, 4, 16)
        one = torch.tensor([[True, True, True, False]])
        for mask in (one, one[:, None, None, :]):
            assert torch.equal(module(hidden, mask)[0], module(hidden, one.expand(3, 4))[0])


def test_deberta_without_a_mask_has_no_padding():
    model = swapped("deberta-v2")
    batch = {"input_ids": torch.randint(4, 40, (2, SHORT))}
    whole = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    assert torch.equal(model(**batch)[0], model(**whole)[0])
