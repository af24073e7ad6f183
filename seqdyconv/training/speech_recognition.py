"""The Trainer of speech recognition: batches bounded in seconds, losses per label, evaluation by error rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel

from seqdyconv.data.speech_batches import (
    AugmentationArguments,
    EpochBatches,
    SpeechCollator,
    Utterances,
    batches_in_seconds,
)
from seqdyconv.data.speech_recognition import SAMPLING_RATE, BadFile, DataArguments, drop_bad
from seqdyconv.data.tables import DataError
from seqdyconv.files import write_lines
from seqdyconv.models import SeqDyConvSpeechConfig
from seqdyconv.models.loading import load_config
from seqdyconv.models.losses import IGNORED_LABEL, ctc_smoothing_loss
from seqdyconv.pictures import plot_alignment
from seqdyconv.ranges import Count, Number, Positive, Range, Weight
from seqdyconv.scores.speech_recognition import score, write_split
from seqdyconv.speech.alignment import align_words
from seqdyconv.speech.augmentation import SpecAugment
from seqdyconv.speech.recogniser import Recogniser
from seqdyconv.training.arguments import ArgumentsError
from seqdyconv.training.consistency import cr_ctc_loss
from seqdyconv.training.run_trainer import RunArguments, RunTrainer
from seqdyconv.training.speech_models import ModelArguments

UNKNOWN_SHARE = 0.1
"""More unknown units than that in the training texts mean that a pretrained tokenizer is for other texts."""


@dataclass
class SpeechTrainingArguments(RunArguments):
    """The training arguments, and what only speech recognition has."""

    max_batch_seconds: Positive = field(
        default=60.0,
        metadata={
            "help": "Bound of a training batch per process: utterances * longest one in seconds, padding included, "
            "before their speed is changed."
        },
    )
    eval_max_batch_seconds: Positive | None = field(
        default=None, metadata={"help": "The same for evaluation; None is max_batch_seconds."}
    )
    max_label_length: Count | None = field(
        default=None,
        metadata={"help": "The most units that a decoder writes for an utterance; None: what the model allows."},
    )

    cr_ctc_alpha: Weight = field(
        default=0.0,
        metadata={"help": "Weight of the CR-CTC term (the paper uses 0.2), 0 for none. Doubles a step's cost."},
    )
    cr_ctc_time_masks: Annotated[float, Range(above=0, most=10)] = field(
        default=2.5, metadata={"help": "CR-CTC: so many times num_time_masks are hidden (the paper's number)."}
    )
    time_mask_growth: Number = field(
        default=0, metadata={"help": "Epochs in which time masks grow from nothing to time_mask_width; 0: at once."}
    )
    label_smoothing_factor: float = field(
        default=0.0, metadata={"help": "Label smoothing of CTC: the weight of each frame's distance from uniform."}
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

    metric_names: ClassVar[tuple[str, ...]] = ("loss", "wer", "cer")
    without_effect: ClassVar[dict[str, str]] = RunArguments.without_effect | {
        "per_device_train_batch_size": "max_batch_seconds bounds the batches",
        "per_device_eval_batch_size": "eval_max_batch_seconds bounds the batches",
        "auto_find_batch_size": "max_batch_seconds bounds the batches",
        "remove_unused_columns": "the columns are known",
    }

    def check_settings(self, ctc: bool, own_features: bool, spec_augment: SpecAugment | None) -> None:
        """Refuse what a model has no use for: losses, and a bound on what it writes.

        Args:
            ctc: It is a CTC model, without a decoder.
            own_features: Its features are those of this package.
            spec_augment: Of training features.

        Raises:
            ArgumentsError: cr_ctc_alpha, label_smoothing_factor or max_label_length needs another one.
        """
        if self.label_smoothing_factor and not ctc:
            raise ArgumentsError("label_smoothing_factor is for CTC models, and this one has a decoder: set head: ctc")
        if self.max_label_length is not None and ctc:
            raise ArgumentsError(
                f"max_label_length is for models with a decoder, and this is a CTC model, got {self.max_label_length}"
            )
        if not self.cr_ctc_alpha:
            return
        if not own_features:
            raise ArgumentsError("cr_ctc_alpha is for models with features of this package, which are hidden twice")
        if spec_augment is None or not (spec_augment.num_time_masks or spec_augment.num_frequency_masks):
            raise ArgumentsError(
                "cr_ctc_alpha needs masks, by which two views of an utterance differ: set num_time_masks or "
                "num_frequency_masks"
            )


class SpeechTrainer(RunTrainer):
    """Trains on :class:`Utterances` with a loss per label; evaluates by error rates of greedy transcripts.

    The gradient of a step is that of the loss of all its labels divided by their number, however the utterances are
    spread over accumulated batches and processes.

    Args:
        recogniser: The model and its processor.
        spec_augment: Of training features; None where there is none, or the model does it itself.
        lookahead_ms: Of these and the model's own look-ahead one is drawn for each training batch, like the right
            context of attention in Tripathi et al. 2020 (https://arxiv.org/abs/2010.03192), and set as
            :meth:`seqdyconv.speech.Recogniser.set_lookahead` does; evaluation is with the model's own. None: always the
            model's own.
        kwargs: The arguments of the Trainer, but model and data_collator.
    """

    # compute_loss divides by the labels of the whole step, over accumulated batches.
    loss_is_scaled_for_ga = True

    args: SpeechTrainingArguments
    model: PreTrainedModel

    def __init__(
        self,
        *,
        recogniser: Recogniser,
        spec_augment: SpecAugment | None = None,
        lookahead_ms: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        args: SpeechTrainingArguments = kwargs["args"]
        args.check_settings(recogniser.is_ctc, recogniser.own_features, spec_augment)
        if not recogniser.own_features:
            spec_augment = None
        elif spec_augment is not None and args.cr_ctc_alpha:
            number = round(args.cr_ctc_time_masks * spec_augment.num_time_masks)
            spec_augment = replace(spec_augment, num_time_masks=number)
        collator = SpeechCollator(
            recogniser.feature_extractor,
            spec_augment,
            two_views=args.cr_ctc_alpha > 0,
            growth_epochs=args.time_mask_growth,
        )
        super().__init__(
            model=recogniser.model,
            data_collator=collator,
            processing_class=recogniser.tokenizer,
            **kwargs,
        )
        self.recogniser = recogniser
        # The model's own comes last, and so is what it has.
        asked = [] if lookahead_ms is None else [*lookahead_ms, None]
        self.lookaheads = sorted({recogniser.set_lookahead(milliseconds) for milliseconds in asked})
        # Makes the Trainer count the labels of a step.
        self.model_accepts_loss_kwargs = True
        if recogniser.is_ctc and not recogniser.own_features:
            self.model.config.ctc_loss_reduction = "sum"
            self.model.config.ctc_zero_infinity = True

    # Training

    def train_batches(self) -> EpochBatches:
        """Of at most max_batch_seconds of audio, padding included."""
        dataset: Any = self.train_dataset
        seconds, seed = self.args.max_batch_seconds, self.args.order_seed
        return EpochBatches(batches_in_seconds(dataset.samples.lengths, seconds, seed, shuffle=True))

    def eval_batches(self, dataset: Any) -> list[list[int]]:
        """Of at most eval_max_batch_seconds of audio, from short to long."""
        seconds = self.args.eval_max_batch_seconds or self.args.max_batch_seconds
        return list(batches_in_seconds(dataset.samples.lengths, seconds))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of a batch and its gradients, with a look-ahead that is drawn where there are several."""
        if not self.lookaheads:
            return super().training_step(*args, **kwargs)
        self.recogniser.set_lookahead(self.lookaheads[int(torch.randint(len(self.lookaheads), ()))])
        try:
            return super().training_step(*args, **kwargs)
        finally:
            self.recogniser.set_lookahead()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's loss, summed over labels and divided by the number of those of the step.

        With CR-CTC it is the mean of the losses of two views, plus alpha times how far they are apart; beside a decoder
        that has the weight of CTC.
        """
        inputs = dict(inputs)
        other = inputs.pop("other_features", None)
        labels = (inputs["labels"] != IGNORED_LABEL).sum()
        if other is not None:
            second = {**inputs, "input_features": other}
            inputs = {name: torch.cat([value, second[name]]) for name, value in inputs.items()}
        loss, outputs = self.summed_loss(model, inputs)
        smoothing = self.args.label_smoothing_factor
        if smoothing or other is not None:
            ctc = self.recogniser.is_ctc
            logits, weight = (outputs.logits, 1.0) if ctc else (outputs.ctc_logits, self.model.config.ctc_weight)
            lengths = self.recogniser.output_lengths(inputs, logits.shape[1])
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * ctc_smoothing_loss(logits, lengths)
        if other is not None:
            one, two = logits.chunk(2)
            loss = 0.5 * loss + self.args.cr_ctc_alpha * weight * cr_ctc_loss(one, two, lengths[: len(one)])
        loss = self.mean_loss(loss, labels, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def summed_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """The model's loss as a sum over the labels of its batch, in float32, and its outputs."""
        if self.recogniser.own_features:
            outputs = model(**inputs, num_items_in_batch=1)
            return outputs.loss.float(), outputs
        outputs = model(**inputs)
        # That of a pretrained CTC model is a sum already, see __init__; that of a decoder is a mean.
        labels = 1 if self.recogniser.is_ctc else (inputs["labels"] != IGNORED_LABEL).sum()
        return outputs.loss.float() * labels, outputs

    # Evaluation

    def measure(self, dataset: Utterances) -> dict[str, float]:
        """Error rates in percent and the loss per label."""
        predictions, loss = self.recognise(dataset)
        found = score(predictions, dataset.table["text"][:])
        return {"wer": found["wer"], "cer": found["cer"], "loss": loss}

    def recognise(self, dataset: Utterances) -> tuple[list[str], float]:
        """Greedy texts and the loss per label; all processes share the work, and each gets all results."""
        found: list[tuple[int, str]] = []
        loss_sum = labels = 0.0
        with self.evaluating() as model:
            for rows, inputs, counts in self.own_batches(dataset):
                with self.compute_loss_context_manager():
                    loss, outputs = self.summed_loss(model, inputs)
                if counts:
                    loss_sum += float(loss)
                    labels += int((inputs["labels"] != IGNORED_LABEL).sum())
                found += zip(rows, self._texts(inputs, outputs))
        return self.gather_rows(found, len(dataset)), self.gather_mean(loss_sum, labels)

    def _texts(self, inputs: dict[str, Tensor], outputs: Any) -> list[str]:
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if self.recogniser.is_ctc:
            lengths = self.recogniser.output_lengths(inputs, outputs.logits.shape[1])
            return self.recogniser.decode_logits(outputs.logits, lengths)
        with self.compute_loss_context_manager():
            return self.recogniser.recognise(inputs, max_length=self.args.max_label_length)


def check_settings(
    args: SpeechTrainingArguments, model_args: ModelArguments, augmentation_args: AugmentationArguments
) -> None:
    """Refuse what a model has no use for, before any work.

    Raises:
        ArgumentsError: cr_ctc_alpha, label_smoothing_factor or max_label_length needs another one.
        ModelError: There is no such pretrained model.
    """
    ctc, own_features = model_args.head == "ctc", True
    if model_args.model_name_or_path is not None:
        config = load_config(model_args.model_name_or_path, "speech recognition model")
        ctc, own_features = not config.is_encoder_decoder, isinstance(config, SeqDyConvSpeechConfig)
    args.check_settings(ctc, own_features, augmentation_args.spec_augment())


def make_labels(
    recogniser: Recogniser, data: DatasetDict, data_args: DataArguments
) -> tuple[dict[str, list[list[int]]], DatasetDict, list[BadFile]]:
    """The ids of all texts; utterances that are longer than the model can learn from are left out of train.

    An evaluation utterance of that kind stays: it is recognised as far as it goes, and its errors count.

    Returns:
        The ids of each split, the splits, and what was left out.

    Raises:
        DataError: too many utterances are too long, or the tokenizer is for other texts.
    """
    tokenizer = recogniser.tokenizer

    def reason(row: Mapping[str, Any], _: DataArguments) -> str | None:
        return recogniser.too_long(by_text[row["text"]], row["num_samples"])

    labels = {split: recogniser.labels(data[split]["text"][:]) for split in data}
    by_text = dict(zip(data["train"]["text"][:], labels["train"]))
    data["train"], bad = drop_bad(data["train"], "train", data_args, reason)
    labels["train"] = [by_text[text] for text in data["train"]["text"][:]]
    total = sum(map(len, labels["train"]))
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in labels["train"])
    if unknown > UNKNOWN_SHARE * total:
        raise DataError(
            f"the model's tokenizer does not know {100 * unknown / total:.0f}% of the units of the training texts: set "
            "new_vocabulary, or normalise_text: false where it has capital letters"
        )
    return labels, data, bad


def write_recognised(
    folder: Path,
    split: str,
    table: Dataset,
    predictions: Sequence[str],
    source: str,
    seconds: float,
    bad: Sequence[BadFile],
) -> dict[str, Any]:
    """Write what was recognised in a split, beside what was said, with a report and a picture of the errors.

    Args:
        folder: Where to write to.
        split: Its name, with which the files' names and the metrics begin.
        table: The split.
        predictions: What was recognised in each utterance.
        source: The data set, for the title of the picture.
        seconds: How long that took one process.
        bad: What was left out.

    Returns:
        The metrics: error rates, sizes, and the real-time factor.
    """
    speakers = table["speaker"][:] if "speaker" in table.column_names else None
    scores = write_split(folder, split, predictions, table["text"][:], speakers, f"{source}, {split}")
    write_lines(folder / f"{split}_files.txt", table["name"][:])
    spoken = sum(table["num_samples"]) / SAMPLING_RATE
    found = {
        **scores,
        "utterances": len(table),
        "minutes": spoken / 60,
        "bad_files": sum(file.split == split for file in bad),
        "real_time_factor": seconds / spoken,
    }
    return {f"{split}_{name}": value for name, value in found.items()}


@torch.no_grad()
def draw_alignment(recogniser: Recogniser, utterances: Utterances, path: Path) -> None:
    """The spectrogram of a short utterance with its text aligned, where the model has CTC frames and features."""
    if not (recogniser.is_ctc and recogniser.own_features):
        return
    row = int(np.argmin(np.abs(utterances.samples.lengths - 3 * SAMPLING_RATE)))
    utterance = utterances[row]
    if len(utterance["labels"]) == 0:
        return
    inputs = recogniser.inputs([utterance["samples"]])
    model = recogniser.model.eval()
    log_probs = model(**inputs).logits[0].float().log_softmax(-1).cpu()
    text = utterances.table[row]["text"]
    words = align_words(recogniser.tokenizer, log_probs, text, recogniser.seconds_per_frame)
    plot_alignment(inputs["input_features"][0].cpu(), words, path, title=text)
