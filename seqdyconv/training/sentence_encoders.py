"""Sentence encoders: models whose hidden states are pooled to one vector of a text, and what they give."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import AutoModel, DataCollatorWithPadding, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.files import write_text
from seqdyconv.models.configuration import POOLINGS
from seqdyconv.models.loading import ModelError, check_vocabulary, load_tokenizer
from seqdyconv.models.modeling_encoder import pool
from seqdyconv.runtime.windows import mean_of_windows
from seqdyconv.swap import swapped_attention
from seqdyconv.swap.auto import SWAPPED_CONFIG, SwappedConfig
from seqdyconv.swap.loading import load_trained
from seqdyconv.training.classifiers import resolve_name
from seqdyconv.training.token_batches import example_lengths

KIND = "sentence encoder"
_POOLINGS_THERE = {"mean": "mean", "max": "max", "first": "cls"}
"""What sentence-transformers calls a pooling."""


@dataclass(frozen=True)
class Reading:
    """How one vector of a text comes about; it is kept in the model's configuration, as ``sentence_embedding``.

    Args:
        pooling: of the hidden states, see :func:`seqdyconv.models.modeling_encoder.pool`.
        normalize: the vector has length one.
        max_length: the most tokens that are read of a text.
    """

    pooling: str = "mean"
    normalize: bool = True
    max_length: int = 256


def load_sentence_encoder(name_or_path: str) -> tuple[Any, PreTrainedTokenizerBase, Reading]:
    """Load a sentence encoder of ours, of sentence-transformers or any encoder, swapped or not, with its tokenizer.

    An encoder that tells nothing of it is read as :class:`Reading` has it by default.

    Raises:
        ModelError: there is no such model, or it does more than to pool hidden states.
    """
    name = resolve_name(name_or_path)
    model: Any = load_trained(AutoModel, name, KIND, new_head=True)
    tokenizer: Any = load_tokenizer(name)
    check_vocabulary(model, tokenizer, name_or_path)
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of {name_or_path} has no padding token")
    reading = _find_reading(model, name)
    keep_reading(model, reading)
    return model, tokenizer, reading


def is_sentence_encoder(name: str, config: PreTrainedConfig) -> bool:
    """Whether a model says how vectors of texts come about: its configuration does, or modules in its folder do."""
    return hasattr(config, "sentence_embedding") or _json_of(name, "modules.json") is not None


def reading_of(model: PreTrainedModel) -> Reading:
    """What a model's configuration says of how it is read."""
    return Reading(**model.config.sentence_embedding)


def _find_reading(model: PreTrainedModel, name: str) -> Reading:
    """What a model's configuration, or else the modules of sentence-transformers in its folder, say; checked."""
    kept = getattr(model.config, "sentence_embedding", None)
    try:
        found = _of_sentence_transformers(name) if kept is None else Reading(**kept)
    except (TypeError, KeyError, ValueError) as error:
        raise ModelError(f"{name} does not say how its vectors are pooled: {error}") from None
    if found.pooling not in POOLINGS or not isinstance(found.max_length, int) or found.max_length < 1:
        raise ModelError(f"{name} must have a pooling of {', '.join(POOLINGS)} and a max_length, got {asdict(found)}")
    return found


def keep_reading(model: PreTrainedModel, reading: Reading) -> None:
    """Let a model's configuration say how it is read."""
    model.config.sentence_embedding = asdict(reading)


def embedding(hidden: Tensor, attention_mask: Tensor, reading: Reading) -> Tensor:
    """The vectors (B, D) of B texts in float32.

    Args:
        hidden: (B, T, D), of the last layer.
        attention_mask: (B, T), 1 = keep.
        reading: how they are pooled.
    """
    pooled = pool(hidden.float(), attention_mask == 0, reading.pooling)
    return F.normalize(pooled, dim=-1) if reading.normalize else pooled


@torch.no_grad()
def embed_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    reading: Reading,
    max_tokens: int,
    progress: Callable[[int], Any] | None = None,
) -> npt.NDArray[np.float32]:
    """The vectors (M, D) of M texts, float32.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        rows: with the columns input_ids and example, the number of the text that a row is of. The vector of a text of
            several rows is the mean of theirs, of length one again where ``reading`` says so.
        reading: how a vector comes about.
        max_tokens: of a batch, padding included.
        progress: is told the number of rows done.

    Raises:
        ModelError: the model gives NaN.
    """
    collator: Any = DataCollatorWithPadding(tokenizer)
    ids, found = rows["input_ids"][:], np.empty((len(rows), model.config.hidden_size), np.float32)
    for batch in TokenBatchSampler(example_lengths(rows, ["input_ids"]), max_tokens, shuffle=False):
        inputs = collator([{"input_ids": ids[row]} for row in batch]).to(model.device)
        vectors = embedding(model(**inputs).last_hidden_state, inputs["attention_mask"], reading)
        found[batch] = vectors.cpu().numpy()
        if not np.isfinite(found[batch]).all():
            raise ModelError("the model gives numbers that are NaN or infinite: its weights are damaged")
        if progress is not None:
            progress(len(batch))
    examples = rows["example"][:]
    if len(set(examples)) == len(examples):
        return found
    means = torch.from_numpy(mean_of_windows(found, examples))
    return (F.normalize(means, dim=-1) if reading.normalize else means).float().numpy()


def write_sentence_transformer(folder: Path, model: PreTrainedModel, reading: Reading) -> None:
    """Write what sentence-transformers reads beside a model: its modules, in files that run no code.

    A swapped model, or one of this package, is loaded there after ``import seqdyconv.swap``.
    """
    library = "sentence_transformers.models"
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * reading.normalize
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"{library}.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    pooling = {
        "word_embedding_dimension": model.config.hidden_size,
        **{f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens")},
    }
    there = _POOLINGS_THERE[reading.pooling]
    pooling[f"pooling_mode_{there}_token{'' if there == 'cls' else 's'}"] = True
    settings: dict[str, Any] = {"max_seq_length": reading.max_length, "do_lower_case": False}
    if swapped_attention(model):
        settings["config_args"] = {"_configuration_file": SWAPPED_CONFIG}
        _write(folder / SWAPPED_CONFIG, {"model_type": SwappedConfig.model_type})
    _write(folder / "modules.json", listed)
    _write(folder / "sentence_bert_config.json", settings)
    _write(folder / "1_Pooling" / "config.json", pooling)
    if reading.normalize:
        _write(folder / "2_Normalize" / "config.json", {})


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps(content, indent=2) + "\n")


def _of_sentence_transformers(name: str) -> Reading:
    """What its modules say; ValueError for one that can't be done here."""
    modules = _json_of(name, "modules.json")
    if modules is None:
        return Reading()
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(f"its modules are {', '.join(kinds)}, and only Transformer, Pooling and Normalize are known")
    pooling = _json_of(name, f"{modules[1]['path']}/config.json") or {}
    chosen = pooling.get("pooling_mode") or [key for key, value in pooling.items() if "_mode_" in key and value is True]
    words = [chosen] if isinstance(chosen, str) else chosen
    ours = {there: one for one, there in _POOLINGS_THERE.items()}
    named = [word.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for word in words]
    if len(named) != 1 or named[0] not in ours:
        raise ValueError(f"it pools by {', '.join(named) or 'nothing'}, and only {', '.join(ours)} are known")
    length = (_json_of(name, "sentence_bert_config.json") or {}).get("max_seq_length") or Reading.max_length
    return Reading(ours[named[0]], "Normalize" in kinds, length)


def _json_of(name: str, file: str) -> Any:
    """The content of a file of a folder or of the Hub; None where it is not there."""
    lenient = dict.fromkeys(("missing_entries", "connection_errors", "gated_repo"), False)
    path = cached_file(name, file, **{f"_raise_exceptions_for_{what}": value for what, value in lenient.items()})
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
