"""What options a layer has: read from its signature and docstring, where each is declared, once."""

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_KINDS = {bool: "true or false", int: "an int", float: "a number", str: "a word", types.NoneType: "None"}


@dataclass(frozen=True)
class Option:
    """An option of a layer, as its signature and docstring have it."""

    default: Any
    """None, too, where ``required``."""
    required: bool
    kind: Any
    """Its annotation, such as ``float`` or ``int | None``."""
    help: str

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError where a value is not of the option's kind; whether it fits, the layer says."""
        kinds = set(typing.get_args(self.kind)) if isinstance(self.kind, types.UnionType) else {self.kind}
        if not kinds <= _KINDS.keys():
            return  # other annotations are for the layer to check
        if type(value) not in kinds | ({int} if float in kinds else set()):
            allowed = " or ".join(text for kind, text in _KINDS.items() if kind in kinds)
            raise ValueError(f"{name} must be {allowed}, got {value!r}")


def options_of(build: Callable[..., Any], documented: Mapping[str, Any]) -> dict[str, Option]:
    """The keyword options of a layer's class or builder, by name.

    Args:
        build: the class, or the function that builds the layer.
        documented: classes by the names that docstrings refer to: where the text of an option is "see" one of these,
            it is the text that stands there.
    """
    texts = _argument_texts(inspect.getdoc(build) or "")
    found = {}
    for name, parameter in inspect.signature(build).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            found[name] = Option(default, required, parameter.annotation, _help(name, texts, documented))
    return found


def changed_options(module: Any, defaults: Mapping[str, Any]) -> str:
    """For ``extra_repr``: the attributes that are not what ``defaults`` says, each after a comma."""
    values = {name: getattr(module, name, default) for name, default in defaults.items()}
    return "".join(f", {name}={value!r}" for name, value in values.items() if value != defaults[name])


def check_names(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError naming an option that ``owner`` lacks, the nearest one that it has, and all of these."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"no option {name} of {owner}{hint}; options are {', '.join(known) or 'none'}")


def _help(name: str, texts: Mapping[str, str], documented: Mapping[str, Any]) -> str:
    text = texts.get(name, "")
    reference = re.fullmatch(r"(?:of [^,]*, )?see :class:`(?:\w+\.)*(\w+)`\.", text)
    if reference and reference[1] in documented:
        there = _argument_texts(inspect.getdoc(documented[reference[1]]) or "")
        if name in there:
            return _help(name, there, documented)
    return re.sub(r":\w+:`(?:\w+\.)*(\w+)`", r"\1", text).replace("``", "")


def _argument_texts(doc: str) -> dict[str, str]:
    """What the ``Args:`` sections of a docstring say of each argument, in one line each; the first section counts."""
    texts: dict[str, str] = {}
    inside, names, margin = False, [""], 0
    for line in doc.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() == "Args:":
            inside, margin = True, indent + 4
        elif line.strip() and inside and indent < margin:
            inside = False
        elif inside and indent == margin and (match := re.match(r"([\w, ]+): (.*)", line.strip())):
            names = [name for name in match[1].split(", ") if name not in texts]
            texts |= dict.fromkeys(names, match[2])
        elif inside and line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names if name in texts}
    return texts
