"""The Trainer of speech recognition: batches bounded in seconds, losses per label, evaluation by error rates."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from speech_batches import EpochBatches, SpeechCollator, Utterances
from speech_model import Recogniser
from speech_recognition_data import SAMPLING_RATE
from speech_scores import score
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.speech.augmentation import SpecAugment
from seqdyconv.training.token_batches import IGNORED_LABEL, TokenBatchArguments, TokenBatches


@dataclass
class SpeechTrainingArguments(TokenBatchArguments):
    """The training arguments, and what only speech recognition has."""

    max_batch_seconds: float = field(
        default=60.0,
        metadata={
            "help": "Bound of a training batch per process: utterances * longest one in seconds, padding included, "
            "before their speed is changed."
        },
    )
    eval_max_batch_seconds: float | None = field(
        default=None, metadata={"help": "The same for evaluation; None is max_batch_seconds."}
    )
    max_label_length: int | None = field(
        default=None,
        metadata={"help": "The most units that a decoder writes for an utterance; None: what the model allows."},
    )

    # Other defaults than the Trainer's.
    learning_rate: float = field(default=1.5e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule after the warm-up."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1 a share of all steps."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of Adam."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints stay."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "No effect: the columns are known."})

    without_effect: ClassVar[dict[str, str]] = {
        name: instead.replace("eval_max_tokens", "eval_max_batch_seconds").replace("max_tokens", "max_batch_seconds")
        for name, instead in TokenBatchArguments.without_effect.items()
    } | {
        "max_tokens": "max_batch_seconds bounds the batches",
        "eval_max_tokens": "eval_max_batch_seconds bounds the batches",
        "packing": "batches of sound are padded",
        "mix_lengths": "batches of sound are padded",
        "label_smoothing_factor": "CTC has none",
        "remove_unused_columns": "the columns are known",
    }

    def __post_init__(self) -> None:
        for name in ("max_batch_seconds", "eval_max_batch_seconds"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.max_label_length is not None and self.max_label_length < 1:
            raise ValueError(f"max_label_length must be at least 1, got {self.max_label_length}")
        super().__post_init__()


class SpeechTrainer(TokenBatches):
    """Trains on :class:`Utterances` with a loss per label; evaluates by error rates of greedy transcripts.

    The gradient of a step is that of the loss of all its labels divided by their number, however the utterances are
    spread over accumulated batches and processes.

    Args:
        recogniser: The model and its processor.
        spec_augment: Of training features; None where there is none, or the model does it itself.
        kwargs: The arguments of the Trainer, but model and data_collator.
    """

    # compute_loss divides by the labels of the whole step, over accumulated batches.
    loss_is_scaled_for_ga = True

    args: SpeechTrainingArguments
    model: PreTrainedModel

    def __init__(self, *, recogniser: Recogniser, spec_augment: SpecAugment | None = None, **kwargs: Any) -> None:
        collator = SpeechCollator(recogniser.feature_extractor, spec_augment if recogniser.own_features else None)
        super().__init__(
            model=recogniser.model,
            data_collator=collator,
            processing_class=recogniser.tokenizer,
            **kwargs,
        )
        self.recogniser = recogniser
        # Makes the Trainer count the labels of a step.
        self.model_accepts_loss_kwargs = True
        if recogniser.is_ctc and not recogniser.own_features:
            self.model.config.ctc_loss_reduction = "sum"
            self.model.config.ctc_zero_infinity = True

    # Training

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Training batches bounded in seconds, sharded over processes by accelerate."""
        dataset: Any = self.train_dataset
        bound = math.ceil(self.args.max_batch_seconds * SAMPLING_RATE)
        sampler = TokenBatchSampler(dataset.lengths, bound, seed=self.args.data_seed or self.args.seed)
        return self.accelerator.prepare(self._dataloader(dataset, EpochBatches(sampler)))

    def _eval_batches(self, dataset: Any) -> list[list[int]]:
        bound = math.ceil((self.args.eval_max_batch_seconds or self.args.max_batch_seconds) * SAMPLING_RATE)
        return list(TokenBatchSampler(dataset.lengths, bound, shuffle=False))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's loss, summed over labels and divided by the number of those of the step."""
        loss, outputs = self._summed_loss(model, inputs)
        if num_items_in_batch is None:
            num_items_in_batch = (inputs["labels"] != IGNORED_LABEL).sum()
        elif self.args.average_tokens_across_devices:
            # Gradients are averaged over processes, while the labels are counted over all of them.
            loss = loss * self.accelerator.num_processes
        loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def _summed_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """The model's loss as a sum over the labels of its batch, in float32, and its outputs."""
        if self.recogniser.own_features:
            outputs = model(**inputs, num_items_in_batch=1)
            return outputs.loss.float(), outputs
        outputs = model(**inputs)
        # That of a pretrained CTC model is a sum already, see __init__; that of a decoder is a mean.
        labels = 1 if self.recogniser.is_ctc else (inputs["labels"] != IGNORED_LABEL).sum()
        return outputs.loss.float() * labels, outputs

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Error rates in percent and the loss per label, logged like the Trainer's."""
        start = time.perf_counter()
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        predictions, loss = self.recognise(dataset)
        found = score(predictions, dataset.table["text"][:])
        metrics = {f"{metric_key_prefix}_{name}": found[name] for name in ("wer", "cer")}
        metrics[f"{metric_key_prefix}_loss"] = loss
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.evaluation_seconds += time.perf_counter() - start
        return metrics

    def recognise(self, dataset: Utterances) -> tuple[list[str], float]:
        """Greedy texts and the loss per label; all processes share the work, and each gets all results."""
        # All processes hold the same weights, hence evaluation needs no wrapper and may take uneven shares.
        model = self.model_wrapped if self._is_sharded() else self.model
        model.to(self.args.device)
        training = model.training
        model.eval()
        batches = self._eval_batches(dataset)
        share = self._own_share(batches)
        own = len(batches[self.args.process_index :: self.args.world_size])
        found: list[tuple[int, str]] = []
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for number, (rows, inputs) in enumerate(zip(share, self._dataloader(dataset, share))):
                inputs = self._prepare_inputs(inputs)
                with self.compute_loss_context_manager():
                    loss, outputs = self._summed_loss(model, inputs)
                if number < own:
                    labels = (inputs["labels"] != IGNORED_LABEL).sum()
                    sums += torch.stack([loss.double(), labels.double()]).cpu()
                found += zip(rows, self._texts(inputs, outputs))
        model.train(training)
        loss_sum, count = np.sum(gather_object([sums.tolist()]), axis=0)
        texts = dict(gather_object(found))
        return [texts[row] for row in range(len(dataset))], float(loss_sum / max(1, count))

    def _texts(self, inputs: dict[str, Tensor], outputs: Any) -> list[str]:
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if self.recogniser.is_ctc:
            lengths = self.recogniser.output_lengths(inputs, outputs.logits.shape[1])
            return self.recogniser.decode_logits(outputs.logits, lengths)
        with self.compute_loss_context_manager():
            return self.recogniser.recognise(inputs, max_length=self.args.max_label_length)
