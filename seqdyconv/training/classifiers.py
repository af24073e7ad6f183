"""Models for text classification: new ones, pretrained ones of a folder or the Hub, swapped ones; what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqdyconv.data.packaged_models import MINILM, fetch_minilm
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.text_classification import check_labels
from seqdyconv.errors import first_line
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForSequenceClassification
from seqdyconv.models.loading import ModelError, check_folder, check_vocabulary, load_pretrained
from seqdyconv.scores.text_classification import mean_of_windows
from seqdyconv.swap import load_swapped
from seqdyconv.training.model_arguments import new_config, one_for_each, refuse_ignored

KIND = "text classification model"


@dataclass
class ModelArguments:
    """A pretrained model, or the architecture of a new one; the names are those of SeqDyConvConfig without encoder_."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Fine-tune this model (minilm-l6, a folder or a name on the Hub) instead of a new one."},
    )
    encoder_layer_types: list[str] = field(
        default_factory=lambda: ["dynamic_conv"],
        metadata={
            "help": "dynamic_conv, lightweight_conv, self_attention or parallel: one for all layers, or one each."
        },
    )
    encoder_kernel_sizes: list[int] = field(
        default_factory=lambda: [3, 7, 15],
        metadata={"help": "Kernel size of each layer; their number is that of the layers."},
    )
    hidden_size: int = field(default=256, metadata={"help": "Width of the model."})
    ffn_dim: int = field(default=512, metadata={"help": "Width inside the feed-forward blocks."})
    attention_heads: int = field(default=4, metadata={"help": "Heads of convolution and attention."})
    conv_dim: int | None = field(default=None, metadata={"help": "Width of the convolutions; None is hidden_size."})
    glu: bool = field(default=True, metadata={"help": "Gated linear unit before each convolution."})
    normalize_before: bool = field(default=False, metadata={"help": "Pre-norm instead of post-norm."})
    position_type: str = field(default="sinusoidal", metadata={"help": "Positions: sinusoidal, learned or none."})
    max_position_embeddings: int = field(default=1024, metadata={"help": "Longest text with learned positions."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout on embeddings and before each residual sum."})
    attention_dropout: float = field(default=0.0, metadata={"help": "Dropout on attention weights."})
    activation_dropout: float = field(default=0.0, metadata={"help": "Dropout inside the feed-forward blocks."})
    input_dropout: float = field(default=0.0, metadata={"help": "Dropout on the inputs of the convolution blocks."})
    weight_dropout: float = field(default=0.0, metadata={"help": "DropConnect: dropout on the convolution kernels."})
    weight_softmax: bool = field(default=True, metadata={"help": "Softmax over the taps of the kernels."})
    pooling: str = field(default="mean", metadata={"help": "One vector of a text's tokens: mean, max or first."})
    classifier_dropout: float | None = field(
        default=None, metadata={"help": "Dropout on that vector; None is dropout."}
    )
    config_overrides: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Any other field of SeqDyConvConfig, such as {"scale_embedding": false}.'}
    )


def resolve_name(name_or_path: str) -> str:
    """The folder or Hub name that a model's name means: the package's folder for minilm-l6.

    Raises:
        ModelError: The package can't be fetched.
    """
    if name_or_path != MINILM:
        return name_or_path
    try:
        return str(fetch_minilm())
    except PackageUnavailableError as error:
        raise ModelError(str(error)) from None


def build_model(
    args: ModelArguments, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], pairs: bool = False
) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`, to be trained for these labels.

    Args:
        args: The architecture or the name.
        tokenizer: Its vocabulary.
        labels: Their names by id. A model that is trained for others is not to be given: see :func:`known_labels`.
        pairs: A new model tells the two texts of a pair apart by token_type_ids.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded, or both were given.
    """
    if args.model_name_or_path is not None:
        refuse_ignored(args, ["model_name_or_path"])
        if known_labels(args.model_name_or_path) is not None:
            model = load_model(args.model_name_or_path)
        else:
            name = resolve_name(args.model_name_or_path)
            model = load_pretrained(AutoModelForSequenceClassification, name, KIND, new_head=True, **_label_map(labels))
        check_vocabulary(model, tokenizer, args.model_name_or_path)
        return model
    return SeqDyConvForSequenceClassification(build_config(args, tokenizer, labels, pairs))


def build_config(
    args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase | None = None,
    labels: Sequence[str] = (),
    pairs: bool = False,
) -> SeqDyConvConfig:
    """The configuration of a new model; without a tokenizer its vocabulary is the default, which checks the rest.

    Raises:
        ModelError: The architecture is impossible.
    """
    values: dict[str, Any] = {"is_encoder_decoder": False, "type_vocab_size": 2 if pairs else 0}
    for name in (
        *("hidden_size", "max_position_embeddings", "dropout", "attention_dropout", "activation_dropout"),
        *("input_dropout", "weight_dropout", "weight_softmax", "pooling", "classifier_dropout", "encoder_kernel_sizes"),
    ):
        values[name] = getattr(args, name)
    for name in ("ffn_dim", "attention_heads", "conv_dim", "glu", "normalize_before", "position_type"):
        values[f"encoder_{name}"] = getattr(args, name)
    values["encoder_layer_types"] = one_for_each(args.encoder_layer_types, args.encoder_kernel_sizes, "encoder")
    if tokenizer is not None:
        values |= {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
    if labels:
        values |= _label_map(labels)
    return new_config(SeqDyConvConfig, values, args.config_overrides)


def load_model(name_or_path: str) -> PreTrainedModel:
    """Load a trained text classification model, swapped or not, in float32 in evaluation mode.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    name_or_path = resolve_name(name_or_path)
    if getattr(_known_config(name_or_path), "seqdyconv", None) is not None:
        return _load_swapped(name_or_path)
    return load_pretrained(AutoModelForSequenceClassification, name_or_path, KIND)


def known_labels(name_or_path: str) -> dict[str, int] | None:
    """label2id of a model that is trained for text classification; None for one that isn't yet.

    Raises:
        ModelError: There is no such model.
    """
    config = _known_config(resolve_name(name_or_path))
    trained = any("ForSequenceClassification" in name for name in getattr(config, "architectures", None) or ())
    return dict(config.label2id) if trained else None


def labels_of_data(texts: DatasetDict, model_name_or_path: str | None) -> list[str]:
    """The names of the labels of the data by id, in the order of a model that is trained for them already.

    Raises:
        DataError: Such a model has other labels.
        ModelError: There is no such model.
    """
    names = list(texts["train"].features["label"].names)
    known = None if model_name_or_path is None else known_labels(model_name_or_path)
    return names if known is None else check_labels(known, names)


def label_names(model: PreTrainedModel) -> list[str]:
    """The names of a model's labels by number."""
    names: Any = model.config.id2label
    return [names[number] for number in range(len(names))]


@torch.no_grad()
def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int, progress: Any = None
) -> npt.NDArray[np.float64]:
    """Probabilities (M, L) of M texts, whose windows may be several rows.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        rows: Of ``tokenize``: input_ids, perhaps token_type_ids, and example, the text's number.
        batch_size: Rows of a batch; they are sorted by length.
        progress: Is told the number of rows done.
    """
    columns = [name for name in ("input_ids", "token_type_ids") if name in rows.column_names]
    values = {name: rows[name][:] for name in columns}
    order = sorted(range(len(rows)), key=lambda row: len(values["input_ids"][row]), reverse=True)
    collator: Any = DataCollatorWithPadding(tokenizer)
    found = np.empty((len(rows), int(model.config.num_labels or 0)))
    for start in range(0, len(rows), batch_size):
        batch = order[start : start + batch_size]
        inputs = collator([{name: values[name][row] for name in columns} for row in batch]).to(model.device)
        found[batch] = model(**inputs).logits.float().softmax(-1).cpu().numpy()
        if progress is not None:
            progress(len(batch))
    return mean_of_windows(found, rows["example"][:])


def _known_config(name_or_path: str) -> Any:
    check_folder(name_or_path)
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"can't load a {KIND} from {name_or_path}: {first_line(error)}") from None


def _load_swapped(folder: str) -> PreTrainedModel:
    try:
        return load_swapped(folder).eval()
    except Exception as error:
        raise ModelError(f"can't load a swapped model from {folder}: {first_line(error)}") from None


def _label_map(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
