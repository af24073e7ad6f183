"""A teacher in the training of a text classifier: first on texts without labels, then beside the task."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from datasets import Dataset, DatasetDict
from transformers import (
    DataCollatorWithPadding,
    IntervalStrategy,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_utils import SaveStrategy

from seqdyconv.models.loading import ModelError, load_tokenizer
from seqdyconv.pictures import plot_learning_curves
from seqdyconv.ranges import Count, LearningRate, OneOf, Options, Positive, Share, Weight
from seqdyconv.swap.distillation import DistillationTrainer
from seqdyconv.training.checkpoints import resumable_checkpoint
from seqdyconv.training.classifiers import check_reads, known_labels, load_model
from seqdyconv.training.reports import METRICS, write_metrics
from seqdyconv.training.runs import is_finished, train_or_load
from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches
from seqdyconv.training.trained_data import check_data, data_digests, write_digests

DISTILLATION_FOLDER = "distillation"
"""Below output_dir: the run on texts without labels."""


@dataclass
class TeacherArguments(Options):
    """A model learns from a teacher beside its task."""

    ways: ClassVar[str] = "matching_weight or distil_logits_weight"

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "The teacher; None is the pretrained model as it was before the swap."}
    )
    matching_weight: Weight = field(
        default=0.0, metadata={"help": "Weight of matching the teacher's hidden states beside the task's loss."}
    )
    matching_until: Share = field(
        default=0.4, metadata={"help": "Drop that term after this fraction of the steps of the fine-tuning."}
    )
    distil_logits_weight: Weight = field(
        default=0.0, metadata={"help": "Weight of the divergence of the teacher's logits and the model's."}
    )
    distil_temperature: Positive = field(default=1.0, metadata={"help": "Temperature of the logits in that."})

    @property
    def beside_the_task(self) -> bool:
        """Whether there is a teacher in the training for the task."""
        return bool(self.distil_logits_weight or self.matching_weight)

    @property
    def used(self) -> bool:
        """Whether there is a teacher at all."""
        return self.beside_the_task

    def check_teacher(self, swap_mixer: str | None) -> None:
        """Raise ModelError where there is no teacher to learn from, or nothing to learn from it."""
        if swap_mixer is None and self.used and self.teacher_name_or_path is None:
            raise ModelError("without swap_mixer the model would be its own teacher: give teacher_name_or_path")
        if self.teacher_name_or_path is not None and not self.used:
            raise ModelError(f"teacher_name_or_path has no effect without {self.ways}")

    def trainer_options(self, teacher: PreTrainedModel) -> dict[str, Any]:
        """Those of a :class:`DistillationTrainer` for the task."""
        return {
            "teacher": teacher,
            "matching_weight": self.matching_weight,
            "matching_until": self.matching_until,
            "logits_weight": self.distil_logits_weight,
            "temperature": self.distil_temperature,
        }


@dataclass
class DistillationArguments(TeacherArguments):
    """A swapped model learns from a teacher: first on texts without labels, then beside its task."""

    ways: ClassVar[str] = f"distil_epochs, {TeacherArguments.ways}"

    distil_epochs: Weight = field(
        default=0.0, metadata={"help": "Match the teacher's hidden states on texts without labels for n epochs first."}
    )
    distil_learning_rate: LearningRate = field(default=5e-4, metadata={"help": "Peak learning rate of that stage."})
    distil_mixer_learning_rate: LearningRate | None = field(
        default=None, metadata={"help": "That of the new mixers in that stage; None is distil_learning_rate too."}
    )
    distil_parameters: Annotated[str, OneOf("all", "mixers")] = field(
        default="all", metadata={"help": "What it trains: all, or only the new mixers."}
    )
    distil_max_tokens: Count | None = field(
        default=None, metadata={"help": "Bound of its batches per process; None is max_tokens."}
    )
    distil_logits_weight: Weight = field(
        default=0.0,
        metadata={"help": "Weight of matching the logits of a teacher that is trained for the task, in both stages."},
    )

    @property
    def used(self) -> bool:
        """Whether there is a teacher at all."""
        return bool(self.distil_epochs or self.beside_the_task)

    def check_teacher(self, swap_mixer: str | None) -> None:
        """Raise ModelError where there is none, nothing to learn, or no mixers where the first stage asks for some."""
        super().check_teacher(swap_mixer)
        if not self.distil_epochs:
            return
        alone, rate = self.distil_parameters == "mixers", self.distil_mixer_learning_rate
        if swap_mixer is None and (alone or rate is not None):
            raise ModelError("distil_parameters: mixers and distil_mixer_learning_rate need swap_mixer")
        if alone and rate is not None:
            raise ModelError("distil_parameters: mixers trains nothing else: its rate is distil_learning_rate")


class MatchingTrainer(TokenBatches, DistillationTrainer):
    """The terms of the teacher alone, on texts without labels."""

    def __init__(self, *, processing_class: PreTrainedTokenizerBase, **kwargs: Any) -> None:
        collator = DataCollatorWithPadding(processing_class)
        super().__init__(processing_class=processing_class, data_collator=collator, **kwargs)


def make_teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    distil_args: DistillationArguments,
    model_name_or_path: str | None,
) -> PreTrainedModel | None:
    """The teacher, if one is used: that of its name, or a copy of the model before its swap.

    Args:
        model: What learns from it.
        tokenizer: Of the model, which must be that of the teacher too.
        data: Tokenised texts, which the teacher must be able to read.
        distil_args: Its name, and what is learnt from it.
        model_name_or_path: Where the model comes from.

    Raises:
        ModelError: It can't be loaded, or does not fit the model.
    """
    if not distil_args.used:
        return None
    name = distil_args.teacher_name_or_path
    trained = name is not None or known_labels(str(model_name_or_path)) is not None
    if distil_args.distil_logits_weight and not trained:
        raise ModelError("distil_logits_weight needs a teacher that is trained for the task: give teacher_name_or_path")
    if name is None:
        return copy.deepcopy(model)
    teacher = load_model(name)
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        theirs, ours = getattr(teacher.config, key, None), getattr(model.config, key, None)
        if theirs != ours:
            raise ModelError(f"the teacher {name} has {key} {theirs}, but the model {ours}")
    if distil_args.distil_logits_weight and teacher.config.id2label != model.config.id2label:
        raise ModelError(f"the teacher {name} is trained for other labels, or has them in another order")
    check_same_tokens(name, tokenizer)
    if teacher.config.pad_token_id is None:
        teacher.config.pad_token_id = tokenizer.pad_token_id
    check_reads(teacher, data, f"the teacher {name}")
    return teacher


def check_same_tokens(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError where the tokenizer in a teacher's folder gives other numbers to tokens than the model's."""
    own = load_tokenizer(name).get_vocab() if (Path(name) / "tokenizer_config.json").is_file() else {}
    if not own.items() <= tokenizer.get_vocab().items():
        raise ModelError(f"the teacher {name} has another tokenizer than the model: its tokens have other numbers")


def distil(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    distil_args: DistillationArguments,
    args: TokenBatchArguments,
) -> None:
    """Match the teacher on texts without labels, in a run of its own below output_dir.

    Args:
        model: What learns; all its parameters require gradients afterwards.
        teacher: See :func:`make_teacher`.
        tokenizer: Of both.
        data: Rows with the columns input_ids and example, the number of the text that a row is of.
        distil_args: For how long, how fast, and what is trained.
        args: Of the task's training; this one has its own learning rate, epochs and folder.
    """
    for one, name in ((model, "the model"), (teacher, "the teacher")):
        check_reads(one, {"unlabelled": data}, name)
    own_args = copy.copy(args)
    own_args.output_dir = str(Path(args.output_dir or ".") / DISTILLATION_FOLDER)
    own_args.num_train_epochs, own_args.max_steps = distil_args.distil_epochs, -1
    own_args.learning_rate = distil_args.distil_learning_rate
    own_args.max_tokens = distil_args.distil_max_tokens or args.max_tokens
    own_args.eval_strategy, own_args.do_eval = IntervalStrategy.NO, False
    if own_args.save_strategy == SaveStrategy.BEST:
        own_args.save_strategy = SaveStrategy.EPOCH
    own_args.load_best_model_at_end, own_args.metric_for_best_model = False, None
    own_args.average_checkpoints = own_args.early_stopping_patience = 0
    own_args.push_to_hub = False  # what is pushed is the model that can do the task
    own_args.ddp_find_unused_parameters = True  # The head learns nothing from hidden states.
    output_dir = Path(own_args.output_dir)
    output_dir.mkdir(exist_ok=True)

    trainer = MatchingTrainer(
        model=model,
        teacher=teacher,
        args=own_args,
        train_dataset=data,
        processing_class=tokenizer,
        logits_weight=distil_args.distil_logits_weight,
        temperature=distil_args.distil_temperature,
        mixers_only=distil_args.distil_parameters == "mixers",
        mixer_learning_rate=distil_args.distil_mixer_learning_rate,
        dropout=False,
    )
    checkpoint = None if is_finished(output_dir) else resumable_checkpoint(output_dir, args.world_size)
    digests = data_digests(["unlabelled"], {"unlabelled": data})
    if args.resume:
        check_data(output_dir, digests)
    if trainer.is_world_process_zero():
        write_digests(output_dir, digests)
    train_or_load(trainer, checkpoint)
    model.requires_grad_(True)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    metrics = {
        "distillation_texts": len(set(data["example"][:])),
        "distillation_seconds": trainer.counts.seconds,
        "distillation_steps": trainer.state.global_step,
        **({"distillation_loss": losses[-1]} if losses else {}),
    }
    if trainer.is_world_process_zero():
        write_metrics(output_dir / METRICS, metrics)
        plot_learning_curves(
            trainer.state.log_history,
            output_dir / "learning_curves.png",
            "Distillation on texts without labels",
            loss_label="distance to the teacher",
        )


def distillation_metrics(output_dir: Path) -> dict[str, Any]:
    """What :func:`distil` has measured in a run, if it had a distillation, be it in an earlier part of it."""
    file = output_dir / DISTILLATION_FOLDER / METRICS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
