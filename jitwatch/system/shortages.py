"""Recognition of exhausted resources (descriptors, threads, memory, disk), which no change of options would fix."""

from __future__ import annotations

import errno
import os

from jitwatch.errors import JitwatchError

_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_MEMORY = frozenset({errno.ENOMEM, errno.ENOBUFS})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE})


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error, or one in its chain of causes, reports an exhausted resource."""
    while error is not None:
        if isinstance(error, MemoryError) or _is_no_thread(error):
            return True
        if isinstance(error, OSError) and error.errno in _DESCRIPTORS | _MEMORY | _DISK | {errno.EAGAIN}:
            return True
        # An extension module that could not be opened.
        if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def advice(error: BaseException) -> str:
    """What to do about an error."""
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ImportError) and is_shortage(error):
        code = errno.EMFILE
    if code in _DESCRIPTORS:
        return "no file descriptor is left; raise the limit (ulimit -n), or find what keeps files open"
    if _is_no_thread(error):
        return "no thread can be started; raise the limit of processes (ulimit -u, or the pids limit of the container)"
    if isinstance(error, MemoryError) or code in _MEMORY:
        return "no memory is left; raise the memory limit of the job"
    if code in _DISK:
        return "the disk is full or failing; free space, or name another folder"
    return "set JITWATCH_DISABLE=1 to run without jitwatch, and report this with the output of `jitwatch doctor`"


def as_jitwatch_error(error: BaseException, what: str = "") -> JitwatchError:
    """The error itself if it is a `JitwatchError`, else one that says what failed, with its text and advice."""
    if isinstance(error, JitwatchError):
        return error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return JitwatchError(f"{what} ({text}): {advice(error)}".lstrip())


def _is_no_thread(error: BaseException) -> bool:
    # CPython has no error type for it.
    return isinstance(error, RuntimeError) and "new thread" in str(error)
