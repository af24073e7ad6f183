"""The training of a sentence encoder by a teacher's embeddings, on texts without labels."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Value
from datasets import Sequence as ListOf
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.data.sentence_embedding import check_window, split_rows
from seqdyconv.files import shorten, write_lines
from seqdyconv.models import SeqDyConvConfig, SeqDyConvModel
from seqdyconv.models.loading import ModelError
from seqdyconv.ranges import Count, KernelSize, LearningRate, OneOf, Options, Share, Weight
from seqdyconv.scores.sentence_embedding import agreement, cosines
from seqdyconv.swap.distillation import DistillationTrainer, hidden_state_loss
from seqdyconv.swap.positions import WAYS, extend_positions, number_of_positions
from seqdyconv.swap.replacement import swapped_attention
from seqdyconv.training.model_arguments import EncoderArguments, check_size, kernel_sizes_help, refuse_ignored
from seqdyconv.training.output_dir import run_arguments
from seqdyconv.training.reports import spread_examples
from seqdyconv.training.sentence_encoders import (
    Reading,
    embed_rows,
    embedding,
    keep_reading,
    load_sentence_encoder,
    reading_of,
)
from seqdyconv.training.swapping import SwapArguments
from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches


@dataclass
class ModelArguments(EncoderArguments):
    """A sentence encoder that is swapped or trained further, or the architecture of a new one."""

    # Other defaults than those of all recipes.
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Begin with this encoder (minilm-l6, a folder or a name on the Hub) instead of a new one."},
    )
    encoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [7, 15, 31, 31, 31, 31], metadata=kernel_sizes_help("encoder")
    )
    hidden_size: Count = field(default=384, metadata={"help": "Width of a new model: that of the teacher's vectors."})


@dataclass
class TeachingArguments(Options):
    """What is learnt from which teacher."""

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "The teacher; None is model_name_or_path as it was before the swap."}
    )
    teacher_max_length: Count | None = field(
        default=None,
        metadata={
            "help": "The most tokens that the teacher reads at once; of a longer text it gives the mean of the "
            "vectors of its windows. None is all that it has positions for."
        },
    )
    cosine_weight: Weight = field(default=1.0, metadata={"help": "Weight of 1 − cosine with the teacher's vector."})
    similarity_weight: Weight = field(
        default=1.0, metadata={"help": "Weight of the distance of both matrices of cosines within a batch."}
    )
    matching_weight: Weight = field(
        default=0.0,
        metadata={"help": "Weight of matching the teacher's hidden states, of texts that it reads at once."},
    )
    matching_until: Share = field(default=1.0, metadata={"help": "Drop that term after this fraction of the steps."})
    train_parameters: Annotated[str, OneOf("all", "mixers")] = field(
        default="all", metadata={"help": "What is trained: all, or only the mixers of a swap."}
    )
    mixer_learning_rate: LearningRate | None = field(
        default=None, metadata={"help": "Peak learning rate of the mixers of a swap; None is that of the rest."}
    )
    extend_positions: Annotated[str, OneOf(*WAYS)] = field(
        default="repeat",
        metadata={
            "help": "How a table of learned positions grows where max_length is longer: repeat (it begins anew), "
            "interpolate, or zero (there are no positions any more)."
        },
    )


@dataclass
class SentenceTrainingArguments(TokenBatchArguments):
    """The training arguments, with other defaults than the Trainer's."""

    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints stay."})

    metric_names: ClassVar[tuple[str, ...]] = ("loss", "cosine", "spearman")
    without_effect: ClassVar[dict[str, str]] = TokenBatchArguments.without_effect | {
        "label_smoothing_factor": "there are no labels",
        "packing": "batches hold texts of similar lengths",
    }


def check_together(
    model_args: ModelArguments,
    swap_args: SwapArguments,
    teaching: TeachingArguments,
) -> None:
    """Refuse what can't be before the data are read.

    Raises:
        ModelError: the architecture is impossible, there is no teacher, or nothing to learn.
    """
    if not (teaching.cosine_weight or teaching.similarity_weight or teaching.matching_weight):
        raise ModelError("there is nothing to learn: set cosine_weight, similarity_weight or matching_weight")
    if model_args.model_name_or_path is None:
        config = build_config(model_args)
        check_size(lambda: SeqDyConvModel(config))
        if swap_args.swap_mixer is not None:
            raise ModelError("swap_mixer swaps the self-attention of a pretrained model: give model_name_or_path")
        if teaching.teacher_name_or_path is None:
            raise ModelError("a new model needs a teacher: give teacher_name_or_path")
    else:
        refuse_ignored(model_args, ["model_name_or_path"])
        if swap_args.swap_mixer is None and teaching.teacher_name_or_path is None:
            raise ModelError("without swap_mixer the model would be its own teacher: give teacher_name_or_path")
    if teaching.mixer_learning_rate is not None and teaching.train_parameters == "mixers":
        raise ModelError("train_parameters: mixers trains nothing else: its rate is learning_rate")


def build_config(args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> SeqDyConvConfig:
    """The configuration of a new model; without a tokenizer its vocabulary is the default, which checks the rest.

    Raises:
        ModelError: the architecture is impossible.
    """
    return args.config(tokenizer=tokenizer)


@dataclass(frozen=True)
class Teacher:
    """An encoder that is not trained, its tokenizer, how it is read, and the most tokens that it reads at once."""

    model: Any
    tokenizer: Any
    reading: Reading
    most: int


def load_teacher(name: str, teacher_max_length: int | None, max_length: int) -> Teacher:
    """The teacher of a model that reads up to ``max_length`` tokens.

    Args:
        name: A folder, a name on the Hub, or minilm-l6.
        teacher_max_length: What it reads at once; None is all that it has positions for.
        max_length: Of the model.

    Raises:
        ModelError: It can't be loaded.
        DataError: A window of so many tokens has no room beside the special ones.
    """
    model, tokenizer, reading = load_sentence_encoder(name)
    positions = number_of_positions(model) or max_length
    most = min(teacher_max_length or positions, positions)
    tokenizer.model_max_length = max(max_length, most)
    check_window(tokenizer, most)
    return Teacher(model, tokenizer, reading, most)


def teacher_of_run(model_dir: str) -> str | None:
    """The teacher of the run that trained a model; None where it is of none."""
    found = run_arguments(model_dir, ("teacher_name_or_path", "model_name_or_path"))
    return found.get("teacher_name_or_path") or found.get("model_name_or_path")


def build_models(
    model_args: ModelArguments, swap_args: SwapArguments, teaching: TeachingArguments, max_length: int
) -> tuple[Any, Teacher]:
    """The model that learns, before its swap, and the teacher, whose tokenizer is that of both.

    Args:
        model_args: A name, or an architecture.
        swap_args: Whether layers will be swapped.
        teaching: The teacher, and how positions are extended.
        max_length: The most tokens that the model is to read.

    Raises:
        ModelError: One of them can't be loaded or built, or they don't fit each other.
    """
    name = model_args.model_name_or_path
    teacher = load_teacher(str(teaching.teacher_name_or_path or name), teaching.teacher_max_length, max_length)
    if name is None:
        model: Any = SeqDyConvModel(build_config(model_args, teacher.tokenizer))
    elif teaching.teacher_name_or_path is None:
        model = copy.deepcopy(teacher.model)
    else:
        model, own, _ = load_sentence_encoder(name)
        if own.get_vocab() != teacher.tokenizer.get_vocab():
            raise ModelError(f"{name} has another tokenizer than the teacher: its tokens have other numbers")
    ours, theirs = model.config, teacher.model.config
    if ours.hidden_size != theirs.hidden_size:
        raise ModelError(
            f"hidden_size must be {theirs.hidden_size}, that of the teacher's vectors, got {ours.hidden_size}"
        )
    layers = [getattr(one, "num_hidden_layers", None) for one in (ours, theirs)]
    if teaching.matching_weight and layers[0] != layers[1]:
        raise ModelError(f"matching_weight needs as many layers as the teacher has, {layers[1]}, got {layers[0]}")
    apart = teaching.train_parameters == "mixers" or teaching.mixer_learning_rate is not None
    if apart and swap_args.swap_mixer is None and not swapped_attention(model):
        raise ModelError(
            f"train_parameters: mixers and mixer_learning_rate are of swapped layers, of which {name or 'a new model'} "
            "has none: give swap_mixer"
        )
    extend_positions(model, max_length, teaching.extend_positions)
    keep_reading(model, replace(teacher.reading, max_length=max_length))
    return model, teacher


def with_targets(rows: Dataset, teacher: Teacher, args: SentenceTrainingArguments, what: str) -> Dataset:
    """Rows with the column label, the teacher's vector of each text.

    Args:
        rows: Of :func:`seqdyconv.data.sentence_embedding.tokenize`.
        teacher: Whose they are; it computes in bfloat16 where the training does.
        args: Of the training.
        what: The rows are, for the progress bar.
    """
    windows = split_rows(rows, teacher.tokenizer, teacher.most)
    autocast: Any = torch.autocast(args.device.type, torch.bfloat16) if args.bf16 else nullcontext()
    teacher.model.to(args.device)
    with tqdm(total=len(windows), desc=f"The teacher reads {what}", disable=args.disable_tqdm) as bar, autocast:
        found = embed_rows(teacher.model, teacher.tokenizer, windows, teacher.reading, args.max_tokens, bar.update)
    table = Dataset.from_dict({"label": list(found)}, Features({"label": ListOf(Value("float32"))}))
    return Dataset(rows.data.table.append_column("label", table.data.table.column("label")))


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance of the cosines within a batch, relative to the teacher's square.

    Known from Tung and Mori 2019 (arXiv 1907.09682); a vector's cosine with itself does not count.

    Args:
        student, teacher: (B, D).

    Returns:
        A scalar ≥ 0; zero for a batch of one text.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> round(similarity_loss(3 * vectors, vectors).item(), 6)
        0.0
    """
    ours, theirs = (F.normalize(one.float(), dim=-1) @ F.normalize(one.float(), dim=-1).T for one in (student, teacher))
    others = 1 - torch.eye(len(ours), device=ours.device)
    return ((ours - theirs) * others).square().sum() / (theirs * others).square().sum().clamp(min=1e-6)


class SentenceTrainer(TokenBatches, DistillationTrainer):
    """Trains an encoder to give a teacher's vectors, which the column label has; evaluates how near they are.

    The loss of a batch is ``cosine_weight · (1 − cosine) + similarity_weight ·`` :func:`similarity_loss` ``+
    matching_weight ·`` :func:`seqdyconv.swap.hidden_state_loss`, the last of texts that the teacher reads at once.

    Args:
        pairs: (N, 2) rows of the evaluation set, whose cosines are compared with the teacher's; None without one.
        teaching: The weights.
        most: The tokens of the longest text that the teacher reads at once.
        kwargs: Those of :class:`seqdyconv.swap.DistillationTrainer`.
    """

    args: SentenceTrainingArguments

    def __init__(
        self,
        *,
        pairs: npt.NDArray[np.int64] | None,
        teaching: TeachingArguments,
        teacher: Teacher,
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            processing_class=processing_class,
            data_collator=DataCollatorWithPadding(processing_class),
            teacher=teacher.model,
            matching_weight=teaching.matching_weight,
            matching_until=teaching.matching_until,
            mixers_only=teaching.train_parameters == "mixers",
            mixer_learning_rate=teaching.mixer_learning_rate,
            **kwargs,
        )
        self.reading = reading_of(self.model)
        self.pairs, self.teaching, self.most = pairs, teaching, teacher.most

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of one step; their texts are counted."""
        batches, found = super().get_batch_samples(*args, **kwargs)
        number = torch.tensor(sum(len(batch["input_ids"]) for batch in batches), device=self.args.device)
        self.trained_items += int(self.accelerator.gather(number.reshape(1)).sum())
        return batches, found

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum of all terms of a batch."""
        self.stop_dropout(model)
        known = {name: value for name, value in inputs.items() if name != "labels"}
        in_time = self.state.global_step < self.matching_until * self.state.max_steps
        matches = self.matching_weight > 0 and in_time and known["input_ids"].shape[1] <= self.most
        outputs = model(**known, output_hidden_states=matches)
        own, target = embedding(outputs.last_hidden_state, known["attention_mask"], self.reading), inputs["labels"]
        distance = 1 - F.cosine_similarity(own, target).mean()
        loss = self.teaching.cosine_weight * distance
        if self.teaching.similarity_weight:
            loss = loss + self.teaching.similarity_weight * similarity_loss(own, target)
        if matches:
            taught = self.ask_teacher(**known, output_hidden_states=True)
            distance = hidden_state_loss(outputs.hidden_states, taught.hidden_states, known["attention_mask"])
            loss = loss + self.matching_weight * distance
        return (loss, outputs) if return_outputs else loss

    def measure(self, dataset: Dataset) -> dict[str, float]:
        """Mean cosine with the teacher's vectors, one minus that as loss, and Spearman's correlation over the pairs."""
        assert self.pairs is not None, "there is something to evaluate on"
        found = nearness(self.vectors(dataset), targets_of(dataset), self.pairs)
        return {name: found[name] for name in self.args.metric_names}

    def vectors(self, dataset: Dataset) -> npt.NDArray[np.float32]:
        """The model's vectors (N, D) of all rows; all processes share the work, and each gets all results."""
        found: list[tuple[int, npt.NDArray[Any]]] = []
        with self.evaluating() as model:
            for rows, inputs, _ in self.own_batches(dataset):
                hidden = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
                vectors = embedding(hidden.last_hidden_state, inputs["attention_mask"], self.reading)
                found += zip(rows, vectors.cpu().numpy())
        return np.stack(self.gather_rows(found, len(dataset)))


def targets_of(rows: Dataset) -> npt.NDArray[np.float32]:
    """The column label, the teacher's vectors (N, D)."""
    return np.stack(rows.with_format("numpy")["label"][:])


def nearness(vectors: npt.NDArray[Any], targets: npt.NDArray[Any], pairs: npt.NDArray[np.int64]) -> dict[str, float]:
    """How near vectors of texts are to a teacher's.

    Args:
        vectors: (N, D).
        targets: (N, D), the teacher's.
        pairs: (M, 2) rows, whose cosines are compared.

    Returns:
        cosine, the mean one of both vectors of a text; loss, one minus that; and those of
        :func:`seqdyconv.scores.sentence_embedding.agreement`.
    """
    cosine = float(cosines(vectors, targets).mean())
    return {"loss": 1 - cosine, "cosine": cosine, **agreement(*_pair_cosines(vectors, targets, pairs))}


def quality(
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    pairs: npt.NDArray[np.int64],
    args: SentenceTrainingArguments,
    model: PreTrainedModel,
) -> float:
    """A hundred times Spearman's correlation with the teacher, by which layers are chosen."""
    reading = reading_of(model)
    vectors = embed_rows(model, tokenizer, rows, reading, args.max_tokens)
    return nearness(vectors, targets_of(rows), pairs)["spearman"]


def write_cosines(
    folder: Path,
    split: str,
    vectors: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    pairs: npt.NDArray[np.int64],
    texts: Sequence[str],
) -> list[dict[str, str]]:
    """Write the cosines of the pairs of a split, the model's and the teacher's; returns some pairs for people.

    Args:
        folder: Where to write to.
        split: Its name.
        vectors: (N, D), the model's.
        targets: (N, D), the teacher's.
        pairs: (M, 2) rows.
        texts: (N,).
    """
    own, theirs = _pair_cosines(vectors, targets, pairs)
    lines = ["model\tteacher", *(f"{one:.6f}\t{other:.6f}" for one, other in zip(own, theirs))]
    write_lines(folder / f"{split}_cosines.tsv", lines)
    columns = {
        "text": [shorten(texts[one], 200) for one, _ in pairs],
        "other text": [shorten(texts[other], 200) for _, other in pairs],
        "cosine": [f"{value:.3f}, teacher {right:.3f}" for value, right in zip(own, theirs)],
    }
    return spread_examples(columns)


def _pair_cosines(
    vectors: npt.NDArray[Any], targets: npt.NDArray[Any], pairs: npt.NDArray[np.int64]
) -> list[npt.NDArray[Any]]:
    """(M,) cosines of M pairs of texts, the model's and the teacher's."""
    one, other = pairs.T
    return [cosines(each[one], each[other]) for each in (vectors, targets)]
