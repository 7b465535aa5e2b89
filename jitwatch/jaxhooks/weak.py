"""A dictionary by object identity that keeps neither keys alive nor locks while one dies."""

from __future__ import annotations

import functools
import weakref
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class WeakIdMap(Generic[V]):
    """Maps objects to values by identity; an entry ends with its object.

    A `WeakKeyDictionary` would compare and hash the keys, which for jaxprs is slow and for user
    objects runs their code.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], V]] = {}

    def get(self, key: Any) -> V | None:
        """The value of this very object, or None."""
        entry = self._entries.get(id(key))
        return entry[1] if entry is not None and entry[0]() is key else None

    def set(self, key: Any, value: V) -> None:
        """Remember a value; an object that cannot be weakly referenced is not remembered."""
        number, entries = id(key), self._entries
        try:
            # The callback may run in any thread at any moment, so it only does one atomic operation, with the dead
            # reference as the default. It is no Python code: a debugger would step into it at any line of the job.
            entries[number] = (weakref.ref(key, functools.partial(entries.pop, number)), value)
        except TypeError:
            return

    def remove(self, key: Any) -> None:
        """Forget an object; does nothing when it is not known."""
        entry = self._entries.get(id(key))
        if entry is not None and entry[0]() is key:
            self._entries.pop(id(key), None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def items(self) -> list[tuple[Any, V]]:
        """The living objects and their values."""
        living = []
        for reference, value in list(self._entries.values()):
            key = reference()
            if key is not None:
                living.append((key, value))
        return living

    def __len__(self) -> int:
        return len(self._entries)
