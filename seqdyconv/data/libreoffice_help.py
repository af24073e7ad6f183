"""A parallel corpus from the help of LibreOffice, which ships in Debian's packages ``libreoffice-help-*`` (MPL-2.0).

The same pages with the same paragraph ids exist in every language, translated by people.

Alignment
    Paragraphs are aligned by page and paragraph id. Where both sides have the same number of sentences, the sentences
    are aligned one by one, else the paragraph stays whole. A pair is kept if both sides have 4 to 60 words, neither is
    twice as long as the other, and they differ (equal ones are code or not translated).

Split
    By page, so that neighbouring sentences never end on two sides: the SHA-256 of the page's name modulo 1000 sends
    90% of the pages to train, 5% to validation and 5% to test, in every language pair, direction and version alike.
    Near-duplicates are common in technical prose, so afterwards the held-out splits are cleaned: a pair leaves test if
    its source or its target occurs in train, and validation if it occurs in train or test; within each of the two, a
    source or target occurs once. Train loses exact duplicate pairs. Texts are compared after case folding and with
    white space squeezed. Sentences that differ in one word or a number stay.

The counts, and what was dropped, stand in ``dataset["test"].info.description``.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from datasets import Dataset, DatasetDict, DatasetInfo, load_from_disk

from seqdyconv.data.packages import cached_directory, default_cache_dir, fetch_debian_packages

logger = logging.getLogger(__name__)

# Part of the folder's name in the cache: raise it whenever the same packages would give other pairs.
FORMAT = 1

MIN_WORDS, MAX_WORDS, MAX_LENGTH_RATIO = 4, 60, 2.0
HELD_OUT_PER_MILLE = 50  # for each of validation and test

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z]{2,10})?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

Pair = tuple[str, str, str]  # source, target, page


def load_libreoffice_help(source_lang: str, target_lang: str, cache_dir: str | Path | None = None) -> DatasetDict:
    """Return train, validation and test with the columns source, target and page; see the module for the policy.

    The first use downloads the two packages (a few MB) and takes a few seconds; later ones need no network.

    Args:
        source_lang, target_lang: language codes as in the names of the packages: ``en``, ``de``, ``fr``, ``pt-BR``...
            Words are counted by white space, so languages without it (Chinese, Japanese, Thai) give few pairs.
        cache_dir: where to keep packages and result; ``default_cache_dir()`` if ``None``.

    Raises:
        PackageUnavailableError: there is no such package, no apt, or no network.
        ValueError: a code is malformed, both are the same, or no pairs are found.
    """
    for language in (source_lang, target_lang):
        if not _LANGUAGE.fullmatch(language):
            raise ValueError(f"{language!r} is not a language code such as en, de or pt-BR")
    source, target = _code(source_lang), _code(target_lang)
    if source == target:
        raise ValueError(f"source_lang and target_lang are both {source_lang!r}")
    root = default_cache_dir() if cache_dir is None else Path(cache_dir)

    def build(folder: Path) -> None:
        logger.info("Preparing the LibreOffice help %s-%s, once", source, target)
        packages = fetch_debian_packages([f"libreoffice-help-{source}", f"libreoffice-help-{target}"], cache_dir)
        pairs = list(align_pages(_text_folder(packages, source), _text_folder(packages, target)))
        if not pairs:
            raise ValueError(f"the packages of the LibreOffice help hold no {source}-{target} sentence pairs")
        split_pairs(pairs).save_to_disk(folder)

    directory = cached_directory(root / "libreoffice_help" / f"{source}-{target}-v{FORMAT}", build)
    return load_from_disk(str(directory))


def load_help_pages(language: str, cache_dir: str | Path | None = None) -> DatasetDict:
    """Return the pages of one language as train, validation and test, with the columns text and page.

    Pages are split by name, as the pairs are. A paragraph or heading is a line; each stands once, compared as the texts
    of pairs are: in the first page of train that has it, else of test, else of validation.

    Args:
        language: the code of a language, such as ``en``.
        cache_dir: where to keep the package; ``default_cache_dir()`` if ``None``.

    Raises:
        PackageUnavailableError: there is no such package, no apt, or no network.
        ValueError: the code is malformed.
    """
    names = _page_files(language, cache_dir)
    seen: set[str] = set()
    splits = {}
    for split in ("train", "test", "validation"):
        texts: dict[str, str] = {}
        for name in (name for name in names if split_of(name) == split):
            lines = {_normalise(line): line for line in read_paragraphs(names[name]).values()}
            if kept := [line for key, line in lines.items() if key not in seen]:
                texts[name] = "\n".join(kept)
            seen.update(lines)
        splits[split] = Dataset.from_dict({"text": list(texts.values()), "page": list(texts)})
    return DatasetDict(splits)


def load_help_sections(language: str, cache_dir: str | Path | None = None) -> Dataset:
    """Return the sections of all pages of one language: heading, text (its paragraphs, a line each), page and split.

    The first section of a page has its title for a heading; what stands before a heading is left out.

    Args and errors are those of :func:`load_help_pages`.
    """
    columns: dict[str, list[str]] = {"heading": [], "text": [], "page": [], "split": []}
    for name, file in _page_files(language, cache_dir).items():
        sections: list[tuple[str, list[str]]] = []
        for key, line in read_paragraphs(file).items():
            if key.startswith("hd_"):
                sections.append((line, []))
            elif sections:
                sections[-1][1].append(line)
        for heading, lines in sections:
            row = {"heading": heading, "text": "\n".join(lines), "page": name, "split": split_of(name)}
            for column, value in row.items():
                columns[column].append(value)
    return Dataset.from_dict(columns)


def _page_files(language: str, cache_dir: str | Path | None) -> dict[str, Path]:
    """The files of the pages of a language by their names."""
    if not _LANGUAGE.fullmatch(language):
        raise ValueError(f"{language!r} is not a language code such as en, de or pt-BR")
    code = _code(language)
    folder = _text_folder(fetch_debian_packages([f"libreoffice-help-{code}"], cache_dir), code)
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*.html"))}


def align_pages(source_folder: Path, target_folder: Path) -> Iterator[Pair]:
    """Yield the sentence pairs of two folders with the same tree of HTML pages."""
    for source_file in sorted(source_folder.rglob("*.html")):
        name = source_file.relative_to(source_folder).as_posix()
        target_file = target_folder / name
        if not target_file.is_file():
            continue
        source_paragraphs, target_paragraphs = read_paragraphs(source_file), read_paragraphs(target_file)
        for key, source in source_paragraphs.items():
            if key in target_paragraphs:
                for pair in align_sentences(source, target_paragraphs[key]):
                    if _is_good(*pair):
                        yield (*pair, name)


def align_sentences(source: str, target: str) -> list[tuple[str, str]]:
    """Align two paragraphs sentence by sentence if both have as many, else as wholes."""
    sources, targets = split_sentences(source), split_sentences(target)
    return list(zip(sources, targets)) if len(sources) == len(targets) else [(source, target)]


def split_sentences(text: str) -> list[str]:
    """Split after ``.``, ``!`` or ``?`` and white space, unless a lower-case letter follows."""
    sentences: list[str] = []
    for piece in _SENTENCE_END.split(text):
        if sentences and piece[:1].islower():
            sentences[-1] += " " + piece
        else:
            sentences.append(piece)
    return sentences


def split_pairs(pairs: list[Pair]) -> DatasetDict:
    """Split by page, clean the held-out splits and remove duplicates, as the module's docstring says."""
    by_split: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        by_split[split_of(pair[2])].append(pair)

    keys: set[tuple[str, str]] = set()
    train = []
    for pair in by_split["train"]:
        key = (_normalise(pair[0]), _normalise(pair[1]))
        if key not in keys:
            keys.add(key)
            train.append(pair)
    kept = {"train": train}
    descriptions = {"train": f"{len(train)} pairs; dropped {len(by_split['train']) - len(train)} exact duplicates."}

    elsewhere = {key[0] for key in keys}, {key[1] for key in keys}
    for name, others in (("test", "train"), ("validation", "train or test")):
        seen: tuple[set[str], set[str]] = (set(), set())
        leaked = repeated = 0
        kept[name] = []
        for pair in by_split[name]:
            source, target = _normalise(pair[0]), _normalise(pair[1])
            if source in elsewhere[0] or target in elsewhere[1]:
                leaked += 1
            elif source in seen[0] or target in seen[1]:
                repeated += 1
            else:
                kept[name].append(pair)
                seen[0].add(source)
                seen[1].add(target)
        elsewhere[0].update(seen[0])
        elsewhere[1].update(seen[1])
        descriptions[name] = (
            f"{len(kept[name])} of {len(by_split[name])} pairs; dropped {leaked} whose source or target occurs in "
            f"{others}, and {repeated} that repeat a source or target within {name}."
        )
    for name in by_split:
        logger.info("%s: %s", name, descriptions[name])
    return DatasetDict({name: _dataset(kept[name], f"{name}: {descriptions[name]}") for name in by_split})


def split_of(page: str) -> str:
    """The split that a page belongs to, from its name alone."""
    number = int.from_bytes(hashlib.sha256(page.encode()).digest()[:8], "big") % 1000
    if number < HELD_OUT_PER_MILLE:
        return "test"
    return "validation" if number < 2 * HELD_OUT_PER_MILLE else "train"


def read_paragraphs(file: Path) -> dict[str, str]:
    """Return the text of a page's paragraphs and headings by id, in order; of a repeated id, the first one."""
    parser = _PageParser()
    parser.feed(file.read_text(encoding="utf-8"))
    parser.close()
    return parser.paragraphs


class _PageParser(HTMLParser):
    """Collects the paragraphs and headings that have an id; a variant of the text for macOS is left out."""

    _BLOCKS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6"})

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: dict[str, str] = {}
        self._id: str | None = None
        self._text: list[str] = []
        self._spans: list[bool] = []  # the open spans of the paragraph; True for one whose text is left out

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._BLOCKS:
            identifier = dict(attrs).get("id") or ""
            self._id = identifier if identifier.startswith(("par_", "hd_")) else None
            self._text, self._spans = [], []
        elif tag == "span":
            self._spans.append(("class", "MAC") in attrs)
        elif tag == "br":
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "span" and self._spans:
            self._spans.pop()
        elif tag in self._BLOCKS and self._id is not None:
            text = " ".join("".join(self._text).split())
            if text:
                self.paragraphs.setdefault(self._id, text)
            self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is not None and not any(self._spans):
            self._text.append(data)


def _is_good(source: str, target: str) -> bool:
    shorter, longer = sorted((len(source.split()), len(target.split())))
    return (
        shorter >= MIN_WORDS
        and longer <= MAX_WORDS
        and longer < MAX_LENGTH_RATIO * shorter
        and _normalise(source) != _normalise(target)
    )


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split())


def _code(language: str) -> str:
    """The language as in the name of its package: ``en`` is ``en-us``, ``pt_BR`` is ``pt-br``."""
    code = language.lower().replace("_", "-")
    return "en-us" if code == "en" else code


def _text_folder(packages: Path, code: str) -> Path:
    """The folder of the pages of a language; its name has capitals where the package's name has none (``en-US``)."""
    for folder in (packages / "usr/share/libreoffice/help").glob("*"):
        if folder.name.lower() == code and (folder / "text").is_dir():
            return folder / "text"
    raise ValueError(f"the package libreoffice-help-{code} holds no help pages")


def _dataset(pairs: list[Pair], description: str) -> Dataset:
    columns = {name: [pair[index] for pair in pairs] for index, name in enumerate(("source", "target", "page"))}
    info = DatasetInfo(description=f"LibreOffice help, {description}", license="MPL-2.0")
    return Dataset.from_dict(columns, info=info)
