"""What `jax.jit` returns for a function that donates: a wrapper of JAX's object that records each call's donations.

`Watched` is a full `jax.stages.Wrapped`: the same results, errors, tracebacks, signature, attributes, class (as
`isinstance` sees it), binding as a method, and every operation that JAX offers on a jitted function. Two requirements
are not visible to a type checker: without the slot for weak references JAX ends the process (`eval_shape`), and
`lower`, `trace`, `eval_shape` and `clear_cache` must be attributes of the class, since Python ≥ 3.12 looks them up
there.

Every jitted function passes through `_cpp_pjit`, under every name of `jit`. A watched one is returned if the user, or a
library, requested a function that donates, and to `pmap`, which calls what it jitted like any caller. JAX's own
functions, and those that it makes internally, get JAX's object.
"""

from __future__ import annotations

import operator
import sys
import types
from functools import partial
from sys import _getframe
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.donation.calls import Calls
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.observer import drop_frame
from jitwatch.jaxhooks.values.arguments import names_of_positions
from jitwatch.jaxhooks.values.description import wrapped_classes
from jitwatch.jaxhooks.values.leaves import parameters

#: Attributes of the wrapper itself; all others are those of JAX's object.
_OWN = frozenset({"_calls", "__dict__", "__weakref__"})
#: JAX's functions between the user's call of `jit` and the creation of the jitted function.
_JIT_INTERNALS = frozenset(
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


def _of_jitted(name: str) -> Any:
    """An attribute of JAX's object, read in C so that no frame of jitwatch encloses what is called."""
    return property(operator.attrgetter(f"_calls.jitted.{name}"))


class Watched:
    """A jitted function whose calls are recorded."""

    __slots__ = ("__dict__", "__weakref__", "_calls")

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        # Names, documentation and `__wrapped__` are read from the instance dictionary.
        self.__dict__.update(calls.jitted.__dict__)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        calls = self._calls
        try:
            result = calls.jitted(*args, **kwargs)
        except BaseException as error:
            try:
                calls.failed(error, args, kwargs, _getframe(1))
            except Exception:
                guard.failed("donation")
            drop_frame(error, _getframe().f_code)
            # A debugger may keep this frame, which would keep arguments that the caller has released.
            del args, kwargs
            raise
        try:
            calls.ended(args, kwargs, _getframe(1))
        except Exception:
            guard.failed("donation")
        return result

    lower = _of_jitted("lower")
    trace = _of_jitted("trace")
    eval_shape = _of_jitted("eval_shape")
    #: So that `isinstance(f, type(jax.jit(g)))` holds; `type(f)` is this class.
    __class__ = _of_jitted("__class__")

    def clear_cache(self) -> None:
        """Clear the compiled programs, as JAX's method does."""
        self._calls.jitted.clear_cache()
        try:
            self._calls.caches_cleared()
        except Exception:
            guard.failed("donation")

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        # Not set yet while the object is copied or unpickled.
        if name in _OWN:
            raise AttributeError(name)
        return getattr(self._calls.jitted, name)

    def __repr__(self) -> str:
        return repr(self._calls.jitted)

    def __copy__(self) -> Watched:
        twin = Watched(self._calls)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        # Functions are deep-copied as themselves, and so are jitted ones.
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Byte for byte JAX's pickle: it loads as JAX's object, in processes without jitwatch as well.
        return self._calls.jitted.__reduce_ex__(protocol)


wrapped_classes.append((Watched, operator.attrgetter("_calls.jitted")))


def watched_jit(jitted: Any, fun: Any, jit_info: Any, jax_folders: tuple[str, ...]) -> Any:
    """Return a watched function for what JAX made, or the same object if it is not to be watched."""
    if not (jit_info.donate_argnums or jit_info.donate_argnames) or not _is_user_request(sys._getframe(1), jax_folders):
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
    """Return the same for what `jax.pmap` makes until JAX 0.7, where it is no jitted function."""
    donated, statics = (_numbers(options.get(name, ())) for name in ("donate_argnums", "static_broadcasted_argnums"))
    if not donated or not _is_user_request(sys._getframe(1), jax_folders):
        return jitted
    name_of = partial(_name_of_parameter, fun)
    return Watched(Calls(jitted, fun, static_argnums=statics, positions=donated, names=(), name_of=name_of))


def _numbers(given: Any) -> tuple[int, ...]:
    """Normalize an argument such as `donate_argnums`: one number or several."""
    return (given,) if isinstance(given, int) else tuple(given)


def donated_positions(donate_argnums: tuple[int, ...], static_argnums: tuple[int, ...]) -> tuple[int, ...]:
    """Return the donated positional arguments; until JAX 0.8 the numbers leave out static arguments."""
    donated = sorted({i for i in donate_argnums if i >= 0})
    if not _numbers_skip_statics() or not static_argnums:
        return tuple(donated)
    highest = max(donated, default=0) + len(static_argnums) + 1
    dynamic = [i for i in range(highest) if i not in static_argnums]
    return tuple(dynamic[i] for i in donated if i < len(dynamic))


def _numbers_skip_statics() -> bool:
    """Whether JAX numbers donated arguments without the static ones; tested on its own function."""
    resolve = getattr(sys.modules.get("jax._src.api_util"), "resolve_argnums", None)
    try:
        return resolve is not None and tuple(resolve(None, None, (1,), None, (0,), None)[0]) == (0,)
    except Exception:
        return False


def _name_of(signature: Any, position: int) -> str:
    return names_of_positions(signature, position + 1)[position]


def _name_of_parameter(fun: Any, position: int) -> str:
    return parameters(fun, position + 1)[position]


def _is_user_request(frame: types.FrameType | None, jax_folders: tuple[str, ...]) -> bool:
    """Whether user code, a library or `pmap` requested the jitted function that JAX is making."""
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return False
        code = frame.f_code
        if is_users(code.co_filename, jax_folders) is not False:
            return True
        if code.co_filename.startswith(jax_folders) and code.co_name not in _JIT_INTERNALS:
            return code.co_filename.endswith(_PMAP_FILE)
        frame = frame.f_back
    return False
