"""``seqdyconv info``: what lies in a model folder, and what is installed."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

import seqdyconv
from seqdyconv.commands.info import layers, main
from seqdyconv.models import (
    SeqDyConvCausalLMConfig,
    SeqDyConvConfig,
    SeqDyConvForCausalLM,
    SeqDyConvForConditionalGeneration,
)
from seqdyconv.swap import swap_self_attention


def shown(words: list[str], capsys: pytest.CaptureFixture) -> dict[str, str]:
    main(words)
    lines = [line.strip().partition("  ") for line in capsys.readouterr().out.splitlines()]
    return {name: value.strip() for name, _, value in lines}


@pytest.fixture(scope="module")
def translation_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = SeqDyConvConfig(
        vocab_size=9,
        hidden_size=8,
        encoder_layer_types=["dynamic_conv", "dynamic_conv", "self_attention"],
        encoder_kernel_sizes=[3, [3, 7], 5],
        encoder_attention_heads=2,
        decoder_kernel_sizes=[3],
        decoder_attention_heads=4,
        encoder_ffn_dim=16,
        decoder_ffn_dim=32,
    )
    model = SeqDyConvForConditionalGeneration(config)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "run.yaml").write_text("dataset: libreoffice_help\nsource_lang: de\ntrain_file: null\nmax_steps: 5\n")
    (folder / "metrics.json").write_text(json.dumps({"test_bleu": 36.912, "signature": "nrefs:1"}))
    return folder, model


def test_a_model_of_ours(translation_model, capsys):
    folder, model = translation_model
    count = sum(parameter.numel() for parameter in model.parameters())
    size = (folder / "model.safetensors").stat().st_size / 1e6
    assert shown([str(folder)], capsys) == {
        "model": "SeqDyConvForConditionalGeneration (seqdyconv)",
        "width": "8",
        "encoder": "3 layers, 2 heads, feed-forward 16",
        "encoder layer 1": "dynamic_conv, kernel 3",
        "encoder layer 2": "dynamic_conv, kernel [3, 7]",
        "encoder layer 3": "self_attention",
        "decoder": "1 layers, 4 heads, feed-forward 32",
        "decoder layer 1": "dynamic_conv, kernel 3",
        "weights": f"{count:,} parameters, F32, {size:.1f} MB",
        "tokenizer": "PreTrainedTokenizerFast, 9 entries",
        "dataset": "libreoffice_help",
        "source_lang": "de",
        "test_bleu": "36.91",
        "signature": "nrefs:1",
    }


def test_a_language_model_has_a_decoder_alone(tmp_path, capsys):
    sizes = {"vocab_size": 9, "hidden_size": 8, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    types = {"decoder_layer_types": ["gated_short_conv", "self_attention"], "decoder_kernel_sizes": [3, 1]}
    SeqDyConvForCausalLM(SeqDyConvCausalLMConfig(**sizes, **types)).save_pretrained(tmp_path)
    found = shown([str(tmp_path)], capsys)
    assert found["decoder"] == "2 layers, 2 heads, feed-forward 16" and "encoder" not in found
    assert (found["decoder layer 1"], found["decoder layer 2"]) == ("gated_short_conv, kernel 3", "self_attention")


def test_a_swapped_model(tmp_path, capsys):
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=9, **sizes))
    swap_self_attention(model, mixer="dynamic_conv", layers=[1, 2], kernel_size=3)
    model.save_pretrained(tmp_path)
    found = shown([str(tmp_path)], capsys)
    assert found["model"] == "BertModel (bert)"
    assert found["layers"] == "3, of them changed 2"
    assert found["layers 1 to 2"].startswith("dynamic_conv, ")
    assert "kernel_size 3" in found["layers 1 to 2"]
    assert found["tokenizer"] == "none"


@pytest.mark.parametrize(
    ("swapped", "expected"),
    [(range(12), ["layers 0 to 11"]), ([0, 2, 3, 10], ["layer 0", "layers 2 to 3", "layer 10"])],
)
def test_layers_are_told_in_their_order_without_those_between(swapped, expected):
    entries = dict(sorted((str(number), {"mixer": "dynamic_conv"}) for number in swapped))  # as a file has them
    rows = layers(BertConfig(num_hidden_layers=12, seqdyconv={"layers": entries}))
    assert rows[1] == ("layers", f"12, of them changed {len(entries)}")
    assert [name.strip() for name, _ in rows[2:]] == expected


def test_a_tokenizer_without_a_class(translation_model, tmp_path, capsys):
    shutil.copytree(translation_model[0], tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"do_lower_case": true}')  # as of older models
    assert shown([str(tmp_path / "model")], capsys)["tokenizer"] == "of no named class, 9 entries"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer_config.json", "metrics.json"])
def test_a_damaged_file_is_one_line(file, translation_model, tmp_path, capsys):
    folder, _ = translation_model
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_text("[")
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path)])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line


def test_no_model_there(tmp_path, capsys):
    for folder, message in (
        (tmp_path / "nowhere", "there is no model folder"),
        (tmp_path, "holds no model (no config.json in it)"),
    ):
        with pytest.raises(SystemExit):
            main([str(folder)])
        assert message in capsys.readouterr().err


def test_what_is_installed(capsys):
    found = shown([], capsys)
    assert found["seqdyconv"] == seqdyconv.__version__
    assert found["torch"] == torch.__version__
    assert "soundfile" in found["extra speech"]
    assert "datasets" in found["extra recipes"]
    assert "torch" not in found["extra speech"].replace("torchaudio", "")
    assert "blocked" in found["backends"]
    assert found["threads"].startswith(f"{torch.get_num_threads()} on ")
