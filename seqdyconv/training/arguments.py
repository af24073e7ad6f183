"""Arguments of the recipe scripts: one YAML file, then overrides on the command line, into dataclasses."""

import argparse
import dataclasses
import difflib
import json
import os
import re
import shlex
import stat
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Union, cast, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from seqdyconv.errors import InputError, exit_on_error, first_line
from seqdyconv.ranges import rules_of

LARGEST_FILE = 1_000_000
"""Bytes of a configuration file."""


class ArgumentsError(InputError):
    """The command line or the configuration file can't be used; the message is one line for the user."""


def parse_arguments(
    dataclass_types: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    first: str | Sequence[str] = "CONFIG.yaml",
    defaults: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """Parse ``CONFIG.yaml [--key value ...]`` into one instance of each dataclass.

    The keys of the file are the names of the dataclasses' fields, all in one flat mapping. Every key can be overridden
    on the command line; ``null`` is None in both, where that is allowed. Bad input (an unknown or repeated key, a value
    of a wrong type, a missing file, ...) writes one line to standard error and exits with status 2.

    Args:
        dataclass_types: The dataclasses. A field's name may occur in one of them only.
        argv: The words after the script's name; ``sys.argv[1:]`` if None.
        first: What the first word is: "CONFIG.yaml" for a configuration file, otherwise the name of a field which that
            word sets, such as "model_dir"; or several names, of which the first word is required. A field that is a
            list takes all words that are left, up to the first option.
        defaults: Values by key which are used where neither the file nor the command line has the key.
        description: Text for ``--help``, such as a script's docstring.

    Returns:
        The instances, in the order of `dataclass_types`.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass
        ... class Arguments:
        ...     text: str = "none"
        ...     rate: float = 0.1
        >>> parse_arguments([Arguments], ["hello", "--rate", "1e-3"], first="text")
        (Arguments(text='hello', rate=0.001),)
        >>> parse_arguments([Arguments], ["hello", "0.5"], first=("text", "rate"))
        (Arguments(text='hello', rate=0.5),)
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with exit_on_error():
        return _parse(
            dataclass_types, words, (first,) if isinstance(first, str) else first, defaults or {}, description
        )


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds one mapping of keys to values.

    Numbers are those of YAML 1.2 and Python: 1e-3 is one, 012 is twelve, 1:30 is none. Only plain values can be in it:
    null, booleans, numbers, texts, lists and mappings.

    Raises:
        ArgumentsError: No such file, not YAML, not UTF-8, too large, not a mapping, or a key occurs twice.
    """
    try:
        # A pipe with a name may never be written to; one of the shell's <(...) has none.
        if stat.S_ISFIFO(os.stat(path).st_mode) and os.path.exists(os.path.realpath(path)):
            raise ArgumentsError(f"can't read the configuration file {path}: it is a named pipe")
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ArgumentsError(f"can't read the configuration file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ArgumentsError(f"the configuration file {path} is not UTF-8 text (byte {error.start})") from None
    if len(content) > LARGEST_FILE:
        raise ArgumentsError(f"the configuration file {path} has more than {LARGEST_FILE} bytes, so it is none")
    try:
        values = yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise ArgumentsError(f"the configuration file {path} is not valid YAML: {error}") from None
    except (RecursionError, ValueError) as error:
        raise ArgumentsError(f"can't use the configuration file {path}: {first_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ArgumentsError(f"the configuration file {path} must hold `key: value` lines, got {_describe(values)}")
    return values


def dump_yaml(values: Mapping[str, Any]) -> str:
    """A mapping as YAML, in its own order."""
    return yaml.dump(dict(values), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def from_json(value: Any, name: str) -> Any:
    """A value that is given as JSON on the command line, and as itself elsewhere.

    Raises:
        ArgumentsError: It is a text that is no JSON; `name` is that of the key.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise ArgumentsError(f"{name} must be JSON, got {value!r}") from None


def resolved_arguments(*groups: Any) -> dict[str, Any]:
    """The values of all fields of some dataclasses, as plain values for YAML or JSON."""
    values: dict[str, Any] = {}
    for group in groups:
        as_dict = group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
        names = [item.name for item in dataclasses.fields(group) if item.init]
        values |= {name: as_dict[name] for name in names if name in as_dict and name != "local_rank"}
    return json.loads(json.dumps(values, default=str))


def declared_defaults(*groups: Any) -> dict[str, Any]:
    """The defaults of the fields of some dataclasses, of those that have one, as they are declared."""
    defaults: dict[str, Any] = {}
    for item in (item for group in groups for item in dataclasses.fields(group)):
        if item.default_factory is not dataclasses.MISSING:
            defaults[item.name] = item.default_factory()
        elif item.default is not dataclasses.MISSING:
            defaults[item.name] = item.default
    return defaults


def changed_arguments(values: Mapping[str, Any], *groups: Any) -> dict[str, Any]:
    """Those of the resolved values that differ from the defaults of their dataclasses, and output_dir.

    To be called when a training is over: arguments of the Trainer set up processes and devices when they are made, the
    default ones too.
    """
    defaults: dict[str, Any] = {}
    for group in groups:
        required = {"output_dir": group.output_dir} if hasattr(group, "output_dir") else {}
        defaults |= resolved_arguments(type(group)(**required))
    changed = {name: value for name, value in values.items() if name == "output_dir" or value != defaults[name]}
    changed.pop("do_eval", None)  # Follows from eval_strategy.
    return changed


def command_line(script: str, argv: Sequence[str] | None = None) -> str:
    """The command that repeats this call of `script`, with torchrun where several processes run it."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    launcher = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python"
    return f"{launcher} {script} {shlex.join(sys.argv[1:] if argv is None else argv)}"


_PLAIN = ("null", "bool", "str", "seq", "map")
_NUMBERS = {
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """By first letter the tags of unquoted words: YAML 1.1's, but for numbers those of YAML 1.2, and no dates."""
    kept = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge")
    found = {
        letter: [(tag, pattern) for tag, pattern in rows if tag in kept]
        for letter, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern in _NUMBERS.items():
        for letter in "+-.0123456789":
            found.setdefault(letter, []).append((f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$")))
    return found


class _PlainLoader(yaml.SafeLoader):
    """Plain values alone. Of two equal keys YAML keeps the last in silence; here the second one is an error."""

    yaml_implicit_resolvers = _resolvers()
    yaml_constructors = {
        **{
            tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if (tag or "").split(":")[-1] in _PLAIN
        },
        "tag:yaml.org,2002:int": lambda loader, node: int(loader.construct_scalar(node)),
        "tag:yaml.org,2002:float": yaml.SafeLoader.construct_yaml_float,
        None: yaml.SafeLoader.construct_undefined,
    }

    def get_single_node(self) -> yaml.Node | None:
        """The document, if it is of bounded size with all its aliases put in."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > LARGEST_FILE:
            raise ArgumentsError("its aliases, one in another, make it too large")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise ArgumentsError(f"the key {key!r} occurs twice, again in line {key_node.start_mark.line + 1}")
            seen.add(str(key))
        return super().construct_mapping(node, deep)


class _PlainDumper(yaml.SafeDumper):
    """Writes what :class:`_PlainLoader` reads."""

    yaml_implicit_resolvers = _resolvers()


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many nodes there are in a node, those of an alias as often as it stands there."""
    if id(node) not in sizes:
        sizes[id(node)] = LARGEST_FILE + 1  # an alias in what it stands for has no end
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in flat)
    return sizes[id(node)]


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """A description as it stands in the docstring, then the options with their defaults."""


class _Parser(HfArgumentParser):
    """Raises instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentsError(message)


def _parse(
    dataclass_types: Sequence[type],
    words: list[str],
    first: Sequence[str],
    defaults: Mapping[str, Any],
    description: str | None,
) -> tuple[Any, ...]:
    types_by_key = _field_types(dataclass_types)
    script = Path(sys.argv[0]).name
    named = [
        name if name == "CONFIG.yaml" else name.upper() + "..." * _takes_list(types_by_key[name]) for name in first
    ]
    usage = f"{script} {' '.join(named)} [--key value ...]"
    # The parser edits what it reads from `dataclasses.fields`, hence the types are taken before.
    parser = _Parser(
        cast(Any, list(dataclass_types)),
        description=description,
        usage=usage,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    for action in parser._actions:
        if cast(Any, action.type) is Any:
            action.type = _number_list_or_text
    rules = {name: rule for kind in dataclass_types for name, rule in rules_of(kind).items()}
    for action in parser._actions:
        if action.dest in rules and action.help:
            action.help += f" It must be {rules[action.dest]}."
    if {"-h", "--help"} & set(words):
        parser.parse_args(["--help"])
    end = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    leading, words = words[:end], words[end:]
    if not leading:
        raise ArgumentsError(f"the first argument is missing, usage: {usage}")

    values = {key: value for key, value in defaults.items() if key in types_by_key}
    if first[0] == "CONFIG.yaml":
        source = leading.pop(0)
        from_file = read_yaml(source)
        for key in from_file:
            if key not in types_by_key:
                raise ArgumentsError(f"unknown key {key!r} in {source}{_nearest(str(key), types_by_key)}")
        values.update(from_file)
    else:
        for name in first[: len(leading)]:
            count = len(leading) if _takes_list(types_by_key[name]) else 1
            taken, leading = leading[:count], leading[count:]
            values[name] = taken if _takes_list(types_by_key[name]) else taken[0]
    overrides, nulls = _take_nulls(_join_single_values([*leading, *words], types_by_key), types_by_key)
    values |= dict.fromkeys(nulls)
    options = [word for key, value in values.items() for word in _as_words(key, value, types_by_key[key])]
    options += overrides
    parser.set_defaults(**{key: None for key, value in values.items() if value is None})
    namespace, unknown = parser.parse_known_args(options)
    for word in unknown:
        if word.startswith("--"):
            key = word[2:].split("=")[0].replace("-", "_")
            raise ArgumentsError(f"unknown option --{key}{_nearest(key, types_by_key, '--')}")
    if unknown:
        raise ArgumentsError(f"unexpected argument {unknown[0]!r}, usage: {usage}")

    instances = []
    for dataclass_type in dataclass_types:
        names = [field.name for field in dataclasses.fields(dataclass_type) if field.init]
        try:
            instances.append(dataclass_type(**{name: getattr(namespace, name) for name in names}))
        except (ValueError, TypeError, ImportError) as error:
            raise ArgumentsError(str(error)) from None
    return tuple(instances)


def _field_types(dataclass_types: Iterable[type]) -> dict[str, Any]:
    types_by_key: dict[str, Any] = {}
    for dataclass_type in dataclass_types:
        hints = get_type_hints(dataclass_type)
        types_by_key.update(
            {field.name: hints[field.name] for field in dataclasses.fields(dataclass_type) if field.init}
        )
    return types_by_key


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _takes_list(hint: Any) -> bool:
    return any(list in (alternative, get_origin(alternative)) for alternative in _alternatives(hint))


def _as_words(key: str, value: Any, hint: Any) -> list[str]:
    """A value from a YAML file as words of a command line, so that both are converted and checked by one parser."""
    alternatives = _alternatives(hint)
    takes_list = _takes_list(hint)
    takes_dict = any(alternative is dict or get_origin(alternative) is dict for alternative in alternatives)
    if value is None:
        if type(None) in alternatives:
            return []
        raise ArgumentsError(f"{key} must be {_name(hint)}, got nothing")
    if isinstance(value, dict):
        if takes_dict:
            return [f"--{key}={json.dumps(value)}"]
        raise ArgumentsError(f"{key} must be {_name(hint)}, got a mapping")
    if isinstance(value, (list, tuple)):
        if Any in alternatives or (takes_list and takes_dict):  # a mapping, or one for each of some layers
            return [f"--{key}={json.dumps(value)}"]
        if not takes_list:
            raise ArgumentsError(f"{key} must be {_name(hint)}, got a list: {list(value)!r}")
        nested = dict if list[Any] in alternatives else (list, dict)
        if not value or any(isinstance(item, nested) or item is None for item in value):
            raise ArgumentsError(f"{key} must be a list of plain values, got {list(value)!r}")
        return [f"--{key}", *(json.dumps(item) if isinstance(item, list) else str(item) for item in value)]
    if isinstance(value, bool) and bool not in alternatives and str in alternatives:
        value = "yes" if value else "no"  # YAML reads `eval_strategy: no` as a boolean.
    return [f"--{key}={value}"]


def _number_list_or_text(word: str) -> Any:
    """A word of a field that may be anything: a number, a list such as ``[7,31]``, or else the text that it is."""
    try:
        value = json.loads(word)
    except (json.JSONDecodeError, RecursionError):
        return word
    return value if type(value) in (int, float, list) else word


def _join_single_values(words: list[str], types_by_key: Mapping[str, Any]) -> list[str]:
    """``--key -value`` as ``--key=-value``: a value may begin with a dash, which argparse takes for an option."""
    joined: list[str] = []
    for word in words:
        previous = joined[-1] if joined else ""
        key = previous[2:].replace("-", "_")
        if previous.startswith("--") and word.startswith("-") and not word.startswith("--") and key in types_by_key:
            joined[-1] = f"{previous}={word}"
        else:
            joined.append(word)
    return joined


def _take_nulls(words: list[str], types_by_key: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Take ``--key null`` out of the words where the key may be None; returns the other words and these keys."""
    others: list[str] = []
    nulls = []
    for word in words:
        name, _, value = word.partition("=") if word.startswith("--") else (others[-1] if others else "", "", word)
        key = name[2:].replace("-", "_")
        if value == "null" and name.startswith("--") and type(None) in _alternatives(types_by_key.get(key)):
            nulls.append(key)
            if not word.startswith("--"):
                others.pop()
        else:
            others.append(word)
    return others, nulls


def _nearest(key: str, known: Iterable[str], prefix: str = "") -> str:
    matches = difflib.get_close_matches(key, list(known), n=1)
    return f", did you mean {prefix}{matches[0]}?" if matches else ", --help lists all keys"


def _name(hint: Any) -> str:
    if hint is Any:
        return "a plain value or a list"
    names = [getattr(part, "__name__", str(part)) for part in _alternatives(hint) if part is not type(None)]
    return " or ".join(names)


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"
