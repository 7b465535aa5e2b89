"""Files in folders that others may write to: nothing is written through what somebody planted."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from jitwatch.system import files
from jitwatch.system.files import UntrustedError


@pytest.fixture
def victim(tmp_path):
    """A file of the job's user that an attacker wants to have overwritten."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


@pytest.fixture
def strangers(monkeypatch):
    """Whatever is there was put there by another user."""
    monkeypatch.setattr(files, "is_trusted", lambda uid: False)


@pytest.fixture
def folder(tmp_path):
    """A folder in which everybody may write, as /tmp without the sticky bit."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o777)
    return path


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def plant(kind: str, path: Path, victim: Path) -> None:
    if kind == "symlink":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(victim.with_name("not there"))
    elif kind == "hardlink":
        path.hardlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("planted")


PLANTS = ("symlink", "dangling", "hardlink", "fifo", "folder", "file")


class TestCreate:
    def test_new_file_is_private(self, folder):
        """Only the job's user reads it, whatever the umask allows."""
        before = os.umask(0)
        try:
            os.close(files.create(str(folder / "a")))
        finally:
            os.umask(before)
        assert 0o600 == mode_of(folder / "a")

    @pytest.mark.parametrize("kind", PLANTS)
    def test_planted_name_is_taken(self, folder, victim, kind):
        """Nothing is opened that is there already."""
        plant(kind, folder / "a", victim)
        with pytest.raises(FileExistsError):
            files.create(str(folder / "a"))
        assert ["shared", "victim"] == sorted(os.listdir(folder.parent))
        assert "precious" == victim.read_text()


class TestReplace:
    def test_content_is_replaced_as_a_whole(self, folder):
        """What has the file open keeps the old content; nothing else is left in the folder."""
        path = folder / "a"
        path.write_text("old")
        with path.open() as reader:
            known = files.replace(str(path), b"new")
            assert "old" == reader.read()
        assert ("new", ["a"]) == (path.read_text(), os.listdir(folder))
        assert known == files.identity(path.stat())
        assert 0o666 & ~umask() == mode_of(path)

    @pytest.mark.parametrize("kind", ["symlink", "dangling", "hardlink", "fifo", "file"])
    def test_planted_name_is_replaced_and_not_followed(self, folder, victim, kind):
        """The link goes, and what it led to stays as it was."""
        plant(kind, folder / "a", victim)
        files.replace(str(folder / "a"), b"new")
        assert ("precious", "new") == (victim.read_text(), (folder / "a").read_text())
        assert stat.S_ISREG(os.lstat(folder / "a").st_mode)
        assert ["shared", "victim"] == sorted(os.listdir(folder.parent))

    def test_folder_in_the_way_is_an_error_that_leaves_nothing(self, folder):
        """No draft stays behind."""
        (folder / "a").mkdir()
        with pytest.raises(IsADirectoryError):
            files.replace(str(folder / "a"), b"new")
        assert ["a"] == os.listdir(folder)

    def test_draft_has_a_name_that_nobody_can_plant(self, folder, monkeypatch):
        """It is another one each time, and is created exclusively."""
        drafts, create = [], files.create
        monkeypatch.setattr(files, "create", lambda path, **options: (drafts.append(path), create(path, **options))[1])
        for _ in range(50):
            files.replace(str(folder / "a"), b"new")
        assert 50 == len(set(drafts))
        assert not [draft for draft in drafts if str(os.getpid()) in Path(draft).name.split(".")]

    def test_guessed_draft_is_not_followed(self, folder, victim, monkeypatch):
        """Even a planted draft of the right name is an error, not an overwritten file."""
        monkeypatch.setattr(os, "urandom", lambda size: b"\0" * size)
        (folder / f".a.{'00' * 8}.tmp").symlink_to(victim)
        with pytest.raises(FileExistsError):
            files.replace(str(folder / "a"), b"new")
        assert "precious" == victim.read_text()

    def test_long_name_leaves_room_for_the_draft(self, folder):
        """A name of 255 bytes is as long as a name may be."""
        files.replace(str(folder / ("a" * 255)), b"new")
        assert ["a" * 255] == os.listdir(folder)

    def test_full_disk_leaves_nothing(self, folder, monkeypatch):
        """Neither a half file nor a draft."""
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            files.replace(str(folder / "a"), b"new", is_durable=True)
        assert [] == os.listdir(folder)


class TestPublish:
    def test_free_name_gets_the_file(self, folder):
        """Whole, private, and with one name only."""
        files.publish(str(folder / "a"), b"text")
        assert ("text", 0o600, 1) == ((folder / "a").read_text(), mode_of(folder / "a"), os.stat(folder / "a").st_nlink)
        assert ["a"] == os.listdir(folder)

    @pytest.mark.parametrize("kind", PLANTS)
    @pytest.mark.parametrize("has_links", [True, False])
    def test_taken_name_is_never_replaced(self, folder, victim, kind, has_links, monkeypatch):
        """Also on a file system without hard links."""
        plant(kind, folder / "a", victim)
        before = os.lstat(folder / "a")
        if not has_links:
            monkeypatch.setattr(os, "link", refuse_links)
        with pytest.raises(FileExistsError):
            files.publish(str(folder / "a"), b"text")
        assert ("precious", ["a"]) == (victim.read_text(), os.listdir(folder))
        assert before.st_ino == os.lstat(folder / "a").st_ino

    def test_file_system_without_hard_links_gets_the_file(self, folder, monkeypatch):
        """The name is taken first, then the content takes its place."""
        monkeypatch.setattr(os, "link", refuse_links)
        files.publish(str(folder / "a"), b"text")
        assert ("text", ["a"]) == ((folder / "a").read_text(), os.listdir(folder))

    def test_one_of_many_gets_the_name(self, folder):
        """The others know that they did not."""
        won, start = [], threading.Barrier(8)

        def work(number):
            start.wait()
            try:
                files.publish(str(folder / "a"), str(number).encode())
                won.append(str(number))
            except FileExistsError:
                pass

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(folder / "a").read_text()] == won


def refuse_links(*_args, **_options):
    raise PermissionError(1, "Operation not permitted")


class TestAppend:
    def append(self, path, data=b"line\n"):
        fd = files.open_to_append(str(path))
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def test_file_is_created_or_continued(self, folder):
        """Its own mode stays."""
        self.append(folder / "a")
        (folder / "a").chmod(0o640)
        self.append(folder / "a")
        assert ("line\nline\n", 0o640) == ((folder / "a").read_text(), mode_of(folder / "a"))

    def test_own_link_is_followed(self, folder, victim):
        """A person may link their log to where there is space."""
        (folder / "a").symlink_to(victim)
        (folder / "b").symlink_to("a")
        (folder / "c").symlink_to("there")
        self.append(folder / "b")
        self.append(folder / "c")
        assert ("preciousline\n", "line\n") == (victim.read_text(), (folder / "there").read_text())

    @pytest.mark.parametrize("kind", ["symlink", "dangling"])
    def test_link_of_somebody_else_is_not_followed(self, folder, victim, strangers, kind):
        """Whoever planted it chose where it leads."""
        plant(kind, folder / "a", victim)
        with pytest.raises(UntrustedError, match="is a link of user"):
            self.append(folder / "a")
        assert ("precious", ["shared", "victim"]) == (victim.read_text(), sorted(os.listdir(folder.parent)))

    def test_link_planted_at_the_last_moment_is_not_followed(self, folder, victim, monkeypatch):
        """Between the look and the opening."""
        (folder / "a").write_text("")
        look = os.lstat

        def swap(path, **options):
            status = look(path, **options)
            if Path(path) == folder / "a" and not Path(path).is_symlink():
                (folder / "a").unlink()
                (folder / "a").symlink_to(victim)
            return status

        monkeypatch.setattr(os, "lstat", swap)
        with pytest.raises(OSError, match="symbolic links"):
            self.append(folder / "a")
        assert "precious" == victim.read_text()

    def test_hard_link_is_not_written_to(self, folder, victim):
        """Its other name may be any file of the job's user."""
        (folder / "a").hardlink_to(victim)
        with pytest.raises(UntrustedError, match="has another name"):
            self.append(folder / "a")
        assert "precious" == victim.read_text()

    @pytest.mark.parametrize("kind", ["file", "fifo"])
    def test_file_of_somebody_else_is_not_written_to(self, folder, victim, strangers, kind):
        """They would read what the log says."""
        plant(kind, folder / "a", victim)
        reader = os.open(folder / "a", os.O_RDONLY | os.O_NONBLOCK)
        try:
            with pytest.raises(UntrustedError, match="belongs to user"):
                self.append(folder / "a")
        finally:
            os.close(reader)

    def test_circle_of_links_ends(self, folder):
        """As the system says it."""
        (folder / "a").symlink_to("b")
        (folder / "b").symlink_to("a")
        with pytest.raises(OSError, match="symbolic links"):
            self.append(folder / "a")

    def test_only_this_user_and_root_are_trusted(self):
        """And nobody else."""
        own = os.geteuid()
        assert [True, True, False] == [files.is_trusted(uid) for uid in (own, 0, own + 4242)]


class TestWriteNamed:
    def test_file_is_replaced_and_keeps_its_mode(self, folder):
        """A new one has what the umask allows."""
        path = folder / "a"
        files.write_named(str(path), b"one")
        assert 0o666 & ~umask() == mode_of(path)
        path.chmod(0o660)
        files.write_named(str(path), b"two")
        assert ("two", 0o660, ["a"]) == (path.read_text(), mode_of(path), os.listdir(folder))

    def test_own_link_is_followed(self, folder, victim):
        """And stays a link."""
        (folder / "a").symlink_to(victim)
        files.write_named(str(folder / "a"), b"new")
        assert ("new", True) == (victim.read_text(), (folder / "a").is_symlink())

    @pytest.mark.parametrize("kind", ["symlink", "dangling"])
    def test_link_of_somebody_else_is_an_error(self, folder, victim, strangers, kind):
        """Nothing is written."""
        plant(kind, folder / "a", victim)
        with pytest.raises(UntrustedError):
            files.write_named(str(folder / "a"), b"new")
        assert ("precious", ["shared", "victim"]) == (victim.read_text(), sorted(os.listdir(folder.parent)))

    def test_hard_link_loses_its_name_and_not_its_content(self, folder, victim):
        """The other name keeps what it had."""
        (folder / "a").hardlink_to(victim)
        files.write_named(str(folder / "a"), b"new")
        assert ("precious", "new") == (victim.read_text(), (folder / "a").read_text())

    def test_pipes_and_devices_are_written_to(self, folder):
        """`--output /dev/stdout` and process substitution."""
        os.mkfifo(folder / "a")
        reader = os.open(folder / "a", os.O_RDONLY | os.O_NONBLOCK)
        try:
            files.write_named(str(folder / "a"), b"new")
            assert b"new" == os.read(reader, 10)
        finally:
            os.close(reader)
        files.write_named(os.devnull, b"new")
        with pytest.raises(OSError, match="No space left"):
            files.write_named("/dev/full", b"new")
        with pytest.raises(IsADirectoryError):
            files.write_named(str(folder), b"new")

    @pytest.mark.parametrize("where", ["/proc/self/fd", "/dev/fd"])
    def test_descriptor_of_the_process_is_written_to(self, folder, strangers, where):
        """As /dev/stdout, when it leads to a file or a pipe, or to the terminal of who called `su`."""
        with (folder / "a").open("wb") as file:
            files.write_named(f"{where}/{file.fileno()}", b"new")
        assert "new" == (folder / "a").read_text()
        reader, writer = os.pipe()
        try:
            files.write_named(f"{where}/{writer}", b"new")
            assert b"new" == os.read(reader, 10)
        finally:
            os.close(reader)
            os.close(writer)

    def test_file_in_a_folder_that_may_not_be_written_is_written_in_place(self, folder, victim, monkeypatch):
        """Unless it has another name."""
        path = folder / "a"
        path.write_text("a longer text")
        monkeypatch.setattr(files, "create", refuse_links)
        files.write_named(str(path), b"new")
        assert "new" == path.read_text()
        (folder / "b").hardlink_to(victim)
        with pytest.raises(UntrustedError):
            files.write_named(str(folder / "b"), b"new")
        with pytest.raises(PermissionError, match="not permitted"):
            files.write_named(str(folder / "c"), b"new")
        assert "precious" == victim.read_text()


def test_file_of_another_process_is_not_removed(folder):
    """Only the very file that is ours."""
    known = files.replace(str(folder / "a"), b"ours")
    files.replace(str(folder / "a"), b"theirs")
    files.remove_own(str(folder / "a"), known)
    assert "theirs" == (folder / "a").read_text()
    known = files.replace(str(folder / "a"), b"ours")
    files.remove_own(str(folder / "a"), known)
    files.remove_own(str(folder / "a"), known)
    assert [] == os.listdir(folder)
