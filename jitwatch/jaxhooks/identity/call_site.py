"""Whose line it was: the innermost frame that is neither JAX's, ours, the standard library's nor a library's.

What is installed or copied from elsewhere is a library, but for the user's own packages (`packages`).
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
OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "")
#: The demo stands in for a user's program.
_DEMO = os.path.join(OURS, "demo", "")
_LIBRARIES = tuple({os.path.join(_PATHS[key], "") for key in ("purelib", "platlib", "stdlib", "platstdlib")})


def is_users(filename: str, jax_folders: tuple[str, ...]) -> bool | None:
    """Whether a file is the user's; None for a library's, which stands in where none of the user is on the stack.

    Args:
        filename: As code objects have it; a notebook's cell and exec's text are the user's.
        jax_folders: Where JAX lives, with a separator at the end.
    """
    if filename.startswith(_DEMO):
        return True
    # '<frozen runpy>' and the like are Python's own.
    if filename.startswith((OURS, "<frozen ", *jax_folders)):
        return False
    if is_installed(filename):
        return True if is_own(filename) else None
    return None if filename.startswith(_LIBRARIES) or is_library(filename) else True


def frame_of_jax() -> types.FrameType | None:
    """The innermost frame that is not ours; for an observer that of JAX's function that it looks at."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return frame


def call_site(jax_folders: tuple[str, ...]) -> tuple[str | None, str | None]:
    """`file:line` and function of the code that made the call; a library's when none of the user is on the stack.

    Args:
        jax_folders: Where JAX lives, with a separator at the end.
    """
    library: tuple[str | None, str | None] = (None, None)
    frame: types.FrameType | None = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            break
        rank = is_users(frame.f_code.co_filename, jax_folders)
        if rank:
            return _place(frame)
        if rank is None and library[0] is None:
            library = _place(frame)
        frame = frame.f_back
    return library


def site_of_error(trace: types.TracebackType | None, jax_folders: tuple[str, ...]) -> str | None:
    """`file:line` of the innermost frame of the user in a traceback, where the stack itself is gone."""
    found = None
    for _ in range(_MAX_FRAMES):
        if trace is None:
            break
        filename = trace.tb_frame.f_code.co_filename
        if is_users(filename, jax_folders):
            found = f"{filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _place(frame: types.FrameType) -> tuple[str, str]:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno}", code.co_qualname
