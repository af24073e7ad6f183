"""Data that ships inside Debian and Python packages: fetched once, unpacked, cached, never installed.

The cache is ``$SEQDYCONV_CACHE``, else ``~/.cache/seqdyconv``. What is there needs no network any more. A folder
appears under its final name only when it is complete, so a killed process leaves nothing half done, and two processes
that start at once both end with the same folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

_DEBIAN_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_PYTHON_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.!+_-]+)?")
_INSTEAD = "Use a Hugging Face Hub data set or local files instead."


class PackageUnavailableError(RuntimeError):
    """A data package cannot be fetched here; the message says why and what to use instead."""


def default_cache_dir() -> Path:
    """The folder of all cached data: ``$SEQDYCONV_CACHE``, else ``~/.cache/seqdyconv``."""
    return Path(os.environ.get("SEQDYCONV_CACHE") or Path("~/.cache/seqdyconv").expanduser())


def cached_directory(directory: Path, build: Callable[[Path], None]) -> Path:
    """Return ``directory``; if it does not exist yet, ``build(folder)`` fills a new folder that is then moved there.

    The folder is filled beside its final place and renamed at the end. If another process was faster, its result stays.
    """
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        content = Path(scratch) / "content"  # a folder of its own, since that of tempfile is private to the user
        content.mkdir()
        build(content)
        try:
            content.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
    return directory


def fetch_debian_packages(names: Sequence[str], cache_dir: str | Path | None = None) -> Path:
    """Download Debian packages with ``apt-get download`` and unpack them together into one folder.

    Works for any user, and where ``apt-get update`` never ran: the package lists are then fetched into a temporary
    folder. Nothing is installed and the lists of the system stay as they are.

    Args:
        names: package names, such as ``["libreoffice-help-de"]``.
        cache_dir: where to keep the result; ``default_cache_dir()`` if ``None``.

    Returns:
        The folder that holds the unpacked files (``usr/share/...``).

    Raises:
        ValueError: a name is not a package name.
        PackageUnavailableError: ``apt-get`` or ``dpkg-deb`` is missing, or the packages cannot be downloaded.
    """
    names = sorted(set(names))
    if not names:
        raise ValueError("names is empty: at least one Debian package is needed")
    for name in names:
        if not _DEBIAN_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a Debian package")

    def build(folder: Path) -> None:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise PackageUnavailableError(
                    f"Fetching {' '.join(names)} needs Debian's {tool}, which is not on this machine. {_INSTEAD}"
                )
        with tempfile.TemporaryDirectory(prefix="seqdyconv-") as scratch:
            for file in _download_debian(names, Path(scratch)):
                _run(["dpkg-deb", "-x", str(file), str(folder)], f"{file.name} cannot be unpacked")

    return cached_directory(_root(cache_dir) / "debian" / "_".join(names), build)


def fetch_python_package(requirement: str, *, sdist: bool = False, cache_dir: str | Path | None = None) -> Path:
    """Download one Python package with ``pip download --no-deps`` and unpack it, without installing anything.

    Args:
        requirement: a name or ``name==version``; only the latter gives the same files every time.
        sdist: take the source archive instead of the wheel. pip runs its build script to read its metadata.
        cache_dir: where to keep the result; ``default_cache_dir()`` if ``None``.

    Returns:
        The folder that holds the unpacked files of the archive.

    Raises:
        ValueError: ``requirement`` is something else than a name or ``name==version``.
        PackageUnavailableError: pip is missing or cannot download the package.
    """
    if not _PYTHON_REQUIREMENT.fullmatch(requirement):
        raise ValueError(f"{requirement!r} is not a name or name==version of a Python package")

    def build(folder: Path) -> None:
        kind = ["--no-binary", ":all:"] if sdist else ["--only-binary", ":all:"]
        with tempfile.TemporaryDirectory(prefix="seqdyconv-") as scratch:
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", *kind]
            _run([*command, "--dest", scratch, requirement], f"{requirement} cannot be downloaded")
            for file in Path(scratch).iterdir():
                _unpack(file, folder)

    return cached_directory(_root(cache_dir) / "python" / (requirement + ("-sdist" if sdist else "")), build)


def _root(cache_dir: str | Path | None) -> Path:
    return default_cache_dir() if cache_dir is None else Path(cache_dir)


def _download_debian(names: list[str], scratch: Path) -> list[Path]:
    """Download into ``scratch``, first with the package lists of the system, then with fresh ones of our own."""
    failed = f"{' '.join(names)} cannot be downloaded"
    # Without this option apt warns when root downloads into a folder that its own user cannot enter.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User="]
    try:
        _run([*command, "download", *names], failed, scratch)
    except PackageUnavailableError:
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        command += ["-o", f"Dir::State::lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        command += ["-o", "Debug::NoLocking=1"]
        _run([*command, "update"], failed, scratch)
        _run([*command, "download", *names], failed, scratch)
    return sorted(scratch.glob("*.deb"))


def _unpack(file: Path, folder: Path) -> None:
    """Unpack the files of a wheel or a source archive; one that would land outside ``folder`` is an error.

    Links and devices of a tar file are left out. (``extractall(filter="data")`` is missing in Debian 12's Python.)
    """
    if file.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
        return
    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            target = folder / member.name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise PackageUnavailableError(f"{file.name} is not safe to unpack: it holds {member.name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as output:
                shutil.copyfileobj(content, output)


def _run(command: list[str], failed: str, folder: Path | None = None) -> None:
    """Run a command; if that fails, raise with ``failed`` and the first error line the command printed."""
    environment = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
    if result.returncode != 0:
        lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "ERROR:", "dpkg-deb: error"))] or lines[-1:]
        reason = errors[0] if errors else f"exit status {result.returncode}"
        raise PackageUnavailableError(f"{failed} ({reason}). {_INSTEAD}")
