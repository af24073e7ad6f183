"""Train a speech recognition model, evaluate it on the test set and write everything into output_dir.

    python recipes/speech_recognition/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/speech_recognition/train.py CONFIG.yaml ...
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar

from seqdyconv.data.speech_batches import AugmentationArguments, Utterances, WaveformAugmentation
from seqdyconv.data.speech_recognition import (
    SAMPLING_RATE,
    BadFile,
    DataArguments,
    Samples,
    drop_bad,
    load_speech,
    write_bad_files,
)
from seqdyconv.data.tables import DataError
from seqdyconv.files import write_lines
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.pictures import plot_alignment, plot_learning_curves
from seqdyconv.scores.speech_recognition import write_split
from seqdyconv.speech.alignment import align_words
from seqdyconv.speech.decoding import TRAIN_TEXTS
from seqdyconv.speech.recogniser import Recogniser, check_sampling_rate, load_feature_extractor
from seqdyconv.swap import swapped_attention
from seqdyconv.training.annealing import TemperatureAnnealing
from seqdyconv.training.arguments import (
    changed_arguments,
    command_line,
    exit_on_error,
    parse_arguments,
    resolved_arguments,
)
from seqdyconv.training.checkpoints import latest_checkpoint, remove_incomplete_checkpoints
from seqdyconv.training.output_dir import begin_run, check_output_dir, check_resumed_arguments
from seqdyconv.training.reports import write_metrics, write_model_card
from seqdyconv.training.runs import train_or_load
from seqdyconv.training.speech_models import (
    ModelArguments,
    build_config,
    build_model,
    make_feature_extractor,
    make_tokenizer,
)
from seqdyconv.training.speech_recognition import SpeechTrainer, SpeechTrainingArguments

HELD_OUT = ("validation", "test")
BAD_FILES = "bad_files.tsv"
STATISTICS_UTTERANCES = 2000
"""So many training utterances, evenly spaced, give the global mean and variance of the features."""
UNKNOWN_SHARE = 0.1
"""More unknown units than that in the training texts mean that a pretrained tokenizer is for other texts."""

# What a resumed run may change: none of these alters the weights.
MAY_CHANGE = {
    *("output_dir", "resume", "overwrite", "run_name", "report_to", "disable_tqdm", "preprocessing_num_workers"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_level", "log_level_replica", "log_on_each_node"),
    *("save_strategy", "save_steps", "save_total_limit", "average_checkpoints"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("hub_token", "push_to_hub_token", "max_test_samples", "ddp_timeout"),
}

ARGUMENTS = (ModelArguments, DataArguments, AugmentationArguments, SpeechTrainingArguments)


def main(argv: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(ARGUMENTS, argv, description=__doc__)
    command = command_line("recipes/speech_recognition/train.py", argv)
    with exit_on_error():
        run(*parsed, command)


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation_args: AugmentationArguments,
    args: SpeechTrainingArguments,
    command: str,
) -> None:
    started = time.perf_counter()
    disable_progress_bar()  # That of saving weights; the bar of the training stays.
    if model_args.model_name_or_path is None:
        build_config(model_args)
    arguments = resolved_arguments(model_args, data_args, augmentation_args, args)
    output_dir = Path(args.output_dir)
    first = args.process_index == 0

    # The first process goes ahead and writes, the others read what it wrote. Nothing is written before all is checked.
    with args.main_process_first(local=False, desc="preparation"):
        if first:
            check_output_dir(output_dir, args.resume, args.overwrite)
            if args.resume:
                check_resumed_arguments(output_dir, arguments, MAY_CHANGE)
        checkpoint = latest_checkpoint(output_dir) if args.resume else None
        data, bad = load_speech(data_args)
        if "validation" not in data and args.eval_strategy != "no":
            raise DataError("there is no validation data: give some, or eval_strategy: no")
        augment = WaveformAugmentation(augmentation_args)
        ready = (output_dir / "tokenizer_config.json").is_file() and (not first or args.resume)
        feature_extractor, tokenizer = make_processor(model_args, data["train"], output_dir if ready else None)
        set_seed(args.seed)
        recogniser = Recogniser(build_model(model_args, tokenizer), feature_extractor, tokenizer)
        labels, data, more_bad = make_labels(data, recogniser, data_args)
        bad += more_bad
        if first and args.resume:
            remove_incomplete_checkpoints(output_dir)
        if first and checkpoint is None:
            begin_run(output_dir, arguments, args.overwrite)
            recogniser.save(output_dir)
            write_bad_files(output_dir / BAD_FILES, bad)
            write_lines(output_dir / TRAIN_TEXTS, data["train"]["text"][:])

    utterances = {
        split: Utterances(
            data[split], labels[split], augment if split == "train" else None, args.data_seed or args.seed
        )
        for split in data
    }
    trainer = SpeechTrainer(
        recogniser=recogniser,
        spec_augment=augmentation_args.spec_augment(),
        args=args,
        train_dataset=utterances["train"],
        eval_dataset=utterances.get("validation"),
        callbacks=make_callbacks(model_args),
    )
    seconds = train_or_load(trainer, checkpoint)
    metrics: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "train_steps": trainer.state.global_step,
        "train_hours": sum(data["train"]["num_samples"]) / SAMPLING_RATE / 3600,
        "bad_train_files": sum(file.split == "train" for file in bad),
    }
    if seconds is not None:
        training_seconds = seconds - trainer.evaluation_seconds
        metrics |= {
            "train_seconds": seconds,
            "train_seconds_without_evaluation": training_seconds,
            "train_labels_per_second": int(trainer.trained_items) / training_seconds,
        }
    if checkpoint is not None:
        metrics["resumed_from_step"] = int(checkpoint.name.split("-")[1])

    examples: list[dict[str, str]] = []
    for split in HELD_OUT:
        if split not in data:
            continue
        start = time.perf_counter()
        predictions, loss = trainer.recognise(utterances[split])
        seconds = time.perf_counter() - start
        if first:
            table = data[split]
            spoken = sum(table["num_samples"]) / SAMPLING_RATE
            title = f"{data_source(data_args)}, {split}"
            references = table["text"][:]
            found = write_split(output_dir, split, predictions, references, speakers_of(table), title)
            write_lines(output_dir / f"{split}_files.txt", table["name"][:])
            metrics |= {f"{split}_{name}": value for name, value in found.items()}
            metrics |= {
                f"{split}_loss": loss,
                f"{split}_utterances": len(table),
                f"{split}_minutes": spoken / 60,
                f"{split}_bad_files": sum(file.split == split for file in bad),
                f"{split}_real_time_factor": seconds * args.world_size / spoken,
            }
            examples = spread_examples(references, predictions, 4)
    if not first:
        return
    metrics["wall_seconds"] = time.perf_counter() - started
    write_metrics(output_dir / "metrics.json", metrics)
    draw_alignment(recogniser, utterances["test" if "test" in data else "train"], output_dir / "alignment.png")
    groups = (model_args, data_args, augmentation_args, args)
    report(trainer, metrics, examples, changed_arguments(arguments, *groups), data_args, model_args, args, command)
    print_summary(metrics, examples, output_dir)


# Preparation


def make_processor(args: ModelArguments, train: Dataset, folder: Path | None) -> tuple[Any, PreTrainedTokenizerBase]:
    """Feature extractor and tokenizer: those that a run has left in `folder`, of the pretrained model, or new ones."""
    source = args.model_name_or_path if folder is None else str(folder)
    if source is not None:
        extractor = load_feature_extractor(source)
        check_sampling_rate(extractor, SAMPLING_RATE)
        if folder is not None or not args.new_vocabulary:
            language = args.whisper_language
            options = {} if language is None else {"language": language, "task": "transcribe"}
            return extractor, load_tokenizer(source, **options)
        return extractor, make_tokenizer(args, train["text"])
    tokenizer = make_tokenizer(args, train["text"])
    return make_feature_extractor(args, some_samples(train, STATISTICS_UTTERANCES)), tokenizer


def some_samples(table: Dataset, number: int) -> Iterator[Tensor]:
    """The samples of that many utterances, evenly spaced."""
    rows = np.linspace(0, len(table) - 1, min(number, len(table))).astype(int)
    samples = Samples(table)
    return (samples[int(row)] for row in rows)


def make_labels(
    data: DatasetDict, recogniser: Recogniser, data_args: DataArguments
) -> tuple[dict[str, list[list[int]]], DatasetDict, list[BadFile]]:
    """The ids of all texts; utterances that are longer than the model can learn from are left out of train.

    An evaluation utterance of that kind stays: it is recognised as far as it goes, and its errors count.
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


def make_callbacks(model_args: ModelArguments) -> list[TrainerCallback]:
    """The temperature of mixed kernels."""
    if model_args.subsampling_kernels > 1 and model_args.kernel_temperature > 1:
        return [TemperatureAnnealing(model_args.kernel_temperature)]
    return []


# Reports


def data_source(data_args: DataArguments) -> str:
    source = data_args.dataset or "local files"
    config = data_args.dataset_config or data_args.language
    return f"{source} ({config})" if config else source


def speakers_of(table: Dataset) -> list[str] | None:
    return table["speaker"][:] if "speaker" in table.column_names else None


def spread_examples(references: Sequence[str], predictions: Sequence[str], number: int) -> list[dict[str, str]]:
    """A few utterances, evenly spaced, with what was recognised."""
    chosen = range(len(references))[:: max(1, len(references) // number)][:number]
    return [{"said": references[index], "recognised": predictions[index]} for index in chosen]


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


def report(
    trainer: SpeechTrainer,
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    config: dict[str, Any],
    data_args: DataArguments,
    model_args: ModelArguments,
    args: SpeechTrainingArguments,
    command: str,
) -> None:
    """The learning curves and the model card."""
    output_dir, source = Path(args.output_dir), data_source(data_args)
    plot_learning_curves(
        trainer.state.log_history,
        output_dir / "learning_curves.png",
        f"Speech recognition: {source}",
        {"eval_cer": "validation CER (%)", "eval_wer": "validation WER (%)"},
        training_label="training (augmented)",
        loss_label="loss (nats per label)",
    )
    if model_args.model_name_or_path is None:
        mixers = " and ".join(sorted(set(model_args.encoder_layer_types)))
        kind = f"A {model_args.encoder_block} encoder with {mixers} layers"
    else:
        kind = f"{model_args.model_name_or_path}, fine-tuned,"
        if swapped := swapped_attention(trainer.model):
            kind += f" with {model_args.swap_mixer} instead of self-attention in layers {', '.join(map(str, swapped))},"
    write_model_card(
        output_dir / "README.md",
        name=f"{output_dir.name}: speech recognition",
        summary=f"{kind} of {metrics['parameters'] / 1e6:.1f} million parameters that writes down speech, trained with "
        "seqdyconv.",
        tags=["automatic-speech-recognition", "seqdyconv"],
        languages=data_args.languages,
        data={
            "data set": source,
            "training hours": metrics["train_hours"],
            **{f"{split} minutes": metrics[f"{split}_minutes"] for split in HELD_OUT if f"{split}_minutes" in metrics},
            "texts": "lower case, without punctuation" if data_args.normalise_text else "as they are",
        },
        results=metrics,
        usage=USAGE,
        command=command,
        config=config,
        examples=examples,
        picture="learning_curves.png",
    )


USAGE = """
# On the command line: python recipes/speech_recognition/transcribe.py MODEL_DIR FILE...
import seqdyconv.speech  # registers the model and its processor with the Auto classes
from seqdyconv.speech.audio import read_audio
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", model=".")  # this folder
print(recognise(read_audio("recording.ogg").numpy())["text"])
"""


def print_summary(metrics: dict[str, Any], examples: list[dict[str, str]], output_dir: Path) -> None:
    print()
    for lines in examples:
        print("\n".join(f"  {label:<12}{text}" for label, text in lines.items()) + "\n")
    for split in HELD_OUT:
        if f"{split}_wer" in metrics:
            wer, cer = metrics[f"{split}_wer"], metrics[f"{split}_cer"]
            print(f"{split + ' WER, CER':<28}{wer:.2f}  {cer:.2f}")
    if "test_real_time_factor" in metrics:
        print(f"real-time factor            {metrics['test_real_time_factor']:.4f}")
    print(f"parameters                  {metrics['parameters']:,}")
    if "train_seconds" in metrics:
        print(f"training time               {metrics['train_seconds']:.0f} s, {metrics['train_steps']} steps")
    if metrics["bad_train_files"]:
        print(f"training files left out     {metrics['bad_train_files']}, see {BAD_FILES}")
    print(f"wall time                   {metrics['wall_seconds']:.0f} s")
    print(f"written to                  {output_dir}")


if __name__ == "__main__":
    main()
