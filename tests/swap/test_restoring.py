"""Self-attention comes back: what a swap changed is undone, in every family, bit for bit."""

import copy
import pickle

import pytest
import torch
import transformers

from seqdyconv.swap import (
    attention_modules,
    load_swapped,
    restore_self_attention,
    swap_self_attention,
    swapped_attention,
    train_mixers_only,
)
from tests.swap.zoo import CASES, TEXT, encoded, first_loss

transformers.utils.logging.disable_progress_bar()

# PyTorch about the attention of WavLM
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

every_family = pytest.mark.parametrize("name", CASES)


def bert(layers=4, seed=0, **settings):
    torch.manual_seed(seed)
    config = transformers.BertConfig(**{**TEXT, "num_hidden_layers": layers, **settings})
    return transformers.BertModel(config).eval()


def swapped(original, layers=None):
    return swap_self_attention(copy.deepcopy(original), layers=layers, kernel_size=5)


def tensors(model):
    return {**model.state_dict(), **dict(model.named_buffers())}


def assert_same(model, original):
    """Nothing tells the models apart: modules, weights, buffers, configuration, modes, hooks."""
    assert str(model) == str(original)
    assert model.config.to_dict() == original.config.to_dict()
    ours, theirs = tensors(model), tensors(original)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
    for part, expected in zip(model.modules(), original.modules(), strict=True):
        assert type(part) is type(expected) and part.training == expected.training
        assert len(part._forward_pre_hooks) == len(expected._forward_pre_hooks)
        assert vars(part).keys() == vars(expected).keys()
        if hasattr(expected, "config"):
            assert part.config.to_dict() == expected.config.to_dict()
    grads = {name: value.requires_grad for name, value in original.named_parameters()}
    assert {name: value.requires_grad for name, value in model.named_parameters()} == grads


def train_a_step(model, batch):
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    first_loss(model.train()(**batch)).backward()
    optimizer.step()
    optimizer.zero_grad()
    return model.eval()


class TestEveryFamily:
    @every_family
    def test_the_original_is_back(self, name):
        case = CASES[name]
        original = case.model()
        model = swapped(original)
        assert restore_self_attention(model, original) is model
        assert_same(model, original)
        assert not swapped_attention(model)
        with torch.no_grad():
            assert torch.equal(encoded(model(**case.batch())), encoded(original(**case.batch())))
        own = {value.data_ptr() for value in model.state_dict().values()}
        assert not own & {value.data_ptr() for value in original.state_dict().values()}

    @every_family
    def test_after_the_mixers_were_trained(self, name):
        original = CASES[name].model()
        model = swapped(original)
        train_mixers_only(model)
        train_a_step(model, CASES[name].batch())
        restore_self_attention(model, original)
        ours, theirs = tensors(model), tensors(original)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)

    @every_family
    def test_layer_after_layer(self, name):
        """The model in between is the one where these layers were never swapped."""
        case = CASES[name]
        original = case.model()
        model, batch = swapped(original), case.batch()
        for number in range(case.layers - 1):
            mixers = {key: copy.deepcopy(module.mixer) for key, module in swapped_attention(model).items()}
            restore_self_attention(model, original, layers=[number])
            left = list(range(number + 1, case.layers))
            expected = swapped(original, left)
            for key, module in swapped_attention(expected).items():
                module.mixer.load_state_dict(mixers[key].state_dict())
            assert_same(model, expected)
            assert list(swapped_attention(model)) == left
            with torch.no_grad():
                assert torch.equal(encoded(model(**batch)), encoded(expected(**batch)))
        restore_self_attention(model, original)
        assert_same(model, original)

    @every_family
    def test_the_last_layer_alone(self, name):
        case = CASES[name]
        original = case.model()
        model = restore_self_attention(swapped(original), original, layers=-1)
        assert list(swapped_attention(model)) == list(range(case.layers - 1))
        with torch.no_grad():
            assert encoded(model(**case.batch())).isfinite().all()

    @every_family
    def test_from_a_folder_and_to_a_plain_one(self, name, tmp_path):
        case = CASES[name]
        original = case.model(head=True)
        swapped(original).save_pretrained(tmp_path / "swapped")
        model = restore_self_attention(load_swapped(tmp_path / "swapped"), original)
        for part in model.modules():
            assert not hasattr(getattr(part, "config", None), "seqdyconv")
        model.save_pretrained(tmp_path / "plain")
        loaded = type(original).from_pretrained(tmp_path / "plain", trust_remote_code=False)
        with torch.no_grad():
            for actual in (model, loaded):
                assert torch.equal(encoded(actual(**case.batch())), encoded(original(**case.batch())))


class TestWhatIsRestored:
    def test_from_a_model_with_another_head(self):
        torch.manual_seed(0)
        config = transformers.BertConfig(**TEXT)
        teacher = transformers.BertForMaskedLM(config)
        model = transformers.BertForSequenceClassification(config)
        model.bert.encoder.load_state_dict(teacher.bert.encoder.state_dict())
        original = copy.deepcopy(model)
        assert_same(restore_self_attention(swapped(model), teacher), original)

    def test_from_modules_that_were_remembered(self):
        model = bert()
        original, attention = copy.deepcopy(model), attention_modules(model)
        swap_self_attention(model, kernel_size=3)
        assert_same(restore_self_attention(model, attention), original)

    def test_of_an_unknown_family(self):
        torch.manual_seed(0)
        original = transformers.SplinterModel(transformers.SplinterConfig(**TEXT)).eval()
        model = copy.deepcopy(original)
        swap_self_attention(model, pattern="layer.*.attention.self", kernel_size=3)
        assert_same(restore_self_attention(model, original), original)

    def test_what_was_trained_beside_stays(self):
        original, batch = bert(2), CASES["bert"].batch()
        model = train_a_step(swapped(original), batch)
        trained = copy.deepcopy(model.state_dict())
        restore_self_attention(model, original)
        for name, value in model.state_dict().items():
            assert torch.equal(value, (original.state_dict() if ".attention.self." in name else trained)[name]), name

    def test_the_norm_that_belongs_to_the_attention_is_the_original_one(self):
        original = CASES["albert"].model()
        model = train_a_step(swapped(original), CASES["albert"].batch())
        norm = CASES["albert"].attention(original, 0).LayerNorm.weight
        assert not torch.equal(CASES["albert"].attention(model, 0).LayerNorm.weight, norm)
        restore_self_attention(model, original)
        assert torch.equal(CASES["albert"].attention(model, 0).LayerNorm.weight, norm)

    def test_mode_dtype_and_settings_are_those_of_the_model(self):
        original = bert(2, attention_probs_dropout_prob=0.3)
        model = swapped(bert(2, attention_probs_dropout_prob=0.1)).double().train()
        restore_self_attention(model, original)
        attention = attention_modules(model)[0]
        assert all(part.training for part in model.modules())
        assert {value.dtype for value in model.state_dict().values()} == {torch.float64}
        assert attention.dropout.p == 0.1
        assert attention.query.weight.equal(original.encoder.layer[0].attention.self.query.weight.double())
        model.set_attn_implementation("eager")  # reaches the restored layers too
        assert model.eval()(torch.tensor([[5, 6]]), output_attentions=True).attentions[1] is not None

    def test_parameters_are_trained_or_not_as_before_the_swap(self):
        original = bert(2)
        original.encoder.layer[0].attention.self.value.requires_grad_(False)
        model = swapped(original)
        teacher = copy.deepcopy(original).requires_grad_(False)
        restore_self_attention(model, teacher)
        assert_same(model, original)

    def test_hooks_of_the_original_stay_there(self):
        original = bert(2)
        model = swapped(original)
        original.encoder.layer[0].attention.self.register_forward_hook(lambda *_: pytest.fail("the original ran"))
        restore_self_attention(model, original)(torch.tensor([[5, 6]]))

    @pytest.mark.parametrize("when", ["before the swap", "while swapped", "never"])
    def test_attentions_are_given_again(self, when):
        original, ids = bert(3, attn_implementation="eager"), torch.tensor([[5, 6, 7]])
        expected = copy.deepcopy(original)(ids, output_attentions=True, output_hidden_states=True)
        model = copy.deepcopy(original)
        if when == "before the swap":
            model(ids, output_attentions=True)
        swap_self_attention(model, layers="1-2", kernel_size=3)
        if when == "while swapped":
            model(ids, output_hidden_states=True)
        restore_self_attention(model, original, layers=[1])
        with pytest.raises(ValueError, match="output_attentions=True: swapped layers have no attention"):
            model(ids, output_attentions=True)
        restore_self_attention(model, original)
        for _ in range(2):
            outputs = model(ids, output_attentions=True, output_hidden_states=True)
            for ours, theirs in ((outputs.attentions, expected.attentions), (outputs[2], expected[2])):
                assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))

    def test_of_copies_and_pickles(self):
        original = bert(2)
        for model in (copy.deepcopy(swapped(original)), pickle.loads(pickle.dumps(swapped(original)))):
            assert_same(restore_self_attention(model, original), original)
            assert attention_modules(model)[0].config is model.config

    def test_can_be_swapped_and_restored_again(self):
        original = bert(2)
        model = swapped(original)
        for layers in ([0], None, "1"):
            restore_self_attention(model, original)
            swap_self_attention(model, layers=layers, mixer="lightweight_conv", kernel_size=3)
        assert list(model.config.seqdyconv["layers"]) == ["1"]
        assert_same(restore_self_attention(model, original), original)


class TestPositionBias:
    """The layers that are restored read a bias which the first one computes, swapped or not."""

    @pytest.mark.parametrize("name", ["t5", "wavlm"])
    def test_comes_back_with_a_layer_that_reads_it(self, name):
        case = CASES[name]
        original = case.model()
        model = restore_self_attention(swapped(original), original, layers=[2])
        expected = swapped(original, [0, 1])
        for number, module in swapped_attention(expected).items():
            module.mixer.load_state_dict(swapped_attention(model)[number].mixer.state_dict())
        assert_same(model, expected)
        assert torch.equal(encoded(model(**case.batch())), encoded(expected(**case.batch())))

    @pytest.mark.parametrize("name", ["t5", "wavlm"])
    def test_is_the_last_known_where_the_original_lacks_it(self, name):
        original = CASES[name].model()
        model = copy.deepcopy(original)
        attention = attention_modules(model)
        swap_self_attention(model, kernel_size=5)
        restore_self_attention(model, {2: attention[2]}, layers=[2])
        expected = restore_self_attention(swapped(original), original, layers=[2])
        assert model.state_dict().keys() == expected.state_dict().keys()
        (bias,) = [key for key in model.state_dict() if ("relative_attention_bias" in key and "encoder" in key)
                   or "rel_attn_embed" in key]  # fmt: skip
        assert torch.equal(model.state_dict()[bias], original.state_dict()[bias])

    @pytest.mark.parametrize("name", ["t5", "wavlm"])
    def test_must_be_known(self, name, tmp_path):
        original = CASES[name].model()
        swapped(original).save_pretrained(tmp_path)
        assert_refused(
            load_swapped(tmp_path),
            {2: attention_modules(original)[2]},
            "original must have layer 0 too: it computes the position bias of the others",
            layers=[2],
        )


def assert_refused(model, original, match, **options):
    before = {name: id(module) for name, module in model.named_modules()}, copy.deepcopy(model.config.to_dict())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        restore_self_attention(model, original, **options)
    assert before == ({name: id(module) for name, module in model.named_modules()}, model.config.to_dict())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class TestWhatDoesNotFit:
    def test_a_model_that_is_not_swapped(self):
        assert_refused(bert(), bert(), "this BertModel has no swapped layers to restore")
        with pytest.raises(ValueError, match="must be a PreTrainedModel of transformers, got Linear"):
            restore_self_attention(torch.nn.Linear(2, 2), bert())

    @pytest.mark.parametrize(
        ("layers", "match"),
        [
            ([0, 1], "layers that are not swapped: 0; swapped are 1, 3"),
            ("0-2", "layers that are not swapped: 0, 2; swapped are 1, 3"),
            ([7], "there is no layer 7; the layers are 0-3"),
            ([], "chooses none"),
        ],
        ids=str,
    )
    def test_layers(self, layers, match):
        assert_refused(swapped(bert(), [1, 3]), bert(), match, layers=layers)

    @pytest.mark.parametrize(
        ("original", "match"),
        [
            (lambda: CASES["roberta"].model(), "original must be a bert, got a roberta"),
            (lambda: torch.nn.Linear(2, 2), "original must be a model of transformers, or .* by layer, got Linear"),
            (lambda: "bert", "original must be a model of transformers, or .* by layer, got str"),
            (lambda: {}, "original has no attention of the layers 0-3"),
            (lambda: bert(2), "original has no attention of the layers 2-3"),
            (lambda: swapped(bert(), [3]), "layer 3 of original must be a BertSelfAttention, got a SwappedAttention"),
            (
                lambda: bert(hidden_size=8),
                r"query.weight of layer 0 of original must be \(16, 16\), got \(8, 8\)",
            ),
            (
                lambda: dict.fromkeys(range(4), torch.nn.Linear(2, 2)),
                "layer 0 of original must be a BertSelfAttention, got a Linear",
            ),
            (lambda: dict.fromkeys(range(4)), "layer 0 of original must be a BertSelfAttention, got a NoneType"),
        ],
    )
    def test_originals(self, original, match):
        assert_refused(swapped(bert()), original(), match)

    def test_an_original_with_other_weights(self):
        original = bert()
        original.encoder.layer[3].attention.self.query.bias = None
        assert_refused(swapped(bert()), original, r"layer 3 of original must have the weights query.weight, query.bias")

    def test_an_original_without_weights(self):
        assert_refused(
            swapped(bert()), bert().to("meta"), "layer 0 of original has no weights: it is on the meta device"
        )

    def test_a_quantised_original(self):
        original = bert()
        original.is_quantized = True
        assert_refused(swapped(bert()), original, "quantized")

    def test_the_model_itself(self):
        model = swapped(bert())
        assert_refused(model, model, "layer 0 of original must be a BertSelfAttention, got a SwappedAttention")
