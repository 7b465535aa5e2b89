"""An open file whose descriptor the job may close or reuse for a file of its own at any time.

A job that daemonizes closes all unknown descriptors (`os.closerange`), and the files that it opens next get their
numbers; `os.dup2` replaces the file behind one. Such a descriptor must be neither written to nor closed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress

from jitwatch.system import files
from jitwatch.system.timed_call import TimedCaller


class Descriptor:
    """A file descriptor that detects whether it still refers to the file that was opened.

    The job can still close it in the microseconds between a check and the following write; the system offers no way to
    prevent that.

    Args:
        fd: A descriptor that was just opened; closed if it cannot be inspected.

    Attributes:
        identity: Device and inode of the file.
        is_regular: Whether it is a regular file, rather than a pipe or a device.
        size: Size in bytes when it was opened.
    """

    __slots__ = ("_flags", "fd", "identity", "is_regular", "size")

    def __init__(self, fd: int) -> None:
        try:
            status = os.fstat(fd)
            # The inode of a deleted file is reused, but hardly with the same flags.
            self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.identity = files.identity(status)
        self.is_regular = stat.S_ISREG(status.st_mode)
        self.size = status.st_size

    def status(self) -> os.stat_result | None:
        """Status of the file; None if the descriptor no longer refers to it."""
        with suppress(OSError):
            status = os.fstat(self.fd)
            if files.identity(status) == self.identity and fcntl.fcntl(self.fd, fcntl.F_GETFL) == self._flags:
                return status
        return None

    def close(self) -> None:
        """Close the file, unless the descriptor refers to another one by now."""
        if self.status() is not None:
            with suppress(OSError):
                os.close(self.fd)

    def lock(self, caller: TimedCaller) -> bool:
        """Acquire the advisory lock of the file; False if another process holds it.

        If the file system has no locks, or its lock server does not respond, the lock is considered free.
        """
        with suppress(OSError, RuntimeError):  # RuntimeError: no thread can be started
            try:
                caller.call(lambda: fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                return False
        return True
