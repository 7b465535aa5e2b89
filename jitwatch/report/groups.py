"""What happened again and again is told once: with the newest of it, how often, and in how many processes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from jitwatch.report.fields import Record, instant
from jitwatch.report.processes import Process


@dataclass(slots=True)
class Group:
    """Records that are alike.

    Attributes:
        fields: What is told of them, from the newest.
        seconds: What they cost together.
        first, last: When; empty where no record says.
    """

    fields: dict[str, Any]
    times: int = 0
    seconds: float = 0.0
    first: str = ""
    last: str = ""
    #: A bit for each process: thousands of them would not fit as a set.
    bits: int = 0

    @property
    def processes(self) -> int:
        """How many processes it happened in."""
        return self.bits.bit_count()


class Groups:
    """A bounded number of groups by key, in the order of their first record.

    Args:
        limit: Groups that are told apart.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._groups: dict[Hashable, Group] = {}
        #: Records of groups past the limit.
        self.left_out = 0

    def add(
        self, key: Hashable, record: Record, process: Process, fields: dict[str, Any], *, seconds: float = 0.0
    ) -> Group | None:
        """Count a record; returns its group, or None past the limit."""
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._limit:
                self.left_out += 1
                return None
            group = self._groups[key] = Group(fields)
        at = instant(record)
        group.times += 1
        group.seconds += seconds
        group.bits |= 1 << max(0, process.number)
        group.first = min(group.first or at, at)
        if at >= group.last:
            group.fields, group.last = fields, at
        return group

    def get(self, key: Hashable) -> Group | None:
        """The group of a key."""
        return self._groups.get(key)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)
