"""The Trainer of text classification: class weights, word dropout, texts of several windows, distillation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding

from seqdyconv import DynamicConv1d, LightweightConv1d
from seqdyconv.models import SeqDyConvForSequenceClassification
from seqdyconv.models.loading import ModelError
from seqdyconv.pictures import plot_kernels
from seqdyconv.ranges import Dropout, OneOf
from seqdyconv.runtime.windows import mean_of_windows
from seqdyconv.scores.text_classification import score
from seqdyconv.swap.distillation import DistillationTrainer
from seqdyconv.training.classifiers import ModelArguments, build_config, known_labels
from seqdyconv.training.distilling import DistillationArguments
from seqdyconv.training.model_arguments import check_size
from seqdyconv.training.swapping import SwapArguments
from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches

CLASS_WEIGHTS = ("none", "balanced")


@dataclass
class ClassificationTrainingArguments(TokenBatchArguments):
    """The training arguments, and what only text classification has."""

    class_weights: Annotated[str, OneOf(*CLASS_WEIGHTS)] = field(
        default="none",
        metadata={"help": "none, or balanced: every label counts alike in the loss, however many texts it has."},
    )
    word_dropout: Dropout = field(
        default=0.0, metadata={"help": "Replace that share of the tokens by the unknown or mask token in training."}
    )
    svm_baseline: bool = field(
        default=False, metadata={"help": "Train a linear SVM on TF-IDF on the same texts too, for comparison."}
    )

    # Other defaults than the Trainer's.
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints stay."})

    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "macro_f1")


class ClassificationTrainer(TokenBatches):
    """Trains with class weights and word dropout; evaluates whole texts, the mean of their windows' probabilities.

    The data sets have the columns input_ids, labels and example, the number of the text that a window is of.

    Args:
        class_weights: (L,) the weight of each label in the loss; None weighs all alike.
        kwargs: The arguments of the Trainer.
    """

    args: ClassificationTrainingArguments

    def __init__(self, *, class_weights: Tensor | None = None, **kwargs: Any) -> None:
        tokenizer = kwargs["processing_class"]
        super().__init__(compute_loss_func=self._loss, data_collator=DataCollatorWithPadding(tokenizer), **kwargs)
        self.class_weights = class_weights
        self.dropped_to = tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
        self.kept_tokens = torch.tensor(tokenizer.all_special_ids)

    # Training

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(outputs.logits.device)
        loss = F.cross_entropy(
            outputs.logits.float(),
            labels,
            weight=weights,
            label_smoothing=self.args.label_smoothing_factor,
            reduction="sum",
        )
        return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of the Trainer on texts with dropped words."""
        if self.args.word_dropout and model.training:
            ids = inputs["input_ids"]
            # Here and not in the collator, which works ahead: a resumed run draws the same numbers.
            dropped = torch.rand(ids.shape, device=ids.device) < self.args.word_dropout
            dropped &= ~torch.isin(ids, self.kept_tokens.to(ids.device))
            inputs = {**inputs, "input_ids": ids.masked_fill(dropped, self.dropped_to)}
        return super().compute_loss(model, inputs, *args, **kwargs)

    # Evaluation

    def measure(self, dataset: Dataset) -> dict[str, float]:
        """Accuracy, macro-F1 and loss over texts."""
        return score(self.classify(dataset), labels_of_texts(dataset))

    def classify(self, dataset: Dataset) -> npt.NDArray[np.float64]:
        """Probabilities (texts, labels); all processes share the work, and each gets all results."""
        found: list[tuple[int, npt.NDArray[Any]]] = []
        with self.evaluating() as model:
            for rows, inputs, _ in self.own_batches(dataset):
                inputs.pop("labels", None)
                with self.compute_loss_context_manager():
                    logits = model(**inputs).logits
                found += zip(rows, logits.float().softmax(-1).cpu().numpy())
        return mean_of_windows(np.stack(self.gather_rows(found, len(dataset))), dataset["example"][:])


class DistilledClassificationTrainer(ClassificationTrainer, DistillationTrainer):
    """The task's loss plus the terms of the teacher."""


def labels_of_texts(dataset: Dataset) -> list[int]:
    """The label of each text of a tokenised split; its windows all have it."""
    labels = dict(zip(dataset["example"][:], dataset["labels"][:]))
    return [labels[index] for index in range(len(labels))]


def balanced_weights(labels: Sequence[int], number: int) -> Tensor:
    """(number,) weights that let every label count alike, 1 on average over `labels`; 0 for one that never occurs."""
    counts = torch.bincount(torch.as_tensor(labels), minlength=number)
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)


def check_together(
    model_args: ModelArguments,
    swap_args: SwapArguments,
    distil_args: DistillationArguments,
    args: ClassificationTrainingArguments,
) -> None:
    """Refuse what can't be before the data are read.

    Raises:
        ModelError: The architecture, the swap or the distillation is impossible or has no effect.
    """
    if args.packing and (swap_args.swap_mixer is not None or distil_args.used):
        raise ModelError("packing is for models of seqdyconv, without swap_mixer and distillation")
    if model_args.model_name_or_path is None:
        config = build_config(model_args)
        check_size(lambda: SeqDyConvForSequenceClassification(config))
        if swap_args.swap_mixer is not None:
            raise ModelError("swap_mixer swaps the self-attention of a pretrained model: give model_name_or_path")
        if swap_args.swap_greedy_max_loss is not None:
            raise ModelError("swap_greedy_max_loss needs model_name_or_path and swap_mixer")
        if distil_args.used:
            raise ModelError("a new model has no teacher: distillation needs model_name_or_path")
    elif swap_args.swap_greedy_max_loss is not None:
        if swap_args.swap_mixer is None:
            raise ModelError("swap_greedy_max_loss needs swap_mixer")
        if known_labels(model_args.model_name_or_path) is None:
            raise ModelError(
                f"swap_greedy_max_loss measures a model that does its task, and {model_args.model_name_or_path} isn't "
                "trained for classification: fine-tune it first"
            )
    distil_args.check_teacher(swap_args.swap_mixer)


def draw_kernels(trainer: ClassificationTrainer, texts: Dataset, path: Path) -> None:
    """Draw the kernels of the model for a text that is short enough to be read, where there are both."""
    tokenizer: Any = trainer.processing_class
    candidates = texts.select(range(min(500, len(texts))))
    columns = [candidates[name][:] for name in ("text", "text_pair") if name in texts.column_names]
    lengths = [len(ids) for ids in tokenizer(*columns)["input_ids"]]
    best = min(range(len(lengths)), key=lambda index: abs(lengths[index] - 16))
    text = tuple(column[best] for column in columns)
    has_kernels = any(isinstance(module, (LightweightConv1d, DynamicConv1d)) for module in trainer.model.modules())
    if has_kernels and lengths[best] <= 64 and all(text):
        plot_kernels(trainer.model, text if len(text) == 2 else text[0], tokenizer, path=path)
