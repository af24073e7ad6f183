"""Recognition without torch: what the model itself gives, from files, arrays and streams."""

import itertools
import json
import random
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

from seqdyconv.deploy.folder import write_manifest
from seqdyconv.deploy.speech import write_recogniser
from seqdyconv.runtime.folder import MANIFEST, FolderError, open_folder
from seqdyconv.runtime.recogniser import Recogniser
from seqdyconv.runtime.samples import AudioError
from seqdyconv.speech import Decoder, RecognitionStream
from tests.deploy.speech_models import streaming

LENGTHS = [1, 399, 400, 401, 640, 1039, 1040, 1041, 1680, 3000, 30000]


@pytest.fixture(scope="module")
def hears():
    return streaming(lookahead_ms=120)


@pytest.fixture(scope="module")
def folder(hears, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    write_manifest(folder, write_recogniser(hears, folder), "float32")
    return folder


@pytest.fixture(scope="module")
def recogniser(folder):
    return Recogniser(folder)


def noise(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed)) / 10


def files(folder: Path, samples: list[torch.Tensor]) -> list[Path]:
    paths = [folder / f"{number}.wav" for number in range(len(samples))]
    for path, one in zip(paths, samples):
        soundfile.write(path, one.numpy(), 16000, subtype="FLOAT")
    return paths


class TestTranscribe:
    def test_logits_are_those_of_the_model_for_any_batch_and_length(self, recogniser, hears):
        batch = [noise(length) for length in LENGTHS]
        inputs = hears.inputs(batch)
        with torch.no_grad():
            expected = hears.model(**inputs).logits
        lengths = hears.output_lengths(inputs, expected.shape[1])
        tolerance = {"atol": 1e-4 * float(expected[-1].abs().max()), "rtol": 0}
        for found, row, length in zip(recogniser.logits([one.numpy() for one in batch]), expected, lengths):
            torch.testing.assert_close(torch.from_numpy(found), row[:length], **tolerance)
        alone = recogniser.logits([batch[-1].numpy()])[0]
        torch.testing.assert_close(torch.from_numpy(alone), expected[-1], **tolerance)

    def test_texts_come_in_the_order_of_the_recordings(self, recogniser, hears, tmp_path):
        samples = [noise(length, seed) for seed, length in enumerate([9000, 50, 30000, 20000])]
        expected = Decoder(hears).texts(samples)
        assert len(set(expected)) > 2
        mixed = [files(tmp_path, samples)[0], *(one.numpy() for one in samples[1:])]
        assert recogniser.transcribe(mixed) == expected
        assert recogniser.transcribe(mixed, batch_seconds=0.1) == expected
        assert recogniser.transcribe([]) == []

    def test_words_have_the_times_of_the_model(self, recogniser, hears, tmp_path):
        (file,) = files(tmp_path, [noise(50000)])
        expected = Decoder(hears).transcribe(file, segment_seconds=1.0)
        found = recogniser.words(file, segment_seconds=1.0)
        assert [word[:3] for word in found] == [word[:3] for word in expected]
        assert [word.score for word in found] == pytest.approx([word.score for word in expected], abs=1e-4)
        assert recogniser.transcribe([file], segment_seconds=1.0) == [" ".join(word.text for word in expected)]

    def test_arrays_at_another_rate_are_resampled(self, recogniser, tmp_path):
        samples = noise(8000).numpy()
        soundfile.write(tmp_path / "slow.wav", samples, 8000, subtype="FLOAT")
        found = recogniser.transcribe([samples, tmp_path / "slow.wav"], sampling_rate=8000)
        assert found[0] == found[1]

    def test_threads_share_it(self, recogniser):
        batches = [[noise(20000, seed).numpy()] for seed in range(4)]
        expected = [recogniser.transcribe(batch) for batch in batches]
        found = [[] for _ in batches]
        threads = [
            threading.Thread(target=lambda number=number: found[number].extend(recogniser.transcribe(batches[number])))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == expected

    @pytest.mark.parametrize(
        ("recordings", "message"),
        [
            ("a.wav", "must be a list"),
            ([Path("missing.wav")], "missing.wav cannot be read"),
            ([b"no audio"], "is not audio"),
            ([np.zeros(0, np.float32)], "at least 1 samples, got 0"),
            ([np.zeros((2, 100), np.float32)], r"one channel \(N,\), got the shape \(2, 100\)"),
            ([np.zeros(100, np.int16)], "floating-point numbers between -1 and 1, got int16"),
            ([np.full(100, np.nan)], "NaN or infinite"),
            ([[[1.0], [1.0, 2.0]]], "array of numbers"),
        ],
        ids=["one text", "missing", "no audio", "empty", "two channels", "integers", "NaN", "ragged"],
    )
    def test_audio_that_is_none_is_one_line(self, recogniser, recordings, message):
        with pytest.raises(AudioError, match=message) as caught:
            recogniser.transcribe(recordings)
        assert "\n" not in str(caught.value)

    def test_sampling_rates_have_limits(self, recogniser):
        for rate in (0, 10, 16000.5, 10**7):
            with pytest.raises(AudioError, match="sampling_rate must be a whole number from 1000 to 768000"):
                recogniser.transcribe([np.zeros(500)], sampling_rate=rate)


class TestStream:
    def test_the_folder_says_how_far_it_looks_ahead(self, folder):
        assert open_folder(folder).settings["lookahead_ms"] == 120

    @pytest.mark.parametrize("seed", range(3))
    def test_words_of_all_chunkings_are_those_of_the_model(self, recogniser, hears, seed):
        chance = random.Random(seed)
        theirs, ours = RecognitionStream(hears), recogniser.stream()
        assert ours.latency == pytest.approx(theirs.latency)
        for length in LENGTHS:  # each begins the stream anew
            samples = noise(length, seed)
            pieces, rest = [], samples
            while len(rest):
                size = chance.choice([0, 1, 159, 640, 1000, 5000, 30000])
                pieces.append(rest[:size])
                rest = rest[size:]
            for piece in pieces:
                assert ours.push(piece.numpy()) == theirs.push(piece)  # also when each word comes
                assert ours.partial() == theirs.partial()
            assert ours.finish() == theirs.finish()

    def test_an_empty_stream_has_no_words(self, recogniser):
        assert recogniser.stream().finish() == []

    def test_other_rates_give_the_words_of_the_resampled_whole(self, recogniser):
        samples = noise(44100).numpy()
        stream = recogniser.stream(44100)
        words = [stream.push(piece) for piece in np.array_split(samples, 13)]
        expected = recogniser.transcribe([samples], sampling_rate=44100)[0].split()
        assert [*itertools.chain(*words), *stream.finish()] == expected

    def test_memory_stays(self, recogniser):
        stream = recogniser.stream()
        stream.push(noise(16000).numpy())
        sizes = [value.shape for value in stream.states.values()]
        for seed in range(3):
            stream.push(noise(16000, seed).numpy())
        assert [value.shape for value in stream.states.values()] == sizes
        assert len(stream.waiting) < stream.step and stream.waiting.base is None

    def test_samples_that_are_none(self, recogniser):
        with pytest.raises(AudioError, match="NaN"):
            recogniser.stream().push(np.full(3, np.nan))


class TestFolder:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"blank": 400}, "blank in the settings"),
            ({"sampling_rate": "16000"}, "sampling_rate in the settings"),
            ({"vocab_size": 9}, "tokens.txt must have a line for each of the 9 tokens"),
            ({"special": 3}, "special in the settings"),
            ({"seconds_per_step": -1}, "seconds_per_step in the settings"),
        ],
        ids=str,
    )
    def test_settings_that_do_not_fit_are_one_line(self, folder, tmp_path, settings, message):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["settings"] |= settings
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(FolderError, match=message):
            Recogniser(tmp_path)

    def test_a_graph_with_other_states_is_one_line(self, folder, tmp_path):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        graph = onnx.load(tmp_path / "streaming.onnx")
        for value in graph.graph.input:
            if value.name == "state_past":
                value.type.tensor_type.shape.dim[1].ClearField("dim_value")
        onnx.save(graph, tmp_path / "streaming.onnx")
        with pytest.raises(FolderError, match="must give next_past as it takes state_past, of fixed sizes"):
            Recogniser(tmp_path).stream()

    def test_a_model_of_the_whole_does_not_stream(self, folder, tmp_path):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        manifest = json.loads((folder / MANIFEST).read_text())
        del manifest["graphs"]["streaming"]
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        recogniser = Recogniser(tmp_path)
        assert not recogniser.streams
        with pytest.raises(FolderError, match="does not stream"):
            recogniser.stream()
