"""Why the persistent cache did not have a program: compares its key with those of earlier programs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from jitwatch.model.cache_key import Entry, unpacked
from jitwatch.model.taxonomy import MISS_REASONS, MissReason
from jitwatch.programs import Difference, Outline, difference

#: Bounds of an index in memory and on the disk.
MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 12 << 20
#: Programs of a function that are compared, the newest, if none is the same program: in a storm there are thousands.
_MAX_COMPARED: Final = 200
#: The reason for each part of the key that differs. If several parts differ, the first reason is used, since its change
#: may cause the others.
BY_PART: Final[tuple[tuple[str, MissReason], ...]] = (
    ("jaxlib", "version"),
    ("backend", "version"),
    ("topology", "topology"),
    ("xla_flags", "xla_flags"),
    ("computation", "program"),
    ("compile_options", "compile_options"),
    ("compression", "other"),
    ("custom_hook", "other"),
)


@dataclass(frozen=True, slots=True)
class Miss:
    """Why the cache did not have a program.

    Attributes:
        reason: The reason.
        now: The program.
        before: The earlier program that it is compared with, if there is one.
        parts: Names of the parts of the key that differ.
        difference: What differs between the two programs, if both outlines are known.
        error: The error with which reading the cache failed.
        is_final: Whether the programs were compared, if that was possible.
    """

    reason: MissReason
    now: Entry
    before: Entry | None = None
    parts: tuple[str, ...] = ()
    difference: Difference | None = None
    error: str = ""
    is_final: bool = False

    @property
    def needs_outline(self) -> bool:
        """Whether comparing the outlines of both programs adds details."""
        return self.before is not None and "computation" in self.parts


class CacheIndex:
    """The newest programs, by key and by function.

    Args:
        max_entries, max_bytes: Limits; the oldest entries are removed.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        #: In the order in which they were added.
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._by_function: dict[tuple[str, str], dict[str, None]] = {}
        self._bytes = 0
        #: Keys of programs of this process.
        self._own: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: str) -> Entry | None:
        """The entry of a key."""
        return self._entries.get(key)

    def entries(self, *, own: bool = False) -> Iterable[Entry]:
        """All entries, or those of this process."""
        return [one for key, one in self._entries.items() if not own or key in self._own]

    def add(self, entry: Entry, *, is_own: bool = False) -> None:
        """Add an entry, or replace that of the same key if it is not newer."""
        key = entry.key.key
        known = self._entries.get(key)
        if known is not None:
            if known.time > entry.time:
                return
            self._remove(key)
        self._entries[key] = entry
        self._bytes += entry.size
        self._by_function.setdefault((entry.function, entry.file), {})[key] = None
        if is_own:
            self._own.add(key)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def use(self, key: str) -> None:
        """Record that this process has used the program of a key, so that no new program has replaced it."""
        self._own.add(key)

    def why(self, now: Entry, error: str = "") -> Miss:
        """Why the cache does not have a program, without its outline.

        Args:
            now: The program.
            error: The error with which reading the cache failed.
        """
        if error:
            return Miss("read_failed", now, error=error)
        known = self._entries.get(now.key.key)
        if known is not None:
            reason = known.unwritten or "evicted"
            return Miss(next((one for one in MISS_REASONS if one == reason), "unknown"), now, known)
        before = self._nearest(now)
        if before is None:
            return Miss("first_time", now)
        parts = before.key.differing(now.key)
        if now.key.has_address and before.key.has_address and before.signature == now.signature:
            return Miss("program", now, before, tuple(one for one in parts if one != "computation"))
        if before.signature != now.signature:
            return Miss("first_time", now, before, parts)
        return Miss(next((reason for part, reason in BY_PART if part in parts), "other"), now, before, parts)

    def _nearest(self, now: Entry) -> Entry | None:
        """The earlier program that the new one has most likely replaced."""
        keys = self._by_function.get((now.function, now.file), ())
        found = [self._entries[key] for key in keys]
        # A function may have several programs for the same types: those that this process uses are not replaced.
        found = [one for one in found if one.key.key not in self._own] or found
        same = [one for one in found if _is_same(one, now)]
        if not same:
            same = ([one for one in found if one.signature == now.signature] or found)[-_MAX_COMPARED:]
        return max(same, key=lambda one: _likeness(one, now), default=None)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._bytes -= entry.size
        which = (entry.function, entry.file)
        keys = self._by_function.get(which, {})
        keys.pop(key, None)
        if not keys:
            self._by_function.pop(which, None)
        if len(self._own) > 2 * self._max_entries:
            self._own &= self._entries.keys()


def _is_same(one: Entry, now: Entry) -> bool:
    return bool(now.key.parts[0]) and one.key.parts[0] == now.key.parts[0]


def _likeness(one: Entry, now: Entry) -> tuple[bool, bool, int, float]:
    return _is_same(one, now), one.signature == now.signature, -len(one.key.differing(now.key)), one.time


def difference_of(before: Entry, outline: Outline) -> Difference | None:
    """What differs between an earlier program and a new one; None if the earlier one has no outline."""
    if not before.outline:
        return None
    try:
        return difference(Outline.of_row(unpacked(before.outline)), outline)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
