"""A map with a maximum number of entries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Maximum number of functions that a rule keeps state of.
MAX_ENTRIES = 1_000


class BoundedMap(Generic[T]):
    """A map from keys to entries, made when a key is new; past the limit the least recently used one is dropped."""

    def __init__(self, make: Callable[[], T], limit: int = MAX_ENTRIES) -> None:
        self._make = make
        self._limit = limit
        self._entries: OrderedDict[object, T] = OrderedDict()

    def entry(self, key: object) -> T:
        """The entry of a key, made if the key is new."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._make()
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return entry

    def __len__(self) -> int:
        return len(self._entries)
