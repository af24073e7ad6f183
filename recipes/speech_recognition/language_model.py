"""Make a language model for the beam search: of the training texts and of other texts in the language.

    python recipes/speech_recognition/language_model.py MODEL_DIR --texts FILE... --output_file OUT.arpa

MODEL_DIR is an output_dir of train.py. Each file of texts, with a text in each line, and the training texts are counted
as n-gram models of their own. These are mixed with the weights that suit the run's validation texts best. Then:

    python recipes/speech_recognition/evaluate.py MODEL_DIR --beam_size 16 --language_model OUT.arpa
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.data.fortunes import load_fortunes_cs
from seqdyconv.data.libreoffice_help import split_sentences
from seqdyconv.data.packages import PackageUnavailableError
from seqdyconv.data.speech_recognition import DataArguments, load_speech
from seqdyconv.data.speech_text import normalise_text
from seqdyconv.data.tables import DataError, load_lines
from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.ranges import OneOf, Options, Range
from seqdyconv.speech.decoding import DEFAULT_ORDERS, read_train_texts
from seqdyconv.speech.language_model import MAX_ORDER, MIN_ORDER, split_units, train_ngram_model
from seqdyconv.speech.mixed_language_model import fit_mixture_weights, mix_ngram_models
from seqdyconv.speech.recogniser import load_recogniser
from seqdyconv.training.evaluation import parse_model_arguments
from seqdyconv.training.output_dir import check_folder

from transformers.utils.logging import disable_progress_bar

FORTUNES = "fortunes_cs"


@dataclass
class LanguageModelArguments(Options):
    """Which texts to count, and how."""

    model_dir: str = field(metadata={"help": "The run whose training and validation texts are used."})
    texts: list[str] = field(metadata={"help": f"Text files, a text in each line; or {FORTUNES}, a Debian package."})
    output_file: str = field(metadata={"help": "The ARPA file to write; it must not be there."})
    unit: Annotated[str, OneOf("token", "word")] = field(
        default="token", metadata={"help": "token, or word for a search with a word list."}
    )
    lm_order: Annotated[int, Range(MIN_ORDER, MAX_ORDER)] | None = field(
        default=None, metadata={"help": "Length of the n-grams; None is 3 for words and 6 for tokens."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    of_the_run = {item.name for item in dataclasses.fields(DataArguments)}
    types = (LanguageModelArguments, DataArguments)
    parsed = parse_model_arguments(types, argv, of_the_run=of_the_run, description=__doc__)
    with exit_on_error():
        make_language_model(*parsed)


def make_language_model(args: LanguageModelArguments, data_args: DataArguments) -> None:
    output_file = Path(args.output_file)
    if output_file.exists():
        raise InputError(f"output_file {output_file} is there already: choose another name")
    check_folder(output_file.parent, "the folder of output_file")
    disable_progress_bar()  # That of loading weights.
    tokenizer = load_recogniser(args.model_dir).tokenizer
    sources = {"training texts": read_train_texts(Path(args.model_dir))}
    sources |= {name: read_sentences(name, data_args) for name in args.texts}
    validation: list[str] = load_speech(data_args, ("validation",))[0]["validation"]["text"][:]

    unit: dict[str, Any] = {"unit": "word"} if args.unit == "word" else {"unit": "token", "tokenizer": tokenizer}
    models = []
    for name, texts in sources.items():
        # A text with a letter that the model can't write would teach that any letter may stand there.
        known = [text for text, units in zip(texts, split_units(texts, **unit)) if tokenizer.unk_token not in units]
        if not any(known):
            raise InputError(f"{name} must have a text in letters of the model, got {len(texts)} in others")
        models.append(train_ngram_model(known, args.lm_order or DEFAULT_ORDERS[args.unit], **unit))
        perplexity = models[-1].perplexity(validation, **unit)
        print(f"{name}: {len(known)} of {len(texts)} texts counted, validation perplexity {perplexity:.3f}")
    weights = fit_mixture_weights(models, validation, **unit)
    mixed = mix_ngram_models(models, weights)
    print("weights:", ", ".join(f"{name} {weight:.3f}" for name, weight in zip(sources, weights)))
    print(f"all: validation perplexity {mixed.perplexity(validation, **unit):.3f}")
    output_file.parent.mkdir(parents=True, exist_ok=True)
    mixed.write(output_file)
    print(f"written to {output_file}")


def read_sentences(name: str, data_args: DataArguments) -> list[str]:
    """The sentences of texts, written as the transcripts are."""
    try:
        texts = load_fortunes_cs() if name == FORTUNES else load_lines(name, "texts")["text"]
    except PackageUnavailableError as error:
        raise DataError(str(error)) from None
    if not data_args.normalise_text:
        return [" ".join(text.split()) for text in texts]
    sentences = (normalise_text(one, data_args.languages) for text in texts for one in split_sentences(text))
    return [sentence for sentence in sentences if sentence]


if __name__ == "__main__":
    main()
