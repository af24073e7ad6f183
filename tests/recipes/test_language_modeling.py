"""The language modelling recipe through its commands, on small data."""

import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    pipeline,
)

from tests.recipes.commands import RECIPES, check_crash_points, check_overwrite, error_of, script

RECIPE = RECIPES / "language_modeling"
README = (RECIPE / "README.md").read_text()
ARCHITECTURE = {"vocab_size", "decoder_layer_types", "decoder_kernel_sizes", "hidden_size", "ffn_dim", "dropout"}
ARCHITECTURE |= {"attention_heads"}
train, evaluate, generate = (script("language_modeling", name) for name in ("train", "evaluate", "generate"))
pytestmark = pytest.mark.usefixtures("pictures_are_empty")


def write_documents(path: Path, number: int, seed: int) -> None:
    """Counting: after each number comes the next one."""
    generator = random.Random(seed)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    documents = []
    for _ in range(number):
        start = generator.randrange(10)
        documents.append(" ".join(names[(start + step) % 10] for step in range(generator.randint(3, 14))))
    path.write_text("\n\n".join(documents) + "\n")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, number) in enumerate({"train": 150, "validation": 10, "test": 20}.items()):
        write_documents(folder / f"{split}.txt", number, seed)
    values = {
        **{f"{split}_file": str(folder / f"{split}.txt") for split in ("train", "validation", "test")},
        "vocab_size": 290,
        "block_size": 24,
        "stride": 12,
        "decoder_layer_types": ["dynamic_conv", "self_attention"],
        "decoder_kernel_sizes": [4, 1],
        "hidden_size": 32,
        "ffn_dim": 32,
        "attention_heads": 2,
        "dropout": 0.1,
        "max_tokens": 300,
        "max_steps": 12,
        "warmup_steps": 2,
        "learning_rate": 2.0e-2,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """An output directory of a finished run that has learnt to count."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main([str(config), "--output_dir", str(folder), "--max_steps", "60", "--eval_steps", "30"])
    return folder


@pytest.fixture(scope="module")
def hub_folder(config):
    """The documents as a data set of the Hub, without a validation split."""
    folder = config.parent / "streamed"
    folder.mkdir()
    for split in ("train", "test"):
        documents = (config.parent / f"{split}.txt").read_text().split("\n\n")
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return folder


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


class TestTrain:
    def test_it_learns_and_everything_is_written(self, trained):
        metrics = metrics_of(trained)
        assert metrics["test_perplexity"] < 3 and 0 < metrics["test_bits_per_byte"] < metrics["test_xz_bits_per_byte"]
        assert metrics["train_steps"] == 60 and metrics["test_documents"] == 20
        for name in ("validation_loss", "parameters", "train_tokens_per_second", "wall_seconds", "test_bytes"):
            assert metrics[name] > 0
        for name in ("config.json", "model.safetensors", "tokenizer.json", "run.yaml", "record.json"):
            assert (trained / name).is_file()
        card = (trained / "README.md").read_text()
        for part in ("text-generation", "train.py", "dynamic_conv and self_attention", "| test documents | 20 |"):
            assert part in card

    def test_documents_that_are_packed(self, config, tmp_path):
        words = ["--join_documents", "false", "--packing", "true", "--mix_lengths", "true", "--max_steps", "60"]
        train.main([str(config), "--output_dir", str(tmp_path / "run"), *words, "--eval_strategy", "no"])
        assert metrics_of(tmp_path / "run")["test_perplexity"] < 3

    def test_a_run_that_was_killed_goes_on(self, config, tmp_path):
        check_crash_points(train.main, [str(config)], tmp_path, [0.6])

    def test_overwrite_replaces_a_run_and_nothing_else(self, config, trained, tmp_path, capsys):
        check_overwrite(
            train.main, [str(config), "--max_steps=1"], trained, tmp_path, ["--train_file=nowhere.txt"], capsys
        )

    @pytest.mark.parametrize("more", [[], ["--gradient_accumulation_steps", "2"]], ids=["plain", "accumulated"])
    def test_documents_that_are_read_while_training(self, config, hub_folder, tmp_path, more):
        """Killed and resumed, too: three times through 150 documents, in another order each time."""
        kept = {name: value for name, value in yaml.safe_load(config.read_text()).items() if not name.endswith("_file")}
        path = tmp_path / "streamed.yaml"
        path.write_text(yaml.safe_dump(kept | {"dataset": str(hub_folder), "streaming": True, "shuffle_buffer": 20}))
        words = ["--max_validation_samples", "15", *more]
        check_crash_points(train.main, [str(path), *words], tmp_path, [0.6])
        train.main([str(path), "--output_dir", str(tmp_path / "long"), *words, "--max_steps", "60"])
        metrics = metrics_of(tmp_path / "long")
        assert metrics["test_perplexity"] < 3
        assert (metrics["validation_documents"], metrics["test_documents"]) == (15, 20)

    def test_a_model_is_trained_further_with_its_tokenizer(self, config, trained, tmp_path):
        values = yaml.safe_load(config.read_text())
        kept = {name: value for name, value in values.items() if name not in ARCHITECTURE}
        file = tmp_path / "further.yaml"
        file.write_text(yaml.safe_dump(kept | {"model_name_or_path": str(trained), "learning_rate": 1e-3}))
        train.main([str(file), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"])
        assert metrics_of(tmp_path / "run")["test_perplexity"] < 3

    def test_a_model_turned_hybrid_learns_from_what_it_was(self, config, trained, tmp_path, capsys):
        """Killed and resumed, too."""
        kept = {name: value for name, value in yaml.safe_load(config.read_text()).items() if name not in ARCHITECTURE}
        swap = {"swap_mixer": "lightweight_conv", "swap_layers": "1", "swap_kernel_size": 5}
        teaching = {"matching_weight": 1, "distil_logits_weight": 1}
        file = tmp_path / "hybrid.yaml"
        file.write_text(yaml.safe_dump(kept | {"model_name_or_path": str(trained)} | swap | teaching))
        check_crash_points(train.main, [str(file)], tmp_path, [0.6])
        metrics, before = metrics_of(tmp_path / "all"), metrics_of(trained)
        assert metrics["test_teacher_bits_per_byte"] == pytest.approx(before["test_bits_per_byte"], rel=1e-5)
        assert metrics["test_bits_per_byte"] < 1.5 * before["test_bits_per_byte"] and metrics["train_tokens"] > 0
        hybrid = AutoModelForCausalLM.from_pretrained(tmp_path / "all")
        assert hybrid.config.decoder_layer_types == ["dynamic_conv", "lightweight_conv"]
        assert "lightweight_conv for self-attention in layers: 1," in (tmp_path / "all" / "README.md").read_text()
        words = [str(file), "--output_dir", str(tmp_path / "none"), "--swap_layers", "0"]
        assert "layers without self-attention: 0 (dynamic_conv)" in error_of(train.main, words, capsys)
        assert not list((tmp_path / "none").glob("*"))

    def test_a_model_that_can_not_be_packed_stops_before_anything_is_written(self, trained, config, tmp_path, capsys):
        other = tmp_path / "other"
        tokenizer = AutoTokenizer.from_pretrained(trained)
        sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "bos_token_id": 2, "eos_token_id": 2}
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(other)
        tokenizer.save_pretrained(other)
        values = {name: value for name, value in yaml.safe_load(config.read_text()).items() if name not in ARCHITECTURE}
        values |= {"model_name_or_path": str(other), "packing": True, "join_documents": False}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        words = [str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "run")]
        assert "packing needs a model of seqdyconv, got GPT2LMHeadModel" in error_of(train.main, words, capsys)
        assert not list((tmp_path / "run").glob("*"))
        train.main([*words, "--packing", "false", "--max_steps", "1", "--eval_strategy", "no"])
        assert metrics_of(tmp_path / "run")["test_loss"] > 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--packing", "true"], "needs join_documents: false"),
            (["--stride", "24"], "stride must be less than window 24"),
            (["--attention_heads", "5"], "this model can't be built"),
            (["--train_file", "nowhere.txt"], "train_file is nowhere.txt, which is not a file"),
            (["--label_smoothing_factor", "0.1"], "label_smoothing_factor has no effect"),
            (["--vocab_size", "9000"], "vocab_size 9000 is larger than the data allows"),
            (["--encoder_layer_types", "talk_conv"], "encoder_layer_types has no effect with objective: causal"),
            (["--streaming", "true"], "streaming needs a dataset on the Hub"),
            (["--objective", "masked"], "decoder_layer_types has no effect with objective: masked"),
            (["--mlm_probability", "0.3"], "mlm_probability has no effect with objective: causal"),
            (["--swap_mixer", "talk_conv"], "swap_mixer swaps the self-attention of a pretrained model"),
            (["--matching_weight", "1"], "without swap_mixer the model would be its own teacher"),
            (["--teacher_name_or_path", "x"], "no effect without matching_weight or distil_logits_weight"),
            (["--position_type", "learned", "--max_position_embeddings", "8"], "the model has positions for 8"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_what_can_not_be_is_one_line(self, config, words, message, tmp_path, capsys):
        folder = tmp_path / "run"
        assert message in error_of(train.main, [str(config), "--output_dir", str(folder), *words], capsys)
        assert not list(folder.glob("*"))


class TestUse:
    def test_evaluation_gives_what_the_run_gave_and_more_past_costs_less(self, trained, tmp_path):
        evaluate.main([str(trained), "--evaluation_dir", str(tmp_path / "same")])
        found, of_the_run = metrics_of(tmp_path / "same"), metrics_of(trained)
        for name in ("test_loss", "test_perplexity", "test_bits_per_byte"):
            assert found[name] == pytest.approx(of_the_run[name], rel=1e-5)
        evaluate.main([str(trained), "--evaluation_dir", str(tmp_path / "less"), "--window", "4", "--stride", "3"])
        assert metrics_of(tmp_path / "less")["test_bits_per_byte"] > found["test_bits_per_byte"]

    def test_generate_goes_on_with_each_line(self, trained, tmp_path, monkeypatch, capsysbinary):
        (tmp_path / "beginnings").write_text("one two three\nseven eight\n")
        with (tmp_path / "beginnings").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            with monkeypatch.context() as patched:
                patched.setattr(generate, "end_with_the_reader", lambda: None)  # of the whole process
                generate.main([str(trained), "--do_sample", "false", "--max_new_tokens", "12"])
        lines = capsysbinary.readouterr().out.decode().splitlines()
        assert lines[0].startswith("one two three four") and lines[1].startswith("seven eight nine")

    def test_the_pipeline_reads_the_folder(self, trained):
        assert AutoModelForCausalLM.from_pretrained(trained).config.decoder_layer_types[1] == "self_attention"
        generate = pipeline("text-generation", model=str(trained), device="cpu")
        (found,) = generate("one two three", max_new_tokens=8, do_sample=False)
        assert found["generated_text"].startswith("one two three four")


@pytest.fixture(scope="module")
def masked_config(config, tmp_path_factory):
    values = {name.replace("decoder_", "encoder_"): value for name, value in yaml.safe_load(config.read_text()).items()}
    values |= {"objective": "masked", "mlm_probability": 0.3, "vocab_size": 291, "encoder_kernel_sizes": [3, 1]}
    path = tmp_path_factory.mktemp("masked") / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def encoder(masked_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "masked"
    train.main([str(masked_config), "--output_dir", str(folder), "--max_steps", "90", "--eval_strategy", "no"])
    return folder


class TestMasked:
    """An encoder that learns what was masked."""

    def test_it_learns_and_says_so(self, encoder):
        metrics, card = metrics_of(encoder), (encoder / "README.md").read_text()
        assert metrics["test_masked_accuracy"] > 60 and metrics["test_perplexity"] < 6
        assert "test_bits_per_byte" not in metrics
        assert "fill-mask" in card and "<mask>" in card and "[" in card.partition("filled in")[2]

    def test_evaluation_masks_what_the_run_masked(self, encoder, tmp_path):
        evaluate.main([str(encoder), "--evaluation_dir", str(tmp_path / "same"), "--batch_size", "3"])
        found, of_the_run = metrics_of(tmp_path / "same"), metrics_of(encoder)
        for name in ("test_loss", "test_perplexity", "test_masked_accuracy"):
            assert found[name] == pytest.approx(of_the_run[name], rel=1e-5)

    @pytest.mark.parametrize("more", [[], ["--packing", "true", "--join_documents", "false"]], ids=["padded", "packed"])
    def test_a_run_that_was_killed_goes_on(self, masked_config, tmp_path, more):
        check_crash_points(train.main, [str(masked_config), *more], tmp_path, [0.6])

    def test_the_pipeline_fills_in(self, encoder):
        fill = pipeline("fill-mask", model=str(encoder), device="cpu")
        assert fill("two three f<mask> five six")[0]["token_str"] == "our"  # its pieces: "f", "our"

    def test_it_is_an_encoder_for_classification(self, encoder):
        masked = AutoModelForMaskedLM.from_pretrained(encoder).state_dict()
        classifier = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3).state_dict()
        shared = [name for name in classifier if name.startswith("encoder.")]
        assert shared and all(torch.equal(classifier[name], masked[name]) for name in shared)


def test_the_command_of_the_readme(config, tmp_path, monkeypatch):
    """On little data and for a step, with its configuration."""
    (command,) = re.findall(r"^python (recipes/language_modeling/train\.py .*quickstart\.yaml)$", README, re.MULTILINE)
    values = yaml.safe_load(config.read_text())
    files = [f"--{split}_file={values[f'{split}_file']}" for split in ("train", "validation", "test")]
    words = [
        "--dataset=null",
        "--vocab_size=290",
        "--max_steps=1",
        "--warmup_steps=0",
        "--hidden_size=16",
        f"--output_dir={tmp_path}/run",
    ]
    train.main([str(RECIPES.parent / command.split()[1]), *files, *words])
    assert metrics_of(tmp_path / "run")["test_loss"] > 0


@pytest.mark.parametrize("path", sorted((RECIPE / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_parses_and_carries_its_command(path):
    assert f"recipes/language_modeling/train.py recipes/language_modeling/configs/{path.name}" in path.read_text()
    model_args, *_, args = train.parse_arguments(train.ARGUMENTS, [str(path), "--use_cpu"])
    assert Path(args.output_dir).parent == Path("outputs")
    train.check_model(model_args)
