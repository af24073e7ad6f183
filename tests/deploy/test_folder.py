"""An exported folder is there as a whole or not at all, also when its overwriting is interrupted."""

import pytest

from seqdyconv.deploy import ExportError
from seqdyconv.deploy.card import CARD, write_checks
from seqdyconv.deploy.folder import new_folder
from seqdyconv.runtime.folder import MANIFEST


def write(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(content)


def test_a_folder_whose_overwriting_was_interrupted_is_put_back(tmp_path):
    write(tmp_path / ".model.old", "old")
    with pytest.raises(ExportError, match="set overwrite to replace it"), new_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model" / MANIFEST).read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_what_was_overwritten_is_removed_where_the_new_one_is_complete(tmp_path):
    write(tmp_path / ".model.old", "old")
    write(tmp_path / "model", "new")
    with new_folder(tmp_path / "model", overwrite=True) as folder:
        write(folder, "newest")
    assert (tmp_path / "model" / MANIFEST).read_text() == "newest"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_link_stays_and_leads_to_the_new_one(tmp_path):
    write(tmp_path / "model", "old")
    (tmp_path / "link").symlink_to("model")
    with new_folder(tmp_path / "link", overwrite=True) as folder:
        write(folder, "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "model" / MANIFEST).read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "model"]


@pytest.mark.parametrize("name", [".", ".."])
def test_the_current_directory_is_not_replaced(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ExportError, match="is the current directory, or above it"), new_folder(name):
        pass
    assert (tmp_path / "here").is_dir()


def test_a_card_stays_whole_where_its_checks_cannot_be_written(tmp_path):
    (tmp_path / CARD).write_text("card\n\n## Checks\n\nnone\n")
    with pytest.raises(UnicodeEncodeError):
        write_checks(tmp_path, ["\ud800"])
    assert (tmp_path / CARD).read_text() == "card\n\n## Checks\n\nnone\n"
