"""``seqdyconv plot-kernels``: a picture of a saved model's kernels."""

import sys

import pytest
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from seqdyconv.commands.plot_kernels import main
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForSequenceClassification
from seqdyconv.swap import swap_self_attention


def save(model, folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "wide", "kernel"]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def swapped_bert():
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=8, **sizes))
    return swap_self_attention(model, mixer="dynamic_conv", kernel_size=3)


def our_classifier():
    config = SeqDyConvConfig(
        vocab_size=8,
        hidden_size=8,
        encoder_kernel_sizes=[3],
        encoder_attention_heads=2,
        encoder_ffn_dim=8,
        is_encoder_decoder=False,
    )
    return SeqDyConvForSequenceClassification(config)


@pytest.mark.parametrize("build", [swapped_bert, our_classifier])
def test_a_picture_is_written(build, tmp_path, capsys):
    folder, picture = save(build(), tmp_path / "model"), tmp_path / "kernels.svg"
    main([folder, "the wide kernel", "--heads", "0", "--output_file", str(picture)])
    assert capsys.readouterr().out == f"{picture}\n"
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "the text is missing: give it after the model"),
        (["the", "--layers", "7"], "layers must be of"),
        (["the", "--output_file", "kernels.txt"], "path must end in one of"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys):
    folder = save(our_classifier(), tmp_path / "model")
    with pytest.raises(SystemExit) as caught:
        main([folder, *words])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_model_without_a_layer_of_ours(tmp_path, capsys):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    folder = save(BertForSequenceClassification(BertConfig(vocab_size=8, **sizes)), tmp_path / "model")
    with pytest.raises(SystemExit):
        main([folder, "the"])
    assert "is BertForSequenceClassification, none of ours and not swapped" in capsys.readouterr().err


def test_a_model_that_reads_no_text(streaming_folder, capsys):
    with pytest.raises(SystemExit):
        main([str(streaming_folder), "the"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("takes input_features, no text")


def test_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit) as caught:
        main([save(our_classifier(), tmp_path / "model"), "the"])
    assert caught.value.code == 2
    assert 'pictures need matplotlib: pip install "seqdyconv[recipes]"' in capsys.readouterr().err
