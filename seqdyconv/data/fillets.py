"""Czech and Dutch speech: the dialogues of the game Fish Fillets NG, from Debian's packages (GPL).

Real recordings with their transcripts: the packages ``fillets-ng-data-cs`` and ``fillets-ng-data-nl`` hold the sounds
(ogg, 22 or 44 kHz), ``fillets-ng-data`` the texts. Two actors speak most of a language, the two fish.

Utterances
    A script ``script/LEVEL/*dialogs_LANGUAGE.lua`` has lines ``dialogId("id", "font", "English")`` that are followed by
    ``dialogStr("text")``. The sound of the same level, language and id is what is said; the font, which gives each
    figure of the game its colour, is the speaker. Sounds without a text (numbers, noises) are no utterances: 1,825
    Czech and 1,615 Dutch ones have one. Left out of these are the Czech texts with a placeholder for a number that
    other sounds say, and texts of punctuation alone.

Split
    By level, the same levels in both languages, so that training on both leaks nothing. The levels, in the order of the
    SHA-256 of their names, go to test while that has room (10% of the utterances of both languages), else to validation
    while that has room (5%), else to train. Sentences that recur in the game ("Hm.") then leave the held-out sides: an
    utterance leaves test if its text occurs in train, and validation if its text occurs in train or test, in either
    language and after normalisation. Speakers are the same on all sides.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict

from seqdyconv.data.packages import fetch_debian_packages
from seqdyconv.data.speech_text import normalise_text
from seqdyconv.data.splits import SPLITS

logger = logging.getLogger(__name__)

LANGUAGES = ("cs", "nl")
HELD_OUT = {"test": 0.10, "validation": 0.05}

_PACKAGES = ("fillets-ng-data", *(f"fillets-ng-data-{language}" for language in LANGUAGES))
_FOLDER = "usr/share/games/fillets-ng"
_STRING = r'"((?:[^"\\]|\\.)*)"'
_DIALOGUE = re.compile(
    rf"dialogId\(\s*{_STRING}\s*,\s*{_STRING}\s*,\s*{_STRING}\s*\)\s*dialogStr\(\s*{_STRING}\s*\)", re.DOTALL
)

Utterance = dict[str, str]  # id, path, text, speaker, language, level


def load_fillets(languages: Sequence[str] = LANGUAGES, cache_dir: str | Path | None = None) -> DatasetDict:
    """Return train, validation and test with the columns id, path, text, speaker, language and level.

    The first use downloads the packages (143 MB); later ones need no network. The split doesn't depend on `languages`.

    Raises:
        PackageUnavailableError: there is no apt, or no network.
        ValueError: an unknown language, or none.
    """
    if not languages or not set(languages) <= set(LANGUAGES):
        raise ValueError(f"the languages of fillets are {' and '.join(LANGUAGES)}, got {'+'.join(languages)!r}")
    folder = fetch_debian_packages(_PACKAGES, cache_dir) / _FOLDER
    splits = split_utterances([utterance for language in LANGUAGES for utterance in read_utterances(folder, language)])
    return DatasetDict(
        {
            split: Dataset.from_list([utterance for utterance in splits[split] if utterance["language"] in languages])
            for split in SPLITS
        }
    )


def read_utterances(folder: Path, language: str) -> list[Utterance]:
    """All utterances of a language that have a sound and a text that says what is heard."""
    sounds = {
        (file.relative_to(folder / "sound").parts[0], file.stem): file
        for file in sorted((folder / "sound").rglob(f"{language}/*.ogg"))
    }
    found: dict[tuple[str, str], Utterance] = {}
    for script in sorted((folder / "script").rglob(f"*dialogs_{language}.lua")):
        level = script.relative_to(folder / "script").parts[0]
        for name, font, _, text in _DIALOGUE.findall(script.read_text(encoding="utf-8")):
            text = re.sub(r"\\(.)", r"\1", text)
            if (level, name) in sounds and "%" not in text and normalise_text(text):
                found[level, name] = {
                    "id": f"{language}/{level}/{name}",
                    "path": str(sounds[level, name]),
                    "text": text,
                    "speaker": f"{language}_{font.removeprefix('font_') or 'unknown'}",
                    "language": language,
                    "level": level,
                }
    return [found[key] for key in sorted(found)]


def split_utterances(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """Split by level and keep each text on one side, as the module's text says."""
    split_of_level = split_levels(Counter(utterance["level"] for utterance in utterances))
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in utterances:
        splits[split_of_level[utterance["level"]]].append(utterance)
    elsewhere = {normalise_text(utterance["text"]) for utterance in splits["train"]}
    for split in ("test", "validation"):
        kept = [utterance for utterance in splits[split] if normalise_text(utterance["text"]) not in elsewhere]
        logger.info("fillets: %d texts of %s occur elsewhere and are left out", len(splits[split]) - len(kept), split)
        elsewhere |= {normalise_text(utterance["text"]) for utterance in kept}
        splits[split] = kept
    return splits


def split_levels(sizes: Counter[str]) -> dict[str, str]:
    """The split of each level, of the number of utterances in each."""
    room = {split: share * sizes.total() for split, share in HELD_OUT.items()}
    result = {}
    for level in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        result[level] = next((split for split in HELD_OUT if sizes[level] <= room[split]), "train")
        if result[level] in room:
            room[result[level]] -= sizes[level]
    return result
