"""A weak dictionary by object identity: keeps no key alive and takes no lock when one is freed."""

from __future__ import annotations

import functools
import weakref
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class WeakIdMap(Generic[V]):
    """Maps objects to values by identity; an entry is removed with its object.

    A `WeakKeyDictionary` would compare and hash the keys, which is slow for jaxprs and runs the code of user objects.
    """

    def __init__(self) -> None:
        #: Weak references and values by the identity of the object; not for others to change.
        self.entries: dict[int, tuple[weakref.ref[Any], V]] = {}

    def get(self, key: Any) -> V | None:
        """Return the value of this object, or None."""
        entry = self.entries.get(id(key))
        return entry[1] if entry is not None and entry[0]() is key else None

    def set(self, key: Any, value: V) -> None:
        """Set a value; does nothing for an object that cannot be weakly referenced."""
        number, entries = id(key), self.entries
        try:
            # The callback may run in any thread at any moment, so it does a single atomic operation, with the cleared
            # reference as the default. It is not Python code: a debugger would step into it at any line of the job.
            entries[number] = (weakref.ref(key, functools.partial(entries.pop, number)), value)
        except TypeError:
            return

    def remove(self, key: Any) -> None:
        """Remove an object; does nothing if there is no entry."""
        entry = self.entries.get(id(key))
        if entry is not None and entry[0]() is key:
            self.entries.pop(id(key), None)

    def clear(self) -> None:
        """Remove all entries."""
        self.entries.clear()

    def items(self) -> list[tuple[Any, V]]:
        """Return the objects that are still alive, with their values."""
        alive = []
        for reference, value in list(self.entries.values()):
            key = reference()
            if key is not None:
                alive.append((key, value))
        return alive

    def __len__(self) -> int:
        return len(self.entries)
