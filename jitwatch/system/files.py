"""Creation of files in folders that others may write to as well: no link is followed that somebody else planted.

A job may run as root, and its folders may be shared or world-writable. Whoever plants a link under a name that we are
going to write would have us overwrite any file of the job's user. Therefore:

- a file of ours is created exclusively (`O_EXCL`), drafts under names that nobody can guess;
- a whole file appears by `rename` or `link`, which act on the name and never on what a link points to;
- an existing file is opened with `O_NOFOLLOW`, and used only if it belongs to this user or root and has no second name.

A link that this user or root made is followed where a person named the path. Folders on the way are trusted: whoever
may replace one of them can at most have new files of ours created elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

#: For what only the job's user has to read: event logs and programs name functions, call sites and values.
PRIVATE = 0o600
#: For what others read as well, as far as the umask allows.
SHARED = 0o666

#: O_NONBLOCK: a FIFO without a reader is an error at once, instead of a job that hangs.
APPEND = os.O_APPEND | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CLOEXEC
_MAX_LINKS = 40
_MAX_NAME = 100
_ATTEMPTS = 10

Identity = tuple[int, int]


class UntrustedError(PermissionError):
    """A file of this name is there, and somebody else may have put it there to be written to."""


def is_trusted(uid: int) -> bool:
    """Whether what belongs to this user was put there by the job's own user, or by root."""
    return uid in (0, os.geteuid())


def is_descriptor(path: str) -> bool:
    """Whether it is a descriptor of a process: a link that cannot be resolved as text, and that nobody can plant."""
    return path.startswith(("/proc/", "/dev/fd/"))


def identity(status: os.stat_result) -> Identity:
    """What tells one file from another as long as either of them exists."""
    return status.st_dev, status.st_ino


def create(path: str, *, flags: int = 0, mode: int = PRIVATE) -> int:
    """Create a file that is not there yet, and return its descriptor.

    Raises:
        FileExistsError: Something has this name, if only a link that points nowhere.
        OSError: It cannot be created.
    """
    return os.open(path, _WRITE | os.O_CREAT | os.O_EXCL | flags, mode)


def resolve(path: str) -> str:
    """The path that links of this name lead to, or the path itself.

    Raises:
        UntrustedError: Such a link belongs to somebody else.
    """
    for _ in range(_MAX_LINKS):
        try:
            status = os.lstat(path)
        except OSError:
            return path
        if not stat.S_ISLNK(status.st_mode) or is_descriptor(path):
            return path
        if not is_trusted(status.st_uid):
            raise UntrustedError(errno.EPERM, f"is a link of user {status.st_uid}", path)
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def open_to_append(path: str, known: Identity | None = None) -> int:
    """Open a file at its end, and create it where it is missing.

    Args:
        path: The file.
        known: A file that this process had open under this name; it is trusted whoever it belongs to by now, as on a
            network file system that gives root's files to nobody.

    Raises:
        UntrustedError: A file is there that belongs to somebody else, or that has other names.
        OSError: It cannot be opened.
    """
    path = resolve(path)
    for _ in range(_ATTEMPTS):
        with suppress(FileExistsError):
            return create(path, flags=APPEND)
        with suppress(FileNotFoundError):  # gone meanwhile
            return _open_existing(path, APPEND, known)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def replace(
    path: str, data: bytes, *, mode: int = SHARED, is_exact: bool = False, is_durable: bool = False
) -> Identity:
    """Write a whole file: whoever reads it finds the old content or the new, never a part.

    What has the name is replaced, a link as well; nothing is written through it.

    Args:
        path: The file.
        data: Its content.
        mode: Rights of the file, less the umask.
        is_exact: Give it just these rights, whatever the umask.
        is_durable: Whether the content has to be on the disk before it takes the place of the old.

    Returns:
        The identity of the new file.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    draft, created = _draft(path, data, mode, is_exact=is_exact, is_durable=is_durable)
    try:
        os.replace(draft, path)
    except BaseException:
        _remove(draft)
        raise
    return created


def publish(path: str, data: bytes, *, mode: int = PRIVATE) -> None:
    """Write a whole file under a name that is free; never replaces anything.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be written; nothing is left of it.
    """
    draft, _ = _draft(path, data, mode)
    try:
        try:
            os.link(draft, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: take the name first
            os.close(create(path, mode=mode))
            os.replace(draft, path)
    finally:
        _remove(draft)


def write_named(path: str, data: bytes, *, is_durable: bool = True) -> None:
    """Write a file that a person named: `report.html`, a link of theirs, `/dev/stdout`, a pipe.

    Args:
        path: The file, which keeps its mode if it is there.
        data: Its content.
        is_durable: Whether the content has to be on the disk before it takes the place of the old.

    Raises:
        UntrustedError: The name belongs to somebody else.
        OSError: It cannot be written.
    """
    path = resolve(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        replace(path, data, is_durable=is_durable)
        return
    if stat.S_ISREG(status.st_mode) and not is_descriptor(path):
        # A file that may be written, in a folder that may not, is written in place.
        with suppress(PermissionError):
            replace(path, data, mode=stat.S_IMODE(status.st_mode), is_exact=True, is_durable=is_durable)
            return
    if not is_trusted(status.st_uid) and not is_descriptor(
        path
    ):  # before it is opened, which may wait for the other end of a pipe
        raise UntrustedError(errno.EPERM, f"belongs to user {status.st_uid}", path)
    _write(_open_existing(path, 0), data)


def remove_own(path: str, known: Identity | None) -> None:
    """Remove a file, unless another one has its name by now."""
    with suppress(FileNotFoundError):
        if identity(os.lstat(path)) == known:
            os.unlink(path)


def _open_existing(path: str, flags: int, known: Identity | None = None) -> int:
    if is_descriptor(path):
        return os.open(path, _WRITE | flags)
    fd = os.open(path, _WRITE | flags | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if identity(status) != known and not is_trusted(status.st_uid):
            raise UntrustedError(errno.EPERM, f"belongs to user {status.st_uid}", path)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            raise UntrustedError(errno.EPERM, "has another name (hard link)", path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, data: bytes) -> None:
    """Write a file in place."""
    with open(fd, "wb") as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, 0)
        file.write(data)


def _draft(
    path: str, data: bytes, mode: int, *, is_exact: bool = False, is_durable: bool = False
) -> tuple[str, Identity]:
    """Write the data beside the path, under a name that nobody else can have planted or can guess."""
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name[:_MAX_NAME]}.{os.urandom(8).hex()}.tmp")
    fd = create(draft, mode=mode)
    try:
        with open(fd, "wb") as file:
            created = identity(os.fstat(fd))
            if is_exact:
                os.fchmod(fd, mode)
            file.write(data)
            if is_durable:
                file.flush()
                os.fsync(fd)
    except BaseException:
        _remove(draft)
        raise
    return draft, created


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
