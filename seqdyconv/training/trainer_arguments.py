"""The arguments of the Trainer, of which the impossible ones are refused before any work is done."""

import contextlib
import copy
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from huggingface_hub import HfApi
from transformers import DefaultFlowCallback, Trainer, TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_utils import SchedulerType

from seqdyconv.errors import first_line
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForSequenceClassification
from seqdyconv.ranges import (
    Beams,
    Count,
    LearningRate,
    Positive,
    Range,
    Seed,
    Share,
    Weight,
    check_options,
    rule_of,
)
from seqdyconv.scores.directions import is_lower_better
from seqdyconv.training.arguments import ArgumentsError, declared_defaults

logger = logging.getLogger(__name__)

_TYPES: dict[str, Any] = {
    "learning_rate": LearningRate,
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), Annotated[float, Range(0, below=1)]),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "warmup_steps", "neftune_noise_alpha", "eval_delay"), Weight),
    "adam_epsilon": Share,
    "num_train_epochs": Annotated[float, Range(above=0, most=1_000_000)],
    "max_steps": Annotated[int, Range(-1)],
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), Positive),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), Count),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps", "torch_empty_cache_steps"), Count),
    **dict.fromkeys(("save_total_limit", "ddp_bucket_cap_mb", "ddp_timeout"), Count),
    **dict.fromkeys(("seed", "data_seed"), Seed),
    "generation_num_beams": Beams,
    "dataloader_num_workers": Annotated[int, Range(0, 256)],
    "dataloader_prefetch_factor": Annotated[int, Range(1, 10_000)],
}
RULES = {name: rule for name, hint in _TYPES.items() if (rule := rule_of(hint)) is not None}
"""What the fields of the Trainer may be."""

FOLLOW_A_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
"""Schedules whose learning rate depends on metric_for_best_model."""

# What transformers, accelerate and torch raise for arguments that they can't use.
_REFUSALS = (ValueError, TypeError, ImportError, OSError, RuntimeError, AttributeError, LookupError, AssertionError)


@dataclass
class CheckedTrainingArguments(TrainingArguments):
    """The arguments of the Trainer; values and combinations that can't be raise an InputError with one line."""

    metric_names: ClassVar[tuple[str, ...]] = ()
    """What an evaluation measures, the choice of metric_for_best_model; empty where that is not known."""

    without_effect: ClassVar[dict[str, str]] = {}
    """Keys of the Trainer that change nothing here, which raise where they are set, and what to do instead."""

    def __post_init__(self) -> None:
        check_options(self, RULES)
        defaults = declared_defaults(self)
        for name, instead in self.without_effect.items():
            if getattr(self, name) != defaults[name]:
                raise ArgumentsError(f"{name} has no effect here: {instead}")
        if not self.output_dir:
            raise ArgumentsError("output_dir is missing: say where the run is written to")
        if self.max_steps == 0:
            raise ArgumentsError("max_steps must be at least 1, or -1 where num_train_epochs counts, got 0")
        lower = is_lower_better(self.metric_for_best_model or "")
        if self.greater_is_better is None and lower is not None:
            self.greater_is_better = not lower  # transformers takes all but a loss for better where greater
        with _refusals():
            super().__post_init__()
        check_options(self)  # what was JSON too
        if self.lr_scheduler_type in FOLLOW_A_METRIC and self.greater_is_better:  # for these the least is the best
            given: Any = self.lr_scheduler_kwargs or {}
            self.lr_scheduler_kwargs = {"mode": "max", **given}
        evaluates = self.eval_strategy != "no"
        if not evaluates and (self.save_strategy == "best" or self.load_best_model_at_end):
            raise ArgumentsError("the best model is found by evaluations: set eval_strategy")
        available = [*get_available_reporting_integrations(), "flyte"]  # which it does not look for
        if unknown := [name for name in self.report_to or () if name not in available]:
            raise ArgumentsError(
                f"report_to must be none, all, or of what is installed ({', '.join(available)}), got "
                f"{', '.join(map(repr, unknown))}"
            )
        metric = (self.metric_for_best_model or "").removeprefix("eval_")
        if metric and self.metric_names and metric not in self.metric_names:
            raise ArgumentsError(
                f"metric_for_best_model must be one of {', '.join(self.metric_names)}, which an evaluation here "
                f"measures, got {self.metric_for_best_model!r}"
            )


def try_trainer(args: TrainingArguments) -> None:
    """Make a Trainer with its optimizer and schedule for a tiny model: what can't be made is refused before any work.

    Nothing is written in output_dir.

    Raises:
        ArgumentsError: An argument names what is unknown or not installed, or the machine does not have.
    """
    for name in ("eval_steps", "eval_delay"):
        if args.eval_strategy == "no" and getattr(args, name):
            logger.warning("%s has no effect with eval_strategy: no", name)
    if 0 < args.max_steps < args.warmup_steps:
        logger.warning("the %g warmup_steps do not end in %d max_steps", args.warmup_steps, args.max_steps)
    config = SeqDyConvConfig(
        vocab_size=8,
        hidden_size=8,
        encoder_kernel_sizes=[1],
        encoder_attention_heads=1,
        encoder_ffn_dim=8,
        is_encoder_decoder=False,
    )
    model = SeqDyConvForSequenceClassification(config)
    tried: Any = copy.copy(args)
    rows: Any = [{"input_ids": torch.tensor([1, 2]), "labels": 0}]
    with _refusals(), tempfile.TemporaryDirectory(prefix="seqdyconv-") as tried.output_dir:
        if args.push_to_hub:
            HfApi().whoami(token=args.hub_token)
        tried.push_to_hub = False
        trainer = Trainer(model, tried, train_dataset=rows, eval_dataset=rows)
        trainer.create_optimizer_and_scheduler(num_training_steps=max(10, args.max_steps))
        trainer.get_train_dataloader()
        if args.torch_compile:
            compiled = torch.compile(torch.sin, backend=str(args.torch_compile_backend), mode=args.torch_compile_mode)
            compiled(torch.zeros(1, device=args.device))
        elif not (args.fsdp or args.deepspeed):
            tried.dataloader_num_workers, tried.dataloader_persistent_workers = 0, False
            tried.dataloader_prefetch_factor = tried.dataloader_multiprocessing_context = None
            tried.max_steps, tried.eval_strategy, tried.save_strategy, tried.logging_strategy = 1, "no", "no", "no"
            for callback in trainer.callback_handler.callbacks.copy():
                trainer.remove_callback(callback)
            trainer.add_callback(DefaultFlowCallback())
            trainer.accelerator.free_memory = lambda *_: []  # it would take more time than all else
            trainer.train()


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        raise ArgumentsError(f"the arguments of the training can't be used: {first_line(error)}") from None
