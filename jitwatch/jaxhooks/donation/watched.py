"""What `jax.jit` returns for a function that donates: JAX's own object, and after each call a look at what it took.

A full `jax.stages.Wrapped`: the same results, errors, signature, attributes, binding as a method, and everything
JAX can do to a jitted function. Two things a type checker would not see: without the slot for weak
references JAX ends the process (`eval_shape`), and `lower`, `trace`, `eval_shape` and `clear_cache` must stand on
the class, since Python ≥ 3.12 looks them up there.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from sys import _getframe
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger, Variant
from jitwatch.jaxhooks.donation.paths import is_of_pmap, named_leaves_of, pmap_leaves

#: What the class itself keeps; everything else is asked of JAX's object.
_OWN = frozenset({"_calls", "__dict__", "__weakref__"})


class Desk(Protocol):
    """The agent that is installed, as watched functions see it."""

    ledger: Ledger

    def donor_of(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Donor:
        """Who donates when `fun` is called with these arguments."""

    def call_failed(
        self, calls: Calls, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """A call of a watched function ended in an error."""


_desk: Desk | None = None


def set_desk(desk: Desk | None) -> None:
    """Say whom watched functions report to, those of earlier agents too; None for nobody."""
    global _desk
    _desk = desk


def current_ledger() -> Ledger | None:
    """The books of the agent that is installed, if one is."""
    return _desk.ledger if _desk is not None else None


class Calls:
    """The calls of one jitted object.

    Args:
        jitted: JAX's object.
        fun: The function in it.
        static_argnums: Its static arguments.
        positions: Positional arguments that are donated.
        names: Keyword arguments that are donated.
        name_of: Name of the positional argument of this number.
    """

    def __init__(
        self,
        jitted: Any,
        fun: Any,
        *,
        static_argnums: tuple[int, ...],
        positions: tuple[int, ...],
        names: tuple[str, ...],
        name_of: Callable[[int], str],
    ) -> None:
        self.jitted = jitted
        self.donor: Donor | None = None
        self._fun = fun
        self._static_argnums = static_argnums
        self._positions = positions
        self._names = tuple(sorted(names))
        self._only = positions[0] if len(positions) == 1 else None
        self._name_of = name_of
        self._variants: dict[int, Variant] = {}
        self._size = -1
        size = getattr(jitted, "_cache_size", None)
        # pmap's own function (until 0.9) has a plain number.
        self._cache_size: Callable[[], Any] = size if callable(size) else lambda: getattr(jitted, "_cache_size", 0)

    def ended(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType) -> None:
        """A call returned; the frame is that of the caller."""
        try:
            donor = self.donor
            if donor is None or not donor.ledger.is_open:
                donor = self._rejoin(args)
                if donor is None:
                    return
            only = self._only
            given = args[only] if only is not None and not kwargs and only < len(args) else self._given(args, kwargs)
            arrays = donor.ledger.arrays
            leaves = [given] if given.__class__ is arrays.kind else arrays.flatten(given, None)[0]
            variant = self._variants.get(len(leaves))
            if variant is None or self._cache_size() != self._size:
                variant = self._learn(donor, args, kwargs, len(leaves), frame)
            donor.record(leaves, variant, frame)
        except Exception:
            guard.failed("donation")

    def failed(
        self, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """A call ended in an exception, which goes on to the user."""
        try:
            desk = _desk
            if desk is not None and self._rejoin(args) is not None:
                desk.call_failed(self, error, args, kwargs, frame)
        except Exception:
            guard.failed("donation")

    def roots(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """The donated arguments of a call by name, in the order of `ended`."""
        found = [(self._name_of(i), args[i]) for i in self._positions if i < len(args)]
        return found + [(name, kwargs[name]) for name in self._names if name in kwargs]

    def all_roots(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """The arguments of a call by name, but for static ones."""
        found = [(self._name_of(i), value) for i, value in enumerate(args) if i not in self._static_argnums]
        return found + list(kwargs.items())

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return [value for _, value in self.roots(args, kwargs)]

    def _learn(
        self, donor: Donor, args: tuple[Any, ...], kwargs: dict[str, Any], count: int, frame: types.FrameType
    ) -> Variant:
        """The first call with so many leaves, or the first since JAX compiled something: look again."""
        self._size = self._cache_size()
        named = named_leaves_of(self.roots(args, kwargs))
        if is_of_pmap(frame.f_code) and len(leaves := pmap_leaves(frame)) == len(args):
            named = [leaves[i] for i in self._positions]
        paths = tuple(path for path, _ in named)
        variant = donor.variant((self._positions, self._names), count, paths)
        if variant.is_whole:
            variant.is_whole = None
        self._variants[count] = variant
        return variant

    def _rejoin(self, args: tuple[Any, ...]) -> Donor | None:
        """The donor in the books of the agent that is installed now."""
        desk, donor = _desk, self.donor
        if donor is not None and donor.ledger.is_open:
            return donor
        self._variants = {}
        self.donor = None if desk is None else desk.donor_of(self._fun, args, self._static_argnums)
        return self.donor


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
