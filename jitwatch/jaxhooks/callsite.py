"""Whose line it was: the innermost frame that is neither JAX's, ours, the standard library's nor a library's."""

from __future__ import annotations

import os
import sys
import sysconfig
import types

_MAX_FRAMES = 500
_PATHS = sysconfig.get_paths()
_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
#: The demo stands in for a user's program.
_DEMO = os.path.join(_OURS, "demo", "")
_LIBRARIES = tuple({os.path.join(_PATHS[key], "") for key in ("purelib", "platlib", "stdlib", "platstdlib")})


def call_site(jax_folders: tuple[str, ...]) -> str | None:
    """`file:line` of the code that made the call; a library's when no code of the user is on the stack.

    Args:
        jax_folders: Where JAX lives, with a separator at the end.
    """
    library = None
    frame: types.FrameType | None = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            break
        filename = frame.f_code.co_filename
        if filename.startswith(_DEMO):
            return f"{filename}:{frame.f_lineno}"
        # '<frozen runpy>' and the like are Python's own; a notebook's and exec's names are the user's.
        if not filename.startswith((_OURS, "<frozen ", *jax_folders)):
            where = f"{filename}:{frame.f_lineno}"
            if not filename.startswith(_LIBRARIES):
                return where
            library = library or where
        frame = frame.f_back
    return library
