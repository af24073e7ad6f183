"""Language models: a new one from its arguments, or any of a folder or the Hub; its Trainer, and what it costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.trainer_callback import ExportableState

from seqdyconv.data.language_modeling import document_tokens
from seqdyconv.data.text_streams import StreamedBatches, StreamPosition
from seqdyconv.models import SeqDyConvCausalLMConfig, SeqDyConvConfig, SeqDyConvForCausalLM, SeqDyConvForMaskedLM
from seqdyconv.models.loading import ModelError, check_vocabulary
from seqdyconv.models.losses import IGNORED_LABEL, precise
from seqdyconv.ranges import Beams, Count, KernelSize, OneOf, Options, Positive, Range, Seed
from seqdyconv.swap.loading import load_trained
from seqdyconv.training.arguments import declared_defaults
from seqdyconv.training.decoding import most_tokens
from seqdyconv.training.model_arguments import (
    EncoderDecoderArguments,
    check_size,
    kernel_sizes_help,
    refuse_ignored,
)
from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches, example_lengths

OBJECTIVES = ("causal", "masked")
MaskShare = Annotated[float, Range(0.01, 0.99)]


@dataclass
class ModelArguments(EncoderDecoderArguments):
    """A pretrained model, or the architecture of a new one, which is a decoder or, for masked tokens, an encoder."""

    objective: Annotated[str, OneOf(*OBJECTIVES)] = field(
        default="causal",
        metadata={"help": "What is predicted: causal, the next token; or masked, tokens of a text that are masked."},
    )
    mlm_probability: MaskShare = field(
        default=0.15, metadata={"help": "The share of tokens that are predicted with masked."}
    )
    # Other defaults than those of all recipes.
    encoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [3, 7, 15, 31], metadata=kernel_sizes_help("encoder")
    )
    decoder_kernel_sizes: list[KernelSize] = field(
        default_factory=lambda: [3, 7, 15, 31], metadata=kernel_sizes_help("decoder")
    )
    hidden_size: Count = field(default=256, metadata={"help": "Width of the model."})
    normalize_before: bool = field(default=True, metadata={"help": "Pre-norm instead of post-norm."})

    @property
    def is_masked(self) -> bool:
        """Whether masked tokens are predicted, by an encoder."""
        return self.objective == "masked"


@dataclass
class LanguageModelTrainingArguments(TokenBatchArguments):
    """The training arguments, with other defaults than the Trainer's."""

    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints stay."})

    metric_names: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bits_per_byte", "masked_accuracy")
    without_effect: ClassVar[dict[str, str]] = TokenBatchArguments.without_effect | {
        "label_smoothing_factor": "a language model is to give probabilities"
    }


def build_config(args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
    """The configuration of a new model; without a tokenizer its vocabulary is the default, which checks the rest.

    Raises:
        ModelError: The architecture is impossible.
    """
    other = "decoder" if args.is_masked else "encoder"
    for name, default in declared_defaults(args).items():
        if name.startswith(f"{other}_") and getattr(args, name) != default:
            raise ModelError(f"{name} has no effect with objective: {args.objective}, whose model has no {other}")
    if args.mlm_probability != ModelArguments.mlm_probability and not args.is_masked:
        raise ModelError("mlm_probability has no effect with objective: causal")
    if args.is_masked:
        return args.config(SeqDyConvConfig, tokenizer)
    return args.config(SeqDyConvCausalLMConfig, tokenizer, encoder=False, decoder=True)


def new_model(config: Any) -> PreTrainedModel:
    """The new model of a configuration of :func:`build_config`."""
    return SeqDyConvForCausalLM(config) if isinstance(config, SeqDyConvCausalLMConfig) else SeqDyConvForMaskedLM(config)


def check_model(args: ModelArguments) -> None:
    """Refuse a new model that is impossible, or too large, before any work.

    Raises:
        ModelError: With the reason.
    """
    if args.model_name_or_path is None:
        config = build_config(args)
        check_size(lambda: new_model(config))


def build_model(args: ModelArguments, tokenizer: PreTrainedTokenizerBase, data: dict[str, Dataset]) -> PreTrainedModel:
    """A new model for `tokenizer`, or the one of `model_name_or_path`.

    Args:
        args: The architecture or the name.
        tokenizer: Its vocabulary.
        data: Rows of tokens, for all of which it must have positions.

    Raises:
        ModelError: The architecture is impossible, the model can't be loaded, or rows are too long for it.
    """
    if args.model_name_or_path is None:
        model = new_model(build_config(args, tokenizer))
    else:
        refuse_ignored(args, ["model_name_or_path", "objective", *(["mlm_probability"] if args.is_masked else [])])
        model = load_language_model(args.model_name_or_path, args.objective)
        check_vocabulary(model, tokenizer, args.model_name_or_path)
    check_positions(model, data)
    return model


def load_language_model(name_or_path: str, objective: str = "causal") -> PreTrainedModel:
    """Load a language model, swapped or not, in float32 in evaluation mode: a causal one, or a masked one.

    Raises:
        ModelError: There is no such model, it is of another kind, or its weights are cut off or don't fit.
    """
    if objective == "masked":
        return load_trained(AutoModelForMaskedLM, name_or_path, "masked language model")
    return load_trained(AutoModelForCausalLM, name_or_path, "language model")


def check_positions(model: PreTrainedModel, data: dict[str, Dataset]) -> None:
    """Raise ModelError where a row of tokens is longer than the model has positions."""
    longest = max((int(example_lengths(rows, ["input_ids"]).max(initial=0)) for rows in data.values()), default=0)
    most = most_tokens(model)
    if longest > most:
        raise ModelError(
            f"a row has {longest} tokens, and the model has positions for {most}: set block_size and window"
        )


class RowCollator:
    """Rows of tokens with labels, padded on the right, where a causal model sees nothing of it; or packed into one.

    Args:
        packing: One row (1, T), with ``cu_seqlens``.
    """

    def __init__(self, packing: bool) -> None:
        self.packing = packing

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        columns = {name: [torch.tensor(example[name]) for example in examples] for name in ("input_ids", "labels")}
        for labels in columns["labels"]:
            labels[0] = IGNORED_LABEL  # nothing stands before it; the Trainer counts what does not count otherwise
        if self.packing:
            batch = {name: torch.cat(rows)[None] for name, rows in columns.items()}
            lengths = torch.tensor([0, *map(len, columns["input_ids"])])
            return {**batch, "cu_seqlens": lengths.cumsum(0)}
        return {
            name: pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL if name == "labels" else 0)
            for name, rows in columns.items()
        }


class LanguageModelTrainer(TokenBatches):
    """Trains on rows of tokens; evaluates the cost of all tokens that count, per token and per byte.

    The data sets have the columns input_ids, labels and bytes, see :func:`seqdyconv.data.language_modeling.tokenize`.
    """

    args: LanguageModelTrainingArguments

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(data_collator=RowCollator(packing=False), **kwargs)
        self.train_collator = RowCollator(self.args.packing)
        if self.stream is not None:
            self.add_callback(StreamState())

    @property
    def stream(self) -> StreamedBatches | None:
        """The training data, where they are read while training."""
        data: Any = self.train_dataset
        return data if isinstance(data, StreamedBatches) else None

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training batches; each process reads a whole stream and takes its share of the batches."""
        if self.stream is None:
            return super().get_train_dataloader()
        numbers = BatchSampler(SequentialSampler(self.stream), batch_size=1, drop_last=False)
        collate = self.train_collator
        dataloader: Any = DataLoader(self.stream, batch_sampler=numbers, collate_fn=lambda batches: collate(batches[0]))
        return self.accelerator.prepare(dataloader)

    @property
    def stream_state(self) -> "StreamState":
        """Where the stream was at the last checkpoint; the Trainer makes it anew from the one that it resumes."""
        return next(found for found in self.callback_handler.callbacks if isinstance(found, StreamState))

    def note_counts(self) -> None:
        """Put the counts, and where the stream is, into the state."""
        super().note_counts()
        if self.stream is not None:
            own = self.state.global_step * self.args.gradient_accumulation_steps
            state, batch = self.stream_state, (own - 1) * self.args.world_size + 1
            if own and self.is_world_process_zero():
                state.batch, state.position = batch, list(self.stream.position(batch))
            saved: Any = self.state.stateful_callbacks
            saved[StreamState.__name__] = state.state()

    def begin_counts(self) -> None:
        """Go on counting, and reading, where the state has come to."""
        super().begin_counts()
        if self.stream is not None:
            self.stream.start_at(self.stream_state.batch, StreamPosition(*self.stream_state.position))

    def measure(self, dataset: Dataset) -> dict[str, float]:
        """As :func:`costs` has it; all processes share the work, and each gets the result."""
        nats, tokens = self.sums(batch_cost, dataset)
        return costs(nats, tokens, sum(dataset["bytes"]))

    def sums(self, cost: Callable[..., tuple[float, ...]], dataset: Dataset) -> list[float]:
        """The sums of what `cost` gives of the model and each batch, over the batches of all processes."""
        found = []
        with self.evaluating() as model:
            for _, inputs, counts in self.own_batches(dataset):
                of_batch = cost(model, inputs)  # in float32, as for anybody who loads the model
                if counts:
                    found.append(of_batch)
        return [sum(values) for values in zip(*gather_object(found))]


@dataclass
class StreamState(TrainerCallback, ExportableState):
    """Where a stream of training data is: the batch with this number begins at that position."""

    batch: int = 0
    position: list[int] = field(default_factory=lambda: list(StreamPosition()))

    def __post_init__(self) -> None:
        numbers = [self.batch, *self.position]
        if len(numbers) != 1 + len(StreamPosition()) or not all(isinstance(number, int) for number in numbers):
            raise TypeError(f"a place in a stream is four numbers, got {numbers}")

    def state(self) -> dict[str, Any]:
        """The numbers, as a checkpoint holds them."""
        return {"args": asdict(self), "attributes": {}}


def batch_cost(model: Any, inputs: dict[str, Tensor]) -> tuple[float, int]:
    """The nats of the labels of a batch that count, each given by the step before it, and their number."""
    labels = inputs["labels"][:, 1:]
    logits = precise(model(input_ids=inputs["input_ids"], use_cache=False).logits[:, :-1])
    nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten().long(), ignore_index=IGNORED_LABEL, reduction="sum")
    return nats.item(), int((labels != IGNORED_LABEL).sum())


@torch.inference_mode()
def sums_over_rows(
    cost: Callable[..., tuple[float, ...]],
    model: PreTrainedModel,
    rows: Dataset,
    collate: RowCollator,
    batch_size: int,
    progress: Callable[[int], Any] | None,
) -> list[float]:
    """The sums of what `cost` gives of the model and each batch of so many rows; `progress` gets the number of each."""
    found = []
    for batch in rows.iter(batch_size):
        examples = [dict(zip(batch, row)) for row in zip(*batch.values())]
        found.append(cost(model, {name: values.to(model.device) for name, values in collate(examples).items()}))
        if progress is not None:
            progress(len(examples))
    return [sum(values) for values in zip(*found)]


def cost_of_rows(
    model: PreTrainedModel, rows: Dataset, batch_size: int, progress: Callable[[int], Any] | None = None
) -> dict[str, float]:
    """The cost of rows, as the Trainer has it, in batches of so many; `progress` gets the number of each."""
    nats, tokens = sums_over_rows(batch_cost, model, rows, RowCollator(packing=False), batch_size, progress)
    return costs(nats, tokens, sum(rows["bytes"]))


def perplexity(nats_per_token: float) -> float:
    """e to the loss, as large as a float can be."""
    return math.exp(min(nats_per_token, 700))


def costs(nats: float, tokens: float, size: float) -> dict[str, float]:
    """What a text of so many tokens and bytes costs: loss in nats per token, the end of each document one too;
    perplexity, e to that; and bits_per_byte of the text in UTF-8, by which models with other tokens can be compared.

    Example:
        >>> import math
        >>> {name: round(value, 6) for name, value in costs(3 * math.log(4), tokens=3, size=12).items()}
        {'loss': 1.386294, 'perplexity': 4.0, 'bits_per_byte': 0.5}
    """
    loss = nats / max(1, tokens)
    return {"loss": loss, "perplexity": perplexity(loss), "bits_per_byte": nats / math.log(2) / max(1, size)}


@dataclass
class ContinuationArguments(Options):
    """How a model goes on with a text."""

    max_new_tokens: Count = field(default=100, metadata={"help": "The most tokens that are added."})
    do_sample: bool = field(default=True, metadata={"help": "Draw tokens by chance; false takes the likeliest."})
    temperature: Positive = field(default=1.0, metadata={"help": "Below 1 the draws are nearer to the likeliest."})
    top_k: Count = field(default=50, metadata={"help": "Draw among so many likeliest tokens."})
    num_beams: Beams = field(default=1, metadata={"help": "Beams of a search, with do_sample: false."})
    seed: Seed = field(default=0, metadata={"help": "Of the draws."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.do_sample and self.num_beams > 1:
            raise ModelError("num_beams needs do_sample: false")


def go_on(model: Any, tokenizer: Any, text: str, args: ContinuationArguments) -> str:
    """The text, as the tokenizer reads it, and what the model writes after it, up to the end of a document."""
    tokens = torch.tensor(document_tokens(tokenizer, [text]), device=model.device)
    draws = {"temperature": args.temperature, "top_k": args.top_k} if args.do_sample else {}
    found = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=args.max_new_tokens,
        do_sample=args.do_sample,
        num_beams=args.num_beams,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **draws,
    )
    return str(tokenizer.decode(found[0], skip_special_tokens=True))
