"""Keeps the newest records of each kind, for the health of the job and for the page."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from jitwatch.model.taxonomy import HARMLESS_CAUSES
from jitwatch.model.thresholds import THRESHOLDS, Thresholds

Record = dict[str, Any]

#: Maximum number of records of each kind, so that a storm does not displace a single violation.
MAX_OF_KIND = 25
#: Maximum number of recompiles whose times are kept.
_MAX_RECOMPILES = 1_000


class RecentRecords:
    """The newest records of some kinds. Not thread-safe."""

    def __init__(self, kinds: Iterable[str], thresholds: Thresholds = THRESHOLDS) -> None:
        self._thresholds = thresholds
        #: By kind, with the Unix time of each.
        self._records: dict[str, deque[tuple[float, Record]]] = {
            one: deque(maxlen=MAX_OF_KIND) for one in sorted(kinds)
        }
        #: Unix time and function of the alarming recompiles.
        self._recompiles: deque[tuple[float, str]] = deque(maxlen=_MAX_RECOMPILES)
        self._last_seq = 0

    def add(self, record: Record) -> None:
        """Keep a record, if it is of one of the kinds."""
        ring = self._records.get(record["event"])
        if ring is None:
            return
        time_s = datetime.fromisoformat(record["timestamp"]).timestamp()
        ring.append((time_s, record))
        self._last_seq = record["seq"]
        if record["event"] == "jit.recompiled" and is_alarming(record):
            self._recompiles.append((time_s, record["function"]))

    def since(self, seq: int) -> list[Record]:
        """The records with a higher `seq`, oldest first."""
        if self._last_seq <= seq:
            return []
        found = [record for ring in self._records.values() for _, record in ring if record["seq"] > seq]
        return sorted(found, key=lambda record: int(record["seq"]))

    def records(self, kind: str) -> list[Record]:
        """The records of one kind, oldest first."""
        return [record for _, record in self._records[kind]]

    def newest(self, now_s: float) -> dict[str, tuple[Record, float]]:
        """The newest record of each kind with its age in seconds; unusable donations are left out."""
        found = {kind: next(filter(_is_harmful, reversed(ring)), None) for kind, ring in self._records.items()}
        return {kind: (one[1], max(0.0, now_s - one[0])) for kind, one in found.items() if one is not None}

    def functions(self, kind: str, now_s: float) -> list[str]:
        """Labels of the functions in the recent records of one kind."""
        recent = (one for one in self._records[kind] if now_s - one[0] < self._thresholds.recent_s)
        return sorted({record["function"] for _, record in filter(_is_harmful, recent) if record.get("function")})

    def recompiles(self, now_s: float) -> Mapping[str, int]:
        """Number of alarming recompiles in the last minute, by function."""
        recent_s = self._thresholds.recent_recompiles_s
        return Counter(label for at, label in self._recompiles if now_s - at < recent_s)

    def newest_recompile(self, storms: Collection[str]) -> Record:
        """The newest alarming recompile; while there are storms, of a function in one. Empty without one."""
        alarming = (record for _, record in reversed(self._records["jit.recompiled"]) if is_alarming(record))
        return next((one for one in alarming if not storms or one["function"] in storms), {})


def is_alarming(record: Mapping[str, Any]) -> bool:
    """Whether a recompile is reported in the health: not planned, and not of an ignored function."""
    causes = record.get("causes", ())
    is_harmless = bool(causes) and HARMLESS_CAUSES.issuperset(causes)
    return record["expected"] is None and not is_harmless and not record.get("is_ignored")


def _is_harmful(at_and_record: tuple[float, Record]) -> bool:
    """False for an unusable donation, which changes no result."""
    return at_and_record[1].get("kind") != "unusable"
