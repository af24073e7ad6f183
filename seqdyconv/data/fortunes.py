"""Czech texts: quotations, proverbs, jokes and pieces of books, from Debian's package ``fortunes-cs``.

1.1 million letters, for language models. A file of the package has texts with lines ``%`` between them, and a file
``.dat`` beside it; the Slovak ones, ``*-sk``, are left out.
"""

import re
from pathlib import Path

from seqdyconv.data.packages import fetch_debian_packages

_FOLDER = "usr/share/games/fortunes/cs"
_NO_TEXT = re.compile(r"\x1b\[[0-9;]*m|^[ \t]*--.*$", re.MULTILINE)  # colours, and lines that name the author
_HYPHEN = re.compile(r"(?<=\w)-\n\s*(?=[^\W\d_])")


def load_fortunes_cs(cache_dir: str | Path | None = None) -> list[str]:
    """Return the Czech texts. The first use downloads the package (half a megabyte).

    Raises:
        PackageUnavailableError: there is no apt, or no network.
    """
    return read_fortunes(fetch_debian_packages(["fortunes-cs"], cache_dir) / _FOLDER)


def read_fortunes(folder: Path) -> list[str]:
    """The texts of a folder, each in one line; words that were split at the end of a line are joined."""
    texts = []
    for file in sorted(index.with_suffix("") for index in folder.glob("*.dat")):
        if not file.name.endswith("-sk"):
            written = _HYPHEN.sub("", _NO_TEXT.sub("", file.read_text(encoding="utf-8")))
            texts += [" ".join(text.split()) for text in re.split(r"^%+$", written, flags=re.MULTILINE)]
    return [text for text in texts if text]
