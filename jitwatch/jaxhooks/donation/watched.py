"""What `jax.jit` returns for a function that donates: JAX's own object, and after each call a look at what it took.

A full `jax.stages.Wrapped`: the same results, errors, tracebacks, signature, attributes, class as `isinstance` sees
it, binding as a method, and everything JAX can do to a jitted function. Two things a type checker would not see:
without the slot for weak references JAX ends the process (`eval_shape`), and `lower`, `trace`, `eval_shape` and
`clear_cache` must stand on the class, since Python ≥ 3.12 looks them up there.
"""

from __future__ import annotations

import operator
import types
from sys import _getframe
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.donation.calls import Calls
from jitwatch.jaxhooks.instrument import drop_frame
from jitwatch.jaxhooks.values.description import stand_ins

#: What the class itself keeps; everything else is asked of JAX's object.
_OWN = frozenset({"_calls", "__dict__", "__weakref__"})


def _of_jitted(name: str) -> Any:
    """An attribute of JAX's object. It is read in C, so that what is called has no frame of ours around it."""
    return property(operator.attrgetter(f"_calls.jitted.{name}"))


class Watched:
    """A jitted function whose calls are looked at."""

    __slots__ = ("__dict__", "__weakref__", "_calls")

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        # The names, the documentation and `__wrapped__`, where everybody looks for them.
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
            # A debugger may keep this frame, and the frame would keep arguments that the caller has given away.
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
    #: What `isinstance(f, type(jax.jit(g)))` asks for; `type(f)` is this class.
    __class__ = _of_jitted("__class__")

    def clear_cache(self) -> None:
        """As JAX's: forget what was compiled."""
        self._calls.jitted.clear_cache()
        try:
            self._calls.caches_cleared()
        except Exception:
            guard.failed("donation")

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        # While copying or unpickling there is nothing to ask yet.
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
        # Functions are copied as themselves, and so is what was made of one.
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # As JAX's object, to the byte: in another process it is that, and jitwatch need not be there.
        return self._calls.jitted.__reduce_ex__(protocol)


stand_ins.append((Watched, operator.attrgetter("_calls.jitted")))
