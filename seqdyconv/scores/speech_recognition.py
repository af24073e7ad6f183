"""Word and character error rates of transcripts, by kind of error and speaker, as numbers, a report, a picture."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np

from seqdyconv.files import shorten, write_lines, write_text
from seqdyconv.pictures import plot_errors
from seqdyconv.scores.bootstrap import Counts, Score, bounds, percentage

KINDS = ("substitutions", "deletions", "insertions")
NOTHING = "∅"  # stands for the word that is not there


class Errors(NamedTuple):
    """How often which words or characters were taken for which, the most frequent first, ties by spelling."""

    substitutions: list[tuple[tuple[str, str], int]]  # (reference, prediction)
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]


def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Error rates of the corpus, in percent of the references' words (wer) and characters (cer, spaces included).

    All errors are divided by all words, so that a long utterance counts more than a short one. Texts are compared as
    they are but for white space: case and punctuation count. An empty reference adds what was inserted. If all
    references are empty, the errors are divided by 1.

    Returns:
        wer, its parts wer_substitutions, wer_deletions and wer_insertions, of which it is the sum, the same of cer,
        and sentence_error_rate, the percentage of utterances with any error.

    Raises:
        ValueError: the numbers of predictions and references differ, or there are none.
    """
    predictions, references = _cleaned(predictions, references)
    scores: dict[str, float] = {}
    for name, process in (("wer", jiwer.process_words), ("cer", jiwer.process_characters)):
        output: Any = process(references, predictions)
        units = max(sum(map(len, output.references)), 1)
        counts = {kind: getattr(output, kind) for kind in KINDS}
        scores[name] = 100 * sum(counts.values()) / units
        scores |= {f"{name}_{kind}": 100 * count / units for kind, count in counts.items()}
    wrong = sum(prediction != reference for prediction, reference in zip(predictions, references))
    scores["sentence_error_rate"] = 100 * wrong / len(references)
    return scores


def score_by(
    groups: Sequence[str], predictions: Sequence[str], references: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The scores of each group of utterances, such as those of a speaker, with its numbers of utterances and words.

    Args:
        groups: the group of each utterance.
        predictions: what was recognised.
        references: what was said.

    Returns:
        group → scores, the group with the most words first.

    Raises:
        ValueError: the numbers of groups, predictions and references differ, or there are none.
    """
    predictions, references = _cleaned(predictions, references)
    if len(groups) != len(references):
        raise ValueError(f"there must be a group for each utterance, got {len(groups)} for {len(references)}")
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    scores = {}
    for group, indices in members.items():
        texts = [references[index] for index in indices]
        scores[group] = score([predictions[index] for index in indices], texts)
        scores[group] |= {"utterances": len(texts), "words": sum(len(text.split()) for text in texts)}
    return dict(sorted(scores.items(), key=lambda item: (-item[1]["words"], item[0])))


def count_errors(predictions: Sequence[str], references: Sequence[str], unit: str = "word") -> Errors:
    """Which words (or characters: ``unit="character"``) were taken for which, by a least number of errors.

    Raises:
        ValueError: another unit, or numbers of predictions and references that differ, or none.
    """
    processes: dict[str, Callable[..., Any]] = {"word": jiwer.process_words, "character": jiwer.process_characters}
    if unit not in processes:
        raise ValueError(f"unit must be word or character, got {unit!r}")
    predictions, references = _cleaned(predictions, references)
    output = processes[unit](references, predictions)
    pairs: Counter[tuple[str, str]] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    for reference, prediction, chunks in zip(output.references, output.hypotheses, output.alignments):
        for chunk in chunks:
            said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            heard = prediction[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "substitute":
                pairs.update(zip(said, heard))
            elif chunk.type == "delete":
                deleted.update(said)
            elif chunk.type == "insert":
                inserted.update(heard)
    return Errors(_ordered(pairs), _ordered(deleted), _ordered(inserted))


def report(
    predictions: Sequence[str], references: Sequence[str], speakers: Sequence[str] | None = None, most: int = 20
) -> str:
    """The scores of all utterances and of each speaker, and the most frequent errors, as tables of text."""
    overall = score_by(["all speakers"] * len(references), predictions, references)
    rows = overall | (score_by(speakers, predictions, references) if speakers is not None else {})
    width = max(max(map(len, rows)), len("speaker"))
    head = f"{'speaker':{width}}  utterances   words     WER     sub     del     ins     CER"
    lines = [head]
    for name, row in rows.items():
        rates = "".join(f"{row[key]:8.2f}" for key in ("wer", *(f"wer_{kind}" for kind in KINDS), "cer"))
        lines.append(f"{name:{width}}{row['utterances']:12d}{row['words']:8d}{rates}")
    for unit in ("word", "character"):
        errors = count_errors(predictions, references, unit)
        swapped = [(f"{_visible(said)} → {_visible(heard)}", count) for (said, heard), count in errors.substitutions]
        for title, entries in (
            (f"{unit}s most often taken for another", swapped),
            (f"{unit}s most often missed", [(_visible(word), count) for word, count in errors.deletions]),
            (f"{unit}s most often added", [(_visible(word), count) for word, count in errors.insertions]),
        ):
            lines += ["", f"{title}:", *(f"{count:6d}  {entry}" for entry, count in entries[:most])]
            if not entries:
                lines.append("        none")
    return "\n".join(lines) + "\n"


def error_counts(predictions: Sequence[str], references: Sequence[str], unit: str) -> tuple[Counts, Score]:
    """Of an error rate, in percent: errors and units of the reference. ``unit`` is word or character."""
    process: Any = {"word": jiwer.process_words, "character": jiwer.process_characters}[unit]
    rows = []
    for prediction, reference in zip(*_cleaned(predictions, references)):
        found = process([reference], [prediction])
        rows.append([found.substitutions + found.deletions + found.insertions, sum(map(len, found.references))])
    return np.array(rows, dtype=np.float64), percentage


def write_split(
    folder: Path,
    split: str,
    predictions: Sequence[str],
    references: Sequence[str],
    speakers: Sequence[str] | None,
    title: str,
) -> dict[str, float]:
    """Write predictions, references, the report and the error picture of a split.

    Args:
        folder: Where to write to.
        split: Its name, with which the files' names begin.
        predictions: What was recognised in each utterance.
        references: What was said.
        speakers: Who said it; None: not known.
        title: Title of the picture.

    Returns:
        Those of :func:`score`, and where wer and cer are in 95% of draws of the split: wer_low, wer_high, ...
    """
    scores = score(predictions, references)
    for name, unit in (("wer", "word"), ("cer", "character")):
        scores |= bounds(name, *error_counts(predictions, references, unit))
    write_lines(folder / f"{split}_predictions.txt", predictions)
    write_lines(folder / f"{split}_references.txt", references)
    write_text(folder / f"{split}_report.txt", report(predictions, references, speakers))
    draw_errors(predictions, references, speakers, folder / f"{split}_errors.png", title)
    return scores


def draw_errors(
    predictions: Sequence[str],
    references: Sequence[str],
    speakers: Sequence[str] | None,
    path: str | Path,
    title: str,
    most: int = 15,
) -> None:
    """Draw error rates by kind and speaker, and the most frequent errors of words and characters.

    Args:
        predictions: What was recognised in each utterance.
        references: What was said.
        speakers: Who said it; None: not known. Beyond ``most`` speakers, those with the fewest words are drawn as one.
        path: The file.
        title: Title of the picture.
        most: Rows of each panel.
    """
    groups = score_by(["all speakers"] * len(references), predictions, references)
    if speakers is not None:
        spoken = list(score_by(speakers, predictions, references))
        kept = set(spoken[: most - 1] if len(spoken) > most else spoken)
        rest = f"{len(spoken) - len(kept)} others"
        groups |= score_by([name if name in kept else rest for name in speakers], predictions, references)
    rates: dict[str, dict[str, dict[str, float]]] = {}
    errors = {}
    for name, unit in (("wer", "word"), ("cer", "character")):
        rates[f"{unit} error rate (%)"] = {
            f"{group} ({row['words']:,} word{'s' * (row['words'] != 1)})": {
                kind: row[f"{name}_{kind}"] for kind in KINDS
            }
            for group, row in groups.items()
        }
        errors[f"frequent errors of {unit}s: said → recognised"] = _most_frequent(
            count_errors(predictions, references, unit), most
        )
    plot_errors(rates, errors, path, title)


def _most_frequent(errors: Errors, most: int) -> list[tuple[str, str, int]]:
    """Label, kind and count of the most frequent errors of all kinds."""
    entries = [(f"{_visible(said)} → {_visible(heard)}", KINDS[0], n) for (said, heard), n in errors.substitutions]
    entries += [(f"{_visible(said)} → {NOTHING}", KINDS[1], n) for said, n in errors.deletions]
    entries += [(f"{NOTHING} → {_visible(heard)}", KINDS[2], n) for heard, n in errors.insertions]
    return sorted(entries, key=lambda entry: -entry[2])[:most]


def _visible(text: str, most: int = 20) -> str:
    """A word or character with its spaces to be seen, and no longer than a label may be."""
    return shorten(text.replace(" ", "␣"), most)


def _ordered(counts: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _cleaned(predictions: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"there must be as many predictions as references, and at least one, got {len(predictions)} and "
            f"{len(references)}"
        )
    return [" ".join(text.split()) for text in predictions], [" ".join(text.split()) for text in references]
