"""A Seq2SeqTrainer for token-bounded batches: losses per token, R-Drop, evaluation without duplicates."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.trainer_utils import EvalLoopOutput

from seqdyconv.training.batching import SetEpochCallback, TokenBatchSampler
from seqdyconv.training.decoding import DecodingArguments, Hypothesis, batches_by_length, generate_batch

IGNORED_LABEL = -100


@dataclass
class TokenBatchTrainingArguments(Seq2SeqTrainingArguments):
    """The arguments of Seq2SeqTrainer with defaults for translation, and those of :class:`TokenBatchTrainer`.

    Keys of the Trainer that have no effect here raise when they are set.
    """

    max_tokens: int = field(
        default=4000,
        metadata={"help": "Bound of a training batch per process: sentences * longest side, padding included."},
    )
    eval_max_tokens: int | None = field(default=None, metadata={"help": "The same for evaluation; None is max_tokens."})
    rdrop_alpha: float = field(
        default=0.0,
        metadata={"help": "Weight of the R-Drop term (the paper uses 5), 0 for none. Doubles a step's cost."},
    )
    average_checkpoints: int = field(
        default=0, metadata={"help": "The final model is the average of the last n checkpoints; 0 and 1 mean the last."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after n evaluations without a better metric_for_best_model; 0 is never."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Delete the run in output_dir and start anew."})

    # Other defaults than the Trainer's.
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="inverse_sqrt", metadata={"help": "Schedule after the warm-up."})
    warmup_steps: float = field(
        default=4000, metadata={"help": "Steps of linear warm-up; below 1 a share of all steps."}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of Adam."})
    label_smoothing_factor: float = field(default=0.1, metadata={"help": "Label smoothing, 0 for none."})
    logging_steps: float = field(default=50, metadata={"help": "Log every n steps."})
    report_to: None | str | list[str] = field(  # noqa: RUF036  # HfArgumentParser wants None first.
        default="tensorboard", metadata={"help": "Where to log to."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "True if parameters get no gradient, which costs time in each step."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Resume the patience of early stopping too."}
    )

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing: say where the run is written to")
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        for name in _WITHOUT_EFFECT:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no effect here: {_WITHOUT_EFFECT[name]}")
        for name, value in (("max_tokens", self.max_tokens), ("eval_max_tokens", self.eval_max_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"label_smoothing_factor must be in [0, 1), got {self.label_smoothing_factor}")
        for name in ("rdrop_alpha", "average_checkpoints", "early_stopping_patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.average_checkpoints > 1 and self.load_best_model_at_end:
            raise ValueError("average_checkpoints and load_best_model_at_end exclude each other: choose one")
        if self.save_total_limit is not None and self.save_total_limit < max(1, self.average_checkpoints):
            raise ValueError(
                f"save_total_limit must be at least max(1, average_checkpoints) = {max(1, self.average_checkpoints)}, "
                f"got {self.save_total_limit}"
            )
        if self.early_stopping_patience and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs metric_for_best_model, such as loss or bleu")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # The Trainer refuses bf16 on a machine without a GPU unless this is said.
        super().__post_init__()


_WITHOUT_EFFECT = {
    "per_device_train_batch_size": "max_tokens bounds the batches",
    "per_device_eval_batch_size": "eval_max_tokens bounds the batches",
    "auto_find_batch_size": "max_tokens bounds the batches",
    "train_sampling_strategy": "batches are made of examples of similar length",
    "dataloader_drop_last": "all examples are used",
    "ignore_data_skip": "a resumed run goes on with the next batch",
    "resume_from_checkpoint": "use resume",
    "generation_max_length": "use max_length_factor and max_length_constant",
    "generation_config": "use num_beams, length_penalty, ...",
    "do_train": "train.py always trains",
    "do_eval": "use eval_strategy",
    "do_predict": "train.py always evaluates on the test set",
}


def label_smoothed_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv 1512.00567), summed over tokens, in float32.

    Args:
        logits: (B, T, V) in any floating dtype.
        labels: (B, T) token ids, -100 where there is none.
        label_smoothing: Probability given to the uniform distribution over the V tokens.

    Returns:
        A float32 scalar: divide it by the number of tokens.
    """
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def rdrop_loss(logits: Tensor, other_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the two Kullback-Leibler divergences of two predictions (Wu et al. 2021, arXiv 2106.14448), summed.

    Args:
        logits: (B, T, V) of one forward pass.
        other_logits: (B, T, V) of another one, with other dropout masks.
        labels: (B, T); positions with -100 don't count.

    Returns:
        A float32 scalar: divide it by the number of tokens.
    """
    valid = labels != IGNORED_LABEL
    p = logits[valid].float().log_softmax(dim=-1)
    q = other_logits[valid].float().log_softmax(dim=-1)
    # KL(p, q) + KL(q, p) = sum (p - q)(log p - log q)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum()


class TokenBatchTrainer(Seq2SeqTrainer):
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

    args: TokenBatchTrainingArguments
    model: PreTrainedModel

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
        self.trained_tokens: Tensor | int = 0
        """Target tokens of all processes, without padding, that this call of train() has trained on."""
        self.evaluation_seconds = 0.0
        # Makes the Trainer count the target tokens of a step.
        self.model_accepts_loss_kwargs = True
        self.add_callback(SetEpochCallback())

    # Batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Training batches from :class:`TokenBatchSampler`, sharded over processes by accelerate."""
        sampler = TokenBatchSampler(
            example_lengths(self.train_dataset), self.args.max_tokens, seed=self.args.data_seed or self.args.seed
        )
        return self.accelerator.prepare(self._dataloader(self.train_dataset, sampler))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Evaluation batches of this process: every n-th one, from short to long."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._dataloader(dataset, self._own_share(list(self._eval_sampler(dataset))))

    def _eval_sampler(self, dataset: Dataset) -> TokenBatchSampler:
        bound = self.args.eval_max_tokens or self.args.max_tokens
        return TokenBatchSampler(example_lengths(dataset), bound, shuffle=False)

    def _dataloader(self, dataset: Any, batch_sampler: Any) -> DataLoader[Any]:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self._remove_unused_columns(dataset),
            batch_sampler=batch_sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=workers > 0 and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _own_share(self, batches: list[list[int]]) -> list[list[int]]:
        """This process's batches; sharded weights need as many on each, so that empty shares repeat a batch."""
        share = batches[self.args.process_index :: self.args.world_size]
        if self._is_sharded():
            longest = -(-len(batches) // self.args.world_size)
            share += batches[:1] * (longest - len(share))
        return share

    def _is_sharded(self) -> bool:
        return bool(self.is_fsdp_enabled or is_fsdp_managed_module(self.model))

    # Loss

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of one step and their number of target tokens, which is also added up."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if num_items is not None:
            self.trained_tokens += num_items
        return batches, num_items

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Label-smoothed cross-entropy per target token, plus the R-Drop term if it is on.

        With R-Drop the loss is half of the paper's, CE + alpha · KL / 2 with the mean CE of both passes, so that it
        compares with the loss of a run without.
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
        if num_items_in_batch is None:
            num_items_in_batch = (labels != IGNORED_LABEL).sum()
        elif self.args.average_tokens_across_devices:
            # Gradients are averaged over processes, while the tokens are counted over all of them.
            loss = loss * self.accelerator.num_processes
        loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the Trainer does; the time counts as evaluation_seconds."""
        start = time.perf_counter()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.evaluation_seconds += time.perf_counter() - start

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss per token, and the metrics of generated texts if they are asked for."""
        # All processes hold the same weights, hence evaluation needs no wrapper and may take uneven shares.
        model = self.model_wrapped if self._is_sharded() else self.model
        model.to(self.args.device)
        training = model.training
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        sums = torch.zeros(2, dtype=torch.float64)
        dataset: Any = dataloader.dataset
        own_batches = len(range(self.args.process_index, len(self._eval_sampler(dataset)), self.args.world_size))
        with torch.no_grad():
            for index, inputs in enumerate(dataloader):
                inputs = self._prepare_inputs(inputs)
                labels = inputs.pop("labels")
                with self.compute_loss_context_manager():
                    logits = model(**inputs, use_cache=False).logits
                loss = label_smoothed_loss(logits, labels)
                if index < own_batches:
                    sums += torch.stack([loss.double(), (labels != IGNORED_LABEL).sum().double()]).cpu()
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        loss_sum, tokens = self.accelerator.reduce(sums.to(self.args.device, torch.float32)).tolist()
        metrics = {f"{metric_key_prefix}_loss": loss_sum / tokens}
        if self.args.predict_with_generate and self.text_metrics is not None:
            step = max(1, len(dataset) // (self.generation_examples or len(dataset)))
            indices = list(range(0, len(dataset), step))[: self.generation_examples]
            hypotheses = self.generate([dataset[index]["input_ids"] for index in indices], self.decoding)
            found = self.text_metrics([beams[0].text for beams in hypotheses], indices)
            metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        model.train(training)
        return EvalLoopOutput(predictions=np.empty(0), label_ids=None, metrics=metrics, num_samples=len(dataset))

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
        model = self.model
        tokenizer: Any = self.processing_class
        model.to(self.args.device)  # type: ignore[arg-type]
        training = model.training
        model.eval()
        share = self._own_share(batches_by_length(inputs, decoding))
        found: list[tuple[int, list[Hypothesis]]] = []
        silent = progress is None or self.args.disable_tqdm or not self.is_world_process_zero()
        for batch in tqdm(share, desc=progress, disable=silent):
            hypotheses = generate_batch(
                model, tokenizer, [inputs[i] for i in batch], decoding, nbest, self._is_sharded()
            )
            found += zip(batch, hypotheses)
        model.train(training)
        results = dict(gather_object(found))
        return [results[index] for index in range(len(inputs))]

    # Checkpoints

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # trainer_state.json, which marks a checkpoint as complete, is written next, and old checkpoints are deleted
        # after it: no process may be behind.
        self.accelerator.wait_for_everyone()


def example_lengths(dataset: Dataset) -> npt.NDArray[np.int64]:
    """(N, 2) numbers of tokens in the columns input_ids and labels."""
    table = dataset.with_format("arrow")[:]
    columns = [pyarrow.compute.list_value_length(table[name]).to_numpy() for name in ("input_ids", "labels")]
    return np.stack(columns, axis=1).astype(np.int64)
