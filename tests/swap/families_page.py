"""Which models of transformers can be swapped, as a page.

``python -m tests.swap.families_page`` tries every type and writes docs/swap_families.md, in some minutes.
"""

import re
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from seqdyconv.swap import FAMILIES, load_swapped, swap_self_attention, swapped_attention
from seqdyconv.swap.decoders import DECODERS
from tests.swap.any_model import REAL, TESTED, first, run, tiny_model
from tests.swap.zoo import CASES

PAGE = Path(__file__).parents[2] / "docs" / "swap_families.md"
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth")
HEAD = f"""# Which models can be swapped

`swap_self_attention` on each model type of transformers {transformers.__version__} that `AutoModel` knows, without a
head. This page is made by `python -m tests.swap.families_page`, which tries them.

Most types are recognised by their modules: linear layers of the usual names for query, key and value, which get the
hidden states of one sequence, a mask of its padding, and else nothing but positions. Vision and speech towers inside
larger models are found so too.
"""
RUN, SWAPPED, SEVERAL, WHEN_IT_RUNS, REFUSED, DECODER, NOT_BUILT = (
    "Swapped and run",
    "Swapped",
    "Swapped in part, by `pattern=`",
    "Refused when they run",
    "Refused",
    "Decoders",
    "Not tried",
)
ABOUT = {
    RUN: "A small model gave finite outputs, which did not depend on padding where it takes texts, and came back from "
    "disk. `known` families are those of `seqdyconv.swap.FAMILIES`; the others are recognised by their modules. Those "
    "in **bold** every run of the tests tries again, the others were tried when this page was made.",
    SWAPPED: "Recognised as well, but no small model of them was run, neither here nor in the tests: their inputs are "
    "special, or those that were given do not reach the part that was swapped.",
    SEVERAL: "They have several stacks of layers: `pattern=` says which to swap, one at a time.",
    WHEN_IT_RUNS: "What they are is only seen when they run; the first forward raises.",
    REFUSED: "`swap_self_attention` raises, and nothing is changed.",
    DECODER: "They are causal. [The page of decoders](decoders.md) tells which of them `swap_self_attention` swaps, "
    "and which `add_short_conv` adds to.",
    NOT_BUILT: "A model of their default configuration could not be built here.",
}


def explore(model_type: str) -> tuple[str, str]:
    """The section of a type, and what is told of it there."""
    if model_type in DECODERS and not any(model_type in family.model_types for family in FAMILIES):
        return DECODER, ""
    try:
        model = _model(model_type)
    except Exception as error:  # whatever a configuration without arguments leads to
        missing = re.search(r"requires the (\w+) library", str(error))
        return NOT_BUILT, f"needs {missing[1]}" if missing else "its default configuration builds no model"
    try:
        swap_self_attention(model, kernel_size=3)
    except ValueError as error:
        return _refusal(str(error))
    module = next(iter(swapped_attention(model).values()))
    told = f"`{module.family.pattern}`" + (" (known)" if module.family in FAMILIES else "")
    try:
        original = tiny_model(model_type)
        batch, before = run(original)
        model = swap_self_attention(tiny_model(model_type), kernel_size=3)
    except Exception:  # no small model, or other inputs
        return SWAPPED, told
    try:
        _, outputs = run(model)
    except ValueError as error:
        return WHEN_IT_RUNS, str(error).partition(", as ")[0]
    if torch.equal(outputs, before):
        return SWAPPED, told
    assert outputs.isfinite().all(), model_type
    _check_padding(original, model, batch)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        torch.testing.assert_close(run(load_swapped(folder))[1], outputs)
    return RUN, told


def _model(model_type: str) -> Any:
    """On the meta device, by its default configuration, but shallow."""
    kind = CONFIG_MAPPING[model_type]
    found = MODEL_MAPPING[kind]
    with torch.device("meta"):
        return (found[0] if isinstance(found, tuple) else found)(_shallow(kind()))


def _shallow(config: Any) -> Any:
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shallow(value)
        elif name in DEPTHS and isinstance(value, int):
            setattr(config, name, min(value, 4))
    return config


@torch.no_grad()
def _check_padding(original: Any, model: Any, batch: dict[str, torch.Tensor]) -> None:
    if "input_ids" not in batch:
        return
    alone = {name: value[1:] if "decoder" in name else value[1:, :REAL] for name, value in batch.items()}
    try:
        expected, padded = first(original(**alone)), first(original(**batch))[1:, :REAL]
    except Exception:  # a model of texts of one length
        return
    if padded.shape == expected.shape and torch.allclose(padded, expected, atol=1e-4):
        torch.testing.assert_close(first(model(**batch))[1:, :REAL], first(model(**alone)), atol=1e-4, rtol=1e-4)


def _refusal(message: str) -> tuple[str, str]:
    if "several self-attentions" in message:
        return SEVERAL, ", ".join(f"`{pattern}`" for pattern in re.findall(r"'([\w.*]+)' \(\d", message))
    reasons = message.partition("was found: ")[2] or message
    parts = [re.sub(r"^'[\w.*]+' ", "", reason) for reason in reasons.split("; ")]
    others = sorted({part for part in parts if part != "belongs to a decoder"})
    return (REFUSED, "; ".join(others)) if others else (DECODER, "")


def page(found: dict[str, tuple[str, str]]) -> str:
    lines = [HEAD]
    for section, about in ABOUT.items():
        rows: dict[str, list[str]] = {}
        for name, (where, told) in sorted(found.items()):
            if where == section:
                is_tested = section == RUN and name in (*CASES, *TESTED)
                rows.setdefault(told, []).append(f"**`{name}`**" if is_tested else f"`{name}`")
        if not rows:
            continue
        lines += [f"## {section}\n", f"{about}\n"]
        if section == DECODER:
            lines += [f"{', '.join(rows[''])}\n"]
            continue
        by_pattern = section in (RUN, SWAPPED, SEVERAL)
        lines += [f"| {'self-attention' if by_pattern else 'reason'} | model types |", "|---|---|"]
        lines += [f"| {told} | {', '.join(names)} |" for told, names in sorted(rows.items())]
        lines.append("")
    return "\n".join(lines)


def types_of(text: str) -> set[str]:
    """The model types that a page names: those in the last column of its tables, and the decoders."""
    cells = [line.split("|")[-2] for line in text.splitlines() if line.startswith("| ")]
    cells += [line for line in text.partition(f"## {DECODER}")[2].partition("\n## ")[0].splitlines() if "`, `" in line]
    return {name for cell in cells for name in re.findall(r"`([\w.-]+)`", cell)}


def make(model_types: Iterable[str] = MODEL_MAPPING_NAMES) -> str:
    return page({name: explore(name) for name in model_types})


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    PAGE.write_text(make(), encoding="utf-8")
