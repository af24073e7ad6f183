"""A language model that learns from a teacher: most often a hybrid, from the one whose self-attention was swapped."""

import copy
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.models.loading import ModelError, check_packing
from seqdyconv.swap.distillation import DistillationTrainer, hidden_state_loss
from seqdyconv.training.distilling import TeacherArguments, check_same_tokens
from seqdyconv.training.language_models import (
    LanguageModelTrainer,
    LanguageModelTrainingArguments,
    ModelArguments,
    check_positions,
    load_language_model,
)
from seqdyconv.training.masked_language_models import MaskedLanguageModelTrainer, TokenMasks
from seqdyconv.training.swapping import NamedSwapArguments


def check_together(model_args: ModelArguments, swap_args: NamedSwapArguments, teacher_args: TeacherArguments) -> None:
    """Refuse what can't be before the data are read.

    Raises:
        ModelError: There is nothing to swap, no teacher, or nothing to learn from it.
    """
    if model_args.model_name_or_path is None and swap_args.swap_mixer is not None:
        raise ModelError("swap_mixer swaps the self-attention of a pretrained model: give model_name_or_path")
    teacher_args.check_teacher(swap_args.swap_mixer)


def make_teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    teacher_args: TeacherArguments,
    model_args: ModelArguments,
    args: LanguageModelTrainingArguments,
) -> PreTrainedModel | None:
    """The teacher, if one is used: that of its name, or a copy of the model before its swap.

    Args:
        model: What learns from it, before its swap.
        tokenizer: Of the model, which must be that of the teacher too.
        data: Rows of tokens, for which it must have positions.
        teacher_args: Its name, and what is learnt from it.
        model_args: Of the model, whose objective is that of the teacher.
        args: Of the training.

    Raises:
        ModelError: It can't be loaded, or does not fit the model.
    """
    if not teacher_args.used:
        return None
    name = teacher_args.teacher_name_or_path
    if name is None:
        return copy.deepcopy(model)
    teacher = load_language_model(name, model_args.objective)
    check_same_tokens(name, tokenizer)
    check_positions(teacher, data)
    if args.packing:
        check_packing(teacher)
    tokens = torch.tensor([data["train"][0]["input_ids"][:2]])
    with torch.no_grad():
        ours, theirs = (one(input_ids=tokens, output_hidden_states=True) for one in (model, teacher))
    if theirs.logits.shape != ours.logits.shape:
        numbers = theirs.logits.shape[-1], ours.logits.shape[-1]
        raise ModelError(f"the teacher {name} has a vocabulary of {numbers[0]} tokens, but the model of {numbers[1]}")
    if teacher_args.matching_weight:
        try:
            hidden_state_loss(ours.hidden_states, theirs.hidden_states)
        except ValueError as error:
            raise ModelError(f"the teacher {name} has other layers: {error}; set matching_weight: 0") from None
    return teacher


class TaughtLanguageModelTrainer(LanguageModelTrainer, DistillationTrainer):
    """The task's loss plus the terms of the teacher, each a mean over a batch, whose tokens are counted."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = True  # the Trainer counts labels then

    def teacher_cost(self, dataset: Dataset) -> dict[str, float]:
        """As :meth:`measure`, of the teacher."""
        kept = self.model, self.model_wrapped
        self.model = self.model_wrapped = self.teacher
        try:
            return self.measure(dataset)
        finally:
            self.model, self.model_wrapped = kept


class TaughtMaskedLanguageModelTrainer(MaskedLanguageModelTrainer, TaughtLanguageModelTrainer):
    """The same, of masked tokens."""


def make_trainer(
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel | None,
    teacher_args: TeacherArguments,
    **kwargs: Any,
) -> LanguageModelTrainer:
    """The trainer of the objective, with the terms of a teacher where there is one.

    Args:
        model_args: The objective.
        tokenizer: Of the model.
        teacher: See :func:`make_teacher`.
        teacher_args: The terms.
        kwargs: Of the Trainer.
    """
    options = {} if teacher is None else teacher_args.trainer_options(teacher)
    if model_args.is_masked:
        options["masks"] = TokenMasks(tokenizer, model_args.mlm_probability)
        masked = MaskedLanguageModelTrainer if teacher is None else TaughtMaskedLanguageModelTrainer
        return masked(processing_class=tokenizer, **options, **kwargs)
    causal = LanguageModelTrainer if teacher is None else TaughtLanguageModelTrainer
    return causal(processing_class=tokenizer, **options, **kwargs)


def costs_of(trainer: LanguageModelTrainer, dataset: Dataset) -> dict[str, float]:
    """What a text costs the model, and with ``teacher_`` before the names what it costs its teacher."""
    found = trainer.measure(dataset)
    if isinstance(trainer, TaughtLanguageModelTrainer):
        found |= {f"teacher_{name}": value for name, value in trainer.teacher_cost(dataset).items()}
    return found
