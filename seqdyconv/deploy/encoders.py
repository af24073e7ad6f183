"""One graph of a model's ``forward``: encoders of ours and of transformers, swapped or not, with any head."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqdyconv.deploy.folder import Written
from seqdyconv.deploy.graphs import write_graph
from seqdyconv.training.sentence_encoders import Reading, embedding

# What the end of a class's name says that the model is for.
TASKS = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token classification",
    "ForQuestionAnswering": "question answering",
    "ForMultipleChoice": "multiple choice",
    "ForMaskedLM": "masked language model",
    "ForImageClassification": "image classification",
}
# Of the outputs, those that a graph gives.
_OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")
_AXES = {
    "input_ids": ("batch", "time"),
    "attention_mask": ("batch", "time"),
    "token_type_ids": ("batch", "time"),
    "decoder_input_ids": ("batch", "target_time"),
    "pixel_values": ("batch",),
}


class Forward(nn.Module):
    """A model's ``forward`` with inputs by position, and of its outputs those by these names."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs: tuple[str, ...] = ()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, tensors)), return_dict=True)
        self.outputs = tuple(name for name in _OUTPUTS if isinstance(found.get(name), Tensor))
        return tuple(found[name] for name in self.outputs)


class Embedding(nn.Module):
    """A sentence encoder's vectors (B, D) of tokens (B, T) and their mask, 1 = keep."""

    def __init__(self, model: nn.Module, reading: Reading) -> None:
        super().__init__()
        self.model = model
        self.reading = reading

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        return embedding(found.last_hidden_state, attention_mask, self.reading)


def task_of(model: nn.Module) -> str:
    """What a model is for, by its class; ``"encoder"`` where it has no head that is known."""
    name = type(model).__name__
    return next((task for end, task in TASKS.items() if name.endswith(end)), "encoder")


def text_examples(model: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """What a model of texts takes, by name: two rows, the second padded, of choices where the model chooses.

    Args:
        model: whose ``forward`` takes some of ``names``.
        names: what its tokenizer gives.
    """
    taken = inspect.signature(model.forward).parameters
    names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in {*names, "input_ids"}]
    # Long enough for several blocks of a convolution, since one would be taken for all; some offset their positions.
    time = max(2, min(150, (getattr(model.config, "max_position_embeddings", None) or 512) - 4))
    shape = (2, 3, time) if task_of(model) == "multiple choice" else (2, time)
    ids = torch.full(shape, min(5, model.config.vocab_size - 1))
    ends = model.config.eos_token_id  # which BART's classifiers look for
    if ends is not None:
        ids[..., time // 2] = ends[0] if isinstance(ends, list) else ends
    mask = torch.ones_like(ids)
    mask[1, ..., time // 2 + 1 :] = 0
    ids = ids.masked_fill(mask == 0, model.config.pad_token_id or 0)
    examples = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask}
    examples = {name: examples[name] for name in names if name in taken}
    if model.config.is_encoder_decoder and task_of(model) == "encoder":
        examples["decoder_input_ids"] = ids[:, : time // 2]
    return examples


def write_forward(model: Any, folder: Path, examples: Mapping[str, Tensor]) -> Written:
    """Write ``model.onnx``.

    Args:
        model: any of transformers, swapped or not.
        folder: to write to.
        examples: what ``forward`` takes, by name: two rows or more, with padding where there may be some.

    Raises:
        ExportError: the model can't be exported.
    """
    program = Forward(model.eval(), tuple(examples)).eval()
    with torch.no_grad():
        program(*examples.values())  # which outputs there are
    choices = "input_ids" in examples and examples["input_ids"].dim() == 3
    axes = {name: _AXES[name] for name in examples}
    if choices:
        axes = dict.fromkeys(examples, ("batch", "choices", "time"))
    write_graph(
        program,
        folder / "model.onnx",
        examples,
        {name: dict(enumerate(names)) for name, names in axes.items()},
        program.outputs,
        type(model).__name__,
    )
    return Written(task_of(model), {"model": "model.onnx"}, {})


def write_embedding(model: Any, folder: Path, reading: Reading) -> Written:
    """Write ``model.onnx`` of a sentence encoder, with its pooling.

    Args:
        model: of ours or of transformers, swapped or not.
        folder: to write to.
        reading: how its vectors come about.

    Raises:
        ExportError: the model can't be exported.
    """
    examples = text_examples(model, ("input_ids", "attention_mask"))
    write_graph(
        Embedding(model.eval(), reading).eval(),
        folder / "model.onnx",
        examples,
        {name: dict(enumerate(_AXES[name])) for name in examples},
        ("vectors",),  # not embedding, which tables of tokens are called
        type(model).__name__,
    )
    return Written("embedding", {"model": "model.onnx"}, {"dimension": model.config.hidden_size})
