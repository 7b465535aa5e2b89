"""Incremental updates for polling clients: the page asks for what changed since its last answer.

One follower of the store serves all pages. Values that must be read from JAX are refreshed twice a second at most,
however many pages there are; the rest is what the store holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from jitwatch import guard
from jitwatch.diagnosis.findings import (
    REPORTED_EVENTS,
    Facts,
    RecentRecords,
    figure_levels,
    findings,
    function_levels,
    is_lossy,
)
from jitwatch.diagnosis.pressure import full_memory, fullest
from jitwatch.model.taxonomy import SCHEMA
from jitwatch.model.thresholds import THRESHOLDS, worst
from jitwatch.render import health
from jitwatch.state.schema import FunctionRow, Present
from jitwatch.state.store import Store
from jitwatch.state.timeline import COLUMNS
from jitwatch.system.threads import RLock

#: Seconds between two refreshes.
_REFRESH_S = 0.5
#: Seconds after which a page asks again, and between any two pages: the more pages, the longer each waits.
_POLL_S, _BETWEEN_S, _MAX_WAIT_S = 1.7, 0.5, 30.0
#: CPU seconds a second that all pages together may cost, about half of the endpoint's share for them and the API.
#: Encoding an answer takes about as long as collecting it.
_PAGES_SHARE, _ENCODING_FACTOR, _MAX_BETWEEN_S = 0.003, 2.0, 5.0
#: Rows in one answer, and functions with a level.
_MAX_ROWS, _MAX_LEVELS = 500, 100
#: Events that the page lists one by one; all others are in the counters.
SHOWN = {
    "jit.recompiled", "jit.compile_failed", "jit.storm_started", "jit.storm_ended", "jit.steady_violation",
    "jit.pitfall", "jit.compiling", "donation.violation", "memory.pressure", "memory.leak", "memory.oom",
    "agent.probe_failed", "programs.diverged",
}  # fmt: skip


class Live:
    """Follows a store and judges the health of the job.

    Args:
        store: The store.
        refresh: Refreshes the values in the store that must be read from JAX; called without a lock.
        about: Returns what the agent reports about itself: version, address, probes.
        monotonic, cpu: Monotonic seconds, and CPU seconds of the calling thread.
    """

    def __init__(
        self,
        store: Store,
        *,
        refresh: Callable[[], None],
        about: Callable[[], dict[str, Any]],
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._store = store
        self._refresh = refresh
        self._about = about
        self._monotonic = monotonic
        self._cpu = cpu
        #: CPU seconds of an incremental answer, a moving average.
        self._cost_s = 0.0
        #: Re-entrant: a signal handler may take a snapshot while this thread holds it.
        self._lock = RLock()
        self._refreshed_at = self._next_poll = float("-inf")
        self._seq = 0
        self._recent = RecentRecords(SHOWN)
        #: Lost seconds of the functions that lost a warning share of the run, from the rows in answers.
        self._lost_by_function: dict[str, float] = {}

    def answer(self, revision: int = 0, seq: int = 0, since: float = 0.0) -> dict[str, Any]:
        """Return the changes since a client's last answer, and the thresholds in the first one.

        Args:
            revision: The `revision` of that answer; 0 for all functions.
            seq: Its `last_seq`; 0 for the newest records.
            since: The time of the last row of its `timeline`, Unix seconds; 0 for all of it.
        """
        started = self._cpu()
        if self._is_refresh_due():
            with guard.guarded("page"):
                self._refresh()
        with self._lock:
            self._follow()
            last_seq, events, wait_s = self._seq, self._recent.since(seq), self._wait_s()
        # Read after the records: what changes in between is in this answer and in the next.
        changes = self._store.changes(revision, _MAX_ROWS)
        timeline = [one.row() for one in self._store.moments(since)]
        with self._lock:
            now = self._now(changes.functions)
            if revision:
                self._cost_s += 0.2 * (self._cpu() - started - self._cost_s)
        return {
            **now,
            **({} if revision else {"thresholds": THRESHOLDS.row()}),
            "last_seq": last_seq,
            "poll_after_seconds": wait_s,
            "revision": changes.revision,
            "functions": changes.functions,
            "functions_left_out": changes.left_out,
            "pitfalls": changes.pitfalls,
            "call_sites": changes.sites,
            "events": events,
            "timeline": {"columns": COLUMNS, "rows": timeline, "now": self._store.moment().row()},
        }

    def judge(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`health`, `levels`, and the rows of a snapshot of the store with the level of each function and device."""
        rows, memory = state.get("functions", ()), state.get("memory", {})
        lost = {row["function"]: row["lost_seconds"] for row in rows}
        with self._lock:
            self._follow()
            facts = self._facts(self._about(), self._store.now(), memory, lost)
        judged = _judged(facts)
        levels = judged["levels"]["functions"]
        if rows:
            judged["functions"] = [row | {"level": worst(levels.get(row["function"], {}).values())} for row in rows]
        return judged | ({"memory": _with_levels(memory, facts)} if memory else {})

    def forget_locks(self) -> None:
        """In a forked child: the lock may be held by a thread that does not exist here."""
        self._lock = RLock()

    def _is_refresh_due(self) -> bool:
        """Whether the last refresh is long enough ago; the caller must refresh then."""
        with self._lock:
            now = self._monotonic()
            is_due = now - self._refreshed_at >= _REFRESH_S
            if is_due:
                self._refreshed_at = now
            return is_due

    # Called under the lock

    def _wait_s(self) -> float:
        """Seconds until this client may ask again, so that the cost of all pages is bounded."""
        now = self._monotonic()
        between_s = max(_BETWEEN_S, min(_ENCODING_FACTOR * self._cost_s / _PAGES_SHARE, _MAX_BETWEEN_S))
        self._next_poll = min(max(now + _POLL_S, self._next_poll + between_s), now + _MAX_WAIT_S)
        return round(self._next_poll - now, 3)

    def _follow(self) -> None:
        """Take in the store's new records."""
        records, last = self._store.newer(self._seq)
        self._seq = max(self._seq, last)
        for record in records:
            self._recent.add(record)

    def _now(self, rows: list[FunctionRow]) -> dict[str, Any]:
        """The part of an answer that is the same for all pages, with the changed functions in the answer."""
        about, now, memory = self._about(), self._store.now(), self._store.memory()
        # A share only falls while a row does not change, so the others need not be remembered.
        lost = self._lost_by_function | {row["function"]: row["lost_seconds"] for row in rows}
        uptime_s = now["uptime_seconds"]
        self._lost_by_function = {label: lost_s for label, lost_s in lost.items() if is_lossy(lost_s, uptime_s)}
        facts = self._facts(about, now, memory, self._lost_by_function)
        notes = health.memory_notes(facts, self._recent.records("memory.leak"), self._recent.records("memory.pressure"))
        return {
            "schema": SCHEMA,
            **about,
            **now,
            **_judged(facts),
            "memory": _with_levels(memory, facts) | {"notes": notes, "fullest": _fullest(memory)},
            "agent": {
                name: self._by_name(f"agent_{name}") for name in ("errors", "overhead_seconds", "events_dropped")
            },
        }

    def _facts(
        self, about: Mapping[str, Any], now: Present, memory: Mapping[str, Any], lost_by_function: Mapping[str, float]
    ) -> Facts:
        time_s, storms = now["time"], now["storms"]
        most = self._store.costliest()
        return Facts(
            totals=now["totals"],
            uptime_s=now["uptime_seconds"],
            busy_s=now["busy_seconds"],
            running=now["in_progress"],
            storms=storms,
            recent=self._recent.recompiles(time_s),
            newest=self._recent.newest_recompile(storms),
            lost_s=most.all_lost_s,
            most_lost=(most.function, most.lost_s, most.reason),
            lost_by_function=lost_by_function,
            last=self._recent.newest(time_s),
            functions={event: self._recent.functions(event, time_s) for event in REPORTED_EVENTS},
            leaks=memory.get("leaks", ()),
            full=full_memory(memory),
            down=[name for name, probe in about["probes"].items() if not probe["up"]],
            slowest=self._store.slowest(),
        )

    def _by_name(self, counter: str) -> dict[str, float]:
        return {name: value for (name,), value in self._store.values(counter).items()}


def _judged(facts: Facts) -> dict[str, Any]:
    found = findings(facts)
    functions = dict(list(function_levels(found).items())[:_MAX_LEVELS])
    return {
        "health": health.summary(found, facts),
        "levels": {"figures": figure_levels(found), "functions": functions},
    }


def _with_levels(memory: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The state's `memory` with the level of each device."""
    levels = {one.place: one.level for one in facts.full}
    devices = [row | {"level": levels.get(row["device"], "good")} for row in memory.get("devices", ())]
    return {**memory, "devices": devices} if "devices" in memory else dict(memory)


def _fullest(memory: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page's figure of memory shows."""
    use = fullest(memory)
    return None if use is None else {"place": use.place, "ratio": use.in_use / use.limit, "limit_bytes": use.limit}
