"""A swap of self-attention in a training: its arguments, the choice of layers, and the same layers on resuming."""

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from seqdyconv.data.batching import TokenBatchSampler
from seqdyconv.data.tables import DataError
from seqdyconv.errors import first_line
from seqdyconv.layers import MIXERS, mixer_options
from seqdyconv.models.loading import ModelError
from seqdyconv.ranges import Count, KernelSize, Number, OneOf, Options, Weight
from seqdyconv.swap import choose_layers, swap_self_attention, swapped_attention
from seqdyconv.swap.own_models import is_own
from seqdyconv.training.checkpoints import latest_checkpoint
from seqdyconv.training.distilling import DISTILLATION_FOLDER
from seqdyconv.training.model_arguments import Mixer
from seqdyconv.training.runs import is_finished
from seqdyconv.training.token_batches import TokenBatchArguments, example_lengths

_OPTIONS = ", ".join(sorted({option for mixer in MIXERS for option in mixer_options(mixer)} - {"kernel_size"}))


@dataclass
class NamedSwapArguments(Options):
    """What takes the place of the self-attention of a pretrained model, where, and how it starts."""

    swap_mixer: Mixer | None = field(
        default=None,
        metadata={"help": f"The mixer, one of {', '.join(MIXERS)}; None leaves the model as it is."},
    )
    swap_layers: str | None = field(
        default=None, metadata={"help": 'Which layers: numbers and ranges ("0,2-5") or "every 2"; None is all.'}
    )
    swap_kernel_size: KernelSize = field(default=31, metadata={"help": "Their kernel size, or several: [7,31]."})
    swap_num_heads: Count | None = field(
        default=None, metadata={"help": "Their heads; None is those of the attention."}
    )
    swap_weights: Annotated[str, OneOf("transfer", "random")] = field(
        default="transfer", metadata={"help": "Their projections: transfer (those of the attention) or random."}
    )
    swap_calibration_batches: Number = field(
        default=8,
        metadata={
            "help": "Kernels start from the average attention by offset on that many training batches; "
            "0 starts them at random."
        },
    )
    swap_mixer_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": f'Other options of the mixer, such as {{"glu": true}}; those of all are {_OPTIONS}.'},
    )
    swap_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Other arguments of swap_self_attention, such as pattern, or options of the mixer as above."},
    )

    def __post_init__(self) -> None:
        for name in ("swap_mixer_options", "swap_options"):
            setattr(self, name, _mapping(name, getattr(self, name)))
        super().__post_init__()


@dataclass
class SwapArguments(NamedSwapArguments):
    """The same, and whether the layers are chosen by what they cost."""

    swap_greedy_max_loss: Weight | None = field(
        default=None,
        metadata={
            "help": "Of swap_layers swap only those, the least harmful first, that together cost at most that many "
            "points of validation accuracy before any training; the model must be fine-tuned already."
        },
    )


def check_swap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    swap_args: NamedSwapArguments,
    args: TokenBatchArguments,
) -> None:
    """Try the swap on a copy of the model, before anything is written.

    Raises:
        ModelError, DataError: It can't work.
    """
    if swap_args.swap_mixer is None:
        return
    if _max_loss(swap_args) is not None and "validation" not in data:
        raise DataError("swap_greedy_max_loss measures on validation data, of which there are none")
    if _max_loss(swap_args) is not None and is_own(model):
        raise ModelError("swap_greedy_max_loss chooses layers of Hugging Face models: name swap_layers instead")
    calibration = list(calibration_batches(data["train"].select([0]), tokenizer, swap_args, args))
    _swap(copy.deepcopy(model), swap_args, calibration, swap_args.swap_layers)


def swap_layers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    swap_args: NamedSwapArguments,
    args: TokenBatchArguments,
    quality: Callable[[PreTrainedModel], float] | None = None,
) -> None:
    """Swap the layers that the arguments say, or the greedily chosen ones; a resumed run takes those it had.

    Args:
        model: What is swapped in place; without ``swap_mixer`` it stays as it is.
        tokenizer: Its tokenizer.
        train: Rows of token ids, some of which calibrate the kernels.
        swap_args: Which mixer, where, and how it starts.
        args: Of the training: output_dir, device, seed, bound of a batch.
        quality: Of a model, higher is better, in the unit of ``swap_greedy_max_loss``; it measures on validation data.
            None where the arguments can't ask for that.

    Raises:
        ModelError: This swap can't work, or every swap costs too much.
    """
    if swap_args.swap_mixer is None:
        return
    layers: Any = swap_args.swap_layers
    calibration: list[dict[str, Tensor]] = []
    if (before := _trained_before(Path(args.output_dir or "."))) is not None:
        # All weights come from there. Only models of others let layers be chosen greedily, and tell which it were.
        if not is_own(model):
            layers = [number for number in _layers_of(before) if number not in swapped_attention(model)]
    else:
        model.to(args.device)  # type: ignore[arg-type]
        calibration = list(calibration_batches(train, tokenizer, swap_args, args))
        if (max_loss := _max_loss(swap_args)) is not None and quality is not None:
            # All processes must go on with the same model, whatever their last digits say.
            layers = broadcast_object_list([_choose(model, swap_args, calibration, quality, max_loss)])[0]
            if not layers:
                raise ModelError("every swap costs more than swap_greedy_max_loss allows: there is nothing to train")
    set_seed(args.seed)
    _swap(model, swap_args, calibration, layers)


def calibration_batches(
    data: Dataset, tokenizer: PreTrainedTokenizerBase, swap_args: NamedSwapArguments, args: TokenBatchArguments
) -> Iterator[dict[str, Tensor]]:
    """A few training batches as inputs of the model."""
    sampler = TokenBatchSampler(example_lengths(data, ["input_ids"]), args.max_tokens, seed=args.seed)
    collator = DataCollatorWithPadding(tokenizer)
    columns = [name for name in ("input_ids", "token_type_ids") if name in data.column_names]
    for _, rows in zip(range(swap_args.swap_calibration_batches), sampler):
        yield dict(collator([{name: data[row][name] for name in columns} for row in rows]))


def _max_loss(swap_args: NamedSwapArguments) -> float | None:
    """What greedily chosen layers may cost; None: they are not chosen so."""
    return swap_args.swap_greedy_max_loss if isinstance(swap_args, SwapArguments) else None


def _trained_before(output_dir: Path) -> Path | None:
    """What this run, or its distillation, has trained already: a model, or the newest checkpoint."""
    for folder in (output_dir, output_dir / DISTILLATION_FOLDER):
        path = folder if is_finished(folder) else latest_checkpoint(folder)
        if path is not None:
            return path
    return None


def _layers_of(path: Path) -> list[int]:
    """The layers that a model in a folder has swapped."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return sorted(map(int, config["seqdyconv"]["layers"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path / 'config.json'} does not say which layers are swapped: {error}") from None


def _swap(
    model: PreTrainedModel,
    args: NamedSwapArguments,
    calibration: Sequence[Mapping[str, Tensor]],
    layers: Sequence[int] | str | None,
) -> None:
    with _swap_errors():
        swap_self_attention(model, layers=layers, **_swap_options(args, calibration))


def _choose(
    model: PreTrainedModel,
    args: NamedSwapArguments,
    calibration: Sequence[Mapping[str, Tensor]],
    quality: Callable[[Any], float],
    max_loss: float,
) -> list[int]:
    """The layers whose swaps together cost at most `max_loss` of the quality; the model is as it was.

    Raises:
        ModelError: This swap can't work.
    """
    with _swap_errors():
        options = _swap_options(args, calibration)
        found = choose_layers(model, quality, max_loss=max_loss, layers=args.swap_layers, progress=print, **options)
    return sorted(found.layers)


def _swap_options(args: NamedSwapArguments, calibration: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    fixed: dict[str, Any] = {
        "mixer": args.swap_mixer,
        "kernel_size": args.swap_kernel_size,
        "num_heads": args.swap_num_heads,
        "weights": args.swap_weights,
        "calibration": calibration or None,
    }
    options: dict[str, Any] = {}
    for name in ("swap_options", "swap_mixer_options"):
        found: Any = getattr(args, name) or {}
        for key in found:
            if key in fixed or key == "layers":
                raise ValueError(f"{name} has {key}, which is an argument of its own: swap_{key}")
            if key in options:
                raise ValueError(f"{key} is in swap_options and in swap_mixer_options: give it once")
        options |= found
    return {**fixed, **options}


def _mapping(name: str, value: Any) -> dict[str, Any] | None:
    """A mapping, perhaps one as JSON, or None."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(f"{name} must be JSON, got {value!r}") from None
    if not isinstance(value or {}, dict):
        raise ValueError(f"{name} must be a mapping, got {value!r}")
    return value


def swapped_layers(model: PreTrainedModel) -> str:
    """The numbers of the layers whose self-attention is swapped, with commas between; empty where none is."""
    return ", ".join(map(str, swapped_attention(model)))


def swap_in_words(model: PreTrainedModel) -> str:
    """What a swapped model has instead of what, and where."""
    mixers = sorted({entry["mixer"] for entry in model.config.seqdyconv["layers"].values()})
    return f"{' and '.join(mixers)} instead of self-attention in layers {swapped_layers(model)}"


@contextlib.contextmanager
def _swap_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ModelError(f"can't swap the self-attention: {first_line(error)}") from None
