"""Which files an event log is made of."""

from __future__ import annotations

import os
import socket

import pytest

from jitwatch.errors import ConfigError
from jitwatch.report import sentences, sources
from jitwatch.report.read import read_logs
from tests.unit.logs import compiled, ended, lines, read, written


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


def test_find_reports_what_is_missing(tmp_path):
    """And what to name instead."""
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl' cannot be read \(No such file or directory\); name a file"):
        sources.find([str(tmp_path / "nowhere.jsonl")])


def test_find_reports_that_a_folder_has_no_log(tmp_path):
    """And where logs come from."""
    with pytest.raises(ConfigError, match=r"no event log .* in the folder .*jitwatch run` writes one"):
        sources.find([str(tmp_path)])


LINES = lines(compiled(), ended())


@pytest.fixture
def odd_folder(tmp_path):
    """A log, and beside it what only looks like one."""
    folder = tmp_path / "logs"
    written(folder / "a.jsonl", LINES)
    os.mkfifo(folder / "fifo.jsonl")
    os.mkfifo(folder / "a.jsonl.1")
    (folder / "zero.jsonl").symlink_to("/dev/zero")
    (folder / "terminal.jsonl.gz").symlink_to("/dev/tty")
    (folder / "nowhere.jsonl").symlink_to(folder / "missing")
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")
    (folder / "folder.jsonl").mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket.jsonl"))
    return folder


def test_report_reads_the_regular_files_of_a_folder_only(odd_folder):
    """A FIFO would be waited for, and /dev/zero has no end; what was left out is said."""
    document = read(odd_folder)

    assert (1, 2) == (document["log"]["files"], document["log"]["events"])
    assert [
        "a.jsonl.1 is a FIFO",
        "fifo.jsonl is a FIFO",
        "loop.jsonl is a broken link (Too many levels of symbolic links)",
        "nowhere.jsonl is a broken link (No such file or directory)",
        "socket.jsonl is a socket",
        "terminal.jsonl.gz is a device",
        "zero.jsonl is a device",
    ] == document["log"]["skipped"]
    (said,) = sentences.log(document)
    assert said.startswith(
        "Skipped, because they are not regular files: a.jsonl.1 is a FIFO; fifo.jsonl is a FIFO; loop"
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("fifo.jsonl", "a FIFO"), ("zero.jsonl", "a device"), ("socket.jsonl", "a socket"), ("/dev/zero", "a device")],
)
def test_find_reports_that_a_file_is_not_regular(odd_folder, name, kind):
    """When it is named; whoever named it expects to read it."""
    with pytest.raises(ConfigError, match=rf"{name}' is {kind}, not a regular file; name a file that `jitwatch run`"):
        sources.find([os.path.join(odd_folder, name)])


def test_report_fails_for_a_folder_without_a_regular_file(odd_folder):
    """With what it has."""
    for name in ("a.jsonl", "folder.jsonl"):
        os.rename(odd_folder / name, odd_folder / name.replace(".jsonl", ".txt"))
    with pytest.raises(
        ConfigError, match=r"no event log can be read in .*: a\.jsonl\.1 is a FIFO, fifo\.jsonl is a FI"
    ):
        read_logs(sources.find([str(odd_folder)]))


def test_find_takes_no_folder_for_a_log(tmp_path):
    """Whatever its name is."""
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"no event log .* in the folder"):
        sources.find([str(tmp_path)])


def test_report_does_not_wait_for_a_file_that_became_a_fifo(tmp_path):
    """Between the look into the folder and the read."""
    path = tmp_path / "a.jsonl"
    written(path, LINES)
    written(tmp_path / "b.jsonl", LINES)
    found = sources.find([str(tmp_path)])
    path.unlink()
    os.mkfifo(path)
    _, tally = read_logs(found)

    assert (1, ["a.jsonl is a FIFO"]) == (tally.files, tally.skipped)


def test_report_reads_a_pipe_that_it_was_given(tmp_path):
    """As a shell makes one of `<(zcat events.jsonl.gz)`: it ends when its writer does."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"".join(LINES))
        os.close(writer)
        document = read(f"/dev/fd/{reader}")
    finally:
        os.close(reader)

    assert (1, 2) == (document["log"]["files"], document["log"]["events"])
