"""What somebody who looks all the time has not seen yet: the page asks for it every second or two.

One follower of the store serves all pages. What has to be asked for is brought up to date twice a second at the
most, however many pages there are; all else is what the store holds at that moment.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jitwatch import guard
from jitwatch.diagnosis.health import Facts, Health, health
from jitwatch.model.events.compile import is_harmless
from jitwatch.model.taxonomy import SCHEMA
from jitwatch.render import words
from jitwatch.state.schema import Present
from jitwatch.state.store import Store
from jitwatch.state.timeline import COLUMNS
from jitwatch.system.threads import RLock

Record = dict[str, Any]

#: Seconds between two pulses.
_TICK_S = 0.5
#: Seconds after which a page asks again, and between any two pages: the more there are, the longer each waits.
_POLL_S, _BETWEEN_S, _MAX_WAIT_S = 1.7, 0.5, 30.0
#: CPU seconds a second that all pages together may cost, about half of what the endpoint has for them and the API. The
#: answer's text takes about as long again as finding what it says.
_PAGES_SHARE, _TEXT_FACTOR, _MAX_BETWEEN_S = 0.003, 2.0, 5.0
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
        pulse: Brings what has to be asked for up to date in the store; called without a lock.
        about: What the agent says of itself: version, address, probes.
        monotonic: Monotonic seconds.
        cpu: CPU seconds of the calling thread.
    """

    def __init__(
        self,
        store: Store,
        *,
        pulse: Callable[[], None],
        about: Callable[[], dict[str, Any]],
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._store = store
        self._pulse = pulse
        self._about = about
        self._monotonic = monotonic
        self._cpu = cpu
        #: CPU seconds of an answer to a page that had one before, the newest counting most.
        self._cost_s = 0.0
        #: Of the same thread, since a signal's handler may ask for a snapshot in the middle of one.
        self._lock = RLock()
        self._pulsed_at = float("-inf")
        self._next_poll = float("-inf")
        self._seq = self._shown_seq = 0
        #: With the Unix time of each.
        self._records: dict[str, deque[tuple[float, Record]]] = {
            kind: deque(maxlen=_MAX_OF_KIND) for kind in sorted(SHOWN)
        }
        #: Unix time and label of the function.
        self._recompiled: deque[tuple[float, str]] = deque(maxlen=_MAX_RECENT)
        self._condition: tuple[Health, ...] = ()

    def answer(self, revision: int = 0, seq: int = 0, since: float = 0.0) -> dict[str, Any]:
        """What is new for somebody.

        Args:
            revision: The `revision` of the answer before; 0 for all functions.
            seq: Its `last_seq`; 0 for the newest records.
            since: The time of the last row of its `timeline`, Unix seconds; 0 for all of it.
        """
        started = self._cpu()
        if self._is_due():
            with guard.guarded("page"):
                self._pulse()
        with self._lock:
            common = self._take() | {"poll_after_seconds": self._turn()}
            is_behind = self._shown_seq > seq
            events = (
                [one for ring in self._records.values() for _, one in ring if one["seq"] > seq] if is_behind else []
            )
        events.sort(key=_sequence)
        # Asked later than the rest: what it has too much, it will tell again.
        changes = self._store.changes(revision, _MAX_ROWS)
        timeline = [one.row() for one in self._store.moments(since)]
        if revision:
            with self._lock:
                self._cost_s += 0.2 * (self._cpu() - started - self._cost_s)
        return {
            **common,
            "revision": changes.revision,
            "functions": changes.functions,
            "functions_left_out": changes.left_out,
            "pitfalls": changes.pitfalls,
            "call_sites": changes.sites,
            "events": events,
            "timeline": {
                "columns": COLUMNS,
                "rows": timeline,
                "now": self._store.moment().row(),
            },
        }

    def health(self) -> dict[str, Any]:
        """How the job is, by what the store holds now: level and sentence, and what else there is to say."""
        with self._lock:
            self._take()
            return _told(self._condition)

    def forget_locks(self) -> None:
        """In a forked child: the lock may be held by a thread that does not exist here."""
        self._lock = RLock()

    def _is_due(self) -> bool:
        """Whether the last pulse is long enough ago; who asks is about to give one."""
        with self._lock:
            now = self._monotonic()
            if now - self._pulsed_at < _TICK_S:
                return False
            self._pulsed_at = now
            return True

    # Called under the lock

    def _turn(self) -> float:
        """Seconds until whoever asks now has its turn again: what all pages together cost is bounded."""
        now = self._monotonic()
        between_s = max(_BETWEEN_S, min(_TEXT_FACTOR * self._cost_s / _PAGES_SHARE, _MAX_BETWEEN_S))
        self._next_poll = min(max(now + _POLL_S, self._next_poll + between_s), now + _MAX_WAIT_S)
        return round(self._next_poll - now, 3)

    def _take(self) -> dict[str, Any]:
        """Follow the store up to this moment; what is the same for all pages."""
        records, last = self._store.newer(self._seq)
        self._seq = max(self._seq, last)
        for record in records:
            self._follow(record)
        about, now, memory = self._about(), self._store.now(), self._store.memory()
        self._condition = self._judge(about, now, memory)
        return {
            "schema": SCHEMA,
            **about,
            **now,
            "last_seq": self._seq,
            "health": _told(self._condition),
            "memory": memory,
            "agent": {
                "errors": self._by_name("agent_errors"),
                "overhead_seconds": self._by_name("agent_overhead_seconds"),
                "events_dropped": self._by_name("agent_events_dropped"),
            },
        }

    def _follow(self, record: Record) -> None:
        if record["event"] in SHOWN:
            time_s = datetime.fromisoformat(record["timestamp"]).timestamp()
            self._records[record["event"]].append((time_s, record))
            self._shown_seq = record["seq"]
            if record["event"] == "jit.recompiled" and _is_news(record):
                self._recompiled.append((time_s, record["function"]))

    def _judge(self, about: dict[str, Any], now: Present, memory: dict[str, Any]) -> tuple[Health, ...]:
        time_s, storms = now["time"], now["storms"]
        told = (one for _, one in reversed(self._records["jit.recompiled"]) if _is_news(one))
        newest = next((one for one in told if not storms or one["function"] in storms), {})
        dearest = self._store.costliest()
        return health(
            Facts(
                totals=now["totals"],
                uptime_s=now["uptime_seconds"],
                busy_s=now["busy_seconds"],
                running=now["in_progress"],
                storms=storms,
                recent=self._recent(time_s),
                newest=newest,
                lost_s=dearest.all_lost_s,
                dearest=(dearest.function, dearest.lost_s, dearest.reason),
                last={kind: last for kind in self._records if (last := self._last(kind, time_s)) is not None},
                leaks=memory.get("leaks", ()),
                pressure=[_use(place, memory) for place in memory.get("pressure", ())],
                slowest=self._store.slowest(),
                broken=[name for name, probe in about["probes"].items() if not probe["up"]],
            )
        )

    def _last(self, kind: str, time_s: float) -> tuple[Record, float] | None:
        """The newest record of a kind and its age; a donation in vain harms nobody, and hides none that did."""
        for at, record in reversed(self._records[kind]):
            if record.get("kind") != "unusable":
                return record, max(0.0, time_s - at)
        return None

    def _recent(self, time_s: float) -> dict[str, int]:
        return dict(Counter(label for at, label in self._recompiled if time_s - at < _RECENT_S))

    def _by_name(self, counter: str) -> dict[str, float]:
        return {name: value for (name,), value in self._store.values(counter).items()}


def _is_news(record: Record) -> bool:
    """Whether a recompile is worth a sentence: not harmless, and of no ignored function."""
    return not is_harmless(record["expected"], record.get("causes", ())) and not record.get("is_ignored")


def _told(condition: tuple[Health, ...]) -> dict[str, Any]:
    first, *others = [{"level": one.level, "sentence": one.sentence} for one in condition]
    return first | {"others": others}


def _use(place: str, memory: dict[str, Any]) -> str:
    """`gpu:0 (78.0 of 80.0 GiB)`; the name alone where it is not known."""
    row = next((one for one in memory.get("devices", ()) if one["device"] == place), None)
    if row is None or row.get("in_use_bytes") is None or row.get("limit_bytes") is None:
        return place
    return f"{place} ({words.size(row['in_use_bytes'])} of {words.size(row['limit_bytes'])})"


def _sequence(record: Record) -> int:
    return int(record["seq"])
