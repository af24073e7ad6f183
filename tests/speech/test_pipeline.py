"""Hugging Face's pipeline on files, where there is no ffmpeg."""

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from seqdyconv.models import SeqDyConvForCTC, SeqDyConvSpeechConfig
from seqdyconv.speech import (
    AudioError,
    SeqDyConvFeatureExtractor,
    SeqDyConvSpeechProcessor,
    SpeechRecognitionPipeline,
    read_audio,
    register_pipeline,
    train_character_tokenizer,
)

TASK = "automatic-speech-recognition"


@pytest.fixture(autouse=True)
def no_programs(monkeypatch):
    """No ffmpeg, wherever it may be."""
    monkeypatch.setenv("PATH", "")


@pytest.fixture(scope="module")
def recognise(tmp_path_factory):
    """The pipeline of a saved model whose output changes a lot from frame to frame."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "encoder_ffn_dim": 16, "encoder_attention_heads": 2, "subsampling_channels": 4}
    tokenizer = train_character_tokenizer(["abcde fg"])
    model = SeqDyConvForCTC(
        SeqDyConvSpeechConfig(
            vocab_size=len(tokenizer), num_mel_bins=20, encoder_kernel_sizes=[3], pad_token_id=0, **sizes
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7)
    model.save_pretrained(folder)
    SeqDyConvSpeechProcessor(SeqDyConvFeatureExtractor(20), tokenizer).save_pretrained(folder)
    return pipeline(TASK, model=str(folder))


@pytest.fixture
def others(tmp_path):
    """The pipeline of a model of another family."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convs = {"conv_dim": (8, 8), "conv_stride": (20, 16), "conv_kernel": (20, 16)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    (tmp_path / "letters.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}))
    return pipeline(
        TASK,
        model=Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=4, **sizes, **convs, **positions)).eval(),
        tokenizer=Wav2Vec2CTCTokenizer(str(tmp_path / "letters.json")),
        feature_extractor=Wav2Vec2FeatureExtractor(),
    )


def write_audio(path, rate, channels=1):
    samples = np.random.default_rng(0).normal(0, 0.1, (rate, channels))
    soundfile.write(path, samples, rate)
    return path


class TestFiles:
    @pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
    @pytest.mark.parametrize("rate, channels", [(16000, 1), (22050, 2)])
    def test_a_file_is_what_our_own_reading_makes_of_it(self, recognise, tmp_path, kind, rate, channels):
        path = write_audio(tmp_path / f"a.{kind}", rate, channels)
        text = recognise(read_audio(path).numpy())["text"]
        assert len(text) > 3
        assert recognise(str(path))["text"] == recognise(path)["text"] == recognise(path.read_bytes())["text"] == text

    def test_several_files_and_pieces_of_one(self, recognise, tmp_path):
        paths = [str(write_audio(tmp_path / f"{rate}.wav", rate)) for rate in (8000, 16000)]
        alone = [recognise(path, chunk_length_s=0.5, return_timestamps="char") for path in paths]
        assert recognise(paths, chunk_length_s=0.5, return_timestamps="char", batch_size=2) == alone
        assert all(result["chunks"][-1]["timestamp"][1] <= 1 for result in alone)

    def test_a_file_of_no_use_is_named(self, recognise, tmp_path):
        (tmp_path / "a.wav").write_bytes(b"not audio")
        with pytest.raises(AudioError, match=r"a\.wav is not audio"):
            recognise(str(tmp_path / "a.wav"))
        with pytest.raises(AudioError, match=r"none\.wav cannot be read"):
            recognise(str(tmp_path / "none.wav"))


class TestRegistration:
    def test_models_of_others_read_files_as_before(self, others, tmp_path):
        path = str(write_audio(tmp_path / "a.wav", 16000))
        with pytest.raises(ValueError, match="ffmpeg was not found"):
            others(path)
        samples = read_audio(path).numpy()
        expected = AutomaticSpeechRecognitionPipeline(others.model, others.feature_extractor, others.tokenizer)
        assert others(samples, return_timestamps="char") == expected(samples, return_timestamps="char")

    def test_a_saved_pipeline_brings_no_code(self, recognise, tmp_path):
        recognise.save_pretrained(tmp_path)
        assert not list(tmp_path.rglob("*.py"))
        assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())

    def test_a_class_that_somebody_registered_stays(self, monkeypatch):
        class Own(AutomaticSpeechRecognitionPipeline):
            pass

        task = PIPELINE_REGISTRY.check_task(TASK)[1]
        assert task["impl"] is SpeechRecognitionPipeline
        monkeypatch.setitem(task, "impl", Own)
        register_pipeline()
        assert task["impl"] is Own
