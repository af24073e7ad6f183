"""The processor, alone and as Auto classes and pipelines load it; and what importing the package asks for."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoProcessor, pipeline

from seqdyconv.models import SeqDyConvForCTC, SeqDyConvForSpeechSeq2Seq, SeqDyConvSpeechConfig
from seqdyconv.speech import SeqDyConvFeatureExtractor, SeqDyConvSpeechProcessor, train_character_tokenizer


def noise(length: int) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) / 10


@pytest.fixture(scope="module")
def processor():
    return SeqDyConvSpeechProcessor(SeqDyConvFeatureExtractor(20), train_character_tokenizer(["abcde fg"]))


def save(model_class: type, processor: SeqDyConvSpeechProcessor, folder: Path, **options: object) -> Path:
    """A tiny model whose output changes a lot from frame to frame, with its processor."""
    torch.manual_seed(0)
    config = SeqDyConvSpeechConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=16,
        num_mel_bins=20,
        subsampling_channels=4,
        encoder_kernel_sizes=[3],
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        pad_token_id=0,
        **options,
    )
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory):
    return save(SeqDyConvForCTC, processor, tmp_path_factory.mktemp("ctc"))


class TestProcessor:
    def test_audio_alone_is_the_feature_extractor(self, processor):
        audio = [noise(4000), noise(16000)]
        batch = processor(audio, sampling_rate=16000, return_tensors="pt")
        expected = processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt")
        assert batch.keys() == expected.keys() and all(batch[name].equal(expected[name]) for name in expected)

    def test_text_becomes_labels(self, processor):
        batch = processor(text=["ab", "abc d"], return_tensors="pt")
        assert list(batch) == ["labels"]
        assert batch["labels"].tolist() == [[5, 6, -100, -100, -100], [5, 6, 7, 4, 8]]
        assert processor(text="ab")["labels"] == [[5, 6]]
        assert processor(text=["ab", "abc"], padding=False)["labels"] == [[5, 6], [5, 6, 7]]

    @pytest.mark.parametrize("texts", [[""], ["", "ab"], [" "]])
    def test_labels_are_whole_numbers_also_of_empty_texts(self, processor, texts):
        assert processor(text=texts, return_tensors="pt")["labels"].dtype == torch.int64

    def test_both_train_a_model(self, processor, folder):
        model = SeqDyConvForCTC.from_pretrained(folder)
        batch = processor([noise(16000), noise(20000)], ["ab", "abc d"], sampling_rate=16000, return_tensors="pt")
        assert list(batch) == processor.model_input_names
        assert model(**batch).loss.isfinite()

    def test_decodes(self, processor):
        assert processor.batch_decode([[5, 6], [7, 4, 8]]) == ["ab", "c d"]

    def test_bad_input(self, processor):
        with pytest.raises(ValueError, match="audio, text or both, got neither"):
            processor()
        with pytest.raises(ValueError, match="at least one transcript is needed"):
            processor(text=[], return_tensors="pt")
        with pytest.raises(ValueError, match="got 1 utterances, but 2 transcripts"):
            processor(noise(800), ["a", "b"])


class TestAutoClasses:
    def test_processor(self, processor, folder):
        loaded = AutoProcessor.from_pretrained(folder)
        assert isinstance(loaded, SeqDyConvSpeechProcessor)
        assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
        assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()

    def test_feature_extractor(self, folder):
        assert isinstance(AutoFeatureExtractor.from_pretrained(folder), SeqDyConvFeatureExtractor)


class TestPipeline:
    def expected(self, folder, samples):
        """The text of the greedy path."""
        processor = AutoProcessor.from_pretrained(folder)
        batch = processor(samples, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            logits = AutoModelForCTC.from_pretrained(folder).eval()(**batch).logits
        labels = logits[0].argmax(-1).unique_consecutive()
        return processor.decode(labels[labels != processor.tokenizer.pad_token_id], group_tokens=False)

    def test_recognises_arrays(self, folder):
        recognise = pipeline("automatic-speech-recognition", model=str(folder))
        samples = noise(16000).numpy()
        text = self.expected(folder, samples)
        assert len(text) > 3
        assert recognise(samples)["text"] == text
        assert recognise({"array": samples, "sampling_rate": 16000})["text"] == text

    @pytest.mark.parametrize("chunk", [0, 0.8])
    def test_tells_when(self, folder, chunk):
        recognise = pipeline("automatic-speech-recognition", model=str(folder), chunk_length_s=chunk)
        samples = noise(20000).numpy()
        result = recognise(samples, return_timestamps="word")
        assert " ".join(word["text"] for word in result["chunks"]) == result["text"] == recognise(samples)["text"]
        letters = recognise(samples, return_timestamps="char")["chunks"]
        assert "".join(letter["text"] for letter in letters).strip() == result["text"]
        times = [time for letter in letters for time in letter["timestamp"]]
        assert len(times) > 6 and times == sorted(times) and times[0] >= 0 and times[-1] <= 20000 / 16000
        assert {time for word in result["chunks"] for time in word["timestamp"]} <= set(times)

    def test_batches_of_different_lengths(self, folder):
        recognise = pipeline("automatic-speech-recognition", model=str(folder))
        samples = [noise(length).numpy() for length in (4000, 16000, 9000)]
        alone = [recognise(utterance)["text"] for utterance in samples]
        assert [result["text"] for result in recognise(list(samples), batch_size=3)] == alone

    def test_model_with_a_decoder(self, processor, tmp_path):
        save(
            SeqDyConvForSpeechSeq2Seq,
            processor,
            tmp_path,
            is_encoder_decoder=True,
            decoder_kernel_sizes=[3],
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
        )
        model = SeqDyConvForSpeechSeq2Seq.from_pretrained(tmp_path)
        recognise = pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
        )
        options = {"num_beams": 2, "max_new_tokens": 6}
        ids = model.generate(**processor(noise(16000), sampling_rate=16000, return_tensors="pt"), **options)[0]
        text = recognise(noise(16000).numpy(), generate_kwargs=options)["text"]
        assert text == processor.decode(ids, skip_special_tokens=True) != ""

    def test_resamples(self, folder):
        recognise = pipeline("automatic-speech-recognition", model=str(folder))
        result = recognise({"array": noise(8000).numpy().astype(numpy.float32), "sampling_rate": 8000})
        assert isinstance(result["text"], str)


class TestImport:
    BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "{library}":
            raise {error}
sys.meta_path.insert(0, Block())
"""

    @pytest.mark.parametrize(
        "library, error, message",
        [
            ("torchaudio", "OSError", "libc10_cuda.so: cannot open shared object file"),
            ("soundfile", "ModuleNotFoundError", "No module named 'soundfile'"),
        ],
    )
    def test_names_the_versions_that_fit(self, library, error, message):
        code = self.BLOCK.format(library=library, error=f"{error}({message!r})") + "import seqdyconv.speech"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        last = run.stderr.strip().splitlines()[-1]
        assert run.returncode == 1 and last.startswith("ImportError: seqdyconv.speech needs soundfile, and torchaudio")
        for words in ("'torch>=2.11,<2.13'", "'torchaudio==2.11.0'", "'seqdyconv[speech]'", f"({error}: {message})"):
            assert words in last
