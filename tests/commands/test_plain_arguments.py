"""Words of commands that need no torch mean what they mean with it."""

from dataclasses import dataclass, field

import pytest

from seqdyconv.commands.plain_arguments import ExportedArguments, parse_plain
from seqdyconv.training.arguments import parse_arguments


@dataclass
class Arguments(ExportedArguments):
    output_dir: str | None = field(default="outputs", metadata={"help": "Where to."})
    length_penalty: float = field(default=1.0, metadata={"help": "Of scores."})
    top_k: int | None = field(default=1, metadata={"help": "Of labels."})


@pytest.mark.parametrize(
    "words",
    [
        ["--output_dir", "null", "--top_k=null"],
        ["--output-dir", "elsewhere", "--use-cpu"],
        ["--length_penalty", "-1e-2", "--top_k", "3"],
        ["--output_dir", "-o"],
        ["--use_cpu", "false", "--threads", "2"],
    ],
)
def test_options_are_those_of_the_commands_with_torch(words):
    (expected,) = parse_arguments((Arguments,), ["model", *words], first="model_dir")
    assert parse_plain(Arguments, ["model", *words], ["model_dir"]) == expected


def test_a_number_that_is_none_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        parse_plain(Arguments, ["model", "--top_k", "x"], ["model_dir"])
    assert end.value.code == 2 and "invalid int value: 'x'" in capsys.readouterr().err
