"""A file of lines that belongs to one process: second writers, planted names, descriptors that the job closes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time

import pytest

from jitwatch.exporters.eventlog import rotation
from jitwatch.exporters.eventlog.rotation import Descriptor, RotatingFile
from jitwatch.system import files
from jitwatch.system.launchers import process_id
from tests.waiting import wait_until


def no_locks(*_args):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def written(folder):
    """Content of each file by its name, with this process's own name as OWN."""
    return {path.name.replace(process_id(), "OWN"): path.read_text() for path in folder.iterdir() if path.is_file()}


class TestSecondWriter:
    def test_second_writer_of_a_file_goes_on_in_one_of_its_own(self, tmp_path, opened):
        """The lock tells at once; the first one is not disturbed."""
        first, second = (opened(tmp_path / "e.jsonl") for _ in range(2))
        for number in range(3):
            first.append([b"first %d\n" % number])
            second.append([b"second %d\n" % number])
        assert (None, "another process writes to it") == (first.moved, second.moved)
        assert str(tmp_path / f"e.{process_id()}.jsonl") == second.path
        assert {
            "e.jsonl": "first 0\nfirst 1\nfirst 2\n",
            "e.OWN.jsonl": "second 0\nsecond 1\nsecond 2\n",
        } == written(tmp_path)

    def test_second_writer_is_noticed_without_locks(self, tmp_path, opened, monkeypatch):
        """By bytes that this process did not write. No line is lost or written twice."""
        monkeypatch.setattr(fcntl, "flock", no_locks)
        first, second = (opened(tmp_path / "e.jsonl") for _ in range(2))
        for number in range(3):
            first.append([b"first %d\n" % number])
            second.append([b"second %d\n" % number])
        assert "another process writes to it" in (first.moved, second.moved)
        lines = [line for text in written(tmp_path).values() for line in text.splitlines()]
        assert sorted(f"{name} {number}" for name in ("first", "second") for number in range(3)) == sorted(lines)
        assert 2 <= len(written(tmp_path))

    def test_lock_server_that_hangs_is_waited_for_once(self, tmp_path, opened, monkeypatch):
        """Then the file is written as on a file system without locks."""
        release = threading.Event()
        monkeypatch.setattr(fcntl, "flock", lambda *_: release.wait(30))
        try:
            started = time.monotonic()
            file = opened(tmp_path / "e.jsonl", max_bytes=4, backups=2, lock_s=0.05)
            for _ in range(20):
                assert (1, None) == file.append([b"line\n"])
            assert time.monotonic() - started < 10
        finally:
            release.set()
        assert {"e.jsonl", "e.jsonl.1", "e.jsonl.2"} == set(written(tmp_path))
        wait_until(
            lambda: "jitwatch-files" not in [one.name for one in threading.enumerate()],
            what="the end of the thread that writes",
        )

    def test_lock_without_a_thread_goes_without(self, tmp_path, opened, monkeypatch):
        """At the end of the interpreter no thread can be started."""

        def refuse(_self):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert (1, None) == opened(tmp_path / "e.jsonl").append([b"line\n"])

    def test_two_writers_that_rotate_keep_their_lines_and_say_nothing_of_rotation(self, tmp_path, opened):
        """Before, one of them found that the file was gone and called that an error."""
        both = [opened(tmp_path / "e.jsonl", max_bytes=40, backups=50) for _ in range(2)]
        for number in range(40):
            for name, file in zip(("first", "second"), both, strict=True):
                assert (1, None) == file.append([f"{name} {number}\n".encode()])
        assert [None, None] == [file.rotation_error for file in both]
        lines = [line for text in written(tmp_path).values() for line in text.splitlines()]
        assert sorted(f"{name} {number}" for name in ("first", "second") for number in range(40)) == sorted(lines)

    def test_name_that_is_taken_while_rotating_is_left_to_the_other(self, tmp_path, opened, monkeypatch):
        """Between the renaming and the opening a new process may come."""
        path = tmp_path / "e.jsonl"
        file = opened(path, max_bytes=4, backups=2)
        rename, others = os.rename, []

        def rename_and_come(old, new):
            rename(old, new)
            if old == str(path):
                others.append(opened(path))
                others[-1].append([b"other\n"])

        file.append([b"aaaa\n"])
        with monkeypatch.context() as patches:
            patches.setattr(os, "rename", rename_and_come)
            assert (1, None) == file.append([b"bbbb\n"])
        assert {"e.jsonl": "other\n", "e.jsonl.1": "aaaa\n", "e.OWN.jsonl": "bbbb\n"} == written(tmp_path)
        assert ("another process writes to it", None) == (file.moved, file.rotation_error)

    def test_file_cut_from_outside_is_no_second_writer(self, tmp_path, opened):
        """As by `logrotate` with copytruncate."""
        file = opened(tmp_path / "e.jsonl")
        file.append([b"first\n"])
        os.truncate(tmp_path / "e.jsonl", 0)
        file.append([b"second\n"])
        assert (None, {"e.jsonl": "second\n"}) == (file.moved, written(tmp_path))

    def test_moves_are_bounded(self, tmp_path, opened):
        """Somebody who writes to each file of ours does not fill the folder."""
        file = opened(tmp_path / "e.jsonl")
        for _ in range(50):
            file.append([b"ours\n"])
            with open(file.path, "a") as theirs:
                theirs.write("theirs\n")
        assert rotation._MAX_MOVES + 1 == len(written(tmp_path))
        assert 50 == sum(text.count("ours\n") for text in written(tmp_path).values())


class TestExclusive:
    def test_file_that_is_there_is_of_another_run(self, tmp_path, opened):
        """A job that was requeued does not mix into the file of before, not even where nobody writes to it."""
        (tmp_path / "e.jsonl").write_text("before\n")
        for text in ("second", "third"):
            file = opened(tmp_path / "e.jsonl", is_exclusive=True)
            file.append([f"{text}\n".encode()])
            file.close()
            assert file.moved is None  # the very purpose of such a name, and nothing to report
        assert {
            "e.jsonl": "before\n",
            "e.OWN.jsonl": "second\n",
            "e.OWN-2.jsonl": "third\n",
        } == written(tmp_path)

    @pytest.mark.parametrize("plant", ["symlink", "dangling", "hardlink", "fifo", "folder"])
    def test_planted_name_is_not_used(self, tmp_path, opened, plant):
        """Whatever it leads to stays as it is."""
        victim, folder = tmp_path / "victim", tmp_path / "logs"
        victim.write_text("precious")
        folder.mkdir()
        planted = folder / "e.jsonl"
        {
            "symlink": lambda: planted.symlink_to(victim),
            "dangling": lambda: planted.symlink_to(tmp_path / "nowhere"),
            "hardlink": lambda: planted.hardlink_to(victim),
            "fifo": lambda: os.mkfifo(planted),
            "folder": planted.mkdir,
        }[plant]()
        file = opened(planted, is_exclusive=True)
        assert (1, None) == file.append([b"line\n"])
        assert ("precious", "line\n") == (victim.read_text(), (folder / f"e.{process_id()}.jsonl").read_text())
        assert ["logs", "victim"] == sorted(os.listdir(tmp_path))

    def test_one_name_for_each_of_many_that_start_at_once(self, tmp_path):
        """All of them with one job id and one rank."""
        start, made = threading.Barrier(8), []

        def work():
            start.wait()
            made.append(RotatingFile(str(tmp_path / "e.jsonl"), max_bytes=0, backups=0, is_exclusive=True))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 8 == len({one.path for one in made}) == len(list(tmp_path.iterdir()))
        for one in made:
            one.close()

    def test_file_that_was_deleted_comes_back_under_its_name(self, tmp_path, opened):
        """Only the first opening insists on a new file."""
        file = opened(tmp_path / "e.jsonl", is_exclusive=True)
        os.unlink(tmp_path / "e.jsonl")
        file.append([b"line\n"])
        assert {"e.jsonl": "line\n"} == written(tmp_path)


class TestPlanted:
    @pytest.mark.parametrize("plant", ["symlink", "dangling", "hardlink"])
    def test_named_file_that_somebody_planted_is_not_written_to(self, tmp_path, opened, plant, monkeypatch):
        """The log goes on beside it, and says why."""
        victim, folder = tmp_path / "victim", tmp_path / "logs"
        victim.write_text("precious")
        folder.mkdir()
        if plant == "hardlink":
            (folder / "e.jsonl").hardlink_to(victim)
        else:
            (folder / "e.jsonl").symlink_to(victim if plant == "symlink" else tmp_path / "nowhere")
            monkeypatch.setattr(files, "is_trusted", lambda uid: False)
        file = opened(folder / "e.jsonl")
        assert (1, None) == file.append([b"line\n"])
        expected = "it has another name (hard link)" if plant == "hardlink" else f"it is a link of user {os.geteuid()}"
        assert (expected, "precious") == (file.moved, victim.read_text())
        assert "line\n" == (folder / f"e.{process_id()}.jsonl").read_text()
        assert ["logs", "victim"] == sorted(os.listdir(tmp_path))

    def test_link_planted_while_the_log_is_written_is_not_followed(self, tmp_path, opened, monkeypatch):
        """The file was deleted, and something else put there."""
        victim = tmp_path / "victim"
        victim.write_text("precious")
        file = opened(tmp_path / "e.jsonl")
        os.unlink(tmp_path / "e.jsonl")
        (tmp_path / "e.jsonl").symlink_to(victim)
        monkeypatch.setattr(files, "is_trusted", lambda uid: False)
        assert (1, None) == file.append([b"line\n"])
        assert ("precious", f"it is a link of user {os.geteuid()}") == (victim.read_text(), file.moved)

    def test_own_file_that_belongs_to_nobody_is_opened_again(self, tmp_path, opened, monkeypatch):
        """A network file system may give root's files to nobody; after a full disk the log goes on in its file."""
        monkeypatch.setattr(files, "is_trusted", lambda uid: False)
        file = opened(tmp_path / "e.jsonl")
        for _ in range(3):
            file.append([b"line\n"])
            file.close()
        assert (None, {"e.jsonl": "line\n" * 3}) == (file.moved, written(tmp_path))

    def test_planted_backups_are_replaced_and_not_followed(self, tmp_path, opened):
        """A rename acts on the name."""
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (tmp_path / "e.jsonl.1").symlink_to(victim)
        file = opened(tmp_path / "e.jsonl", max_bytes=4, backups=1)
        file.append([b"aaaa\n", b"bbbb\n"])
        assert ("precious", "aaaa\n") == (victim.read_text(), (tmp_path / "e.jsonl.1").read_text())
        assert not (tmp_path / "e.jsonl.1").is_symlink()

    def test_own_link_is_followed_and_never_renamed(self, tmp_path, opened):
        """Who linked the log to where there is space keeps the link."""
        (tmp_path / "space").mkdir()
        (tmp_path / "e.jsonl").symlink_to(tmp_path / "space" / "log")
        file = opened(tmp_path / "e.jsonl", max_bytes=4, backups=2)
        assert (2, None) == file.append([b"aaaa\n", b"bbbb\n"])
        assert (True, "aaaa\nbbbb\n") == (
            (tmp_path / "e.jsonl").is_symlink(),
            (tmp_path / "space" / "log").read_text(),
        )


class TestRights:
    def test_file_is_private_and_stays_as_somebody_changed_it(self, tmp_path, opened):
        """Also its successors: who opened the log for a group wants to read on."""
        path = tmp_path / "e.jsonl"
        file = opened(path, max_bytes=4, backups=2)
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        path.chmod(0o640)
        file.append([b"aaaa\n"])
        file.append([b"bbbb\n"])
        assert [0o640, 0o640] == [stat.S_IMODE(one.stat().st_mode) for one in (path, tmp_path / "e.jsonl.1")]

    def test_name_of_255_bytes_has_room_for_the_process(self, tmp_path, opened):
        """It is shortened, and no character is cut in two."""
        path = tmp_path / ("ü" * 124 + ".jsonl")
        both = [opened(path) for _ in range(2)]
        for file in both:
            assert (1, None) == file.append([b"line\n"])
        assert both[1].path.endswith(f".{process_id()}.jsonl")
        os.path.basename(both[1].path).encode()


class TestDescriptor:
    def test_number_that_the_job_closed_is_opened_again(self, tmp_path, opened):
        """A daemon closes all that it does not know; no line is lost."""
        file = opened(tmp_path / "e.jsonl")
        file.append([b"first\n"])
        os.close(file._file.fd)
        assert (1, None) == file.append([b"second\n"])
        assert (None, "first\nsecond\n") == (file.moved, (tmp_path / "e.jsonl").read_text())

    @pytest.mark.parametrize("way", ["reopened", "dup2"])
    def test_number_that_is_a_file_of_the_job_is_neither_written_nor_closed(self, tmp_path, opened, way):
        """Not by a line, not by a rotation, not at the end."""
        file = opened(tmp_path / "e.jsonl", max_bytes=20, backups=2)
        file.append([b"first\n"])
        number = file._file.fd
        job = os.open(tmp_path / "checkpoint", os.O_RDWR | os.O_CREAT)
        os.dup2(job, number)
        if way == "reopened":
            os.close(job)
        for _ in range(5):
            assert (1, None) == file.append([b"another\n"])
        assert number != file._file.fd
        assert files.identity(os.fstat(number)) == files.identity(os.stat(tmp_path / "checkpoint"))
        os.dup2(number, file._file.fd)
        taken = file._file.fd
        file.close()
        os.write(taken, b"CHECKPOINT")
        assert "CHECKPOINT" == (tmp_path / "checkpoint").read_text()
        for fd in {number, taken} | ({job} if way == "dup2" else set()):
            os.close(fd)

    def test_file_that_inherits_the_inode_is_not_ours(self, tmp_path):
        """A file system gives the number of a deleted file to the next one; how it was opened tells them apart."""
        path = tmp_path / "e"
        fd = files.open_to_append(str(path))
        ours = Descriptor(fd)
        os.close(fd)
        job = os.open(path, os.O_RDWR)  # the same device and inode
        try:
            if job != fd:
                os.dup2(job, fd)
                os.close(job)
            assert ours.status() is None
            ours.close()
            os.write(fd, b"CHECKPOINT")
        finally:
            os.close(fd)
        assert "CHECKPOINT" == path.read_text()

    def test_failure_that_is_no_error_of_the_disk_leaves_no_descriptor(self, tmp_path, opened, monkeypatch):
        """No memory in the middle of a write: what is in the file counts, and the next lines have their own."""
        file = opened(tmp_path / "e.jsonl")
        before = len(os.listdir("/proc/self/fd"))
        write = os.write

        def half(fd, data):
            if len(data) > 6:
                write(fd, data[:9])
                raise MemoryError
            return write(fd, data)

        with monkeypatch.context() as patches:
            patches.setattr(os, "write", half)
            with pytest.raises(MemoryError):
                file.append([b"first\n", b"second\n"])
        assert before - 1 == len(os.listdir("/proc/self/fd"))
        file.append([b"third\n"])
        assert "first\nsec\nthird\n" == (tmp_path / "e.jsonl").read_text()
        assert None is file.moved
