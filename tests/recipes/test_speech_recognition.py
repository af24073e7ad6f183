"""The speech recognition recipe through its commands, on a few short recordings."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    HubertConfig,
    HubertForCTC,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    pipeline,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from seqdyconv.models import SeqDyConvSpeechModel
from seqdyconv.speech import load_recogniser
from seqdyconv.swap import load_swapped, swapped_attention
from tests.recipes import toys
from tests.recipes.commands import (
    check_crash_points,
    check_overwrite,
    error_of,
    script,
)

train, evaluate, language_model, transcribe, stream = (
    script("speech_recognition", name) for name in ("train", "evaluate", "language_model", "transcribe", "stream")
)
pytestmark = pytest.mark.usefixtures("pictures_are_empty")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return toys.write_manifest(tmp_path_factory.mktemp("manifest") / "eight.jsonl")


# Tiny models of the pretrained families with random weights, written as they come from the Hub. Each returns the
# options that the recipe needs for it.
WAVEFORM = {
    "vocab_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (20, 16),
    "conv_kernel": (20, 16),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "mask_time_prob": 0.0,
}


def write_waveform_model(config, model, folder):
    model(config(**WAVEFORM)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    (folder / "letters.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}))
    Wav2Vec2CTCTokenizer(str(folder / "letters.json")).save_pretrained(folder)
    return {"new_vocabulary": True}


def write_wav2vec2_bert(folder):
    config = Wav2Vec2BertConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        feature_projection_input_dim=16,
        output_hidden_size=16,
        mask_time_prob=0.0,
    )
    Wav2Vec2BertForCTC(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8).save_pretrained(folder)
    return {"new_vocabulary": True}


def write_whisper(folder):
    languages = [f"<|{language}|>" for language in LANGUAGES]
    tasks = [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nocaptions|>",
        "<|notimestamps|>",
    ]
    specials = ["<|endoftext|>", "<|startoftranscript|>", *languages, *tasks]
    entries = {entry: index for index, entry in enumerate([*sorted(ByteLevel.alphabet()), *specials])}
    tokenizer = WhisperTokenizer(vocab=entries, merges=[], language="cs", task="transcribe")
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.save_pretrained(folder)
    end, start = entries["<|endoftext|>"], entries["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=128,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        lang_to_id={name: entries[name] for name in languages},
        task_to_id={task: entries[f"<|{task}|>"] for task in ("translate", "transcribe")},
        no_timestamps_token_id=entries["<|notimestamps|>"],
        is_multilingual=True,
        max_length=24,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return {"whisper_language": "cs"}


PRETRAINED = {
    "wav2vec2": partial(write_waveform_model, Wav2Vec2Config, Wav2Vec2ForCTC),
    "hubert": partial(write_waveform_model, HubertConfig, HubertForCTC),
    "wavlm": partial(write_waveform_model, WavLMConfig, WavLMForCTC),
    "wav2vec2-bert": write_wav2vec2_bert,
    "whisper": write_whisper,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Decoded audio goes into a folder of the tests."""
    monkeypatch.setenv("SEQDYCONV_CACHE", str(tmp_path_factory.getbasetemp() / "speech_cache"))


def options(manifest, folder, **more):
    return [str(manifest.with_name("tiny.yaml")), *toys.words_of({"output_dir": folder, **more})]


@pytest.fixture(scope="module")
def overfitted(manifest, tmp_path_factory):
    """A streaming model that has learnt the eight recordings by heart, and its metrics."""
    folder = tmp_path_factory.mktemp("overfitted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQDYCONV_CACHE", str(tmp_path_factory.getbasetemp() / "speech_cache"))
        seen, forward = set(), SeqDyConvSpeechModel.forward

        def noted(encoder, *args, **kwargs):
            seen.add(("training" if encoder.training else "evaluation", encoder.lookahead))
            return forward(encoder, *args, **kwargs)

        patch.setattr(SeqDyConvSpeechModel, "forward", noted)
        streaming = {"encoder_lookahead": 2, "lookahead_ms": [0], "position_type": "none"}
        train.main(options(manifest, folder, num_train_epochs=60, learning_rate=6e-3, warmup_steps=20, **streaming))
    return folder, json.loads((folder / "metrics.json").read_text()) | {"lookaheads": seen}


def test_overwrite_replaces_a_run_and_nothing_else(manifest, overfitted, tmp_path, capsys):
    words = [*options(manifest, tmp_path / "unused")[:1], "--max_steps=1", "--max_test_samples=1"]
    check_overwrite(train.main, words, overfitted[0], tmp_path, ["--train_file=nowhere.jsonl"], capsys)


class TestTraining:
    def test_learns_and_writes_everything(self, overfitted):
        folder, metrics = overfitted
        assert metrics["test_cer"] < 10
        assert {"test_wer", "test_cer_substitutions", "test_wer_deletions", "parameters", "train_seconds"} <= set(
            metrics
        )
        written = {path.name for path in folder.iterdir()}
        assert {
            "model.safetensors",
            "config.json",
            "processor_config.json",
            "tokenizer.json",
            "README.md",
            "run.yaml",
            "learning_curves.png",
            "test_errors.png",
            "alignment.png",
            "test_predictions.txt",
            "test_references.txt",
            "bad_files.tsv",
        } <= written

    def test_look_aheads_are_drawn_in_training_alone(self, overfitted):
        assert overfitted[1]["lookaheads"] == {("training", 0), ("training", 4), ("evaluation", 4)}

    def test_pipeline_says_what_the_recipe_says(self, overfitted, manifest, monkeypatch):
        folder, _ = overfitted
        monkeypatch.setenv("PATH", "")  # No ffmpeg.
        said = (folder / "test_predictions.txt").read_text().splitlines()
        files = (folder / "test_files.txt").read_text().splitlines()
        recognise = pipeline("automatic-speech-recognition", model=str(folder))
        assert [recognise(file)["text"] for file in files] == said
        assert "recognise(" in (folder / "README.md").read_text()

    def test_seq2seq_trains_and_generates(self, manifest, tmp_path):
        more = {"head": "seq2seq", "decoder_kernel_sizes": [3], "max_steps": 2, "max_label_length": 8, "bf16": True}
        train.main(options(manifest, tmp_path / "run", **more, max_test_samples=2, max_validation_samples=2))
        assert "test_cer" in json.loads((tmp_path / "run" / "metrics.json").read_text())

    @pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # transformers' own call in WavLM
    @pytest.mark.filterwarnings("ignore:Glyph .* missing from font")  # for which a random Whisper model is to blame
    @pytest.mark.parametrize("family", PRETRAINED)
    def test_swapped_pretrained_models_are_fine_tuned(self, family, manifest, tmp_path, capsys):
        more = PRETRAINED[family](tmp_path / "base")
        swap = {
            "model_name_or_path": tmp_path / "base",
            "swap_mixer": "dynamic_conv",
            "swap_layers": "1",
            "swap_kernel_size": 5,
            "swap_mixer_options": '{"weight_dropout": 0.25}',
        }
        words = {**swap, **more, "max_steps": 2, "output_dir": tmp_path / "run"}
        train.main([str(manifest.with_name("pretrained.yaml")), *toys.words_of(words)])
        swapped = swapped_attention(load_swapped(tmp_path / "run"))
        assert {layer: new.mixer.conv.weight_dropout for layer, new in swapped.items()} == {1: 0.25}
        assert "test_cer" in json.loads((tmp_path / "run" / "metrics.json").read_text())
        capsys.readouterr()
        transcribe.main([str(tmp_path / "run"), json.loads(manifest.read_text().splitlines()[0])["path"]])
        assert capsys.readouterr().out.endswith("\n")

    def test_whisper_models_learn_what_they_will_be_asked_for(self, manifest, tmp_path):
        write_whisper(tmp_path / "base")
        train.main(
            [
                str(manifest.with_name("pretrained.yaml")),
                *toys.words_of(
                    {
                        "model_name_or_path": tmp_path / "base",
                        "whisper_language": "czech",
                        "max_steps": 1,
                        "output_dir": tmp_path / "run",
                        "max_label_length": 10_000,
                    }
                ),
            ]
        )
        recogniser = load_recogniser(str(tmp_path / "run"))
        assert recogniser.model.generation_config.language == "czech"
        [labels] = recogniser.labels(["a"])
        before = ["<|cs|>", "<|transcribe|>", "<|notimestamps|>"]
        assert recogniser.tokenizer.convert_ids_to_tokens(labels) == [*before, "a", "<|endoftext|>"]
        assert recogniser.too_long(labels, 30 * 16000) is None
        assert recogniser.too_long(labels, 31 * 16000) == "it is 31.0 s long, and the model hears 30 s"
        assert (
            recogniser.too_long(recogniser.labels(["a" * 125])[0], 16000)
            == "its text has 129 units, more than the model's 128"
        )

    @pytest.mark.parametrize(
        "more, said",
        [
            ({"max_batch_seconds": -1}, "max_batch_seconds must be above 0, got -1"),
            ({"units": "words"}, "units must be one of characters, bpe"),
            ({"train_file": "missing.jsonl"}, "missing.jsonl"),
            ({"encoder_layer_types": "rnn"}, "rnn"),
            ({"whisper_language": "cs"}, "whisper_language is for a pretrained model: give model_name_or_path"),
        ],
    )
    def test_bad_input_is_one_line(self, manifest, tmp_path, capsys, more, said):
        assert said in error_of(train.main, options(manifest, tmp_path / "run", **more), capsys)
        assert not (tmp_path / "run" / "run.yaml").exists()

    def test_bad_files_are_listed_and_skipped_up_to_a_limit(self, manifest, tmp_path, capsys):
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        (tmp_path / "broken.ogg").write_bytes(b"not audio")
        soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
        rows += [{"path": str(tmp_path / name), "text": "ahoj", "speaker": "x"} for name in ("broken.ogg", "nan.wav")]
        mixed = tmp_path / "mixed.jsonl"
        mixed.write_text("".join(json.dumps(row) + "\n" for row in rows))
        few = {"max_steps": 1, "max_test_samples": 1, "max_validation_samples": 1}
        message = error_of(
            train.main, options(manifest, tmp_path / "no", train_file=mixed, max_bad_files=1, **few), capsys
        )
        assert "2" in message and "max_bad_files" in message
        train.main(options(manifest, tmp_path / "run", train_file=mixed, max_bad_files=2, **few))
        listed = (tmp_path / "run" / "bad_files.tsv").read_text()
        assert "broken.ogg" in listed and "nan.wav" in listed


class TestResume:
    """Killed at any moment, then --resume: the weights and metrics of an undisturbed run, bit for bit."""

    def test_crashes(self, manifest, tmp_path):
        joint = {"head": "seq2seq", "decoder_kernel_sizes": [3], "max_label_length": 8}
        augmented = {"speed_factors": [0.9, 1.0, 1.1], "num_time_masks": 1, "time_mask_width": 5, "dropout": 0.1}
        latencies = {"encoder_lookahead": 2, "lookahead_ms": [0, 40, 120], "position_type": "none"}
        saved = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3}
        words = [str(manifest.with_name("tiny.yaml")), *toys.words_of({**saved, **augmented, **latencies, **joint})]
        check_crash_points(train.main, words, tmp_path, (0.5, 0.85))


class TestUse:
    def test_evaluates_with_a_language_model_of_the_training_texts(self, overfitted, manifest, tmp_path):
        folder, metrics = overfitted
        evaluate.main([str(folder), "--evaluation_dir", str(tmp_path / "greedy")])
        beam = ["--beam_size", "8", "--language_model", "auto", "--word_list", "auto"]
        evaluate.main([str(folder), "--evaluation_dir", str(tmp_path / "beam"), *beam])
        greedy, searched = (
            json.loads((tmp_path / name / "metrics.json").read_text())["test_cer"] for name in ("greedy", "beam")
        )
        assert greedy == pytest.approx(metrics["test_cer"]) and searched < 10

    def test_other_texts_help_the_language_model(self, overfitted, manifest, tmp_path, capsys):
        text = json.loads(manifest.read_text().splitlines()[-1])["text"]
        (tmp_path / "more.txt").write_text(f"{text.upper()}! {text.title()}?\nЖ\n\n")
        made = tmp_path / "new" / "lm.arpa"
        words = [str(overfitted[0]), "--texts", str(tmp_path / "more.txt"), "--output_file", str(made)]
        language_model.main(words)
        said = capsys.readouterr().out
        assert "more.txt: 2 of 3 texts counted" in said and "all: validation perplexity" in said
        assert "lm.arpa is there already" in error_of(language_model.main, words, capsys)
        beam = ["--beam_size", "8", "--language_model", str(made)]
        evaluate.main([str(overfitted[0]), "--evaluation_dir", str(tmp_path / "beam"), *beam])
        assert json.loads((tmp_path / "beam" / "metrics.json").read_text())["test_cer"] < 10

    def test_texts_in_other_letters_make_no_language_model(self, overfitted, tmp_path, capsys):
        (tmp_path / "more.txt").write_text("Ж\nЩ\n")
        made = tmp_path / "new" / "lm.arpa"
        words = [str(overfitted[0]), "--texts", str(tmp_path / "more.txt"), "--output_file", str(made)]
        said = "more.txt must have a text in letters of the model, got 2 in others"
        assert said in error_of(language_model.main, words, capsys)
        assert not made.parent.exists()

    def test_one_model_at_many_latencies(self, overfitted, tmp_path, capsys, caplog):
        folder, metrics = overfitted
        words = [str(folder), "--evaluation_dir", str(tmp_path / "found")]
        evaluate.main([*words, "--lookahead_ms", "0", "170", "1000"])
        said = [f"looks 160 ms ahead instead of {asked}: steps have 40 ms" for asked in (170, 1000)]
        assert [message.partition(", and the layers")[0] for message in caplog.messages] == said
        found = [json.loads((tmp_path / f"found/lookahead_{ms}ms/metrics.json").read_text()) for ms in (0, 160)]
        assert found[1]["test_cer"] == pytest.approx(metrics["test_cer"]) and found[0]["test_cer"] < 20
        assert [one["test_latency_seconds"] for one in found] == pytest.approx([0.345, 0.505])
        assert found[0]["test_unstable_partial_word_ratio"] == 0 <= found[1]["test_unstable_partial_word_ratio"]
        table = (tmp_path / "found" / "latencies.md").read_text()
        assert capsys.readouterr().out.endswith(table) and table.splitlines()[3].startswith("| 160 | 0.5")
        assert len(table.splitlines()) == 4

    @pytest.mark.parametrize("lookahead", [[], ["--lookahead_ms", "0"]], ids=["own", "none"])
    def test_stream_shows_what_may_change(self, overfitted, manifest, capsys, lookahead):
        folder, _ = overfitted
        path = json.loads(manifest.read_text().splitlines()[0])["path"]
        stream.main([str(folder), path, *lookahead])
        whole = capsys.readouterr().out.split()
        stream.main([str(folder), path, *lookahead, "--partials", "true"])
        output = capsys.readouterr()
        lines = [line.split("\t") for line in output.out.splitlines()]
        assert [word for _, complete, _ in lines for word in complete.split()] == whole
        assert any(partial for _, _, partial in lines) and not lines[-1][2]
        assert f"words changed of {len(whole)} in the end" in output.err

    def test_transcribes_files_and_goes_on_after_a_bad_one(self, overfitted, manifest, tmp_path, capsys):
        folder, _ = overfitted
        path = json.loads(manifest.read_text().splitlines()[0])["path"]
        bad = tmp_path / "bad.wav"
        bad.write_bytes(b"")
        with pytest.raises(SystemExit) as caught:
            transcribe.main([str(folder), path, str(bad), "--format", "json"])
        assert caught.value.code == 1
        output = capsys.readouterr()
        assert "bad.wav" in output.err
        [line] = output.out.splitlines()
        words = json.loads(line)["words"]
        assert words and all(word["start"] <= word["end"] for word in words)

    def test_srt(self, overfitted, manifest, capsys):
        folder, _ = overfitted
        path = json.loads(manifest.read_text().splitlines()[0])["path"]
        try:
            transcribe.main([str(folder), path, "--format", "srt"])
        except SystemExit as end:
            assert not end.code
        assert capsys.readouterr().out.startswith("1\n00:00:0")

    def test_stream_reads_raw_samples(self, overfitted, manifest, tmp_path, monkeypatch, capsys):
        folder, _ = overfitted
        path = json.loads(manifest.read_text().splitlines()[0])["path"]
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        (tmp_path / "samples").write_bytes(samples.tobytes())
        words = ["--sampling_rate", str(rate), "--channels", str(samples.shape[1]), "--chunk_seconds", "0.2"]
        with open(tmp_path / "samples") as standard_input, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", standard_input)
            stream.main([str(folder), "-", *words])
        output = capsys.readouterr()
        index = [
            Path(line).name.startswith(Path(path).name) for line in (folder / "test_files.txt").read_text().splitlines()
        ].index(True)
        assert output.out.strip() == (folder / "test_predictions.txt").read_text().splitlines()[index]
        assert "real-time factor" in output.err
