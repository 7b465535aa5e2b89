"""What a pitfall's rule is: it looks at one event after the other and says when its mistake shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from jitwatch.events import Event

T = TypeVar("T")

#: Functions that a rule remembers; beyond it those that were quiet longest are forgotten.
MAX_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake that an event shows.

    Attributes:
        subject: What it is about: an argument's path, a variable, a line. One is told once for a function.
        message: What happened, in a sentence without the function's name and without a full stop.
        advice: What to change, in a sentence without a full stop.
    """

    subject: str
    message: str
    advice: str


class Rule(ABC):
    """One pitfall.

    A rule is told of every event of the functions that may alarm, in the thread that caused it, under the
    diagnosis's lock: it computes for microseconds, keeps a bounded memory and touches nothing else.
    """

    #: The value of the metric label `pitfall`.
    name: ClassVar[str]
    #: Whether what it finds in a recompile is why that was needed.
    explains_recompiles: ClassVar[bool] = True

    @abstractmethod
    def look(self, event: Event, now: float) -> Finding | None:
        """What the event shows; may be said again and again, the diagnosis tells it once.

        `now` is in monotonic seconds.
        """


class Memory(Generic[T]):
    """What a rule remembers by key, bounded; the entry that was not used longest goes first."""

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
