"""Which functions are watched, and how their arguments are donated.

Every jitted function passes through `_cpp_pjit`, whichever name of `jit` it came by. A watched one is handed
out where the user (or a library of theirs) asked for a function that donates, and by `pmap`, which calls what it
jitted as anybody would. JAX's own functions and those that it makes on the way get JAX's object.
"""

from __future__ import annotations

import sys
import types
from functools import partial
from typing import Any

from jitwatch.jaxhooks.donation.calls import Calls
from jitwatch.jaxhooks.donation.watched import Watched
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.values.arguments import names_of_positions
from jitwatch.jaxhooks.values.leaves import parameters

#: JAX's functions between the user's `jit` and the one that makes the object.
_ON_THE_WAY = frozenset(
    {
        "make_jit",
        "_cpp_pjit",
        "_cpp_pmap",
        "pmap",
        "jit",
        "pjit",
        "wrapped",
        "<lambda>",
        "reraise_with_filtered_traceback",
    }
)
_PMAP_FILE = "pmap.py"
_MAX_FRAMES = 12


def watched_jit(jitted: Any, fun: Any, jit_info: Any, jax_folders: tuple[str, ...]) -> Any:
    """The watched form of what JAX made, or the same object where it is not to be watched."""
    if not (jit_info.donate_argnums or jit_info.donate_argnames) or not _is_asked_for(sys._getframe(1), jax_folders):
        return jitted
    positions = donated_positions(jit_info.donate_argnums, jit_info.static_argnums)
    name_of = partial(_name_of, jit_info.fun_signature)
    return Watched(
        Calls(
            jitted,
            fun,
            static_argnums=jit_info.static_argnums,
            positions=positions,
            names=jit_info.donate_argnames,
            name_of=name_of,
        )
    )


def watched_pmap(jitted: Any, fun: Any, options: dict[str, Any], jax_folders: tuple[str, ...]) -> Any:
    """The same for what `jax.pmap` makes until 0.7, where it is no jitted function."""
    donated, statics = (_numbers(options.get(name, ())) for name in ("donate_argnums", "static_broadcasted_argnums"))
    if not donated or not _is_asked_for(sys._getframe(1), jax_folders):
        return jitted
    name_of = partial(_name_of_parameter, fun)
    return Watched(Calls(jitted, fun, static_argnums=statics, positions=donated, names=(), name_of=name_of))


def _numbers(given: Any) -> tuple[int, ...]:
    """An argument such as `donate_argnums`: one number or several."""
    return (given,) if isinstance(given, int) else tuple(given)


def donated_positions(donate_argnums: tuple[int, ...], static_argnums: tuple[int, ...]) -> tuple[int, ...]:
    """Positional arguments that are donated; until JAX 0.8 its numbers leave out static arguments."""
    donated = sorted({i for i in donate_argnums if i >= 0})
    if not _numbers_skip_statics() or not static_argnums:
        return tuple(donated)
    highest = max(donated, default=0) + len(static_argnums) + 1
    dynamic = [i for i in range(highest) if i not in static_argnums]
    return tuple(dynamic[i] for i in donated if i < len(dynamic))


def _numbers_skip_statics() -> bool:
    """Whether JAX numbers donated arguments without the static ones; asked of its own function."""
    resolve = getattr(sys.modules.get("jax._src.api_util"), "resolve_argnums", None)
    try:
        return resolve is not None and tuple(resolve(None, None, (1,), None, (0,), None)[0]) == (0,)
    except Exception:
        return False


def _name_of(signature: Any, position: int) -> str:
    return names_of_positions(signature, position + 1)[position]


def _name_of_parameter(fun: Any, position: int) -> str:
    return parameters(fun, position + 1)[position]


def _is_asked_for(frame: types.FrameType | None, jax_folders: tuple[str, ...]) -> bool:
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return False
        code = frame.f_code
        if is_users(code.co_filename, jax_folders) is not False:
            return True
        if code.co_filename.startswith(jax_folders) and code.co_name not in _ON_THE_WAY:
            return code.co_filename.endswith(_PMAP_FILE)
        frame = frame.f_back
    return False
