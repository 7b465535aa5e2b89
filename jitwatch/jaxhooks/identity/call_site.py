"""Call sites: the innermost frame that belongs to the user, not to JAX, jitwatch, the standard library or a library.

Installed and vendored code is a library, except for the user's own packages (`packages`). Folders of JAX
(`jax_folders`) have a separator at the end.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import types

from jitwatch.jaxhooks.identity.packages import is_installed, is_library, is_own
from jitwatch.jaxhooks.stack import callers, entries

_MAX_FRAMES = 500
_PATHS = sysconfig.get_paths()
#: Folder of jitwatch, with a separator at the end.
JITWATCH_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "")
#: The demo counts as a user's program.
_DEMO = os.path.join(JITWATCH_FOLDER, "demo", "")
_LIBRARIES = tuple({os.path.join(_PATHS[key], "") for key in ("purelib", "platlib", "stdlib", "platstdlib")})


def is_users(filename: str, jax_folders: tuple[str, ...]) -> bool | None:
    """Whether a file is the user's, as notebook cells and executed text are.

    None for a library's, which is used if no user frame is on the stack.
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
    """Return `file:line` and function of the user's frame that called; a library's if there is no user frame."""
    library: tuple[str | None, str | None] = (None, None)
    # Most frames are JAX's: a single comparison for each of them.
    others = (JITWATCH_FOLDER, "<frozen ", *jax_folders)
    for frame in callers(sys._getframe(1), _MAX_FRAMES):
        code = frame.f_code
        filename = code.co_filename
        if filename.startswith(others) and not filename.startswith(_DEMO):
            continue
        rank = is_users(filename, jax_folders)
        if rank or (rank is None and library[0] is None):
            found = f"{code.co_filename}:{frame.f_lineno}", code.co_qualname
            if rank:
                return found
            library = found
    return library


def site_of_error(trace: types.TracebackType | None, jax_folders: tuple[str, ...]) -> str | None:
    """Return `file:line` of the innermost user frame in a traceback, for an error that has left the stack."""
    found = None
    for one in entries(trace):
        filename = one.tb_frame.f_code.co_filename
        if is_users(filename, jax_folders):
            found = f"{filename}:{one.tb_lineno}"
    return found
