"""Model folders that are damaged, foreign or hostile, given to every command: one line, or the right result."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from seqdyconv.commands.main import main
from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from tests.commands.folders import write_models
from tests.recipes.commands import error_of


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of each kind of model, by its name."""
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    soundfile.write(root / "speech.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    return root


def words_for(kind, folder):
    """The command of that kind of model."""
    if kind == "speech":
        return ["transcribe", str(folder), str(folder.parent / "speech.wav"), "--use_cpu"]
    return ["translate" if kind in ("ours", "t5") else "classify", str(folder), "--use_cpu"]


@pytest.fixture(params=["ours", "t5", "classifier", "swapped", "speech"])
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, models, tmp_path):
    shutil.copy(models / "speech.wav", tmp_path)
    return shutil.copytree(models / kind, tmp_path / "model")


@pytest.fixture(autouse=True)
def standard_input(monkeypatch, tmp_path):
    """A line of text, each time that it is asked for."""

    class Stream:
        def fileno(self):
            reading, writing = os.pipe()
            os.write(writing, b"the old word\n")
            os.close(writing)
            return reading

    monkeypatch.setattr("sys.stdin", Stream())


def output_of(kind, folder, capsysbinary):
    main(words_for(kind, folder))
    return capsysbinary.readouterr().out


def change_json(path, **values):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **values}))


def change_weights(folder, change):
    (file,) = folder.glob("model*.safetensors")
    weights = load_file(file)
    first = min(weights)
    weights[first] = change(weights[first])
    save_file(weights, file, {"format": "pt"})


CONFIGS = {
    "NaN": ({"hidden_size": float("nan")}, "hidden_size in config.json must be a number, got nan"),
    "infinite": ({"layer_norm_eps": float("inf")}, "layer_norm_eps in config.json must be a number, got inf"),
    "a huge width": ({"hidden_size": 10**12}, "hidden_size in config.json must be at most 1000000, got 1000000000000"),
    "a huge vocabulary": ({"vocab_size": 10**9}, "vocab_size in config.json must be at most 1000000, got 1000000000"),
    "huge nested": ({"text_config": {"d_ff": 10**9}}, "d_ff in config.json must be at most 1000000"),
    "endless layers": ({"num_layers": 10**9}, "num_layers in config.json must be at most 1000, got 1000000000"),
    "endless lists": ({"encoder_kernel_sizes": [3] * 2000}, "encoder_kernel_sizes in config.json must have at"),
    "one huge size of several": ({"encoder_kernel_sizes": [[3, 10**9]]}, "encoder_kernel_sizes in config.json must"),
    "a negative vocabulary": ({"vocab_size": -5}, "vocab_size in config.json must be at least 1, got -5"),
    "padding beyond": ({"pad_token_id": 99999}, "pad_token_id in config.json must be from 0 to"),
    "negative padding": ({"pad_token_id": -1}, "pad_token_id in config.json must be from 0 to"),
    "an unknown type": ({"model_type": "nonsense"}, "model type `nonsense`"),
    "another type": ({"model_type": "gpt2", "seqdyconv": None}, "can't load a"),
}


@pytest.mark.parametrize("values, message", CONFIGS.values(), ids=CONFIGS)
def test_configurations(kind, folder, values, message, capsys):
    change_json(folder / "config.json", **values)
    assert message in error_of(main, words_for(kind, folder), capsys)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100000, b"\xff\xfe\x00"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_files_that_are_no_json(kind, folder, name, content, capsys):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert name in (message := error_of(main, words_for(kind, folder), capsys)) or "can't load the tokenizer" in message


def test_wishes_of_a_configuration_change_nothing(kind, folder, capsysbinary):
    expected = output_of(kind, folder, capsysbinary)
    change_json(folder / "config.json", output_hidden_states=True, output_attentions=True, use_cache=False)
    assert output_of(kind, folder, capsysbinary) == expected != b""
    change_json(folder / "config.json", return_dict=False)
    assert output_of(kind, folder, capsysbinary) == expected


WEIGHTS = {
    "NaN": (lambda weight: torch.full_like(weight, float("nan")), ("holds NaN or infinite numbers",)),
    "infinite": (lambda weight: torch.full_like(weight, float("inf")), ("holds NaN or infinite numbers",)),
    "another shape": (lambda weight: torch.cat([weight, weight]), ("don't fit its config.json", "can't load a")),
}


@pytest.mark.parametrize("change, messages", WEIGHTS.values(), ids=WEIGHTS)
def test_weights(kind, folder, change, messages, capsys):
    change_weights(folder, change)
    error = error_of(main, words_for(kind, folder), capsys)
    assert any(message in error for message in messages)


@pytest.mark.parametrize("kind", ["ours", "classifier", "swapped", "speech"], indirect=True)
def test_weights_that_give_nan(kind, folder, capsys):
    (file,) = folder.glob("model*.safetensors")
    weights = load_file(file)
    save_file({name: torch.full_like(weight, 3e38) for name, weight in weights.items()}, file, {"format": "pt"})
    assert "its weights are damaged" in error_of(main, words_for(kind, folder), capsys)


@pytest.mark.parametrize("kind", ["classifier"], indirect=True)
def test_a_tokenizer_that_gives_another_input(folder, capsys):
    change_json(folder / "tokenizer_config.json", model_input_names=["nonsense"])
    assert "can't classify: " in error_of(main, words_for("classifier", folder), capsys)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 100])
def test_weight_files_that_are_none(kind, folder, content, capsys):
    (file,) = folder.glob("model*.safetensors")
    file.write_bytes(content)
    assert "can't load a" in error_of(main, words_for(kind, folder), capsys)


class Code:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_a_pickle_is_never_run(kind, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (file,) = folder.glob("model*.safetensors")
    file.unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin")
    assert "can't load a" in (message := error_of(main, words_for(kind, folder), capsys))
    assert "weights_only" not in message and not (folder / "ran").exists()


INDEXES = {
    "missing": ({"metadata": {}, "weight_map": {"a": "none.safetensors"}}, "names none.safetensors, which is"),
    "outside": ({"metadata": {}, "weight_map": {"a": "../other.safetensors"}}, "must name files of its folder"),
    "nothing": ({}, "must have metadata and a weight_map"),
}


@pytest.mark.parametrize("index, message", INDEXES.values(), ids=INDEXES)
def test_indexes_of_weights(kind, folder, index, message, capsys):
    (file,) = folder.glob("model*.safetensors")
    file.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert message in error_of(main, words_for(kind, folder), capsys)


@pytest.mark.parametrize("files", [("tokenizer*",), ("tokenizer.json",)])
def test_a_tokenizer_that_is_missing(kind, folder, files, capsys):
    for pattern in files:
        for file in folder.glob(pattern):
            file.unlink()
    assert "tokenizer" in error_of(main, words_for(kind, folder), capsys)


def test_the_tokenizer_of_another_model(kind, folder, capsys):
    texts = ["ein ganz anderer langer Text mit vielen Wörtern", "more words of another kind"]
    train_sentencepiece_tokenizer(texts, 310, "bpe").save_pretrained(folder)
    error = error_of(main, words_for(kind, folder), capsys)
    assert "the tokenizer has 310 entries" in error


@pytest.mark.parametrize("other", ["ours", "classifier", "swapped", "speech"])
def test_a_model_of_another_task(kind, other, models, capsys):
    same = {"ours": {"ours", "t5"}, "t5": {"ours", "t5"}, "classifier": {"classifier", "swapped"}}
    same |= {"swapped": {"classifier", "swapped"}, "speech": {"speech"}}
    if other not in same[kind]:
        error = error_of(main, words_for(kind, models / other), capsys)
        assert "can't load a" in error or "don't fit its config.json: missing keys classifier" in error


@pytest.mark.parametrize("command", ["translate", "classify", "transcribe", "stream", "plot-kernels", "info"])
def test_folders_that_are_none(command, tmp_path, capsys):
    more = ["x"] if command in ("transcribe", "stream", "plot-kernels") else []
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in (("file", "file"), ("empty", "holds no model"), ("missing", "there is no model folder")):
        assert message in error_of(main, [command, str(tmp_path / name), *more], capsys)


GENERATION = {
    "an end beyond": ({"eos_token_id": 99999}, "must be from 0 to 279, got [99999]"),
    "a forced token beyond": ({"forced_bos_token_id": 99999}, "can't translate"),
    "bad words beyond": ({"bad_words_ids": [[99999]]}, "can't translate"),
    "another way to search": ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "can't translate"),
}
HARMLESS = (
    {"num_beams": -1, "min_length": 500, "do_sample": True, "temperature": 0.0},
    {"num_beams": "many", "max_length": 0, "nonsense": 3},
)


@pytest.mark.parametrize("kind", ["ours", "t5"], indirect=True)
class TestGeneration:
    @pytest.mark.parametrize("values, message", GENERATION.values(), ids=GENERATION)
    def test_what_can_not_be(self, kind, folder, values, message, capsys):
        change_json(folder / "generation_config.json", **values)
        assert message in error_of(main, words_for(kind, folder), capsys)

    def test_what_we_decide_ourselves(self, kind, folder, capsysbinary):
        expected = output_of(kind, folder, capsysbinary)
        assert expected != b""
        for values in HARMLESS:
            shutil.copy(folder / "generation_config.json", folder / "before")
            change_json(folder / "generation_config.json", **values)
            assert output_of(kind, folder, capsysbinary) == expected
            (folder / "before").replace(folder / "generation_config.json")

    @pytest.mark.parametrize("name", ["pad_token_id", "eos_token_id"])
    def test_tokens_that_are_needed(self, kind, folder, name, capsys):
        for file in ("config.json", "generation_config.json"):
            change_json(folder / file, **{name: None})
        assert f"{name} of " in error_of(main, words_for(kind, folder), capsys)

    def test_a_tokenizer_with_another_end(self, kind, folder, capsys):
        tokenizer = AutoTokenizer.from_pretrained(folder, eos_token="<unk>")
        tokenizer.save_pretrained(folder)
        assert "the tokenizer's eos_token_id is 3, and" in error_of(main, words_for(kind, folder), capsys)
