"""Translate standard input to standard output, line by line.

    seqdyconv translate MODEL_DIR [--key value ...] < in > out

Every line gives one line, empty ones too, in the same order. Lines are translated in batches of similar length as far
as they have arrived, so that a pipe that delivers slowly gets its answers at once.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from seqdyconv.commands.exported_translate import WindowOptions, cut_lines
from seqdyconv.commands.streams import end_with_the_reader, read_windows, standard_input
from seqdyconv.data.external_tokenizers import of_many_languages, set_languages
from seqdyconv.errors import InputError, exit_on_error
from seqdyconv.files import one_line, strip_text
from seqdyconv.models.loading import load_tokenizer
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.arguments import parse_arguments
from seqdyconv.training.decoding import generate, most_tokens
from seqdyconv.training.evaluation import ModelDirArguments
from seqdyconv.training.translation_models import check_translation, load_translation_model


@dataclass
class TranslationArguments(WindowOptions, ModelDirArguments):
    """What to translate with."""

    source_lang: str | None = field(
        default=None, metadata={"help": "Language to translate from, for models of many; None: that of the training."}
    )
    target_lang: str | None = field(default=None, metadata={"help": "Language to translate to, likewise."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these words; those of the command line if None."""
    args, decoding_args = parse_arguments(
        (TranslationArguments, DecodingArguments), argv, first="model_dir", description=__doc__
    )
    end_with_the_reader()
    with exit_on_error():
        disable_progress_bar()  # That of loading weights.
        model = load_translation_model(args.model_dir)
        tokenizer = load_tokenizer(args.model_dir)
        model.to(args.device)
        if (args.source_lang or args.target_lang) and not of_many_languages(tokenizer):
            raise InputError(f"{args.model_dir} is not for many languages: source_lang and target_lang can't be chosen")
        set_languages(tokenizer, args.model_dir, args.source_lang, args.target_lang)
        check_translation(model, tokenizer, args.model_dir)
        args.max_line_tokens = int(min(args.max_line_tokens, most_tokens(model)))
        number = 0
        for lines in read_windows(standard_input(), args.window):
            translations = translate(model, tokenizer, lines, args, decoding_args, number)
            sys.stdout.buffer.write("".join(f"{line}\n" for line in translations).encode("utf-8"))
            sys.stdout.buffer.flush()
            number += len(lines)


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[str],
    args: TranslationArguments,
    decoding_args: DecodingArguments,
    number: int,
) -> list[str]:
    """The translation of each line, on one line; `number` lines came before these, which notes count from."""
    translations = [""] * len(lines)
    texts = {index: text for index, line in enumerate(lines) if (text := strip_text(line))}
    inputs = cut_lines(texts, lambda read: tokenizer(read)["input_ids"], args.max_line_tokens, number)
    for index, beams in zip(texts, generate(model, tokenizer, inputs, decoding_args)):
        translations[index] = strip_text(one_line(beams[0].text))
    return translations


if __name__ == "__main__":
    main()
