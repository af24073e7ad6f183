"""Speech models from the arguments of a recipe."""

import pytest

from seqdyconv.models.loading import ModelError
from seqdyconv.speech import train_character_tokenizer
from seqdyconv.training.speech_models import ModelArguments, build_config, build_model

TINY = {"encoder_kernel_sizes": [3, 5], "hidden_size": 16, "ffn_dim": 16, "subsampling_channels": 4, "num_mel_bins": 20}


def test_options_of_mixers_reach_the_layers_of_the_encoder():
    tokenizer = train_character_tokenizer(["ab"])
    model = build_model(ModelArguments(**TINY, encoder_mixer_options=[{"dilation": 2}, None]), tokenizer)
    dilations = [module.dilation for module in model.encoder.modules() if type(module).__name__ == "DynamicConv1d"]
    assert dilations == [2, 1]
    config = build_config(ModelArguments(**TINY, encoder_mixer_options='{"renormalize": true}'), tokenizer)
    assert config.encoder_mixer_options == {"renormalize": True}
    with pytest.raises(ModelError, match="dilatation"):
        build_config(ModelArguments(**TINY, encoder_mixer_options={"dilatation": 2}))


def test_a_decoder_begins_with_the_tokenizers_start():
    tokenizer = train_character_tokenizer(["ab"], add_eos=True)
    model = build_model(ModelArguments(**TINY, head="seq2seq", decoder_kernel_sizes=[3]), tokenizer)
    assert model.config.decoder_start_token_id == tokenizer.bos_token_id
    assert model.config.vocab_size == len(tokenizer) and model.config.encoder_vocab_size is None


@pytest.mark.parametrize(
    "options, said",
    [
        ({"encoder_kernel_sizes": [3], "encoder_layer_types": ["self_attention"] * 2}, "names 2 layers"),
        ({"conv_dim": 3}, "can't be built"),
        ({"lookahead_ms": [0.0, 80.0]}, "lookahead_ms is for models .*: set encoder_lookahead"),
    ],
)
def test_an_impossible_architecture_is_one_line(options, said):
    with pytest.raises(ModelError, match=said) as caught:
        build_config(ModelArguments(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"head": "rnnt"}, "head must be one of ctc, seq2seq"),
        ({"encoder_block": "rnn"}, "encoder_block must be one of transformer, conformer, got 'rnn'"),
        ({"swap_mixer": "dynamic_conv"}, "give model_name_or_path"),
        ({"encoder_lookahead": 1, "feature_normalize": "utterance"}, "a streaming model"),
    ],
)
def test_arguments_that_do_not_go_together(options, said):
    with pytest.raises(ValueError, match=said):
        ModelArguments(**options)
