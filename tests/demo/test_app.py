"""The page to try models: what it asks of them, which folders it takes, and the page itself in a browser."""

import asyncio
import gc
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure
from onnx import TensorProto, helper, save
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM

from demo import app
from seqdyconv.data.text_rows import LengthArguments, tokenize
from seqdyconv.errors import InputError
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.runtime.search import Hypothesis
from seqdyconv.speech import RecognitionStream, read_audio
from seqdyconv.training.classifiers import classify
from seqdyconv.training.decoding import generate
from tests.commands.folders import write_models
from tests.speech.conftest import write_streaming_model

DEMO = Path(__file__).parents[2] / "demo"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Gradio, in what it uses
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of its server, whose sockets nobody closes
]


@pytest.fixture(scope="module", autouse=True)
def event_loops_are_closed() -> Iterator[None]:
    """Gradio leaves its own open, and other tests would be told of that."""
    made, new_event_loop = [], asyncio.new_event_loop

    def kept() -> asyncio.AbstractEventLoop:
        made.append(new_event_loop())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", kept)
        yield
    asyncio.set_event_loop(None)
    for loop in made:
        if not loop.is_running():
            loop.close()
    gc.collect()  # with what else its server leaves open


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind of model, and a recording."""
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    write_streaming_model(root / "streaming")
    noise = np.random.default_rng(0).normal(0, 0.1, 24000)
    soundfile.write(root / "noise.wav", noise, 16000)
    BertForMaskedLM(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(root / "mlm")
    (root / "foreign").mkdir()
    (root / "foreign/export.json").write_text(
        '{"format": 1, "task": "chess", "precision": "int8", "graphs": {"move": "move.onnx"}, "settings": {}}'
    )
    (root / "damaged").mkdir()
    (root / "damaged/export.json").write_text("{")
    return root


class TestFolders:
    @pytest.mark.parametrize(
        "name, task",
        [
            ("ours", "translation"),
            ("t5", "translation"),
            ("classifier", "classification"),
            ("swapped", "classification"),
            ("speech", "recognition"),
        ],
    )
    def test_the_files_tell_the_task(self, folders, name, task):
        assert app.task_of(str(folders / name)) == task

    @pytest.mark.parametrize(
        "name, message",
        [
            ("no_such", "no_such"),
            ("", "holds no model"),
            ("mlm", "mlm holds BertForMaskedLM, and the page shows translation, "),
            ("foreign", "foreign is for chess, which the page does not show"),
            ("damaged", "export.json is no JSON"),
        ],
    )
    def test_what_can_not_be_used_is_one_line_before_anything_starts(self, folders, name, message, capsys, monkeypatch):
        monkeypatch.setattr(app.gr.Blocks, "launch", None)
        with pytest.raises(SystemExit) as ended:
            app.main([str(folders / "ours"), str(folders / name)])
        assert ended.value.code == 2
        assert re.fullmatch(r"[^\n]*: error: [^\n]+\n", error := capsys.readouterr().err) and message in error

    def test_without_words_they_are_those_of_the_environment(self, folders, monkeypatch):
        monkeypatch.setenv("SEQDYCONV_MODELS", f"{folders / 'speech'} '{folders / 'no such'}'")
        with pytest.raises(SystemExit):
            app.main(["--use_cpu"])
        seen = []
        monkeypatch.setattr(app, "load", lambda names, device: seen.extend(names) or {})
        monkeypatch.setattr(app.gr.Blocks, "launch", lambda *args, **options: (None, "address", None))
        assert app.main(["--use_cpu"], wait=False) == "address"
        assert seen == [str(folders / "speech"), str(folders / "no such")]

    def test_names_of_the_environment_with_half_a_quote_are_one_line(self, monkeypatch, capsys):
        monkeypatch.setenv("SEQDYCONV_MODELS", "it's")
        with pytest.raises(SystemExit) as ended:
            app.main(["--use_cpu"])
        assert ended.value.code == 2
        assert re.fullmatch(r"[^\n]*: error: SEQDYCONV_MODELS can't be read [^\n]+\n", capsys.readouterr().err)

    def test_a_port_that_is_taken_is_one_line(self, folders, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
            app.main([str(folders / "speech"), "--port", str(taken.getsockname()[1])], wait=False)
        assert (
            ended.value.code == 2 and "error: can't serve the page: Cannot find empty port" in capsys.readouterr().err
        )

    def test_two_of_one_name_are_told_apart(self, folders, tmp_path):
        shutil.copytree(folders / "classifier", tmp_path / "classifier")
        names = [str(folders / "classifier"), str(tmp_path / "classifier"), str(folders / "swapped")]
        loaded = app.load(names)["classification"]
        assert [model.name for model in loaded] == [*names[:2], "swapped"]

    def test_a_folder_brings_its_examples(self, folders, tmp_path):
        assert "Klicken Sie auf das Symbol." in app.examples([str(folders / "ours")], "translation")
        (tmp_path / "examples").mkdir()
        (tmp_path / "examples/translation.txt").write_text("eins\nzwei drei\n")
        shutil.copy(folders / "noise.wav", tmp_path / "examples")
        assert app.examples([str(tmp_path)], "translation") == ["eins", "zwei drei"]
        assert app.examples([str(tmp_path)], "recognition") == [str(tmp_path / "examples/noise.wav")]


class TestModels:
    def test_translations_are_those_of_generate(self, folders):
        model = app.TorchTranslator(str(folders / "ours"), "cpu")
        inputs = load_tokenizer(str(folders / "ours"))(["eins zwei", "drei"])["input_ids"]
        found = generate(model.model, model.tokenizer, inputs, DecodingArguments(num_beams=3), nbest=2)
        expected = [[(one.text, one.score) for one in hypotheses] for hypotheses in found]
        assert model.translate(["eins zwei", "drei"], beams=3, best=2) == expected

    def test_kernels_of_the_encoder_and_the_decoder(self, folders, monkeypatch):
        model = app.TorchTranslator(str(folders / "ours"), "cpu")
        drawn = []
        draw = lambda model, text, tokenizer, target: drawn.append((text, target)) or Figure()  # noqa: E731
        monkeypatch.setattr(app, "plot_kernels", draw)
        assert list(model.kernels("eins", "one")) == [
            "Kernels of the encoder, over the text",
            "Kernels of the decoder, over the translation",
        ]
        assert drawn == [("eins", None), ("eins", "one")]

    def test_a_model_without_kernels_says_so(self, folders):
        shown = app.pictures(app.TorchTranslator(str(folders / "t5"), "cpu"), "eins zwei", "one <two>")
        assert (
            shown.startswith("<p>No kernels are drawn: the model must have a LightweightConv1d") and "<img" not in shown
        )

    @pytest.mark.parametrize("name", ["classifier", "swapped"])
    def test_probabilities_are_those_of_classify(self, folders, name):
        model = app.TorchClassifier(str(folders / name), "cpu")
        data = DatasetDict({"input": Dataset.from_dict({"text": ["the old word"]})})
        rows = tokenize(data, model.tokenizer, LengthArguments())["input"]
        found, seconds = model.classify("the old word")
        expected = classify(model.model, model.tokenizer, rows, 8)[0]
        assert list(found) == ["a", "b"] and seconds > 0
        torch.testing.assert_close(torch.tensor(list(found.values()), dtype=torch.double), torch.tensor(expected))

    def test_words_as_they_come_are_those_of_the_whole(self, folders):
        model = app.TorchRecogniser(str(folders / "streaming"), "cpu")
        samples = read_audio(folders / "noise.wav")
        stream = RecognitionStream(model.recogniser)
        expected = stream.push(samples) + stream.finish()
        listener = model.listen(16000)
        words = [word for piece in samples.split(3000) for word in listener.push(piece.numpy())] + listener.finish()
        assert model.streams and words == expected

    def test_a_recogniser_that_does_not_stream(self, folders):
        model = app.TorchRecogniser(str(folders / "speech"), "cpu")
        assert not model.streams and isinstance(model.transcribe(str(folders / "noise.wav")), str)
        with pytest.raises(InputError, match="does not stream"):
            model.listen(16000)

    def test_samples_of_a_sound_card(self):
        stereo = np.array([[-32768, 0], [16384, 16384]], dtype=np.int16)
        np.testing.assert_array_equal(app.mono(stereo), np.array([-0.5, 0.5], dtype=np.float32))
        assert app.mono(np.zeros(3, dtype=np.float64)).dtype == np.float32


def write_exported_classifier(folder: Path) -> None:
    """One that counts the letters of a text: the more there are, the surer it is of b."""
    folder.mkdir()
    letters = Tokenizer(models.WordLevel({"[UNK]": 0, "b": 1}, unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.save(str(folder / "tokenizer.json"))
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axis"], ["count"], keepdims=1),
        helper.make_node("Neg", ["count"], ["less"]),
        helper.make_node("Concat", ["less", "count"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "counter",
        [value("input_ids", TensorProto.INT64, ["batch", "time"])],
        [value("logits", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    opset = helper.make_opsetid("", 18)
    save(helper.make_model(graph, ir_version=10, opset_imports=[opset]), folder / "model.onnx")
    reading = {"vocab_size": 2, "pad_token_id": 0, "filler_token_id": 0, "max_length": 9}
    manifest = {"format": 1, "task": "classification", "precision": "float32", "graphs": {"model": "model.onnx"}}
    (folder / "export.json").write_text(json.dumps(manifest | {"settings": {"labels": ["a", "b"], **reading}}))


class TestExportedModels:
    def test_a_classifier(self, tmp_path):
        write_exported_classifier(tmp_path / "counter")
        (model,) = app.load([str(tmp_path / "counter")])["classification"]
        assert re.fullmatch(r"exported, float32, 0\.\d MB, ONNX Runtime", model.about) and model.name == "counter"
        found, seconds = model.classify("xbb")
        assert list(found) == ["a", "b"] and found["b"] == pytest.approx(1 / (1 + np.exp(-4))) and seconds > 0

    def test_a_translator(self, monkeypatch):
        model = self.around(app.ExportedTranslator, app.translator, "Translator", monkeypatch)
        model.model.search = lambda lines, beams, nbest: [[Hypothesis(line, beams, nbest)] for line in lines]
        assert model.translate(["one", "two"], beams=3, best=2) == [[("one", 2)], [("two", 2)]]
        line = app.pictures(model, "one", "eins")
        assert line == "<p>No kernels are drawn: an exported model does not tell them.</p>"

    def test_a_recogniser(self, monkeypatch):
        model = self.around(app.ExportedRecogniser, app.recogniser, "Recogniser", monkeypatch)
        model.model.transcribe = lambda files: [f"words of {file}" for file in files]
        model.model.stream = lambda rate: rate
        assert (model.transcribe("a.wav"), model.listen(8000), model.streams) == ("words of a.wav", 8000, True)

    def around(self, kind, module, name, monkeypatch):
        """A model of the page around one of the runtime that knows nothing."""
        monkeypatch.setattr(app, "exported", lambda folder: "")
        monkeypatch.setattr(module, name, lambda folder, threads: SimpleNamespace(streams=True))
        return kind("folder")


class TestComparison:
    def models(self, *names):
        return [type("Model", (), {"name": name}) for name in names]

    def test_models_that_agree(self):
        line = app.compared(self.models("old", "new"), [{"a": 0.9, "b": 0.1}, {"a": 0.8, "b": 0.2}], [0.02, 0.01])
        assert line == (
            "old took 20.0 ms; new took 10.0 ms (the shortest of three runs). Both say **a**. "
            "Probabilities differ by at most 10.0 points."
        )

    def test_models_that_don_t_and_have_other_labels(self):
        line = app.compared(self.models("old", "new"), [{"a": 0.9}, {"c": 0.8}], [0.02, 0.01])
        assert line.endswith("They disagree: **a**, **c**.")

    def test_three(self):
        line = app.compared(self.models("a", "b", "c"), [{"x": 1.0}] * 3, [1, 1, 1])
        assert "All say **x**. Probabilities differ by at most 0.0 points." in line

    def test_one_model_alone(self):
        assert app.compared(self.models("it"), [{"a": 1.0}], [0.5]) == "it took 500.0 ms (the shortest of three runs)."


def test_translations_that_begin_with_a_hyphen_keep_it():
    shown = app.others([("- one", -0.5), ("two-", -1.25)])
    assert "<li>- one <span>−0.50</span></li><li>two- <span>−1.25</span></li>" in shown


def test_the_folder_is_a_space():
    _, head, text = (DEMO / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["sdk"] == "gradio" and (DEMO / values["app_file"]).samefile(app.__file__)
    assert "seqdyconv[demo] @ " in (DEMO / "requirements.txt").read_text()
    assert "SEQDYCONV_MODELS" in text


def chromium() -> str:
    """The browser of the system."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say("there is no chromium: apt-get install chromium")
    return path


@pytest.mark.parametrize("ci, outcome", [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_browser_its_tests_are_skipped_but_fail_in_ci(monkeypatch, ci, outcome):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="there is no chromium"):
        chromium()


class TestBrowser:
    @pytest.fixture(scope="class")
    def page(self, folders):
        """The page with all kinds of models, in a browser that notes what it asks of others."""
        path = chromium()
        playwright = pytest.importorskip("playwright.sync_api")
        names = [str(folders / name) for name in ("ours", "classifier", "swapped", "streaming", "speech")]
        address = app.main([*names, "--use_cpu"], wait=False)
        try:
            with playwright.sync_playwright() as driver:
                arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
                browser = driver.chromium.launch(executable_path=path, args=arguments)
                context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
                page = context.new_page()
                page.set_default_timeout(60_000)
                page.others = []
                own = (address, "data:", "blob:")
                page.on("request", lambda asked: asked.url.startswith(own) or page.others.append(asked.url))
                page.goto(address)
                page.get_by_role("tab").last.wait_for()
                yield page
                browser.close()
        finally:
            app.gr.close_all(verbose=False)

    @pytest.fixture
    def tab(self, page):
        """Opens a tab."""

        def open_tab(name: str):
            page.get_by_role("tab", name=name, exact=True).click()
            panel = page.get_by_role("tabpanel").locator("visible=true")
            panel.wait_for()
            return panel

        return open_tab

    def test_there_is_a_tab_for_each_task(self, page):
        names = ["Translation", "Classification", "Speech: streaming", "Speech: speech"]
        assert page.get_by_role("tab").all_inner_texts() == names

    def test_translate(self, folders, page, tab, tmp_path):
        panel = tab("Translation")
        panel.get_by_label("Text").fill("eins zwei\n\ndrei")
        panel.get_by_role("button", name="Translate").click()
        panel.locator("figure img").nth(1).wait_for()
        model = app.TorchTranslator(str(folders / "ours"), "cpu")
        expected = [found[0][0] for found in model.translate(["eins zwei", "drei"], 4, 1)]
        assert panel.locator("textarea").nth(1).input_value() == "\n\n".join(expected)
        assert panel.locator(".others li").count() == 4
        picture = panel.locator("figure img").first
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
        picture.screenshot(path=tmp_path / "kernels.png")
        assert len(Image.open(tmp_path / "kernels.png").convert("RGB").getcolors(1 << 20)) > 50

    def test_classify_an_example_with_both(self, page, tab):
        panel = tab("Classification")
        panel.get_by_role("button", name="wheat and corn exports rose in may").click()
        outcome = panel.get_by_text(re.compile("classifier took .* ms; swapped took .* ms"))
        outcome.wait_for()
        assert re.search(r"(Both say|They disagree: ).*Probabilities differ by at most", outcome.inner_text())
        assert "wheat" in panel.get_by_label("Text").input_value()

    @pytest.mark.parametrize("name", ["streaming", "speech"])
    def test_transcribe_a_file(self, folders, page, tab, name):
        panel = tab(f"Speech: {name}")
        panel.locator("input[type=file]").first.set_input_files(folders / "noise.wav")
        panel.get_by_role("button", name="Play").first.wait_for()
        panel.get_by_role("button", name="Transcribe").click()
        expected = app.TorchRecogniser(str(folders / name), "cpu").transcribe(str(folders / "noise.wav"))
        page.wait_for_function(
            "text => [...document.querySelectorAll('textarea')].some(t => t.value == text)", arg=expected
        )

    def test_hear_the_microphone(self, page, tab):
        panel = tab("Speech: streaming")
        words = panel.locator("textarea")
        before = words.input_value()
        panel.get_by_role("button", name="Record").click()
        heard = "([area, before]) => area.value && area.value != before"
        page.wait_for_function(heard, arg=[words.element_handle(), before])
        so_far = words.input_value()
        panel.get_by_role("button", name="Stop").click()
        panel.get_by_role("button", name="Record").wait_for()
        assert words.input_value().startswith(so_far)

    def test_an_empty_text_is_said(self, page, tab):
        panel = tab("Translation")
        panel.get_by_label("Text").fill(" ")
        panel.get_by_role("button", name="Translate").click()
        page.get_by_text("There is no text yet.").wait_for()

    def test_a_narrow_screen_shows_all_of_it(self, page, tab):
        page.set_viewport_size({"width": 390, "height": 844})
        for name in ("Translation", "Classification"):
            tab(name)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390

    def test_nobody_else_is_called(self, page):
        assert page.others == []
