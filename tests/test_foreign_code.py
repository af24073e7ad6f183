"""Code that a model folder brings is never run, and nobody is asked whether to: standard input is the user's data."""

import ast
import json

import numpy as np
import pytest
import soundfile

from seqdyconv.models import load_convbert
from seqdyconv.swap import load_swapped
from tests.recipes.commands import RECIPES, REPOSITORY, error_of, script

SCRIPTS = [
    *(("translation", name) for name in ("translate", "evaluate", "train")),
    *(("text_classification", name) for name in ("predict", "evaluate", "train")),
    *(("sentence_embedding", name) for name in ("evaluate", "train")),
    *(("speech_recognition", name) for name in ("transcribe", "stream", "evaluate", "train")),
]


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A model folder whose code leaves a mark where it runs; whoever asks gets a yes."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    classes = ("AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification", "AutoModelForCTC", "AutoModel")
    config = {"model_type": "foreign", "architectures": ["Foreign"], "is_encoder_decoder": True}
    auto_map = dict.fromkeys(classes, "code.Foreign") | {"AutoConfig": "code.Config"}
    auto_map |= {"AutoTokenizer": ["code.Tokenizer", None], "AutoFeatureExtractor": "code.Extractor"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto_map}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}))
    extractor = {"feature_extractor_type": "Foreign", "auto_map": {"AutoFeatureExtractor": "code.Extractor"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    ran = tmp_path / "ran"
    (folder / "code.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import PreTrainedConfig\n\n\n"
        "class Config(PreTrainedConfig):\n    model_type = 'foreign'\n"
    )
    asked = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    yield folder
    assert not ran.exists() and not asked


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40)))
    for side in ("de", "en"):
        (tmp_path / f"data.{side}").write_text("eins zwei\n" * 10)
    soundfile.write(tmp_path / "speech.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    (tmp_path / "speech.jsonl").write_text('{"audio": "speech.wav", "text": "one"}\n' * 4)
    (tmp_path / "run.yaml").write_text("max_steps: 1\neval_strategy: 'no'\nreport_to: none\n")
    return tmp_path


def words_for(recipe, name, folder, texts):
    data = {
        "translation": [f"--train_source_file={texts}/data.de", f"--train_target_file={texts}/data.en"],
        "text_classification": [f"--train_file={texts}/data.csv"],
        "sentence_embedding": [f"--train_file={texts}/data.csv", "--swap_mixer=dynamic_conv"],
        "speech_recognition": [f"--train_file={texts}/speech.jsonl", f"--validation_file={texts}/speech.jsonl"],
    }[recipe]
    if name == "train":
        model = [f"--model_name_or_path={folder}", f"--output_dir={texts}/out"]
        languages = ["--source_lang=de", "--target_lang=en"] if recipe == "translation" else []
        return [str(texts / "run.yaml"), *model, *data, *languages]
    return [str(folder), *(["speech.wav"] if name in ("transcribe", "stream") else [])]


@pytest.mark.parametrize("recipe, name", SCRIPTS, ids=lambda name: name)
def test_scripts_run_no_code_of_a_folder(recipe, name, foreign, texts, capsys):
    message = error_of(script(recipe, name).main, words_for(recipe, name, foreign, texts), capsys)
    assert "needs code of its own, which is never run" in message
    assert not (texts / "out" / "run.yaml").exists()


def test_a_foreign_tokenizer_of_a_new_model_runs_no_code(foreign, texts, capsys):
    for recipe in ("translation", "text_classification"):
        words = [word for word in words_for(recipe, "train", foreign, texts) if "model_name_or_path" not in word]
        error_of(script(recipe, "train").main, [*words, f"--tokenizer_name={foreign}"], capsys)


@pytest.mark.parametrize("load", [load_convbert, load_swapped], ids=lambda load: load.__name__)
def test_functions_run_no_code_of_a_folder(load, foreign):
    with pytest.raises(ValueError):
        load(foreign)


def test_every_load_says_so():
    files = [path for part in ("seqdyconv", "recipes", "benchmarks") for path in (REPOSITORY / part).rglob("*.py")]
    assert RECIPES / "translation" / "train.py" in files
    silent = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = {word.arg: word.value for word in node.keywords}
                if node.func.attr == "from_pretrained" and not is_false(given.get("trust_remote_code")):
                    silent.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert not silent, f"from_pretrained without trust_remote_code=False: {', '.join(silent)}"


def is_false(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is False
