"""An open file of ours, by a number that the job may close or give to a file of its own at any time.

A job that daemonizes closes all descriptors that it does not know (`os.closerange`), and what it opens next gets their
numbers; `os.dup2` puts a file of the job in the place of ours. Such a number must be neither written to nor closed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress

from jitwatch.system import files
from jitwatch.system.patience import Patience

#: Seconds to wait for a lock server.
_LOCK_S = 0.5


class Descriptor:
    """A descriptor, and what tells whether it still leads to the file that was opened.

    Between a look and the write after it lie microseconds in which the job could still close it; nothing can be done
    about that, since numbers are all that the system takes.

    Args:
        fd: A descriptor that was just opened; closed when it cannot be looked at.

    Attributes:
        identity: Device and inode of the file.
        is_regular: Whether it is a file on a disk, rather than a pipe or a device.
        size: Bytes when it was opened.
    """

    __slots__ = ("_flags", "fd", "identity", "is_regular", "size")

    def __init__(self, fd: int) -> None:
        try:
            status = os.fstat(fd)
            # A file that was deleted leaves its inode to the next one; its flags are hardly those of ours as well.
            self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.identity = files.identity(status)
        self.is_regular = stat.S_ISREG(status.st_mode)
        self.size = status.st_size

    def status(self) -> os.stat_result | None:
        """State of the file; None where the number no longer leads to it."""
        with suppress(OSError):
            status = os.fstat(self.fd)
            if files.identity(status) == self.identity and fcntl.fcntl(self.fd, fcntl.F_GETFL) == self._flags:
                return status
        return None

    def close(self) -> None:
        """Close the file, unless the number belongs to another one by now."""
        if self.status() is not None:
            with suppress(OSError):
                os.close(self.fd)

    def lock(self, patience: Patience) -> bool:
        """Take the advisory lock of the file; False where another process has it.

        Where there are no locks, or the server that grants them does not answer, nobody has it.
        """
        with suppress(OSError, RuntimeError):  # RuntimeError: no thread can be started
            try:
                patience.call(lambda: fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                return False
        return True


def lock_patience() -> Patience:
    """How long a lock is waited for; on a network file system its server may be gone."""
    return Patience(_LOCK_S)
