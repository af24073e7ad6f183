"""The architecture of a new model as arguments."""

from dataclasses import dataclass, field

import pytest

from seqdyconv.errors import InputError
from seqdyconv.layers import MIXERS, mixer_options
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForSequenceClassification, SeqDyConvSpeechConfig
from seqdyconv.models.loading import ModelError
from seqdyconv.ranges import KernelSize
from seqdyconv.training.arguments import dump_yaml, parse_arguments, resolved_arguments
from seqdyconv.training.model_arguments import (
    EncoderArguments,
    EncoderDecoderArguments,
    check_size,
    new_config,
    one_for_each,
    refuse_ignored,
)


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
        with pytest.raises(InputError, match=match) as caught:
            new_config(SeqDyConvConfig, self.VALUES, overrides)
        assert "\n" not in str(caught.value)


def test_one_layer_type_for_each_size():
    assert one_for_each(["a"], [3, 7, 9], "encoder") == ["a", "a", "a"]
    assert one_for_each(["a", "b"], [3, 7], "encoder") == ["a", "b"]
    with pytest.raises(ModelError, match=r"^decoder_layer_types names 2 layers and decoder_kernel_sizes 3: give one"):
        one_for_each(["a", "b"], [3, 7, 9], "decoder")


class TestKernelSizes:
    """One for each layer, or several of one layer: in YAML, in JSON on the command line, and in what a run keeps."""

    @dataclass
    class Arguments(EncoderArguments):
        swap_kernel_size: KernelSize = 31

    @pytest.fixture
    def parse(self, tmp_path):
        def parse(text, *words):
            (tmp_path / "config.yaml").write_text(text)
            return parse_arguments([self.Arguments], [str(tmp_path / "config.yaml"), *words])[0]

        return parse

    @pytest.mark.parametrize(
        "text, words",
        [
            ("encoder_kernel_sizes: [[7, 31], 15]\nswap_kernel_size: [3, 7]", []),
            ("", ["--encoder_kernel_sizes", "[7,31]", "15", "--swap_kernel_size", "[3,7]"]),
            ("", ["--encoder_kernel_sizes", "[7, 31]", "15", "--swap_kernel_size=[3, 7]"]),
            ("", ["--encoder_kernel_sizes", "[[7, 31], 15]", "--swap_kernel_size=[3, 7]"]),
        ],
    )
    def test_several(self, parse, text, words):
        args = parse(text, *words)
        assert args.encoder_kernel_sizes == [[7, 31], 15] and args.swap_kernel_size == [3, 7]
        assert parse(dump_yaml(resolved_arguments(args))) == args
        assert args.config().encoder_kernel_sizes == [[7, 31], 15]

    def test_one(self, parse):
        assert parse("encoder_kernel_sizes: [3, 7]\nswap_kernel_size: 5").encoder_kernel_sizes == [3, 7]
        assert parse("encoder_kernel_sizes: 3", "--swap_kernel_size", "5") == self.Arguments(
            encoder_kernel_sizes=[3], swap_kernel_size=5
        )

    @pytest.mark.parametrize("key", ["encoder_kernel_sizes", "swap_kernel_size"])
    @pytest.mark.parametrize("word", ["0", "[7,0]", "7.5", "true", "x", "[7,31", "65537", "null", '{"a":7}', ""])
    def test_others(self, parse, capsys, key, word):
        with pytest.raises(SystemExit):
            parse("", f"--{key}", word)
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and key in error, error

    @pytest.mark.parametrize("size", ["[]", "[[7]]", "[[[7, 7]]]", "[{a: 7}]", "{a: 7}", "null", "[null]"])
    def test_others_in_a_file(self, parse, capsys, size):
        with pytest.raises((SystemExit, ModelError)) as caught:
            parse(f"encoder_kernel_sizes: [{size}, 3]").config()
        error = capsys.readouterr().err if isinstance(caught.value, SystemExit) else f"{caught.value}\n"
        assert error.count("\n") == 1 and "kernel_size" in error, error


class TestConfig:
    def test_a_key_without_a_side_holds_for_both(self):
        args = EncoderDecoderArguments(ffn_dim=64, glu=False, encoder_kernel_sizes=[3], decoder_kernel_sizes=[5, 7])
        config = args.config(decoder=True)
        assert config.encoder_ffn_dim == config.decoder_ffn_dim == 64
        assert not config.encoder_glu and not config.decoder_glu and config.is_encoder_decoder
        assert config.encoder_layer_types == ["dynamic_conv"] and config.decoder_layer_types == ["dynamic_conv"] * 2

    def test_without_a_decoder_its_keys_are_left_out(self):
        args = EncoderDecoderArguments(ffn_dim=64, decoder_kernel_sizes=[3] * 9, hidden_size=64)
        config = args.config(SeqDyConvSpeechConfig, vocab_size=10)
        assert not config.is_encoder_decoder and config.decoder_ffn_dim == SeqDyConvSpeechConfig().decoder_ffn_dim
        assert config.encoder_ffn_dim == 64 and config.vocab_size == 10

    def test_the_defaults_are_those_of_the_configuration(self):
        found, default = EncoderArguments().config(), SeqDyConvConfig(is_encoder_decoder=False)
        different = {name for name, value in found.to_dict().items() if value != default.to_dict()[name]}
        assert different == {"encoder_ffn_dim", "encoder_attention_heads"}

    def test_impossible_ones_are_one_line(self):
        for options in ({"hidden_size": 15}, {"encoder_kernel_sizes": [3], "config_overrides": {"ffn_groups": 0}}):
            with pytest.raises(ModelError, match=r"^this model can't be built: ") as caught:
                EncoderArguments(**options).config()
            assert "\n" not in str(caught.value)


class TestMixerOptions:
    def parse(self, tmp_path, text, *words):
        path = tmp_path / "config.yaml"
        path.write_text(f"encoder_kernel_sizes: [3, 5]\n{text}\n")
        (args,) = parse_arguments([EncoderDecoderArguments], [str(path), *words])
        return args

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("encoder_mixer_options: {dilation: 2, renormalize: true}", []),
            ("", ["--encoder_mixer_options", '{"dilation": 2, "renormalize": true}']),
            ("encoder_mixer_options: {dilation: 3}", ['--encoder_mixer_options={"dilation": 2, "renormalize": true}']),
        ],
        ids=["yaml", "command line", "both"],
    )
    def test_for_all_layers(self, tmp_path, text, words):
        args = self.parse(tmp_path, text, *words)
        assert args.encoder_mixer_options == {"dilation": 2, "renormalize": True}
        config = args.config(decoder=True)
        for layer in range(2):
            options = config.layer_options("encoder", layer)
            assert options["dilation"] == 2 and options["renormalize"]
        assert "dilation" not in config.layer_options("decoder", 0)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("encoder_mixer_options:\n- {dilation: 2}\n- null", []),
            ("", ["--encoder_mixer_options", '[{"dilation": 2}, null]']),
        ],
        ids=["yaml", "command line"],
    )
    def test_layer_by_layer(self, tmp_path, text, words):
        config = self.parse(tmp_path, text, *words).config(decoder=True)
        assert config.layer_options("encoder", 0)["dilation"] == 2
        assert "dilation" not in config.layer_options("encoder", 1)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("{", "error: encoder_mixer_options must be JSON, got '{'"),
            ('{"dilatation": 2}', "this model can't be built: .*dilatation"),
            ('[{"dilation": 2}]', "this model can't be built: encoder_mixer_options needs one entry for each of 2"),
        ],
    )
    def test_wrong_ones_are_one_line(self, tmp_path, value, message, capsys):
        if value == "{":
            with pytest.raises(SystemExit):
                self.parse(tmp_path, "", "--encoder_mixer_options", value)
            assert message in capsys.readouterr().err
        else:
            with pytest.raises(ModelError, match=message):
                self.parse(tmp_path, "", "--encoder_mixer_options", value).config()

    def test_the_help_names_all(self, capsys):
        with pytest.raises(SystemExit):
            parse_arguments([EncoderDecoderArguments], ["--help"])
        text = " ".join(capsys.readouterr().out.split())
        for name in MIXERS:
            own = [option for option in mixer_options(name) if option not in ("kernel_size", "causal", "lookahead")]
            assert f" {name}: {', '.join(own)}" in text


class TestSize:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"hidden_size": 10**12}, "can't be built"),
            ({"hidden_size": 2**20}, "GB of memory"),
            ({"ffn_dim": 10**9}, "GB of memory"),
            ({"position_type": "learned", "max_position_embeddings": 10**12}, "GB of memory"),
        ],
    )
    def test_a_model_beyond_the_memory(self, options, said):
        config = EncoderArguments(encoder_kernel_sizes=[3], **options).config()
        with pytest.raises(ModelError, match=said) as caught:
            check_size(lambda: SeqDyConvForSequenceClassification(config))
        assert "\n" not in str(caught.value)

    def test_one_that_fits(self):
        check_size(lambda: SeqDyConvForSequenceClassification(EncoderArguments().config()))
