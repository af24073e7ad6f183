"""What a run writes for people."""

import json
import re

import pytest
import yaml

from seqdyconv.training.reports import format_example, spread_examples, write_metrics, write_model_card


def test_metrics_are_flat_json(tmp_path):
    write_metrics(tmp_path / "metrics.json", {"test_bleu": 12.5, "steps": 3, "signature": "größer"})
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"test_bleu": 12.5, "steps": 3, "signature": "größer"}
    assert "größer" in text
    with pytest.raises(ValueError, match="the metric nested must be a number or a text, got dict"):
        write_metrics(tmp_path / "metrics.json", {"nested": {"a": 1}})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_the_model_card_has_front_matter_and_all_facts(tmp_path):
    write_model_card(
        tmp_path / "README.md",
        name="A model",
        summary="It translates.",
        tags=["translation"],
        languages=["de", "en"],
        data={"data set": "help", "pairs": 30000},
        results={"test_bleu": 23.456, "signature": "a|b"},
        usage="print(1)",
        command="python train.py a.yaml",
        config={"hidden_size": 256},
        examples=[{"source": "Haus", "translation": "house"}],
        picture="curves.png",
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {"language": ["de", "en"], "tags": ["translation"], "library_name": "transformers"}
    for part in (
        "| pairs | 30,000 |",
        "| test_bleu | 23.46 |",
        r"a\|b",
        "python train.py a.yaml",
        "hidden_size: 256",
        "- translation: house",
        "![Learning curves](curves.png)",
        "```python\nprint(1)\n```",
    ):
        assert part in body


def test_examples_are_spread_over_all_rows():
    columns = {"source": list("abcdefghij"), "target": list("ABCDEFGHIJ")}
    assert [row["source"] for row in spread_examples(columns)] == ["a", "c", "f", "h"]
    seven = {"source": list("abcdefg")}  # no multiple of the number: the end has its examples too
    assert [row["source"] for row in spread_examples(seven)] == ["a", "b", "d", "f"]
    assert spread_examples(columns, number=2, rows=[1, 3, 5]) == [
        {"source": "b", "target": "B"},
        {"source": "d", "target": "D"},
    ]
    assert len(spread_examples({"source": ["a"]})) == 1
    assert format_example({"source": "Haus", "translation": "house"}) == "  source      Haus\n  translation house\n"


def test_user_s_texts_leave_the_card_a_card(tmp_path):
    texts = ["a|b", "`c`", "<b>*d*</b>", "_e_ f_g", "two\nlines", "[x](y)", "$x$", "```\nend", "l" * 9999]
    write_model_card(
        tmp_path / "README.md",
        name="A model",
        summary="It sorts.",
        tags=[],
        languages=[],
        data={text: text for text in texts},
        results={},
        usage="print(1)",
        command="python train.py --text '```'",
        config={"text": "```"},
        examples=[{"text": text} for text in texts],
    )
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").split("\n")
    table = lines[lines.index("## Data") + 2 : lines.index("## Results") - 1]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [3] * (2 + len(texts))
    assert r"| a\|b | a\|b |" in table and r"| two lines | two lines |" in table
    examples = [line for line in lines if line.startswith("- text: ")]
    assert examples[1:4] == [r"- text: \`c\`", r"- text: \<b\>\*d\*\</b\>", r"- text: \_e\_ f_g"]
    assert len(examples) == len(texts) and max(map(len, examples)) < 600
    assert lines.count("````") == 3 and lines.count("````yaml") == 1
