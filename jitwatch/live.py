"""What somebody who looks all the time has not seen yet: the page asks for it every second or two.

One follower of the store serves all pages. Twice a second at the most it takes what has changed; whatever it is
asked in between is answered from that, so that ten pages cost little more than one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jitwatch.diagnosis.health import Facts, Health, health
from jitwatch.events import SCHEMA
from jitwatch.state import sums_of
from jitwatch.store import Store
from jitwatch.timeline import COLUMNS

Record = dict[str, Any]

#: Seconds between two looks at the store.
_TICK_S = 0.5
#: Records that a page gets at once, and rows.
_MAX_RECORDS, _MAX_ROWS = 300, 500
#: Largest programs, of which there may be one a function.
_MAX_PROGRAMS = 10
#: What the page shows one by one; all else is in the counters.
SHOWN = frozenset(
    {
        "jit.recompiled",
        "jit.compile_failed",
        "jit.storm_started",
        "jit.storm_ended",
        "jit.steady_violation",
        "jit.pitfall",
        "donation.violation",
        "memory.pressure",
        "memory.leak",
        "memory.oom",
        "agent.probe_failed",
    }
)


class Live:
    """Follows a store for those who look at it.

    Args:
        store: What is followed.
        pulse: Brings the store's cheap values up to date; called without a lock.
        about: What the agent says of itself: version, address, probes.
        monotonic: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        pulse: Callable[[], None],
        about: Callable[[], dict[str, Any]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pulse = pulse
        self._about = about
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._revision = self._seq = 0
        self._rows: dict[str, dict[str, Any]] = {}
        self._totals: dict[str, Any] = sums_of([])
        self._records: deque[Record] = deque(maxlen=_MAX_RECORDS)
        self._last: dict[str, Record] = {}
        self._recompiled: deque[float] = deque(maxlen=1_000)
        self._condition = Health("good", "")
        self._common: dict[str, Any] = {}

    def answer(self, revision: int = 0, seq: int = 0, since: float = 0.0) -> dict[str, Any]:
        """What is new for somebody.

        Args:
            revision: The `revision` of the answer before; 0 for all functions.
            seq: Its `last_seq`; 0 for the newest records.
            since: The time of the last row of its `timeline`, Unix seconds; 0 for all of it.
        """
        self._look()
        with self._lock:
            rows = [row for row in self._rows.values() if row["revision"] > revision]
            rows.sort(key=lambda row: (-row["recompiles"], -row["seconds"]))
            found = {
                **self._common,
                "functions": rows[:_MAX_ROWS],
                "functions_left_out": max(0, len(rows) - _MAX_ROWS),
                "events": [record for record in self._records if record["seq"] > seq],
            }
            is_behind = self._revision > revision
        if is_behind:
            found["pitfalls"] = self._store.pitfalls()
            found["executables"] = self._store.largest_executables(_MAX_PROGRAMS)
        found["timeline"] = {"columns": COLUMNS, "rows": [one.row() for one in self._store.moments(since)]}
        return found

    def health(self) -> Health:
        """How the job is, in a sentence, by what the store holds now."""
        self._take()
        with self._lock:
            return self._condition

    def forget_locks(self) -> None:
        """In a forked child: the lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def _look(self) -> None:
        """Bring the store up to date and follow it, unless that was just done."""
        with self._lock:
            now = self._monotonic()
            if now - self._looked_at < _TICK_S:
                return
            self._looked_at = now
        self._pulse()
        self._take()

    def _take(self) -> None:
        about = self._about()
        with self._lock:
            changes = self._store.changes(self._revision, self._seq)
            self._revision, self._seq = changes.revision, changes.last_seq
            for row in changes.functions:
                self._rows[row["function"]] = row
            if changes.functions:
                self._totals = sums_of(list(self._rows.values()))
            for record in changes.records:
                self._follow(record)
            moment = {**about, **self._store.now()}
            self._condition = self._judge(moment)
            self._common = {
                "schema": SCHEMA,
                **moment,
                "revision": self._revision,
                "last_seq": self._seq,
                "health": {"level": self._condition.level, "sentence": self._condition.sentence},
                "totals": self._totals,
                "memory": self._store.memory(),
                "agent": {
                    "errors": _by_name(self._store.values("agent_errors")),
                    "overhead_seconds": _by_name(self._store.values("agent_overhead_seconds")),
                    "events_dropped": _by_name(self._store.values("agent_events_dropped")),
                },
            }

    def _follow(self, record: Record) -> None:
        if record["event"] in SHOWN:
            self._records.append(record)
            self._last[record["event"]] = record
        if record["event"] == "jit.recompiled":
            self._recompiled.append(_unix(record))

    def _judge(self, moment: dict[str, Any]) -> Health:
        memory, now = self._store.memory(), moment["time"]
        return health(
            Facts(
                totals=self._totals,
                uptime_s=moment["uptime_seconds"],
                running=moment["in_progress"],
                storms=[label for label, row in self._rows.items() if row["is_in_storm"]],
                last={kind: (record, max(0.0, now - _unix(record))) for kind, record in self._last.items()},
                recent=sum(now - at < 60.0 for at in self._recompiled),
                leaks=memory.get("leaks", ()),
                pressure=memory.get("pressure", ()),
                broken=[name for name, probe in moment["probes"].items() if not probe["up"]],
            )
        )


def _by_name(series: dict[tuple[str, ...], float]) -> dict[str, float]:
    return {labels[0]: value for labels, value in series.items()}


def _unix(record: Record) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()

