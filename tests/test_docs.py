"""The snippets of docs/ run as they stand there, from top to bottom."""

import ast
import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from seqdyconv.data.word_tokenizers import train_word_tokenizer

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def my_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with a tiny encoder where a reader has a trained one."""
    monkeypatch.chdir(tmp_path)
    tokenizer = train_word_tokenizer(["a film of great charm", "dull and far too long"], vocab_size=60)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=32,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained("my-encoder")
    tokenizer.save_pretrained("my-encoder")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")  # of a Trainer where there is no GPU
@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_the_snippets_run(document: Path, my_encoder: None) -> None:
    namespace: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, document.name, "exec"), namespace)


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_promise_names_tests_that_exist() -> None:
    """Rows of docs/robustness.md: `path.py`, `path.py::test` or `path.py::Class::test`."""
    rows = re.findall(r"^\|(.*)\|(.*)\|$", (DOCS / "robustness.md").read_text(encoding="utf-8"), re.MULTILINE)
    promises = [tests for promise, tests in rows if promise.strip() not in ("promise", "---")]
    named = [re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", tests) for tests in promises]
    assert promises and all(named), "a promise without a test"
    for path, names in (pair for tests in named for pair in tests):
        scope: list[ast.stmt] = ast.parse((DOCS.parent / path).read_text(encoding="utf-8")).body
        for name in names.split("::")[1:]:
            found = next((node for node in scope if getattr(node, "name", None) == name), None)
            assert found is not None, f"{path} has no {name}"
            scope = getattr(found, "body", [])
