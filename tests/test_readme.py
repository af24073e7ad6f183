"""The README's commands and snippets work as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def quickstart_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with an untrained model where the quick start leaves a trained one."""
    folder = tmp_path / "outputs/translation_quickstart"
    tokenizer = train_sentencepiece_tokenizer(["Klicken Sie auf das Symbol.", "Click the icon."], vocab_size=285)
    torch.manual_seed(0)
    config = SeqDyConvConfig(vocab_size=len(tokenizer), hidden_size=16, encoder_ffn_dim=16, decoder_ffn_dim=16)
    SeqDyConvForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.splitlines()[0])
def test_a_python_snippet_runs(snippet: str, quickstart_output: None) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


def test_there_is_a_snippet_for_each_way_of_use() -> None:
    assert any("pipeline(" in snippet for snippet in SNIPPETS)
    assert any("DynamicConv1d(" in snippet for snippet in SNIPPETS)


def test_every_file_that_a_command_or_a_link_names_is_there() -> None:
    names = [
        word
        for command in COMMANDS
        for word in shlex.split(command)
        if word.startswith(("demo/", "recipes/", "tests/"))
    ]
    names += re.findall(r"\]\(((?!https?:)[^)#]+)\)", README)
    assert "recipes/translation/configs/quickstart.yaml" in names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_ci_runs_the_commands_of_the_readme_and_of_contributing() -> None:
    ci = (ROOT / ".ci/run").read_text()
    set_up, tests = (command.strip() for command in COMMANDS[:2])
    assert tests in ci
    assert set_up.split(" && python ")[0].replace("pip install", "pip install --quiet") in ci
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for command in re.search(r"```bash\n(.*?)```", contributing, re.DOTALL)[1].strip().splitlines():
        assert command in ci


def test_the_times_of_the_operation_are_those_of_the_benchmark() -> None:
    whole = json.loads((ROOT / "benchmarks/results/ops_dynamic.json").read_text())
    contenders = ("native", "blocked", "reference", "unfold", "expand", "sdpa")  # in the order of the columns
    found = {
        (row["time_steps"], row["contender"], row["pass"]): row["milliseconds"]
        for row in whole["results"]
        if row["heads"] == 8 and row["kernel_size"] in (31, None) and row["threads"] == 1
    }

    def shown(*key: object) -> str:
        milliseconds = found[key]
        return f"{milliseconds:,.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"

    for steps in (128, 512, 2048):
        cells = [" / ".join(shown(steps, one, part) for part in ("forward", "forward+backward")) for one in contenders]
        assert f"| {steps:,} | **{cells[0]}** | {' | '.join(cells[1:])} |\n" in README
