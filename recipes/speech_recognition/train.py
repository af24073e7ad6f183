"""Train a speech recognition model, evaluate it on the test set and write everything into output_dir.

    python recipes/speech_recognition/train.py CONFIG.yaml [--key value ...]

Several processes: torchrun --nproc_per_node 2 recipes/speech_recognition/train.py CONFIG.yaml ...
"""

import time
from collections.abc import Sequence
from typing import Any

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.speech_batches import AugmentationArguments, Utterances, WaveformAugmentation
from seqdyconv.data.speech_recognition import SAMPLING_RATE, DataArguments, Samples, load_speech, write_bad_files
from seqdyconv.data.splits import HELD_OUT
from seqdyconv.errors import exit_on_error
from seqdyconv.files import write_lines
from seqdyconv.speech.decoding import TRAIN_TEXTS
from seqdyconv.speech.recogniser import Recogniser
from seqdyconv.training.annealing import TemperatureAnnealing
from seqdyconv.training.arguments import command_line, parse_arguments
from seqdyconv.training.reports import spread_examples
from seqdyconv.training.runs import Run
from seqdyconv.training.speech_models import ModelArguments, build_model, check_model, load_processor, make_processor
from seqdyconv.training.speech_recognition import (
    SpeechTrainer,
    SpeechTrainingArguments,
    check_settings,
    draw_alignment,
    make_labels,
    write_recognised,
)
from seqdyconv.training.swapping import swap_in_words, swapped_layers

from transformers import set_seed

BAD_FILES = "bad_files.tsv"


def main(argv: Sequence[str] | None = None) -> None:
    types = (ModelArguments, DataArguments, AugmentationArguments, SpeechTrainingArguments)
    parsed = parse_arguments(types, argv, description=__doc__)
    with exit_on_error():
        train(*parsed, command_line("recipes/speech_recognition/train.py", argv))


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation_args: AugmentationArguments,
    args: SpeechTrainingArguments,
    command: str,
) -> None:
    if model_args.model_name_or_path is None:
        check_model(model_args)  # an impossible model stops here, before any work, as does a loss that it lacks
    check_settings(args, model_args, augmentation_args)
    run = Run(args, (model_args, data_args, augmentation_args), command)
    with run.preparation():
        data, bad = load_speech(data_args)
        run.check_splits(data)
        augment = WaveformAugmentation(augmentation_args)
        if run.has_tokenizer:
            feature_extractor, tokenizer = load_processor(model_args, str(run.output_dir))
        else:
            feature_extractor, tokenizer = make_processor(model_args, data["train"]["text"], Samples(data["train"]))
        set_seed(args.seed)
        recogniser = Recogniser(build_model(model_args, tokenizer), feature_extractor, tokenizer)
        labels, data, too_long = make_labels(recogniser, data, data_args)
        bad += too_long
        more = ({"train": augment.recordings()}, {"train": feature_extractor.to_json_string()})
        if run.begin(data.select_columns("samples"), labels, *more):
            recogniser.save(run.output_dir)
            write_bad_files(run.output_dir / BAD_FILES, bad)
            write_lines(run.output_dir / TRAIN_TEXTS, data["train"]["text"][:])

    utterances = {
        split: Utterances(data[split], labels[split], augment if split == "train" else None, args.order_seed)
        for split in data
    }
    trainer = SpeechTrainer(  # its loss: SpeechTrainer.compute_loss, the model's own for each label
        recogniser=recogniser,
        spec_augment=augmentation_args.spec_augment(),
        lookahead_ms=model_args.lookahead_ms,
        args=args,
        train_dataset=utterances["train"],
        eval_dataset=utterances.get("validation"),
    )
    if model_args.subsampling_kernels > 1 and model_args.kernel_temperature > 1:
        trainer.add_callback(TemperatureAnnealing(model_args.kernel_temperature))
    metrics = run.train(trainer, "labels")
    metrics["train_hours"] = sum(data["train"]["num_samples"]) / SAMPLING_RATE / 3600
    metrics["bad_train_files"] = sum(file.split == "train" for file in bad)

    examples: list[dict[str, str]] = []
    for split in run.held_out(data):
        start = time.perf_counter()
        predictions, loss = trainer.recognise(utterances[split])
        seconds = (time.perf_counter() - start) * args.world_size
        examples = spread_examples({"said": data[split]["text"][:], "recognised": predictions})
        if run.is_first:
            source = data_args.source
            metrics |= write_recognised(run.output_dir, split, data[split], predictions, source, seconds, bad)
            metrics[f"{split}_loss"] = loss
    if run.is_first:
        draw_alignment(recogniser, utterances[(run.held_out(data) or ["train"])[-1]], run.output_dir / "alignment.png")
        report(run, trainer, metrics, examples, model_args, data_args)


def report(
    run: Run,
    trainer: SpeechTrainer,
    metrics: dict[str, Any],
    examples: list[dict[str, str]],
    model_args: ModelArguments,
    data_args: DataArguments,
) -> None:
    """Metrics, learning curves, the model card, and a summary on the screen."""
    run.write_metrics(metrics)
    run.plot_learning_curves(
        trainer,
        f"Speech recognition: {data_args.source}",
        {"eval_cer": "validation CER (%)", "eval_wer": "validation WER (%)"},
        loss_label="loss (nats per label)",
        training_label="training (augmented)",
    )
    run.write_model_card(
        "speech recognition",
        metrics,
        summary=f"{kind_of_model(trainer, model_args)} of {metrics['parameters'] / 1e6:.1f} million parameters that "
        "writes down speech, trained with seqdyconv.",
        tags=["automatic-speech-recognition", "seqdyconv"],
        languages=data_args.languages,
        data={
            "data set": data_args.source,
            "training hours": metrics["train_hours"],
            **{f"{split} minutes": metrics[f"{split}_minutes"] for split in HELD_OUT if f"{split}_minutes" in metrics},
            "texts": "lower case, without punctuation" if data_args.normalise_text else "as they are",
        },
        usage=USAGE if model_args.model_name_or_path is None else USAGE_OF_PRETRAINED,
        examples=examples,
    )
    rows = {
        f"{split} WER, CER": f"{metrics[f'{split}_wer']:.2f}  {metrics[f'{split}_cer']:.2f}"
        for split in HELD_OUT
        if f"{split}_wer" in metrics
    }
    if "test_real_time_factor" in metrics:
        rows["real-time factor"] = f"{metrics['test_real_time_factor']:.4f}"
    if metrics["bad_train_files"]:
        rows["training files left out"] = f"{metrics['bad_train_files']}, see {BAD_FILES}"
    run.print_summary(metrics, examples, rows)


def kind_of_model(trainer: SpeechTrainer, model_args: ModelArguments) -> str:
    if model_args.model_name_or_path is None:
        mixers = " and ".join(sorted(set(model_args.encoder_layer_types)))
        return f"A {model_args.encoder_block} encoder with {mixers} layers"
    kind = f"{model_args.model_name_or_path}, fine-tuned,"
    if swapped_layers(trainer.model):
        kind += f" with {swap_in_words(trainer.model)},"
    return kind


USAGE = """
# On the command line: seqdyconv transcribe MODEL_DIR FILE...
import seqdyconv.speech  # registers the model, its processor and the reading of files
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", model=".")  # this folder
print(recognise("recording.ogg")["text"])
"""
USAGE_OF_PRETRAINED = """
# On the command line: seqdyconv transcribe MODEL_DIR FILE...
from seqdyconv.speech import Decoder, load_recogniser

decoder = Decoder(load_recogniser("."))  # this folder
print(*[word.text for word in decoder.transcribe("recording.ogg")])
"""

if __name__ == "__main__":
    main()
