"""``seqdyconv export``, and that what it writes runs where neither torch nor transformers can be imported."""

import subprocess
import sys

import pytest

from seqdyconv.commands.main import main

# A process in which packages of the torch side are as good as not installed.
WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchaudio", "transformers", "datasets", "scipy", "sklearn", "onnx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from seqdyconv.commands.main import main
main()
"""


def run_without_torch(*words, given=""):
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    return subprocess.run(command, input=given, capture_output=True, text=True)


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """What the command writes of a translation model and of a classifier in int8, both checked, by name."""
    root = tmp_path_factory.mktemp("exported")
    texts = root / "texts.txt"
    texts.write_text("one two\n\nthree\n")
    for name, options in {"ours": [], "classifier": ["--quantize", "int8"]}.items():
        main(["export", str(models / name), str(root / name), "--check_files", str(texts), *options])
    return root


def test_a_check_is_on_the_card(exported):
    card = (exported / "ours" / "README.md").read_text()
    assert "Not checked yet" not in card
    assert "100.00% of 2 translations are equal (4 beams)" in card
    assert "of the labels of 2 texts are equal" in (exported / "classifier" / "README.md").read_text()


def test_translate_and_classify_need_no_torch(exported, models, capfdbinary):
    given = "one two\n\nthree\n"
    translated = run_without_torch("translate", str(exported / "ours"), "--num_beams", "2", given=given)
    assert translated.returncode == 0, translated.stderr
    assert len(translated.stdout.splitlines()) == 3 and translated.stdout.splitlines()[1] == ""
    classified = run_without_torch("classify", str(exported / "classifier"), "--top_k", "2", given=given)
    assert classified.returncode == 0, classified.stderr
    assert [len(line.split("\t")) for line in classified.stdout.splitlines()] == [4, 4, 4]


def test_a_model_folder_where_torch_is_missing_is_told_in_a_line(models):
    run = run_without_torch("translate", str(models / "ours"))
    assert run.returncode == 2
    assert "pip install 'seqdyconv[recipes]'" in run.stderr and run.stderr.count("\n") == 1


def test_info_tells_what_an_exported_folder_holds(exported, capsys):
    main(["info", str(exported / "classifier")])
    text = capsys.readouterr().out
    assert "classification" in text and "int8" in text and "graph model" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export"], "the first argument is missing"),
        (["export", "model"], "the folder to write to is missing"),
        (["export", "{models}/none", "{out}"], "there is no model folder"),
        (["export", "{models}/ours", "{models}"], "is there already"),
        (["export", "{models}/ours", "{out}", "--quantize", "int2"], "quantize must be one of float16, int8, int4"),
        (["export", "{models}/ours", "{out}", "--lookahead_ms", "80"], "is for speech recognition models that stream"),
        (["export", "{models}/t5", "{exported}/ours", "--check"], "is there already: set overwrite"),
        (["translate", "{exported}/classifier"], "is for classification, and translation is asked for"),
        (["classify", "{exported}/ours", "--top_k", "0"], "top_k must be at least 1, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_words_are_told_in_a_line(words, message, models, exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["seqdyconv"])
    words = [word.format(models=models, exported=exported, out=tmp_path / "out") for word in words]
    with pytest.raises(SystemExit) as end:
        main(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
