"""Creation of files in folders that other users may write to, without following their symbolic links.

A job may run as root, and its folders may be shared or world-writable. An attacker who plants a symbolic link under the
name of a file to be written could have any file of the job's user overwritten. Therefore:

- a new file is created exclusively (`O_EXCL`), a temporary one under a name that cannot be guessed;
- a complete file is put in place by `rename` or `link`, which act on the name and never on the target of a link;
- an existing file is opened with `O_NOFOLLOW`, and used only if it belongs to this user or root and has no second name.

A link that belongs to this user or root is followed if the user named the path. Folders in the path are trusted: an
attacker who can replace one of them can at most have new files created elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Permissions: for the job's user only, since event logs and programs contain functions, call sites and values; and for
#: others as far as the umask allows.
PRIVATE, SHARED = 0o600, 0o666
#: O_NONBLOCK: a FIFO without a reader is an error, instead of a job that hangs.
#: Windows, where jitwatch can be imported but not installed, has neither.
APPEND = os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
_WRITE = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
_MAX_LINKS = 40
_MAX_NAME = 100
_ATTEMPTS = 10

Identity = tuple[int, int]


class UntrustedError(PermissionError):
    """The file exists, and another user may have planted it."""


def is_trusted(uid: int) -> bool:
    """Whether this user is the job's own user or root."""
    return uid in (0, os.geteuid())


def is_descriptor(path: str) -> bool:
    """Whether the path is a descriptor of a process: a link that cannot be resolved as text nor planted."""
    return path.startswith(("/proc/", "/dev/fd/"))


def identity(status: os.stat_result) -> Identity:
    """Device and inode, which identify a file as long as it exists."""
    return status.st_dev, status.st_ino


def create(path: str, *, flags: int = 0, mode: int = PRIVATE) -> int:
    """Create a file that does not exist, not even as a dangling link, and return its descriptor."""
    return os.open(path, _WRITE | os.O_CREAT | os.O_EXCL | flags, mode)


def resolve(path: str) -> str:
    """The path with symbolic links of its last component resolved; raises UntrustedError for one of another user."""
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
    """Open a file for appending, and create it if it does not exist.

    One that this process had open under this name (`known`) is trusted: a network file system may map root to nobody.

    Raises:
        UntrustedError: The file exists and belongs to another user, or has other names.
    """
    path = resolve(path)
    for _ in range(_ATTEMPTS):
        with suppress(FileExistsError):
            return create(path, flags=APPEND)
        with suppress(FileNotFoundError):  # removed meanwhile
            return _open_existing(path, APPEND, known)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def replace(
    path: str, data: bytes, *, mode: int = SHARED, is_exact: bool = False, is_durable: bool = False
) -> Identity:
    """Write a file atomically: a reader finds the old content or the new one. Returns the identity of the new file.

    An existing file is replaced, and so is a symbolic link: its target is not written to. After an error no partial
    file is left. The mode is minus the umask, unless it is exact. A durable content is on the disk before the old one
    is replaced.
    """
    with _draft(path, data, mode, is_exact=is_exact, is_durable=is_durable) as (draft, created):
        os.replace(draft, path)
    return created


def publish(path: str, data: bytes, *, mode: int = PRIVATE) -> None:
    """Write a file atomically under a free name; raises FileExistsError if it is not. No partial file is left."""
    with _draft(path, data, mode) as (draft, _):
        try:
            os.link(draft, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: reserve the name first
            os.close(create(path, mode=mode))
            os.replace(draft, path)


def write_named(path: str, data: bytes, *, is_durable: bool = True) -> None:
    """Write a file that the user named: `report.html`, a symbolic link, `/dev/stdout`, a pipe. It keeps its mode."""
    path = resolve(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        replace(path, data, is_durable=is_durable)
        return
    if stat.S_ISREG(status.st_mode) and not is_descriptor(path):
        # A writable file in a folder that is not writable is written in place.
        with suppress(PermissionError):
            replace(path, data, mode=stat.S_IMODE(status.st_mode), is_exact=True, is_durable=is_durable)
            return
    if not is_trusted(status.st_uid) and not is_descriptor(path):  # before it is opened: opening a pipe may block
        raise UntrustedError(errno.EPERM, f"belongs to user {status.st_uid}", path)
    with open(_open_existing(path, 0), "wb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            os.ftruncate(file.fileno(), 0)
        file.write(data)


def remove_own(path: str, known: Identity | None) -> None:
    """Remove a file, unless another file has the name by now."""
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


@contextmanager
def _draft(
    path: str, data: bytes, mode: int, *, is_exact: bool = False, is_durable: bool = False
) -> Iterator[tuple[str, Identity]]:
    """Write the data to a new file next to the path, under a name that cannot be guessed; it is removed at the end."""
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
        yield draft, created
    finally:
        with suppress(OSError):
            os.unlink(draft)
