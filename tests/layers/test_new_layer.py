"""The layer that CONTRIBUTING.md adds: the code that stands there passes the contract, and is known everywhere."""

import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from seqdyconv import build_mixer
from seqdyconv.layers import MIXERS
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForSequenceClassification
from seqdyconv.swap import load_swapped, swap_self_attention
from tests.helpers import assert_close, randomize
from tests.layers import capabilities
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def added(monkeypatch):
    """The names of the guide's code, with its row among the mixers while a test runs."""
    monkeypatch.setitem(MIXERS, "bell_conv", None)  # so that it is gone afterwards
    namespace = {}
    for snippet in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, GUIDE.name, "exec"), namespace)
    return namespace


class TestBehaviours(MixesTime, CompilesAndExports):
    @pytest.fixture(params=["layer", "mixer"])
    def build(self, added, request):
        def build(*, causal=False, dtype=torch.float64, seed=0):
            if request.param == "layer":
                layer = added["BellConv1d"](WIDTH, 4, 3, padding="causal" if causal else "same", dtype=dtype)
                return randomize(layer, seed)
            return randomize(build_mixer("bell_conv", WIDTH, 3, kernel_size=4, causal=causal, dtype=dtype), seed)

        return build


def test_its_options_are_those_of_the_mixer(added):
    assert build_mixer("bell_conv", WIDTH, 3, kernel_size=4, start=5.0).conv.start == 5.0


def test_a_model_has_it_by_its_name(added):
    config = SeqDyConvConfig(
        vocab_size=20,
        hidden_size=8,
        encoder_ffn_dim=8,
        encoder_attention_heads=2,
        encoder_layer_types="bell_conv",
        encoder_kernel_sizes=[3],
        is_encoder_decoder=False,
    )
    model = SeqDyConvForSequenceClassification(config)
    model(torch.tensor([[5, 6, 2]]), labels=torch.tensor([1])).loss.backward()
    assert model.encoder.layers[0].mixer.conv.width.grad is not None


def test_loading_starts_it_where_the_weights_are_of_another_layer(added, tmp_path, nan_filled_memory):
    sizes = {"vocab_size": 20, "hidden_size": 8, "encoder_ffn_dim": 8, "encoder_attention_heads": 2}
    config = SeqDyConvConfig(**sizes, encoder_kernel_sizes=[3], is_encoder_decoder=False)
    SeqDyConvForSequenceClassification(config).save_pretrained(tmp_path)
    model = SeqDyConvForSequenceClassification.from_pretrained(tmp_path, encoder_layer_types=["bell_conv"])
    width = model.encoder.layers[0].mixer.conv.width
    assert width.min() >= 1 and width.max() <= 4 and width.std() > 0


def test_a_swap_has_it_by_its_name(added, tmp_path):
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = swap_self_attention(BertModel(config), mixer="bell_conv", kernel_size=3, start=1.0).eval()
    model.save_pretrained(tmp_path)
    tokens = torch.tensor([[5, 6, 2]])
    assert_close(load_swapped(tmp_path).eval()(tokens).pooler_output, model(tokens).pooler_output, 1e-5)


def test_the_table_of_capabilities_has_it(added):
    assert capabilities.row("bell_conv").startswith("| `BellConv1d` | `bell_conv` | K steps | yes | yes | yes | yes |")
