"""What `jax.jit` returns for a function that donates: JAX's own object, and after each call a look at what it took.

A full `jax.stages.Wrapped`: the same results, errors, signature, attributes, binding as a method, and everything
JAX can do to a jitted function. Two things a type checker would not see: without the slot for weak
references JAX ends the process (`eval_shape`), and `lower`, `trace`, `eval_shape` and `clear_cache` must stand on
the class, since Python ≥ 3.12 looks them up there.
"""

from __future__ import annotations

import operator
import types
from sys import _getframe
from typing import Any

from jitwatch.jaxhooks.donation.calls import Calls

#: What the class itself keeps; everything else is asked of JAX's object.
_OWN = frozenset({"_calls", "__dict__", "__weakref__"})


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
            calls.failed(error, args, kwargs, _getframe(1))
            # The traceback keeps this frame, and the frame would keep arguments that the caller has given away.
            del args, kwargs
            raise
        calls.ended(args, kwargs, _getframe(1))
        return result

    def lower(self, /, *args: Any, **kwargs: Any) -> Any:
        """As JAX's: lower for these arguments."""
        return self._calls.jitted.lower(*args, **kwargs)

    def trace(self, /, *args: Any, **kwargs: Any) -> Any:
        """As JAX's: trace for these arguments."""
        return self._calls.jitted.trace(*args, **kwargs)

    def eval_shape(self, /, *args: Any, **kwargs: Any) -> Any:
        """As JAX's: types of the results for these arguments."""
        return self._calls.jitted.eval_shape(*args, **kwargs)

    def clear_cache(self) -> None:
        """As JAX's: forget what was compiled."""
        self._calls.jitted.clear_cache()
        self._calls.caches_cleared()

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

    def __reduce__(self) -> Any:
        # In another process it is JAX's object, and jitwatch need not be there.
        return operator.itemgetter(0), ((self._calls.jitted,),)
