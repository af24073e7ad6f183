"""The translation recipe through its commands, on small data."""

import io
import json
import os
import select
import signal
import sys
import threading
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from seqdyconv.data.libreoffice_help import load_libreoffice_help
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.translation import DataArguments
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.model_arguments import EncoderDecoderArguments
from tests.recipes import toys
from tests.recipes.commands import (
    RECIPES,
    check_crash_points,
    check_overwrite,
    error_of,
    script,
)

RECIPE = RECIPES / "translation"
train, evaluate, translate = (script("translation", name) for name in ("train", "evaluate", "translate"))
pytestmark = pytest.mark.usefixtures("pictures_are_empty")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toys.write_translation_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(data):
    return toys.write_translation_config(data)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """An output directory of a finished run that has learnt a little."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main(
        [str(config), "--output_dir", str(folder), "--max_steps", "60", "--eval_steps", "30", "--save_steps", "30"]
    )
    return folder


class TestTrain:
    def test_overwrite_replaces_a_run_and_nothing_else(self, config, trained, tmp_path, capsys):
        check_overwrite(
            train.main,
            [str(config), *SMALL[2:], "--max_steps=1"],
            trained,
            tmp_path,
            ["--train_source_file=nowhere.de"],
            capsys,
        )

    def test_everything_is_written(self, trained):
        metrics = json.loads((trained / "metrics.json").read_text())
        for name in (
            "test_bleu",
            "test_chrf",
            "validation_bleu",
            "parameters",
            "train_tokens_per_second",
            "wall_seconds",
        ):
            assert metrics[name] > 0
        assert "tok:13a" in metrics["test_bleu_signature"]
        assert metrics["train_steps"] == 60
        card = (trained / "README.md").read_text()
        for part in (
            "library_name: transformers",
            "from de to en",
            metrics["test_chrf_signature"].split("|")[0],
            "train.py",
        ):
            assert part in card
        for name in ("learning_curves.png", "config.json", "model.safetensors", "tokenizer.json", "run.yaml"):
            assert (trained / name).is_file()
        assert list(trained.glob("runs/*/events*"))
        for name in ("sources", "references", "predictions"):
            assert len((trained / f"test_{name}.txt").read_text().splitlines()) == 20

    def test_it_learns(self, trained):
        log = json.loads((trained / "trainer_state.json").read_text())["log_history"]
        losses = [row["eval_loss"] for row in log if "eval_loss" in row]
        assert losses[-1] < 2.5 < next(row["loss"] for row in log if "loss" in row)

    def test_the_final_model_is_the_average(self, trained):
        final, *parts = (
            load_file(folder / "model.safetensors")
            for folder in (trained, trained / "checkpoint-30", trained / "checkpoint-60")
        )
        for name, tensor in final.items():
            assert (tensor - (parts[0][name] + parts[1][name]) / 2).abs().max() < 1e-6

    def test_a_model_can_be_fine_tuned(self, trained, config, tmp_path, capsys):
        values = {key: value for key, value in yaml.safe_load(config.read_text()).items() if key not in MODEL_KEYS}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**values, "model_name_or_path": str(trained)}))
        train.main([str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"])
        assert (tmp_path / "run" / "tokenizer.json").read_text() == (trained / "tokenizer.json").read_text()
        assert "test BLEU" in capsys.readouterr().out

    def test_a_finished_run_can_be_resumed_and_keeps_its_model(self, trained, config, capsys):
        before = (trained / "model.safetensors").read_bytes()
        steps = ["--max_steps", "60", "--eval_steps", "30", "--save_steps", "30"]
        train.main([str(config), "--output_dir", str(trained), *steps, "--resume"])
        assert (trained / "model.safetensors").read_bytes() == before
        assert "test BLEU" in capsys.readouterr().out


MODEL_KEYS = {
    "hidden_size",
    "ffn_dim",
    "attention_heads",
    "encoder_kernel_sizes",
    "decoder_kernel_sizes",
    "weight_dropout",
}


SMALL = ["--max_steps=5", "--save_steps=2", "--num_beams=1", "--max_validation_samples=3", "--max_test_samples=3"]
SMALL += ["--max_length_factor=1", "--max_length_constant=1"]


class TestResume:
    """Killed at any moment, then --resume: the weights and metrics of an undisturbed run, bit for bit."""

    def test_crashes_while_checkpoints_and_the_final_model_are_saved(self, config, tmp_path):
        words = [str(config), *SMALL, "--logging_steps=3", "--packing", "--gradient_accumulation_steps=2"]
        check_crash_points(train.main, words, tmp_path, (0.5, 0.85))

    def test_a_changed_argument_is_refused(self, trained, config, capsys):
        steps = ["--max_steps", "60", "--eval_steps", "30", "--save_steps", "30"]
        words = [str(config), "--output_dir", str(trained), *steps, "--resume", "--learning_rate", "0.5"]
        assert "learning_rate was 0.01 and is now 0.5" in error_of(train.main, words, capsys)


class TestBadInput:
    @pytest.mark.parametrize(
        "words, message",
        [
            (["--learning_rat", "1"], "unknown option --learning_rat, did you mean --learning_rate?"),
            (["--learning_rate", "high"], "invalid float value: 'high'"),
            (["--mix_lengths"], "mix_lengths needs packing"),
            (["--lr_scheduler_type", "cosin"], "cosin"),
            (["--max_tokens", "0"], "max_tokens must be at least 1, got 0"),
            (["--num_beams", "0"], "num_beams must be in [1, 1000], got 0"),
            (["--per_device_train_batch_size", "4"], "has no effect here: max_tokens bounds the batches"),
            (["--train_file", "missing.tsv"], "missing.tsv"),
            (["--vocab_size", "100000"], "vocab_size"),
            (["--attention_heads", "5"], "can't be built"),
            (["--encoder_kernel_sizes", "0"], "encoder_kernel_sizes must be a whole number in [1, 65536], got 0"),
            (["--encoder_layer_types", "magic"], "encoder_layer_types must be one of"),
            (["--encoder_layer_types", "dynamic_conv", "self_attention", "dynamic_conv"], "names 3 layers"),
            (["--config_overrides", '{"nonsense": 1}'], "no field of SeqDyConvConfig"),
            (["--bleu_tokenizer", "mecab"], "bleu_tokenizer is 'mecab', allowed are none, zh, 13a"),
            (["--model_name_or_path", "no/such/model"], "there is no model folder no/such/model"),
        ],
    )
    def test_training_stops_with_one_line(self, config, tmp_path, capsys, words, message):
        assert message in error_of(train.main, [str(config), "--output_dir", str(tmp_path / "run"), *words], capsys)

    def test_an_unknown_key_in_the_file(self, config, tmp_path, capsys):
        (tmp_path / "config.yaml").write_text(config.read_text() + "hiden_size: 3\n")
        message = "unknown key 'hiden_size'"
        assert message in error_of(train.main, [str(tmp_path / "config.yaml")], capsys)

    def test_an_output_directory_with_another_run(self, trained, config, capsys):
        words = [str(config), "--output_dir", str(trained)]
        assert "holds another run: add --resume" in error_of(train.main, words, capsys)

    @pytest.mark.parametrize("main", [evaluate.main, translate.main], ids=["evaluate", "translate"])
    def test_models_that_are_none(self, main, trained, tmp_path, capsys):
        assert "there is no model folder" in error_of(main, [str(tmp_path / "missing")], capsys)
        assert "holds no model" in error_of(main, [str(tmp_path)], capsys)
        broken = tmp_path / "broken"
        broken.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (broken / name).write_bytes((trained / name).read_bytes())
        assert "can't load a translation model" in error_of(main, [str(broken)], capsys)
        weights = (trained / "model.safetensors").read_bytes()
        (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        assert "can't load a translation model" in error_of(main, [str(broken)], capsys)
        (broken / "model.safetensors").write_bytes(weights)
        other = json.loads((trained / "config.json").read_text())
        other["decoder_layer_types"] = ["self_attention"]
        (broken / "config.json").write_text(json.dumps(other))
        assert "don't fit its config.json" in error_of(main, [str(broken)], capsys)


class TestEvaluate:
    def test_the_run_s_own_data_give_the_run_s_own_score(self, trained, capsys):
        evaluate.main([str(trained), "--use_cpu"])
        expected = json.loads((trained / "metrics.json").read_text())
        found = json.loads((trained / "evaluation" / "metrics.json").read_text())
        assert found["test_bleu"] == pytest.approx(expected["test_bleu"])
        assert f"test BLEU    {found['test_bleu']:.2f}" in capsys.readouterr().out

    def test_a_checkpoint_on_other_data_with_nbest(self, trained, data, tmp_path):
        toys.write_pairs(tmp_path / "other.tsv", 5, seed=9)
        evaluate.main(
            [
                str(trained / "checkpoint-30"),
                "--test_file",
                str(tmp_path / "other.tsv"),
                "--num_beams",
                "3",
                "--nbest",
                "3",
                "--evaluation_dir",
                str(tmp_path / "evaluation"),
                "--use_cpu",
            ]
        )
        rows = [line.split("\t") for line in (tmp_path / "evaluation" / "test_nbest.tsv").read_text().splitlines()[1:]]
        assert [(int(line), int(rank)) for line, rank, _, _ in rows] == [(n, r) for n in range(1, 6) for r in (1, 2, 3)]
        for start in range(0, 15, 3):
            scores = [float(row[2]) for row in rows[start : start + 3]]
            assert scores == sorted(scores, reverse=True)

    @pytest.mark.parametrize(
        "words, tokenizer", [(["--target_lang=zh_TW"], "zh"), (["--target_lang=ja", "--bleu_tokenizer=char"], "char")]
    )
    def test_the_words_of_bleu_are_those_of_the_language(self, trained, tmp_path, words, tokenizer):
        folder = f"--evaluation_dir={tmp_path}"
        evaluate.main([str(trained), folder, "--max_test_samples=2", *words])
        assert f"tok:{tokenizer}|" in json.loads((tmp_path / "metrics.json").read_text())["test_bleu_signature"]

    def test_more_outputs_than_beams_and_an_unknown_split(self, trained, capsys):
        assert "needs as many beams" in error_of(evaluate.main, [str(trained), "--nbest", "9"], capsys)
        assert "split must be one of" in error_of(evaluate.main, [str(trained), "--split", "dev"], capsys)


class TestTranslate:
    def translate(self, folder, lines, *words, monkeypatch):
        read, write = os.pipe()
        os.write(write, lines)
        os.close(write)
        output = io.TextIOWrapper(io.BytesIO())
        with open(read, "rb") as source, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", source)
            patch.setattr(sys, "stdout", output)
            translate.main([str(folder), "--use_cpu", *words])
        return output.buffer.getvalue().decode().split("\n")

    def test_each_line_gives_one_line_in_order(self, trained, monkeypatch):
        lines = [b"eins und zwei", b"", b"haus", b"   ", b"drei oder vier und eins", b"haus"]
        whole = self.translate(trained, b"\n".join(lines) + b"\n", monkeypatch=monkeypatch)
        assert len(whole) == 7 and whole[-1] == ""
        assert [bool(line) for line in whole[:6]] == [True, False, True, False, True, True]
        assert whole[2] == whole[5]
        in_twos = self.translate(trained, b"\n".join(lines), "--window", "2", monkeypatch=monkeypatch)
        assert in_twos == whole

    def test_nothing_gives_nothing(self, trained, monkeypatch):
        assert self.translate(trained, b"", monkeypatch=monkeypatch) == [""]

    def test_long_lines_are_cut_with_a_note(self, trained, monkeypatch, capsys):
        lines = b"eins\n" + b"zwei " * 100 + b"\n"
        assert len(self.translate(trained, lines, "--max_line_tokens", "20", monkeypatch=monkeypatch)) == 3
        assert "line 2 is cut to 20 tokens" in capsys.readouterr().err

    def test_bytes_that_are_no_text(self, trained, monkeypatch, capsys):
        with pytest.raises(SystemExit) as caught:
            self.translate(trained, b"eins\nzw\xffei\n", monkeypatch=monkeypatch)
        assert caught.value.code == 2
        assert "line 2 of standard input is not UTF-8 text (byte 3)" in capsys.readouterr().err

    def test_a_pipe_is_answered_at_once_and_may_close(self, trained, monkeypatch):
        (reader, asks), (answers, writer) = os.pipe(), os.pipe()
        found = []

        def ask():
            with open(asks, "wb", buffering=0) as questions:
                for _ in range(2):
                    questions.write(b"eins und zwei\n")
                    if select.select([answers], [], [], 30)[0]:  # An answer that waits for the next line never comes.
                        found.append(os.read(answers, 1000))

        before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        thread = threading.Thread(target=ask)
        try:
            with open(reader, "rb") as source, open(writer, "w") as output, monkeypatch.context() as patch:
                patch.setattr(sys, "stdin", source)
                patch.setattr(sys, "stdout", output)
                thread.start()
                translate.main([str(trained), "--use_cpu"])
                thread.join()
            assert len(found) == 2 and found[0] == found[1] and found[0].strip()
            assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL  # See test_text_classification.py.
        finally:
            signal.signal(signal.SIGPIPE, before)
            os.close(answers)


def test_the_quick_start_runs_on_real_text(tmp_path, capsys):
    try:
        load_libreoffice_help("de", "en")
    except PackageUnavailableError as error:
        pytest.skip(str(error))
    small = ["--max_steps", "3", "--warmup_steps", "1", "--eval_steps", "2", "--save_steps", "2", "--hidden_size", "32"]
    small += ["--ffn_dim", "32", "--max_train_samples", "500", "--vocab_size", "1000", "--max_tokens", "1000"]
    small += ["--max_validation_samples", "2", "--max_test_samples", "2", "--num_beams", "1", "--use_cpu"]
    small += ["--max_length_factor", "0.5", "--max_length_constant", "1"]
    train.main([str(RECIPE / "configs" / "quickstart.yaml"), "--output_dir", str(tmp_path / "run"), *small])
    output = capsys.readouterr().out
    for part in ("After 2 steps", "test BLEU", "test chrF", "reference", "parameters", "wall time"):
        assert part in output
    assert "libreoffice_help" in (tmp_path / "run" / "README.md").read_text()


def test_packed_batches_of_real_text_have_the_losses_of_padded_ones(tmp_path):
    try:
        load_libreoffice_help("de", "en")
    except PackageUnavailableError as error:
        pytest.skip(str(error))
    small = ["--max_steps", "3", "--warmup_steps", "1", "--eval_strategy", "no", "--hidden_size", "32", "--use_cpu"]
    small += ["--ffn_dim", "32", "--max_train_samples", "500", "--vocab_size", "1000", "--max_tokens", "1000"]
    small += ["--max_validation_samples", "2", "--max_test_samples", "2", "--num_beams", "1", "--bf16", "false"]
    small += ["--max_length_factor", "0", "--max_length_constant", "1"]
    small += ["--logging_steps", "1", "--save_steps", "3", "--predict_with_generate", "false"]
    losses = {}
    for packing in ("false", "true"):
        folder = tmp_path / packing
        words = ["--output_dir", str(folder), "--packing", packing]
        words += ["--tokenizer_name", str(tmp_path / "false")] if losses else []
        train.main([str(RECIPE / "configs" / "quickstart.yaml"), *small, *words])
        history = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
        losses[packing] = [row["loss"] for row in history if "loss" in row]
    assert len(losses["true"]) == 3
    assert losses["true"] == pytest.approx(losses["false"], abs=1e-4)


@pytest.mark.parametrize("path", sorted((RECIPE / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_parses_and_carries_its_command(path):
    text = path.read_text()
    assert f"recipes/translation/train.py recipes/translation/configs/{path.name}" in text
    types = (EncoderDecoderArguments, DataArguments, DecodingArguments, train.TranslationTrainingArguments)
    args = parse_arguments(types, [str(path), "--use_cpu"])[-1]
    assert Path(args.output_dir).parent == Path("outputs")
