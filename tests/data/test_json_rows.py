"""Tables in JSON: in lines or a list, what is a row, and which values are refused."""

import json

import pytest

from seqdyconv.data.json_rows import read_json
from seqdyconv.errors import InputError

ROWS = [{"text": "a", "label": 1}, {"text": "2020-01-01", "other": [None]}]


def read(path, content):
    path.write_text(content, encoding="utf-8")
    return list(read_json(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("a.jsonl", "\ufeff" + "\r\n\r\n".join(map(json.dumps, ROWS))),
        ("a.json", "\n".join(map(json.dumps, ROWS))),
        ("a.json", json.dumps(ROWS)),
        ("a.JSON", "\ufeff" + json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
    ],
)
def test_rows(tmp_path, name, content):
    assert read(tmp_path / name, content) == ROWS


def test_one_object_is_one_row(tmp_path):
    assert read(tmp_path / "a.json", json.dumps(ROWS[0])) == ROWS[:1]


def test_values(tmp_path):
    row = '{"a": NaN, "b": 9223372036854775807, "c": 9223372036854775808, "d": -1.5, "e": "\\ud83d\\ude00\\u2028"}'
    assert read(tmp_path / "a.jsonl", row) == [
        {"a": None, "b": 2**63 - 1, "c": "9223372036854775808", "d": -1.5, "e": "😀\u2028"}
    ]
    row = '{"a": 1e999, "b": -9223372036854775808, "c": -9223372036854775809, "d": -Infinity}'
    assert read(tmp_path / "a.jsonl", row) == [{"a": None, "b": -(2**63), "c": "-9223372036854775809", "d": None}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a":\n', "line 3 of .* is not JSON"),
        ("a.json", '{"a": 1}\n{"a":\n', "line 2 of .* is not JSON"),
        ("a.json", '[{"a": 1},\n', "a.json is not JSON .*line 2"),
        ("a.jsonl", '{"a": 1, "b": 2, "a": 3}', "line 1 of .*the key 'a' is there twice"),
        ("a.json", '[{"a": {"b": 1, "b": 2}}]', "the key 'b' is there twice"),
        ("a.jsonl", "[1]", r"line 1 of .* is \[1\], but must be an object"),
        ("a.json", '[{"a": 1}, "b"]', "row 2 of .* is 'b', but must be an object"),
        ("a.json", "12", "row 1 of .* is 12"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", '{"data": []}', "holds no rows"),
        ("a.jsonl", "\n \n", "holds no rows"),
        ("a.jsonl", "[" * 100_000, "line 1 of .* is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_refused_in_one_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name, content)
    assert "\n" not in str(caught.value)
