"""A pretrained model with mixers instead of self-attention, and its teacher: swap, choice of layers, distillation."""

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from classification_model import ModelArguments, ModelError, classify, known_labels, load_model
from classification_trainer import ClassificationTrainingArguments, MatchingTrainer, labels_of_texts
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    IntervalStrategy,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
    set_seed,
)
from transformers.trainer_utils import SaveStrategy

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.data.text_classification import DataArguments, DataError, load_unlabelled_texts
from seqdyconv.data.text_rows import tokenize
from seqdyconv.errors import first_line
from seqdyconv.pictures import plot_learning_curves
from seqdyconv.scores.text_classification import score
from seqdyconv.swap import choose_layers, swap_self_attention
from seqdyconv.training.checkpoints import latest_checkpoint
from seqdyconv.training.runs import STATE_FILE, is_finished, train_or_load
from seqdyconv.training.token_batches import example_lengths


@dataclass
class SwapArguments:
    """What takes the place of the self-attention of a pretrained model, and how it starts."""

    swap_mixer: str | None = field(
        default=None,
        metadata={"help": "The mixer: dynamic_conv, lightweight_conv or parallel; None leaves the model as it is."},
    )
    swap_layers: str | None = field(
        default=None, metadata={"help": 'Which layers: numbers and ranges ("0,2-5") or "every 2"; None is all.'}
    )
    swap_kernel_size: int = field(default=31, metadata={"help": "Kernel size of the new mixers."})
    swap_num_heads: int | None = field(default=None, metadata={"help": "Their heads; None is those of the attention."})
    swap_weights: str = field(
        default="transfer", metadata={"help": "Their projections: transfer (those of the attention) or random."}
    )
    swap_calibration_batches: int = field(
        default=8,
        metadata={
            "help": "Kernels start from the average attention by offset on that many training batches; "
            "0 starts them at random."
        },
    )
    swap_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Other options of the mixer, such as {"glu": true}.'}
    )
    swap_greedy_max_loss: float | None = field(
        default=None,
        metadata={
            "help": "Of swap_layers swap only those, the least harmful first, that together cost at most that many "
            "points of validation accuracy before any training; the model must be fine-tuned already."
        },
    )

    def __post_init__(self) -> None:
        if self.swap_greedy_max_loss is not None and self.swap_greedy_max_loss < 0:
            raise ValueError(f"swap_greedy_max_loss must be at least 0, got {self.swap_greedy_max_loss}")
        if self.swap_calibration_batches < 0:
            raise ValueError(f"swap_calibration_batches must be at least 0, got {self.swap_calibration_batches}")
        if isinstance(self.swap_options, str):
            try:
                self.swap_options = json.loads(self.swap_options)
            except json.JSONDecodeError:
                raise ValueError(f"swap_options must be JSON, got {self.swap_options!r}") from None
        if not isinstance(self.swap_options or {}, dict):
            raise ValueError(f"swap_options must be a mapping, got {self.swap_options!r}")


@dataclass
class DistillationArguments:
    """A swapped model learns from a teacher: first on texts without labels, then beside its task."""

    distil_epochs: float = field(
        default=0.0, metadata={"help": "Match the teacher's hidden states on texts without labels for n epochs first."}
    )
    distil_learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of that stage."})
    distil_parameters: str = field(default="all", metadata={"help": "What it trains: all, or only the new mixers."})
    distil_max_tokens: int | None = field(
        default=None, metadata={"help": "Bound of its batches per process; None is max_tokens."}
    )
    distil_logits_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of matching the logits of a teacher that is trained for the task, in both stages."},
    )
    distil_temperature: float = field(default=1.0, metadata={"help": "Temperature of the logits in that."})
    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "The teacher; None is the pretrained model as it was before the swap."}
    )
    matching_weight: float = field(
        default=0.0, metadata={"help": "Weight of matching the teacher's hidden states beside the task's loss."}
    )
    matching_until: float = field(
        default=0.4, metadata={"help": "Drop that term after this fraction of the steps of the fine-tuning."}
    )

    def __post_init__(self) -> None:
        if self.distil_parameters not in ("all", "mixers"):
            raise ValueError(f"distil_parameters must be all or mixers, got {self.distil_parameters!r}")
        for name in ("distil_epochs", "distil_logits_weight", "matching_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.distil_max_tokens is not None and self.distil_max_tokens < 1:
            raise ValueError(f"distil_max_tokens must be at least 1, got {self.distil_max_tokens}")
        if not 0 <= self.matching_until <= 1:
            raise ValueError(f"matching_until must be in [0, 1], got {self.matching_until}")
        if self.distil_temperature <= 0:
            raise ValueError(f"distil_temperature must be above 0, got {self.distil_temperature}")

    @property
    def used(self) -> bool:
        """Whether there is a teacher at all."""
        return bool(self.distil_epochs or self.distil_logits_weight or self.matching_weight)


# Swap


def check_swap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    swap_args: SwapArguments,
    args: ClassificationTrainingArguments,
) -> None:
    """Try the swap on a copy of the model, before anything is written.

    Raises:
        ModelError, DataError: It can't work.
    """
    if swap_args.swap_mixer is None:
        return
    if swap_args.swap_greedy_max_loss is not None and "validation" not in data:
        raise DataError("swap_greedy_max_loss measures on validation data, of which there are none")
    calibration = list(calibration_batches(data["train"].select([0]), tokenizer, swap_args, args))
    swap(copy.deepcopy(model), swap_args, calibration, swap_args.swap_layers)


def swap_layers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    swap_args: SwapArguments,
    args: ClassificationTrainingArguments,
) -> None:
    """Swap the layers that the arguments say, or the greedily chosen ones; a resumed run takes those it had."""
    layers: Any = swap_args.swap_layers
    calibration: list[dict[str, Tensor]] = []
    if (before := layers_before(Path(args.output_dir))) is not None:
        layers = before  # All weights come from the checkpoint.
    else:
        model.to(args.device)  # type: ignore[arg-type]
        calibration = list(calibration_batches(data["train"], tokenizer, swap_args, args))
        if swap_args.swap_greedy_max_loss is not None:
            labels = labels_of_texts(data["validation"])

            def quality(candidate: PreTrainedModel) -> float:
                return score(classify(candidate, tokenizer, data["validation"], 32), labels)["accuracy"]

            # All processes must go on with the same model, whatever their last digits say.
            layers = broadcast_object_list([choose(model, swap_args, calibration, quality)])[0]
            if not layers:
                raise ModelError("every swap costs more than swap_greedy_max_loss allows: there is nothing to train")
    set_seed(args.seed)
    swap(model, swap_args, calibration, layers)


def layers_before(output_dir: Path) -> list[int] | None:
    """The layers that a checkpoint of this run has swapped, where there is one."""
    for folder in (output_dir, output_dir / "distillation"):
        path = folder if is_finished(folder) else latest_checkpoint(folder)
        if path is not None:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            return sorted(map(int, config["seqdyconv"]["layers"]))
    return None


def calibration_batches(
    data: Dataset, tokenizer: PreTrainedTokenizerBase, swap_args: SwapArguments, args: ClassificationTrainingArguments
) -> Iterator[dict[str, Tensor]]:
    """A few training batches as inputs of the model."""
    sampler = TokenBatchSampler(example_lengths(data, ["input_ids"]), args.max_tokens, seed=args.seed)
    collator = DataCollatorWithPadding(tokenizer)
    columns = [name for name in ("input_ids", "token_type_ids") if name in data.column_names]
    for _, rows in zip(range(swap_args.swap_calibration_batches), sampler):
        yield dict(collator([{name: data[row][name] for name in columns} for row in rows]))


def swap(
    model: PreTrainedModel,
    args: SwapArguments,
    calibration: Sequence[Mapping[str, Tensor]],
    layers: Sequence[int] | str | None,
) -> None:
    """Swap these layers of the model in place, as `args` say.

    Raises:
        ModelError: This swap can't work; the model is as it was.
    """
    with _swap_errors():
        swap_self_attention(model, layers=layers, **_swap_options(args, calibration))


def choose(
    model: PreTrainedModel,
    args: SwapArguments,
    calibration: Sequence[Mapping[str, Tensor]],
    quality: Callable[[Any], float],
) -> list[int]:
    """The layers whose swaps together cost at most `swap_greedy_max_loss` of the quality; the model is as it was.

    Raises:
        ModelError: This swap can't work.
    """
    with _swap_errors():
        options = _swap_options(args, calibration)
        max_loss = args.swap_greedy_max_loss or 0.0
        found = choose_layers(model, quality, max_loss=max_loss, layers=args.swap_layers, progress=print, **options)
    return sorted(found.layers)


def _swap_options(args: SwapArguments, calibration: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    fixed = {
        "mixer": args.swap_mixer,
        "kernel_size": args.swap_kernel_size,
        "num_heads": args.swap_num_heads,
        "weights": args.swap_weights,
        "calibration": calibration or None,
    }
    options: Any = args.swap_options or {}
    if both := sorted(options.keys() & (fixed.keys() | {"layers"})):
        raise ValueError(f"swap_options has {both[0]}, which is an argument of its own: swap_{both[0]}")
    return {**fixed, **options}


@contextlib.contextmanager
def _swap_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ModelError(f"can't swap the self-attention: {first_line(error)}") from None


# Distillation


def make_teacher(
    model: PreTrainedModel, model_args: ModelArguments, distil_args: DistillationArguments
) -> PreTrainedModel | None:
    """The teacher, if one is used: that of its name, or a copy of the model before its swap.

    Raises:
        ModelError: It can't be loaded, or does not fit the model.
    """
    if not distil_args.used:
        return None
    name = distil_args.teacher_name_or_path
    trained = name is not None or known_labels(str(model_args.model_name_or_path)) is not None
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
    return teacher


def distil(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    distil_args: DistillationArguments,
    data_args: DataArguments,
    args: ClassificationTrainingArguments,
) -> dict[str, Any]:
    """Match the teacher on texts without labels, in a run of its own below output_dir; returns its metrics."""
    own_args = copy.copy(args)
    own_args.output_dir = str(Path(args.output_dir) / "distillation")
    own_args.num_train_epochs, own_args.max_steps = distil_args.distil_epochs, -1
    own_args.learning_rate = distil_args.distil_learning_rate
    own_args.max_tokens = distil_args.distil_max_tokens or args.max_tokens
    own_args.eval_strategy, own_args.do_eval = IntervalStrategy.NO, False
    if own_args.save_strategy == SaveStrategy.BEST:
        own_args.save_strategy = SaveStrategy.EPOCH
    own_args.load_best_model_at_end, own_args.metric_for_best_model = False, None
    own_args.average_checkpoints = own_args.early_stopping_patience = 0
    own_args.ddp_find_unused_parameters = True  # The head learns nothing from hidden states.
    output_dir = Path(own_args.output_dir)
    output_dir.mkdir(exist_ok=True)

    texts = DatasetDict({"unlabelled": load_unlabelled_texts(data_args)})
    data = tokenize(texts, tokenizer, data_args)["unlabelled"]
    trainer = MatchingTrainer(
        model=model,
        teacher=teacher,
        args=own_args,
        train_dataset=data,
        processing_class=tokenizer,
        logits_weight=distil_args.distil_logits_weight,
        temperature=distil_args.distil_temperature,
        mixers_only=distil_args.distil_parameters == "mixers",
    )
    seconds = train_or_load(trainer, latest_checkpoint(output_dir))
    model.requires_grad_(True)
    metrics: dict[str, Any] = {"distillation_texts": len(texts["unlabelled"])}
    if seconds is not None:
        metrics["distillation_seconds"] = seconds
    if trainer.is_world_process_zero():
        plot_learning_curves(
            trainer.state.log_history,
            output_dir / "learning_curves.png",
            "Distillation on texts without labels",
            loss_label="distance to the teacher",
        )
    return metrics


def distillation_metrics(output_dir: Path) -> dict[str, Any]:
    """Steps and last loss of the distillation of a run, if it had one, also one that ended before a resumption."""
    folder = output_dir / "distillation"
    if not is_finished(folder):
        return {}
    state = TrainerState.load_from_json(str(folder / STATE_FILE))
    losses = [row["loss"] for row in state.log_history if "loss" in row]
    return {"distillation_steps": state.global_step, **({"distillation_loss": losses[-1]} if losses else {})}
