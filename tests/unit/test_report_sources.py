"""Which files an event log is made of."""

from __future__ import annotations

import os

import pytest

from jitwatch.errors import ConfigError
from jitwatch.report import sources


def names(*paths) -> list[str]:
    return [os.path.basename(one.path) for one in sources.find([str(path) for path in paths])]


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.jsonl",
        "b.jsonl.1",
        "b.jsonl.2",
        "b.jsonl.10",
        "a.jsonl",
        "a.jsonl.1.gz",
        "notes.txt",
        "c.jsonl.x",
    ):
        (tmp_path / name).write_text("x")
    return tmp_path


def test_find_takes_the_rotated_parts_of_a_file_oldest_first(folder):
    """The highest number was written first; numbers are compared as numbers."""
    assert ["b.jsonl.10", "b.jsonl.2", "b.jsonl.1", "b.jsonl"] == names(folder / "b.jsonl")


def test_find_takes_all_logs_of_a_folder(folder):
    """With their parts, compressed ones too; other files are left alone."""
    assert ["a.jsonl.1.gz", "a.jsonl", "b.jsonl.10", "b.jsonl.2", "b.jsonl.1", "b.jsonl"] == names(folder)


def test_find_takes_a_rotated_part_alone(folder):
    """Who names a part means that part."""
    assert ["b.jsonl.2"] == names(folder / "b.jsonl.2")


def test_find_takes_a_file_with_another_name(folder):
    """A log may have any name."""
    assert ["notes.txt"] == names(folder / "notes.txt")


def test_find_takes_each_file_once(folder):
    """Also when it is named twice, by another name, and by its folder."""
    (folder / "link.jsonl").symlink_to(folder / "a.jsonl")

    assert ["a.jsonl.1.gz", "a.jsonl"] == names(folder / "a.jsonl", folder / "link.jsonl", folder / "a.jsonl")


def test_find_knows_which_parts_belong_together(folder):
    """All parts of a log have the path of the log, and their size."""
    found = sources.find([str(folder / "b.jsonl")])

    assert {str(folder / "b.jsonl")} == {one.log for one in found}
    assert [1, 1, 1, 1] == [one.size for one in found]


def test_find_takes_a_name_without_a_folder(folder, monkeypatch):
    """In the working directory."""
    monkeypatch.chdir(folder)

    assert ["a.jsonl.1.gz", "a.jsonl"] == names("a.jsonl")


def test_find_takes_a_file_of_a_folder_that_cannot_be_listed(folder, monkeypatch):
    """The file itself can be read all the same."""

    def refuse(_folder):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patches:
        patches.setattr(os, "listdir", refuse)
        found = names(folder / "b.jsonl")
        with pytest.raises(ConfigError, match="cannot be read"):
            sources.find([str(folder)])

    assert ["b.jsonl"] == found


def test_find_says_what_is_missing(tmp_path):
    """And what to name instead."""
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl' cannot be read \(No such file or directory\); name a file"):
        sources.find([str(tmp_path / "nowhere.jsonl")])


def test_find_says_that_a_folder_has_no_log(tmp_path):
    """And where logs come from."""
    with pytest.raises(ConfigError, match=r"no event log is in the folder .*jitwatch run` writes one"):
        sources.find([str(tmp_path)])
