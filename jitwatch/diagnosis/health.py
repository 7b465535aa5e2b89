"""Is the job healthy? One sentence for whoever looks at it, and how much it matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jitwatch.diagnosis import words
from jitwatch.events import JAX_LABEL

Level = Literal["good", "busy", "warn", "bad"]

#: Seconds for which something that happened once is what the sentence is about.
RECENT_S = 600.0
#: Seconds of a running compile from which on it is mentioned, and is worth a worry.
_LONG_S, _TOO_LONG_S = 2.0, 600.0
#: Share of the run that recompiles may take.
_LOST_RATIO = 0.05
_MEMORY = {
    "device": "device memory",
    "live_arrays": "the memory of live arrays",
    "host": "host memory",
    "jit_cache": "the number of programs in the jit caches",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the sentence is made from.

    Attributes:
        totals: As the state has them.
        uptime_s: Seconds since the agent was installed.
        running: What compiles right now, as the state has it.
        storms: Names of the functions that are in a storm.
        last: The newest record of each kind that matters, with its age in seconds.
        recent: Recompiles of the last minute.
        leaks, pressure: Kinds of memory that leak or are nearly full.
        broken: Probes that are down.
    """

    totals: Mapping[str, Any]
    uptime_s: float
    running: Sequence[Mapping[str, Any]] = ()
    storms: Sequence[str] = ()
    last: Mapping[str, tuple[Mapping[str, Any], float]]
    recent: int = 0
    leaks: Sequence[str] = ()
    pressure: Sequence[str] = ()
    broken: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """How the job is: `bad` needs somebody now, `warn` today; `busy` compiles, `good` trains."""

    level: Level
    sentence: str


def health(facts: Facts) -> Health:
    """The most important thing that there is to say."""
    for rule in (_out_of_memory, _storm, _stuck, _memory, _violation, _unsteady, _losing, _compiling, _broken):
        found = rule(facts)
        if found is not None:
            return found
    return _calm(facts)


def _out_of_memory(facts: Facts) -> Health | None:
    record, age_s = facts.last.get("memory.oom", ({}, RECENT_S))
    if age_s >= RECENT_S:
        return None
    function = record.get("function")
    where = f" in {_short(function)}" if function else ""
    return Health("bad", f"Memory ran out{where} {words.ago(age_s)}: see below what took it.")


def _storm(facts: Facts) -> Health | None:
    if not facts.storms:
        return None
    names = words.listed([_short(name) for name in facts.storms], most=3)
    newest = _newest(facts)
    how_often = f"{words.count(facts.recent, 'recompile')} in the last minute" if facts.recent else "quiet for a minute"
    verb = "is" if len(facts.storms) == 1 else "are"
    return Health("bad", words.sentences(f"{names} {verb} in a recompile storm: {how_often}", newest))


def _stuck(facts: Facts) -> Health | None:
    oldest = _oldest(facts)
    if oldest is None or oldest["for_s"] < _TOO_LONG_S:
        return None
    return Health("warn", f"{_short(oldest['function'])} has been compiling for {words.seconds(oldest['for_s'])}.")


def _memory(facts: Facts) -> Health | None:
    if facts.pressure:
        return Health("warn", f"Memory is nearly full: {words.listed(list(facts.pressure), most=3)}.")
    if facts.leaks:
        names = words.listed([_MEMORY.get(kind, kind) for kind in facts.leaks], most=3)
        verb = "keeps" if len(facts.leaks) == 1 else "keep"
        return Health("warn", f"{names[0].upper()}{names[1:]} {verb} growing: see below what grows with it.")
    return None


def _violation(facts: Facts) -> Health | None:
    record, age_s = facts.last.get("donation.violation", ({}, RECENT_S))
    if age_s >= RECENT_S or record.get("kind") == "unusable":
        return None
    name = _short(record.get("function"))
    if record.get("kind") == "double_donation":
        return Health("warn", f"{record.get('leaf')} was given twice to one call of {name} {words.ago(age_s)}.")
    leaf, donor = record.get("donated_leaf") or record.get("leaf") or "An array", _short(record.get("donated_by"))
    return Health("warn", f"{leaf} was used after {donor} had taken its memory, {words.ago(age_s)}.")


def _unsteady(facts: Facts) -> Health | None:
    record, age_s = facts.last.get("jit.steady_violation", ({}, RECENT_S))
    if age_s >= RECENT_S:
        return None
    return Health("warn", f"{_short(record.get('function'))} compiled although warm-up is over, {words.ago(age_s)}.")


def _losing(facts: Facts) -> Health | None:
    lost_s = facts.totals.get("lost_seconds") or 0.0
    record, age_s = facts.last.get("jit.recompiled", ({}, RECENT_S))
    ratio = lost_s / facts.uptime_s if facts.uptime_s > 0 else 0.0
    if age_s >= RECENT_S or ratio < _LOST_RATIO:
        return None
    newest = f"The newest {words.ago(age_s)}: {_short(record.get('function'))}, {_change(record)}"
    return Health("warn", words.sentences(f"{words.percent(ratio)} of the run went into recompiles", newest))


def _compiling(facts: Facts) -> Health | None:
    oldest = _oldest(facts)
    if oldest is None or oldest["for_s"] < _LONG_S:
        return None
    return Health("busy", f"Compiling {_short(oldest['function'])} for {words.seconds(oldest['for_s'])}.")


def _broken(facts: Facts) -> Health | None:
    if not facts.broken:
        return None
    names = words.listed(list(facts.broken), most=5)
    verb = "is" if len(facts.broken) == 1 else "are"
    return Health("warn", f"jitwatch cannot see everything: {names} {verb} down. `jitwatch doctor` says why.")


def _calm(facts: Facts) -> Health:
    if not facts.totals.get("compiles"):
        return Health("good", "Nothing of yours has been compiled yet.")
    record, age_s = facts.last.get("jit.recompiled", ({}, float("inf")))
    if not record:
        return Health("good", "Healthy: nothing was compiled twice.")
    last = f"the last recompile was {words.ago(age_s)}, of {_short(record.get('function'))}"
    return Health("good", f"Healthy: {last}, {_change(record)}.")


def _newest(facts: Facts) -> str | None:
    record, _ = facts.last.get("jit.recompiled", ({}, 0.0))
    return f"The newest: {_change(record)}" if record else None


def _change(record: Mapping[str, Any]) -> str:
    changes = record.get("changes") or ()
    if not changes:
        return " and ".join(record.get("causes") or ("for a reason that is not known",))
    first = changes[0]
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{first['path']} {first['before']} → {first['after']}{more}"


def _oldest(facts: Facts) -> Mapping[str, Any] | None:
    return max(facts.running, key=lambda one: one["for_s"], default=None)


def _short(label: object) -> str:
    """The part of a function's label that a person calls it by: `train_step`, `<lambda>@train.py:88`."""
    if label == JAX_LABEL:
        return "an operation outside of jit"
    text = str(label or "a function")
    head, at, where = text.partition("@")
    return f"{head.rpartition('.')[2]}{at}{where}"
