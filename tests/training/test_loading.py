"""What a run says of its model: arguments without effect, and configurations."""

from dataclasses import dataclass, field

import pytest

from seqdyconv.models import SeqDyConvConfig
from seqdyconv.models.loading import ModelError
from seqdyconv.training.loading import new_config, one_for_each, refuse_ignored


@dataclass
class Arguments:
    name: str = "none"
    layers: list[int] = field(default_factory=lambda: [1, 2])


def test_fields_without_effect():
    refuse_ignored(Arguments(), [])
    refuse_ignored(Arguments(name="some", layers=[1, 2]), ["name"])
    for set_one in (Arguments(name="some"), Arguments(layers=[1])):
        with pytest.raises(ModelError, match=r"^(name|layers) has no effect with model_name_or_path"):
            refuse_ignored(set_one, [])


class TestNewConfig:
    VALUES = {"vocab_size": 20, "hidden_size": 16, "encoder_attention_heads": 4}

    @pytest.mark.parametrize("overrides", [None, {}, {"dropout": 0.3}, '{"dropout": 0.3}'])
    def test_overrides(self, overrides):
        config = new_config(SeqDyConvConfig, self.VALUES, overrides)
        assert config.hidden_size == 16
        assert config.dropout == (0.3 if overrides else SeqDyConvConfig().dropout)

    @pytest.mark.parametrize(
        ("overrides", "match"),
        [
            ("{", "^config_overrides must be JSON, got '{'$"),
            ("[1]", r"^config_overrides must be a mapping of fields of SeqDyConvConfig, got \[1\]$"),
            ({"drop": 1}, "^config_overrides names 'drop', which is no field of SeqDyConvConfig$"),
            ({"hidden_size": 15}, "^this model can't be built: "),
            ({"hidden_size": "wide"}, "^this model can't be built: "),
        ],
        ids=str,
    )
    def test_overrides_that_do_not_work(self, overrides, match):
        with pytest.raises(ModelError, match=match) as caught:
            new_config(SeqDyConvConfig, self.VALUES, overrides)
        assert "\n" not in str(caught.value)


def test_one_layer_type_for_each_size():
    assert one_for_each(["a"], [3, 7, 9], "encoder") == ["a", "a", "a"]
    assert one_for_each(["a", "b"], [3, 7], "encoder") == ["a", "b"]
    with pytest.raises(ModelError, match=r"^decoder_layer_types names 2 layers and decoder_kernel_sizes 3: give one"):
        one_for_each(["a", "b"], [3, 7, 9], "decoder")
