"""Translate standard input to standard output, line by line, with an exported model.

    seqdyconv translate EXPORTED_DIR [--key value ...] < in > out

It needs neither torch nor transformers.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from seqdyconv.commands.plain_arguments import ExportedArguments, parse_plain
from seqdyconv.commands.streams import end_with_the_reader, read_windows, standard_input
from seqdyconv.errors import exit_on_error
from seqdyconv.files import one_line, strip_text
from seqdyconv.ranges import Count, Options, Range
from seqdyconv.runtime.long_texts import cut_text
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.runtime.translator import Translator


@dataclass
class WindowOptions(Options):
    """How much of standard input is translated together."""

    window: Count = field(default=1000, metadata={"help": "Translate at most that many lines together."})
    max_line_tokens: Annotated[int, Range(2)] = field(
        default=1000,
        metadata={"help": "Longer lines are cut there, or where the model has no more positions, with a note."},
    )


@dataclass
class ExportedTranslationArguments(WindowOptions, DecodingArguments, ExportedArguments):
    """What to translate with."""


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_plain(ExportedTranslationArguments, sys.argv[1:] if argv is None else argv, ("model_dir",), __doc__)
    end_with_the_reader()
    with exit_on_error():
        translator = Translator(args.model_dir, args.threads)
        args.max_line_tokens = int(min(args.max_line_tokens, translator.most_tokens))
        number = 0
        for lines in read_windows(standard_input(), args.window):
            translations = translate(translator, lines, args, number)
            sys.stdout.buffer.write("".join(f"{line}\n" for line in translations).encode("utf-8"))
            sys.stdout.buffer.flush()
            number += len(lines)


def cut_lines(
    texts: Mapping[int, str], encode: Callable[[list[str]], list[list[int]]], longest: int, number: int
) -> list[list[int]]:
    """The tokens of each text, by its line, cut with a note where there are more than the longest may have."""
    read = {index: cut_text(text, longest) for index, text in texts.items()}
    inputs = encode(list(read.values())) if texts else []
    for index, ids in zip(texts, inputs):
        if len(ids) > longest or len(read[index]) < len(texts[index]):
            print(f"line {number + index + 1} is cut to {longest} tokens", file=sys.stderr)
            ids[longest - 1 : -1] = []  # The end of the sentence stays.
    return inputs


def translate(
    translator: Translator, lines: Sequence[str], args: ExportedTranslationArguments, number: int
) -> list[str]:
    """The translation of each line, on one line; `number` lines came before these, which notes count from."""
    texts = {index: text for index, line in enumerate(lines) if (text := strip_text(line))}
    inputs = cut_lines(texts, translator.encode, args.max_line_tokens, number)
    found = translator.search_ids(
        inputs,
        args.num_beams,
        length_penalty=args.length_penalty,
        max_length_factor=args.max_length_factor,
        max_length_constant=args.max_length_constant,
        max_tokens=args.decoding_max_tokens,
    )
    translations = [""] * len(lines)
    for index, beams in zip(texts, found):
        translations[index] = strip_text(one_line(beams[0].text))
    return translations
