"""What somebody who looks all the time has not seen yet: the page asks for it every second or two.

One follower of the store serves all pages. Twice a second at the most it brings the store up to date and takes
what has changed; whatever it is asked in between is answered from that, so that ten pages cost little more than one.
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
from jitwatch.store import Store
from jitwatch.timeline import COLUMNS

Record = dict[str, Any]

#: Seconds between two looks at the store.
_TICK_S = 0.5
#: Rows that a page gets at once, and records of each kind: a storm does not push out the one violation.
_MAX_ROWS, _MAX_OF_KIND = 500, 25
#: Recompiles whose times are kept, to say how many there were within a minute.
_MAX_RECENT, _RECENT_S = 1_000, 60.0
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
        #: Of the same thread, since a signal's handler may ask for a snapshot in the middle of one.
        self._lock = threading.RLock()
        self._looked_at = float("-inf")
        self._seq = 0
        self._records: dict[str, deque[Record]] = {kind: deque(maxlen=_MAX_OF_KIND) for kind in sorted(SHOWN)}
        self._recompiled: deque[float] = deque(maxlen=_MAX_RECENT)
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
            common = self._common
            events = [record for ring in self._records.values() for record in ring if record["seq"] > seq]
        events.sort(key=_sequence)
        # Asked later than the rest: what it has too much, it will tell again.
        changes = self._store.changes(revision, _MAX_ROWS)
        return {
            **common,
            "revision": changes.revision,
            "functions": changes.functions,
            "functions_left_out": changes.left_out,
            "pitfalls": changes.pitfalls,
            "events": events,
            "timeline": {
                "columns": COLUMNS,
                "rows": [one.row() for one in self._store.moments(since)],
                "now": self._store.moment().row(),
            },
        }

    def health(self) -> Health:
        """How the job is, in a sentence, by what the store holds now."""
        self._take()
        with self._lock:
            return self._condition

    def forget_locks(self) -> None:
        """In a forked child: the lock may be held by a thread that does not exist here."""
        self._lock = threading.RLock()

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
            records, last = self._store.newer(self._seq)
            self._seq = max(self._seq, last)
            for record in records:
                self._follow(record)
            now, memory = self._store.now(), self._store.memory()
            self._condition = self._judge(about, now, memory)
            self._common = {
                "schema": SCHEMA,
                **about,
                **now,
                "last_seq": self._seq,
                "health": {"level": self._condition.level, "sentence": self._condition.sentence},
                "memory": memory,
                "agent": {
                    "errors": self._by_name("agent_errors"),
                    "overhead_seconds": self._by_name("agent_overhead_seconds"),
                    "events_dropped": self._by_name("agent_events_dropped"),
                },
            }

    def _follow(self, record: Record) -> None:
        if record["event"] in SHOWN:
            self._records[record["event"]].append(record)
        if record["event"] == "jit.recompiled":
            self._recompiled.append(_unix(record))

    def _judge(self, about: dict[str, Any], now: dict[str, Any], memory: dict[str, Any]) -> Health:
        time_s = now["time"]
        return health(
            Facts(
                totals=now["totals"],
                uptime_s=now["uptime_seconds"],
                running=now["in_progress"],
                storms=now["storms"],
                last={
                    kind: (ring[-1], max(0.0, time_s - _unix(ring[-1]))) for kind, ring in self._records.items() if ring
                },
                recent=sum(time_s - at < _RECENT_S for at in self._recompiled),
                leaks=memory.get("leaks", ()),
                pressure=memory.get("pressure", ()),
                broken=[name for name, probe in about["probes"].items() if not probe["up"]],
            )
        )

    def _by_name(self, counter: str) -> dict[str, float]:
        return {name: value for (name,), value in self._store.values(counter).items()}


def _sequence(record: Record) -> int:
    return int(record["seq"])


def _unix(record: Record) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()
