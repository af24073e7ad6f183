"""CONFIG.yaml [--key value ...] into dataclasses; bad input is one line and exit status 2."""

import errno
import os
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.arguments import dump_yaml, parse_arguments, read_yaml
from seqdyconv.training.trainer import TokenBatchTrainingArguments


@dataclass
class Numbers:
    rate: float = 0.5
    steps: int = 10
    mixed: bool = False
    shown: bool = True
    limit: int | None = 3


@dataclass
class Others:
    name: str = "x"
    sizes: list[int] = field(default_factory=lambda: [1])
    options: dict[str, Any] | str | None = None
    positive: int = 1

    def __post_init__(self) -> None:
        if self.positive < 1:
            raise ValueError(f"positive must be at least 1,\n got {self.positive}")


@pytest.fixture
def parse(tmp_path):
    def parse(text: str, *words: str):
        (tmp_path / "config.yaml").write_text(text)
        return parse_arguments((Numbers, Others), [str(tmp_path / "config.yaml"), *words])

    return parse


@pytest.fixture
def error_of(parse, capsys):
    def error_of(text: str, *words: str) -> str:
        with pytest.raises(SystemExit) as caught:
            parse(text, *words)
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        return captured.err

    return error_of


@pytest.mark.parametrize(
    "text, words, limit",
    [
        ("limit: null", [], None),
        ("limit:", [], None),
        ("", ["--limit", "null"], None),
        ("limit: 5", ["--limit=null"], None),
        ("limit: null", ["--limit", "4"], 4),
        ("name: null and void", ["--steps", "7"], 3),
    ],
)
def test_null_is_none_and_not_the_default(parse, text, words, limit):
    assert parse(text, *words)[0].limit == limit


def test_null_where_none_is_not_allowed(error_of):
    assert "invalid int value: 'null'" in error_of("", "--steps", "null")


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(parse):
    numbers, others = parse("rate: 0.25\nsteps: 20\nname: file", "--steps", "30", "--name=line")
    assert numbers == Numbers(rate=0.25, steps=30)
    assert others == Others(name="line")


def test_an_empty_file_gives_the_defaults(parse):
    assert parse("# nothing\n") == (Numbers(), Others())


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'0.001'"])
def test_floats_are_read_in_every_notation(parse, text):
    assert parse(f"rate: {text}")[0].rate == 0.001


def test_lists_and_mappings(parse):
    assert parse("sizes: [3, 7, 15]")[1].sizes == [3, 7, 15]
    assert parse("sizes: 3")[1].sizes == [3]
    assert parse("sizes: [3]", "--sizes", "7", "15")[1].sizes == [7, 15]
    assert parse("options: {min_lr: 1.0e-7}")[1].options == '{"min_lr": 1e-07}'


def test_booleans(parse):
    numbers, _ = parse("mixed: true\nshown: no")
    assert (numbers.mixed, numbers.shown) == (True, False)
    assert parse("", "--mixed")[0].mixed is True
    assert parse("", "--mixed", "false")[0].mixed is False
    assert parse("name: no")[1].name == "no"
    assert parse("", "--no_shown")[0].shown is False


def test_values_may_begin_with_a_dash(parse):
    assert parse("name: -x\nsteps: -1")[1].name == "-x"
    assert parse("", "--steps", "-1")[0].steps == -1
    assert parse("", "--name", "-x")[1].name == "-x"


@pytest.mark.parametrize(
    "text, message",
    [
        ("ratee: 0.1", "unknown key 'ratee'"),
        ("ratee: 0.1", "did you mean rate?"),
        ("rate: fast", "invalid float value: 'fast'"),
        ("rate: true", "invalid float value: 'True'"),
        ("rate: [1, 2]", "rate must be float, got a list"),
        ("rate:", "rate must be float, got nothing"),
        ("steps: 1.5", "invalid int value: '1.5'"),
        ("mixed: maybe", "got maybe"),
        ("sizes: [3, x]", "invalid int value: 'x'"),
        ("sizes: [3, [7]]", "list of plain values"),
        ("sizes: []", "list of plain values"),
        ("name: {a: 1}", "name must be str, got a mapping"),
        ("steps: 1\nrate: 2\nsteps: 3", "'steps' occurs twice, again in line 3"),
        ("- rate\n- steps", "must hold `key: value` lines, got list"),
        ("rate: 1: 2", "not valid YAML"),
        ("positive: 0", "positive must be at least 1, got 0"),
    ],
)
def test_bad_files(error_of, text, message):
    assert message in error_of(text)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--stepz", "3"], "unknown option --stepz, did you mean --steps?"),
        (["--zzzzzz", "3"], "unknown option --zzzzzz, --help lists all keys"),
        (["--step", "3"], "unknown option --step"),
        (["--steps"], "expected one argument"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_bad_command_lines(error_of, words, message):
    assert message in error_of("", *words)


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "the first argument is missing"),
        (["--rate", "1"], "the first argument is missing"),
        (["missing.yaml"], "can't read the configuration file missing.yaml: No such file"),
        (["."], "can't read the configuration file .: Is a directory"),
    ],
)
def test_bad_first_arguments(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        parse_arguments((Numbers,), words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_text(tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SystemExit):
        parse_arguments((Others,), [str(tmp_path / "config.yaml")])
    assert "is not UTF-8 text (byte 6)" in capsys.readouterr().err


def test_the_first_word_may_be_a_field_and_defaults_come_below_the_command_line():
    others, numbers = parse_arguments(
        (Others, Numbers), ["folder", "--steps", "5"], first="name", defaults={"steps": 4, "rate": 0.1, "unknown": 1}
    )
    assert (others.name, numbers.steps, numbers.rate) == ("folder", 5, 0.1)


@dataclass
class Files:
    folder: str = ""
    format: str = "text"
    files: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    "first, words, expected",
    [
        (("folder", "format"), ["here"], Files("here")),
        (("folder", "format"), ["here", "json"], Files("here", "json")),
        (("folder", "files"), ["here", "one", "-", "--format", "json"], Files("here", "json", ["one", "-"])),
        (("folder", "files"), ["here", "--files", "one"], Files("here", files=["one"])),
    ],
    ids=["one of two", "two", "a list", "a list by its name"],
)
def test_several_words_may_come_first(first, words, expected):
    assert parse_arguments([Files], words, first=first) == (expected,)


def test_a_word_too_many(capsys):
    with pytest.raises(SystemExit):
        parse_arguments([Files], ["here", "json", "more"], first=("folder", "format"))
    assert "unexpected argument 'more'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_arguments([Files], ["--format", "json"], first=("folder", "files"))
    assert "FOLDER FILES... [--key value ...]" in capsys.readouterr().err


def test_help_lists_all_keys(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments((Numbers, TokenBatchTrainingArguments), ["--help"])
    assert caught.value.code == 0
    help_text = capsys.readouterr().out
    assert all(key in help_text for key in ("--rate", "--max_tokens", "--learning_rate", "--rdrop_alpha"))


def test_only_expected_errors_become_one_line(capsys):
    with pytest.raises(SystemExit) as caught, exit_on_error(LookupError):
        raise KeyError("two\nlines")
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise InputError("no such file")
    assert caught.value.code == 2
    with pytest.raises(ValueError, match="a bug"), exit_on_error(LookupError):
        raise ValueError("a bug")
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise KeyboardInterrupt
    assert caught.value.code == 130


def test_processes_after_the_first_stay_silent(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), exit_on_error(ValueError):
        raise ValueError("once")
    assert capsys.readouterr().err == ""


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    values = {"a": 1e-3, "b": 12, "c": "1:30", "d": "0x10", "e": "1_000", "f": "2024-01-01", "g": -0.5, "h": 1e5}
    (tmp_path / "a.yaml").write_text("a: 1e-3\nb: 012\nc: 1:30\nd: 0x10\ne: 1_000\nf: 2024-01-01\ng: -.5\nh: 1E+5")
    assert read_yaml(tmp_path / "a.yaml") == values
    values |= {"text": "1e-3", "yes": "yes", "none": "null", "integer": "12", "empty": "", "true": True}
    (tmp_path / "b.yaml").write_text(dump_yaml(values))
    assert read_yaml(tmp_path / "b.yaml") == values


@pytest.mark.parametrize(
    "text, message",
    [
        ("rate: .nan\nsteps: 1", None),
        ("rate: !!python/object/apply:os.system ['touch x']", "could not determine a constructor"),
        ("rate: !!timestamp 2024-01-01", "could not determine a constructor"),
        ("rate:\t1\n\tsteps: 2", "not valid YAML"),
        ("1: 2", "unknown key 1"),
        ("[a]: 2", "not valid YAML"),
        ("? {a: b}\n: 2", "not valid YAML"),
        ("null: 2", "unknown key None"),
        ("options: &a [*a]", "make it too large"),
        ("options: &a {b: *a}", "make it too large"),
        ("rate: " + "[" * 5000, "can't use the configuration file"),
        (f"steps: {'9' * 5000}", "can't use the configuration file"),
        ("name: 1\n" * 200_000, "has more than 1000000 bytes"),
        (
            "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz")),
            "large",
        ),
    ],
    ids=lambda value: value[:30] if value else "",
)
def test_what_yaml_may_hold(error_of, parse, text, message):
    if message is None:
        assert parse(text)[0].steps == 1  # whether a number may be NaN is for its dataclass to say
    else:
        assert message in error_of(text)


def test_a_configuration_that_never_ends_or_never_begins(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "it is a named pipe"), ("/dev/zero", "has more than 1000000 bytes")):
        with pytest.raises(SystemExit):
            parse_arguments((Numbers,), [str(path)])
        assert message in capsys.readouterr().err
    assert parse_arguments((Numbers,), ["/dev/null"]) == (Numbers(),)


def test_help_says_what_a_value_may_be(capsys):
    with pytest.raises(SystemExit):
        parse_arguments((DecodingArguments,), ["--help"])
    assert "1 is greedy. It must be in [1, 1000]. (default: 4)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_file_that_can_t_be_written_is_one_line(number, capsys):
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise OSError(number, os.strerror(number), "metrics.json")
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f": error: can't use metrics.json: {os.strerror(number)}\n")
    for other in (errno.EIO, errno.ENOENT):
        with pytest.raises(OSError, match="metrics"), exit_on_error():
            raise OSError(other, os.strerror(other), "metrics.json")


def test_read_yaml_keeps_types(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\nb: [x]\nc: {d: 2}")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1, "b": ["x"], "c": {"d": 2}}
