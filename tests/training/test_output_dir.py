"""Which output directory is accepted, what a new run replaces in it, and what no run ever touches."""

import os
from pathlib import Path

import pytest

from seqdyconv.training.output_dir import (
    REPLACED,
    RUN_FILE,
    OutputDirError,
    begin_run,
    check_output_dir,
    check_resumed_arguments,
    is_run,
    remove_replaced_run,
    remove_run_folder,
    run_arguments,
)

RUN = [
    "model.safetensors",
    "config.json",
    "test_predictions.txt",
    "checkpoint-10/optimizer.pt",
    "evaluation/metrics.json",
    "runs/Nov27_20-15-06_host/events.out.tfevents.1",
]


def write_run(folder, files=RUN):
    begin_run(folder, {"steps": 1})
    for name in files:
        write(folder / name, "old")


def write(path, text="mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def test_a_new_or_empty_directory_is_accepted(tmp_path):
    for _ in range(2):
        check_output_dir(tmp_path / "a" / "b")
        assert not (tmp_path / "a").exists()  # a check writes nothing
    begin_run(tmp_path / "a" / "b", {"steps": 1})
    assert is_run(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    check_output_dir(tmp_path / "empty")
    check_output_dir(tmp_path / "empty", overwrite=True)


def test_a_run_is_kept_unless_resume_or_overwrite_says_so(tmp_path):
    write_run(tmp_path)
    with pytest.raises(OutputDirError, match=r"holds another run: add --resume .* or --overwrite"):
        check_output_dir(tmp_path)
    for flags in ({"resume": True}, {"overwrite": True}):
        check_output_dir(tmp_path, **flags)
        assert files(tmp_path) == sorted([RUN_FILE, *RUN])


def test_resume_needs_a_run_and_excludes_overwrite(tmp_path):
    with pytest.raises(OutputDirError, match="no run to resume"):
        check_output_dir(tmp_path / "new", resume=True)
    with pytest.raises(OutputDirError, match="exclude each other"):
        check_output_dir(tmp_path, resume=True, overwrite=True)


class TestOverwrite:
    def test_the_old_run_waits_until_the_new_one_has_begun(self, tmp_path):
        write_run(tmp_path)
        begin_run(tmp_path, {"steps": 2}, overwrite=True)
        assert files(tmp_path / REPLACED) == sorted([RUN_FILE, *RUN])
        assert [name for name in files(tmp_path) if not name.startswith(REPLACED)] == [RUN_FILE]
        assert run_arguments(tmp_path, ["steps"]) == {"steps": 2}
        remove_replaced_run(tmp_path)
        assert files(tmp_path) == [RUN_FILE]
        remove_replaced_run(tmp_path)  # there is none any more

    def test_a_run_that_never_began_does_not_replace_the_one_that_waits(self, tmp_path):
        write_run(tmp_path)
        begin_run(tmp_path, {"steps": 2}, overwrite=True)
        write(tmp_path / "tokenizer.json")
        check_output_dir(tmp_path, overwrite=True)
        begin_run(tmp_path, {"steps": 3}, overwrite=True)
        assert run_arguments(tmp_path / REPLACED, ["steps"]) == {"steps": 1}
        assert not (tmp_path / "tokenizer.json").exists()

    @pytest.mark.parametrize("moved", range(1, len(RUN) + 1))
    def test_an_interrupted_move_loses_nothing(self, tmp_path, monkeypatch, moved):
        write_run(tmp_path)
        rename, left = Path.rename, iter(range(moved))

        def interrupted(self, target):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", interrupted)
            with pytest.raises(KeyboardInterrupt):
                begin_run(tmp_path, {"steps": 2}, overwrite=True)
        assert len(files(tmp_path)) == len(RUN) + 1
        begin_run(tmp_path, {"steps": 3}, overwrite=True)
        assert files(tmp_path / REPLACED) == sorted([RUN_FILE, *RUN])
        assert run_arguments(tmp_path / REPLACED, ["steps"]) == {"steps": 1}

    def test_files_of_others_stay_and_are_named(self, tmp_path, caplog):
        write_run(tmp_path)
        foreign = [
            "thesis.txt",
            "chapters/one.txt",
            "checkpoint-10/notes.md",
            "checkpoint-best/model.safetensors",
            "evaluation/mine.csv",
            "data/config.json",
        ]
        for name in foreign:
            write(tmp_path / name)
        begin_run(tmp_path, {"steps": 2}, overwrite=True)
        remove_replaced_run(tmp_path)
        assert files(tmp_path) == sorted([RUN_FILE, *foreign])
        assert all((tmp_path / name).read_text() == "mine" for name in foreign)
        assert (
            "keeps what no run has written: chapters, checkpoint-10, checkpoint-best, data, evaluation, thesis.txt"
            in (caplog.text)
        )

    @pytest.mark.parametrize("content", ["mine: true\n", "", "output_dir: o\noverwrite: true\n", b"\xff"])
    def test_another_programs_run_file_is_no_mark(self, tmp_path, content):
        write(tmp_path / "thesis.txt")
        (tmp_path / RUN_FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(OutputDirError, match="its first line is not ours"):
            check_output_dir(tmp_path, overwrite=True)

    def test_files_without_a_run_are_refused(self, tmp_path):
        write(tmp_path / "thesis.txt")
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputDirError, match="holds files"):
                check_output_dir(tmp_path, **flags)
        assert files(tmp_path) == ["thesis.txt"]

    @pytest.mark.parametrize("form", ["absolute", "relative", "link"])
    def test_home_root_and_the_current_directory_are_refused(self, tmp_path, monkeypatch, form):
        home, here = tmp_path / "user", tmp_path / "work" / "here"
        here.mkdir(parents=True)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.chdir(here)
        for index, place in enumerate((home, tmp_path, tmp_path / "work", here)):
            write_run(place, [])
            named = place
            if form == "relative":
                named = Path(os.path.relpath(place))
            if form == "link":
                named = tmp_path / f"link{index}"
                named.symlink_to(place)
            with pytest.raises(OutputDirError, match="overwrite is not for"):
                check_output_dir(named, overwrite=True)
        write_run(tmp_path / "work" / "other", [])
        check_output_dir(Path("../other"), overwrite=True)
        with pytest.raises(OutputDirError):
            check_output_dir("/", overwrite=True)

    def test_links_are_removed_and_never_followed(self, tmp_path):
        elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
        write(elsewhere / "model.safetensors")
        write_run(run, [])
        (run / "checkpoint-1").symlink_to(elsewhere)
        (run / "model.safetensors").symlink_to(elsewhere / "model.safetensors")
        begin_run(run, {"steps": 2}, overwrite=True)
        remove_replaced_run(run)
        assert files(elsewhere) == ["model.safetensors"]
        assert files(run) == ["checkpoint-1", RUN_FILE]  # a link that no run makes

    def test_a_linked_directory_stays_a_link(self, tmp_path):
        write_run(tmp_path / "run")
        (tmp_path / "link").symlink_to(tmp_path / "run")
        check_output_dir(tmp_path / "link", overwrite=True)
        begin_run(tmp_path / "link", {"steps": 2}, overwrite=True)
        remove_replaced_run(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and files(tmp_path / "run") == [RUN_FILE]


def test_impossible_places_are_one_line(tmp_path, monkeypatch):
    write(tmp_path / "file")
    for place, message in (
        ("file", "is a file"),
        ("file/run", "directory"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(OutputDirError, match=message):
            check_output_dir(tmp_path / place)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputDirError, match="link to nowhere"):
        check_output_dir(tmp_path / "link")
    for place in ("/proc/run", "/sys/a/run") if os.path.isdir("/proc/self") else ():
        with pytest.raises(OutputDirError, match=r"no folder can be made in|no permission in"):
            check_output_dir(place)
    check_output_dir(tmp_path / "new" / "run")
    assert files(tmp_path) == ["file", "link"]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputDirError, match="no permission"):
        check_output_dir(tmp_path / "new" / "run")


def test_a_resumed_run_keeps_what_alters_its_weights(tmp_path):
    begin_run(tmp_path, {"learning_rate": 1e-3, "logging_steps": 10, "sizes": [3, 7], "none": None})
    same = {"learning_rate": 1e-3, "logging_steps": 99, "sizes": [3, 7], "none": None}
    check_resumed_arguments(tmp_path, same, may_change={"logging_steps"})
    with pytest.raises(
        OutputDirError, match=r"learning_rate was 0.001 and is now 0.1; sizes was \[3, 7\] and is now \[3\]"
    ):
        check_resumed_arguments(tmp_path, {**same, "learning_rate": 0.1, "sizes": [3]}, may_change={"logging_steps"})


def test_a_run_of_a_version_without_a_key_had_its_default(tmp_path):
    begin_run(tmp_path, {"learning_rate": 1e-3})
    now, defaults = (
        {"learning_rate": 1e-3, "new": None, "newer": [1]},
        {"new": None, "newer": [1], "learning_rate": 5.0},
    )
    check_resumed_arguments(tmp_path, now, (), defaults)
    with pytest.raises(OutputDirError, match=r"newer was \[1\] and is now \[2\]"):
        check_resumed_arguments(tmp_path, {**now, "newer": [2]}, (), defaults)


def test_a_run_folder_keeps_what_is_foreign(tmp_path):
    write(tmp_path / "checkpoint-1" / "optimizer.pt")
    write(tmp_path / "checkpoint-2" / "optimizer.pt")
    write(tmp_path / "checkpoint-2" / "notes.md")
    remove_run_folder(tmp_path / "checkpoint-1")
    remove_run_folder(tmp_path / "checkpoint-2")
    assert files(tmp_path) == ["checkpoint-2/notes.md"]
    assert not (tmp_path / "checkpoint-1").exists()
