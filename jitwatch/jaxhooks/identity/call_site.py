"""Call sites: the innermost frame that belongs to the user, not to JAX, jitwatch, the standard library or a library.

Installed and vendored code is a library, except for the user's own packages (`packages`).
"""

from __future__ import annotations

import os
import sys
import sysconfig
import types

from jitwatch.jaxhooks.identity.packages import is_installed, is_library, is_own

_MAX_FRAMES = 500
_PATHS = sysconfig.get_paths()
#: Folder of jitwatch, with a separator at the end.
JITWATCH_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "")
#: The demo counts as a user's program.
_DEMO = os.path.join(JITWATCH_FOLDER, "demo", "")
_LIBRARIES = tuple({os.path.join(_PATHS[key], "") for key in ("purelib", "platlib", "stdlib", "platstdlib")})


def is_users(filename: str, jax_folders: tuple[str, ...]) -> bool | None:
    """Whether a file is the user's; None for a library's, which is used if no user frame is on the stack.

    Args:
        filename: `co_filename`; notebook cells and executed text are the user's.
        jax_folders: Folders of JAX, each with a separator at the end.
    """
    if filename.startswith(_DEMO):
        return True
    # '<frozen runpy>' and similar files are Python's own.
    if filename.startswith((JITWATCH_FOLDER, "<frozen ", *jax_folders)):
        return False
    if is_installed(filename):
        return True if is_own(filename) else None
    return None if filename.startswith(_LIBRARIES) or is_library(filename) else True


def frame_of_jax() -> types.FrameType | None:
    """Return the innermost frame that is not jitwatch's; for an observer, that of the observed function of JAX."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(JITWATCH_FOLDER):
        frame = frame.f_back
    return frame


def call_site(jax_folders: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return `file:line` and function of the user's frame that called; a library's if there is no user frame.

    Args:
        jax_folders: Folders of JAX, each with a separator at the end.
    """
    library: tuple[str | None, str | None] = (None, None)
    frame: types.FrameType | None = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            break
        rank = is_users(frame.f_code.co_filename, jax_folders)
        if rank:
            return _location(frame)
        if rank is None and library[0] is None:
            library = _location(frame)
        frame = frame.f_back
    return library


def site_of_error(trace: types.TracebackType | None, jax_folders: tuple[str, ...]) -> str | None:
    """Return `file:line` of the innermost user frame in a traceback, for an error that has left the stack."""
    found = None
    for _ in range(_MAX_FRAMES):
        if trace is None:
            break
        filename = trace.tb_frame.f_code.co_filename
        if is_users(filename, jax_folders):
            found = f"{filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _location(frame: types.FrameType) -> tuple[str, str]:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno}", code.co_qualname
