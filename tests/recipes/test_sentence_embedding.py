"""The sentence embedding recipe through its commands, on small data."""

import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from seqdyconv.commands.main import main
from seqdyconv.runtime import Embedder
from seqdyconv.swap import swapped_attention
from seqdyconv.training.sentence_encoders import load_sentence_encoder
from seqdyconv.training.sentence_evaluation import text_embedder
from tests.recipes import toys
from tests.recipes.commands import RECIPES, check_crash_points, check_overwrite, error_of, script

RECIPE = RECIPES / "sentence_embedding"
train, evaluate = (script("sentence_embedding", name) for name in ("train", "evaluate"))
pytestmark = pytest.mark.usefixtures("pictures_are_empty")
TEXTS = ["the old owl and a new saw", "plum", "", "one of some and the very new apple " * 20]
SHORT = ["--eval_strategy=no", "--max_steps=2", "--warmup_steps=0"]
NEW = ["--swap_mixer=null", "--matching_weight=0", "--hidden_size=32", "--ffn_dim=32", "--attention_heads=2"]
NEW += ["--encoder_kernel_sizes", "5", "3"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = toys.write_classification_data(tmp_path_factory.mktemp("data"))
    return toys.write_sentence_config(data, toys.write_tiny_bert(data, tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """An output directory of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main([str(config), "--output_dir", str(folder), "--max_steps=24", "--matching_until=1"])
    return folder


@pytest.fixture(scope="module")
def new(config, tmp_path_factory):
    """That of a new encoder, which learns from the same teacher."""
    folder = tmp_path_factory.mktemp("runs") / "new"
    bert = yaml.safe_load(config.read_text())["model_name_or_path"]
    words = [f"--teacher_name_or_path={bert}", "--model_name_or_path=null", "--evaluate_teacher=false"]
    train.main([str(config), "--output_dir", str(folder), *words, *NEW, *SHORT])
    return folder


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


class TestTrain:
    def test_it_learns_and_everything_is_written(self, trained):
        metrics = metrics_of(trained)
        log = json.loads((trained / "trainer_state.json").read_text())["log_history"]
        evaluated = [row["eval_loss"] for row in log if "eval_loss" in row]
        assert metrics["validation_loss"] == pytest.approx(evaluated[-1], abs=1e-6)
        losses = [row["loss"] for row in log if "loss" in row]
        assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
        assert metrics["swapped_layers"] == "1, 2" and metrics["train_examples"] > 100
        assert metrics["test_spearman_low"] < metrics["test_spearman"] < metrics["test_spearman_high"]
        for name in ("queries_ndcg_at_10", "queries_recall_at_10", "labelled_v_measure", "labelled_neighbour_accuracy"):
            assert metrics[f"kept_{name}"] == pytest.approx(100 * metrics[f"test_{name}"] / metrics[f"teacher_{name}"])
        assert metrics["bm25_queries_recall_at_10"] == 100 and "teacher_windows_queries_recall_at_10" in metrics
        for name in ("config.json", "model.safetensors", "tokenizer.json", "run.yaml", "record.json", "modules.json"):
            assert (trained / name).is_file()
        assert len((trained / "test_cosines.tsv").read_text().splitlines()) == 1 + metrics["test_pairs"] == 61
        card = (trained / "README.md").read_text()
        for part in ("sentence-transformers", "train.py", "dynamic_conv instead of self-attention in layers 1, 2"):
            assert part in card

    def test_longer_texts_than_the_teacher_has_positions_for(self, trained):
        model, tokenizer, reading = load_sentence_encoder(str(trained))
        assert model.config.max_position_embeddings == reading.max_length == tokenizer.model_max_length == 100
        assert sorted(swapped_attention(model)) == [1, 2]

    def test_a_swapped_model_learns_to_read_more(self, config, trained, tmp_path):
        """Its own swap and pooling stay; the teacher is named."""
        bert = yaml.safe_load(config.read_text())["model_name_or_path"]
        words = ["--swap_mixer=null", f"--model_name_or_path={trained}", f"--teacher_name_or_path={bert}"]
        words += ["--max_length=150", "--extend_positions=interpolate", "--matching_weight=0", *SHORT]
        train.main([str(config), "--output_dir", str(tmp_path / "run"), "--mixer_learning_rate=1e-2", *words])
        model, _, reading = load_sentence_encoder(str(tmp_path / "run"))
        assert model.config.max_position_embeddings == reading.max_length == 150
        assert metrics_of(tmp_path / "run")["swapped_layers"] == "1, 2"

    def test_a_run_that_was_killed_goes_on(self, config, tmp_path):
        words = ["--evaluate_teacher=false", "--labelled_datasets", str(config.parent / "labelled")]
        check_crash_points(train.main, [str(config), *words, "--max_steps=6"], tmp_path, [0.6])

    def test_overwrite_replaces_a_run_and_nothing_else(self, config, trained, tmp_path, capsys):
        check_overwrite(train.main, [str(config), *SHORT], trained, tmp_path, ["--train_file=nowhere.txt"], capsys)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--swap_mixer=null"], "without swap_mixer the model would be its own teacher"),
            (["--train_parameters=mixers", "--mixer_learning_rate=0.1"], "its rate is learning_rate"),
            (["--model_name_or_path=null"], "swap_mixer swaps the self-attention of a pretrained model"),
            (["--cosine_weight=0", "--similarity_weight=0", "--matching_weight=0"], "there is nothing to learn"),
            (["--retrieval=nowhere.csv"], "retrieval_file is nowhere.csv, which is not a file"),
            (["--labelled_datasets=./nowhere/at/all"], "is neither a folder nor a name on the Hub"),
            (["--train_file=nowhere.txt"], "train_file is nowhere.txt, which is not a file"),
            (["--teacher_name_or_path=./nowhere"], "there is no model folder ./nowhere"),
            (["--max_length=2"], "max_length is 2, but the special tokens alone are 2"),
            (["--teacher_max_length=2"], "a window of 2 tokens has no room beside 2 special ones"),
            (["--hidden_size=16"], "hidden_size has no effect with model_name_or_path"),
            (["--packing=true"], "packing has no effect"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_what_can_not_be_is_one_line(self, config, words, message, tmp_path, capsys):
        folder = tmp_path / "run"
        assert message in error_of(train.main, [str(config), "--output_dir", str(folder), *words], capsys)
        assert not list(folder.glob("*"))

    def test_rates_of_mixers_need_some(self, config, tmp_path, capsys):
        bert = yaml.safe_load(config.read_text())["model_name_or_path"]
        words = ["--swap_mixer=null", f"--teacher_name_or_path={bert}", "--mixer_learning_rate=0.1"]
        assert "give swap_mixer" in error_of(
            train.main, [str(config), f"--output_dir={tmp_path / 'run'}", *words], capsys
        )


class TestUse:
    def test_evaluation_gives_what_the_run_gave(self, trained, tmp_path):
        evaluate.main([str(trained), "--evaluation_dir", str(tmp_path / "same")])
        found, of_the_run = metrics_of(tmp_path / "same"), metrics_of(trained)
        names = [name for name in of_the_run if name.startswith(("test_", "teacher_", "bm25_"))]
        assert len(names) > 20
        for name in names:
            assert found[name] == pytest.approx(of_the_run[name], rel=1e-4), name

    def test_any_encoder_is_evaluated_without_a_teacher(self, config, tmp_path):
        bert = yaml.safe_load(config.read_text())["model_name_or_path"]
        evaluate.main(
            [bert, "--evaluation_dir", str(tmp_path / "out"), "--retrieval", str(config.parent / "queries.csv")]
        )
        assert set(metrics_of(tmp_path / "out")) > {"test_queries_ndcg_at_10", "queries_texts", "parameters"}

    @pytest.mark.parametrize("run", ["trained", "new"])
    def test_sentence_transformers_gives_the_same(self, run, request):
        library = pytest.importorskip("sentence_transformers")
        folder = request.getfixturevalue(run)
        model, tokenizer, reading = load_sentence_encoder(str(folder))
        expected = text_embedder(model, tokenizer, reading, 300)(TEXTS, "texts")
        encoder = library.SentenceTransformer(str(folder), device="cpu")
        assert encoder.max_seq_length == 100
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)

    @pytest.mark.parametrize("run", ["trained", "new"])
    def test_the_runtime_and_the_commands_give_the_same(self, run, request, tmp_path, monkeypatch, capfdbinary):
        folder = request.getfixturevalue(run)
        model, tokenizer, reading = load_sentence_encoder(str(folder))
        expected = text_embedder(model, tokenizer, reading, 300)(TEXTS, "texts")
        main(["export", str(folder), str(tmp_path / "out"), "--check"])
        card = (tmp_path / "out" / "README.md").read_text()
        assert "Embedder(" in card and "with those of torch are 1.00000 or more" in card
        embedder = Embedder(tmp_path / "out")
        for size in (1, 4):  # alone as in a batch
            np.testing.assert_allclose(embedder.embed(TEXTS, size), expected, atol=1e-5)
        assert embedder.embed([]).shape == (0, 32)
        (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
        capfdbinary.readouterr()
        for place in (folder, tmp_path / "out"):
            with (tmp_path / "texts").open() as file, monkeypatch.context() as patched:
                patched.setattr(sys, "stdin", file)
                patched.setattr(signal, "signal", lambda *_: None)  # of the whole process
                main(["embed", str(place), "--batch_size=2"])
            found = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_command_of_the_readme(config, tmp_path):
    """On little data and for a step, with its configuration."""
    readme = (RECIPE / "README.md").read_text()
    command = re.search(r"^python (recipes/sentence_embedding/train\.py .*quickstart\.yaml)$", readme, re.MULTILINE)[1]
    values = yaml.safe_load(config.read_text())
    kept = [f"--{name}={values[name]}" for name in values if name.endswith("_file") or name == "model_name_or_path"]
    words = ["--dataset=null", "--retrieval", str(config.parent / "queries.csv"), "--max_length=40", *SHORT]
    train.main([str(RECIPES.parent / command.split()[1]), *kept, *words, f"--output_dir={tmp_path}/run"])
    assert metrics_of(tmp_path / "run")["swapped_layers"] == "0, 1, 2"


@pytest.mark.parametrize("path", sorted((RECIPE / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_parses_and_carries_its_command(path):
    assert f"recipes/sentence_embedding/train.py recipes/sentence_embedding/configs/{path.name}" in path.read_text()
    model_args, swap_args, teaching, *_, args = train.parse_arguments(train.ARGUMENTS, [str(path), "--use_cpu"])
    assert Path(args.output_dir).parent == Path("outputs")
    train.check_together(model_args, swap_args, teaching)
