"""A bounded memory by key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Functions that a rule remembers; beyond it those that were quiet longest are forgotten.
MAX_REMEMBERED = 1_000


class Memory(Generic[T]):
    """What is remembered by key; the entry that was not used longest goes first."""

    def __init__(self, make: Callable[[], T], limit: int = MAX_REMEMBERED) -> None:
        self._make = make
        self._limit = limit
        self._entries: OrderedDict[object, T] = OrderedDict()

    def of(self, key: object) -> T:
        """The entry of this key, made when it is new."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._make()
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return entry

    def __len__(self) -> int:
        return len(self._entries)
