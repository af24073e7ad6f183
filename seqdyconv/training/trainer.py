"""A Seq2SeqTrainer for token-bounded batches: losses per token, R-Drop, SimCut, evaluation without duplicates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from seqdyconv.models.loading import check_packing
from seqdyconv.models.losses import IGNORED_LABEL, label_smoothed_loss
from seqdyconv.ranges import Share, Weight
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.runtime.search import Hypothesis
from seqdyconv.training.arguments import ArgumentsError
from seqdyconv.training.consistency import (
    control_tokens,
    rdrop_loss,
    simcut_loss,
    token_cutoff,
    token_embeddings,
)
from seqdyconv.training.decoding import batches_by_length, generate_batch
from seqdyconv.training.reports import evenly_spaced
from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches, example_lengths

__all__ = [
    "TokenBatchTrainer",
    "TokenBatchTrainingArguments",
    "example_lengths",
    "label_smoothed_loss",
    "rdrop_loss",
]

TEXT_METRICS = ("bleu", "chrf")
"""What translation measures of generated texts."""


@dataclass
class TokenBatchTrainingArguments(TokenBatchArguments, Seq2SeqTrainingArguments):
    """The arguments of Seq2SeqTrainer with defaults for translation, and those of :class:`TokenBatchTrainer`.

    Keys of the Trainer that have no effect here raise when they are set.
    """

    rdrop_alpha: Weight = field(
        default=0.0,
        metadata={"help": "Weight of the R-Drop term (the paper uses 5), 0 for none. Doubles a step's cost."},
    )

    simcut_alpha: Weight = field(
        default=0.0,
        metadata={"help": "Weight of the SimCut term (the paper uses 3), 0 for none. Doubles a step's cost."},
    )
    simcut_p: Share = field(
        default=0.05, metadata={"help": "SimCut: how often a token of source or target is hidden (the paper uses .05)."}
    )

    # Other defaults than the Trainer's.
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="inverse_sqrt", metadata={"help": "Schedule after the warm-up."})
    warmup_steps: float = field(
        default=4000, metadata={"help": "Steps of linear warm-up; below 1 a share of all steps."}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of Adam."})
    label_smoothing_factor: float = field(default=0.1, metadata={"help": "Label smoothing, 0 for none."})

    without_effect: ClassVar[dict[str, str]] = TokenBatchArguments.without_effect | {
        "generation_max_length": "use max_length_factor and max_length_constant",
        "generation_config": "use num_beams, length_penalty, ...",
        "sortish_sampler": "batches are made of examples of similar length",
    }
    metric_names: ClassVar[tuple[str, ...]] = ("loss", *TEXT_METRICS)

    def __post_init__(self) -> None:
        super().__post_init__()
        best = (self.metric_for_best_model or "").removeprefix("eval_")
        if best in TEXT_METRICS and not self.predict_with_generate:
            raise ArgumentsError(f"metric_for_best_model {best} is measured with predict_with_generate alone: set it")
        if self.rdrop_alpha and self.simcut_alpha:
            raise ArgumentsError("rdrop_alpha and simcut_alpha exclude each other: choose one")
        if self.simcut_alpha and self.torch_compile:
            raise ArgumentsError("simcut_alpha changes the embeddings for a pass, which torch_compile does not see")

    def check_model(self, model: Any) -> None:
        """Refuse a model that can't be trained so, before any work.

        Raises:
            ModelError: packing or simcut_alpha needs another one.
        """
        if self.packing:
            check_packing(model)
        if self.simcut_alpha:
            token_embeddings(model)


class TokenBatchTrainer(TokenBatches, Seq2SeqTrainer):  # type: ignore[misc]  # evaluate has no gen_kwargs
    """Seq2SeqTrainer whose batches are bounded in tokens and whose loss is a mean over tokens.

    The data sets have columns input_ids and labels. The gradient of a step is that of the mean over all target tokens
    of the step, however they are spread over accumulated batches and processes.

    Evaluation gives eval_loss, the cross-entropy per token without label smoothing, each example counted once on any
    number of processes. With ``predict_with_generate``, `text_metrics` adds metrics of generated texts, such as BLEU.

    Args:
        text_metrics: ``(hypotheses, indices) -> metrics``: the texts that were generated for those examples of the
            evaluation set.
        generation_examples: Generate for this many examples, evenly spaced in the evaluation set; None is all.
        decoding: How to generate during training.
        kwargs: The arguments of Seq2SeqTrainer.
    """

    # compute_loss divides by the tokens of the whole step, over accumulated batches.
    loss_is_scaled_for_ga = True
    length_columns = ("input_ids", "labels")

    args: TokenBatchTrainingArguments

    def __init__(
        self,
        *,
        text_metrics: Callable[[list[str], list[int]], dict[str, float]] | None = None,
        generation_examples: int | None = None,
        decoding: DecodingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text_metrics = text_metrics
        self.generation_examples = generation_examples
        self.decoding = decoding or DecodingArguments(num_beams=self.args.generation_num_beams or 1)
        if self.args.simcut_alpha:
            self.cut_embeddings = token_embeddings(self.model)
            self.never_cut = control_tokens(self.model, self.processing_class)
        # Makes the Trainer count the target tokens of a step.
        self.model_accepts_loss_kwargs = True

    # Loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Label-smoothed cross-entropy per target token, plus the R-Drop or the SimCut term if one is on.

        With R-Drop the loss is half of the paper's, CE + alpha · KL / 2 with the mean CE of both passes, so that it
        compares with the loss of a run without. With SimCut it is the paper's, CE + alpha · KL.
        """
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        smoothing = self.args.label_smoothing_factor
        outputs = model(**inputs, use_cache=False)
        loss = label_smoothed_loss(outputs.logits, labels, smoothing)
        if self.args.rdrop_alpha:
            # A second pass, not a doubled batch: DropConnect drops weights that all rows of a batch share.
            other = model(**inputs, use_cache=False).logits
            loss = 0.5 * (loss + label_smoothed_loss(other, labels, smoothing))
            loss = loss + 0.5 * self.args.rdrop_alpha * rdrop_loss(outputs.logits, other, labels)
        if self.args.simcut_alpha:
            with token_cutoff(self.cut_embeddings, self.args.simcut_p, self.never_cut):
                cut = model(**inputs, use_cache=False).logits
            loss = loss + self.args.simcut_alpha * simcut_loss(outputs.logits, cut, labels)
        loss = self.mean_loss(loss, (labels != IGNORED_LABEL).sum(), num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    # Evaluation

    def measure(self, dataset: Dataset) -> dict[str, float]:
        """The loss per token, and the metrics of generated texts if they are asked for."""
        metrics = {"loss": self.token_loss(dataset)}
        if self.args.predict_with_generate and self.text_metrics is not None:
            indices = evenly_spaced(len(dataset), self.generation_examples or len(dataset))
            hypotheses = self.generate([dataset[index]["input_ids"] for index in indices], self.decoding)
            metrics |= self.text_metrics([beams[0].text for beams in hypotheses], indices)
        return metrics

    def token_loss(self, dataset: Dataset) -> float:
        """The loss per token, without label smoothing."""
        loss_sum = tokens = 0.0
        with self.evaluating() as model:
            for _, inputs, counts in self.own_batches(dataset):
                labels = inputs.pop("labels")
                with self.compute_loss_context_manager():
                    logits = model(**inputs, use_cache=False).logits
                if counts:
                    loss_sum += float(label_smoothed_loss(logits, labels))
                    tokens += int((labels != IGNORED_LABEL).sum())
        return self.gather_mean(loss_sum, tokens)

    def generate(
        self,
        inputs: Sequence[Sequence[int]],
        decoding: DecodingArguments,
        nbest: int = 1,
        progress: str | None = None,
    ) -> list[list[Hypothesis]]:
        """Generate for `inputs` on all processes together; each gets all results, in the order of `inputs`.

        Every process must call it. `progress` is the label of a progress bar, None for no bar.
        """
        tokenizer: Any = self.processing_class
        sharded = self.is_sharded()
        share = self.own_share(batches_by_length(inputs, decoding))
        found: list[tuple[int, list[Hypothesis]]] = []
        silent = progress is None or self.args.disable_tqdm or not self.is_world_process_zero()
        with self.evaluating():
            for batch in tqdm(share, desc=progress, disable=silent):
                rows = [inputs[index] for index in batch]
                found += zip(batch, generate_batch(self.model, tokenizer, rows, decoding, nbest, sharded))
        return self.gather_rows(found, len(inputs))
