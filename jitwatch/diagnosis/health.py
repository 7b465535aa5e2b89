"""Is the job healthy? A sentence for whoever looks at it, what else there is to say, and how much it matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import words

Level = Literal["bad", "warn", "busy", "good"]
#: From the worst to the best.
LEVELS: tuple[Level, ...] = get_args(Level)

#: Seconds for which something that happened once is what the sentence is about.
RECENT_S = 600.0
#: Seconds of a running compile from which on it is mentioned, and is worth a worry.
_LONG_S, _TOO_LONG_S = 2.0, 600.0
#: Share of the run that recompiles may take.
_LOST_RATIO = 0.02
#: Seconds, and share of the run, that compiling may take before it is mentioned.
_COSTLY_S, _COSTLY_RATIO = 1.0, 0.3
_MEMORY = {
    "device": "device memory",
    "live_arrays": "the memory of live arrays",
    "host": "host memory",
    "jit_cache": "the number of programs in the jit caches",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the sentences are made from.

    Attributes:
        totals: As the state has them.
        uptime_s: Seconds since the agent was installed.
        busy_s: The part of it in which at least one thread compiled.
        running: What compiles right now, as the state has it.
        storms: Labels of the functions that are in a storm.
        recent: Recompiles of the last minute that are worth a word, by function.
        newest: The newest of those; of those of functions in a storm, where there is one.
        lost_s: Seconds that recompiles worth a word have cost.
        dearest: The function that lost most of it, the seconds, and the reason.
        last: The newest record of each kind that matters, with its age in seconds.
        leaks: Kinds of memory that leak.
        pressure: What is nearly full, and how much of it is in use.
        broken: Probes that are down.
        slowest: The function that compiled longest, the seconds, and how often it compiled.
    """

    totals: Mapping[str, Any]
    uptime_s: float
    busy_s: float = 0.0
    running: Sequence[Mapping[str, Any]] = ()
    storms: Sequence[str] = ()
    recent: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[str, Any] = field(default_factory=dict)
    lost_s: float = 0.0
    dearest: tuple[str, float, str] = ("", 0.0, "")
    last: Mapping[str, tuple[Mapping[str, Any], float]]
    leaks: Sequence[str] = ()
    pressure: Sequence[str] = ()
    broken: Sequence[str] = ()
    slowest: tuple[str, float, int] = ("", 0.0, 0)


@dataclass(frozen=True, slots=True)
class Health:
    """Something to say of the job: `bad` needs somebody now, `warn` today; `busy` compiles, `good` trains."""

    level: Level
    sentence: str


def health(facts: Facts) -> tuple[Health, ...]:
    """All that there is to say, the most important first; never empty."""
    found = [one for rule in _RULES if (one := rule(facts)) is not None]
    return tuple(sorted(found, key=lambda one: LEVELS.index(one.level))) or (_calm(facts),)


def out_of_memory(record: Mapping[str, Any], age_s: float) -> str:
    """What ran out of memory, and what it needs the most for, from a record `memory.oom`."""
    function = record.get("function")
    where = f" in {_short(function)}" if function else ""
    needs = words.of_temporaries(record)
    return f"Memory ran out{where} {words.ago(age_s)}{f': {needs}' if needs else ''}."


def _out_of_memory(facts: Facts) -> Health | None:
    record, age_s = facts.last.get("memory.oom", ({}, RECENT_S))
    if age_s >= RECENT_S:
        return None
    return Health("bad", out_of_memory(record, age_s))


def _storm(facts: Facts) -> Health | None:
    if not facts.storms:
        return None
    storms = sorted(facts.storms, key=lambda label: -facts.recent.get(label, 0))
    names = words.listed(_names(storms), most=3)
    number = sum(facts.recent.get(label, 0) for label in storms)
    how_often = f"{words.count(number, 'recompile')} in the last minute" if number else "quiet for a minute"
    verb = "is" if len(storms) == 1 else "are"
    newest = _newest(facts, is_named=len(storms) > 1)
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
        return Health("warn", f"{names[0].upper()}{names[1:]} {verb} growing.")
    return None


def _violation(facts: Facts) -> Health | None:
    record, age_s = facts.last.get("donation.violation", ({}, RECENT_S))
    if age_s >= RECENT_S or record.get("kind") == "unusable":
        return None
    name = _short(record.get("function"))
    if record.get("kind") == "double_donation":
        return Health("warn", f"{record.get('leaf')} was donated twice in one call of {name} {words.ago(age_s)}.")
    leaf, donor = record.get("donated_leaf") or record.get("leaf") or "An array", _short(record.get("donated_by"))
    return Health("warn", f"{leaf} was used after it was donated to {donor}, {words.ago(age_s)}.")


def _unsteady(facts: Facts) -> Health | None:
    record, age_s = facts.last.get("jit.steady_violation", ({}, RECENT_S))
    if age_s >= RECENT_S:
        return None
    return Health("warn", f"{_short(record.get('function'))} compiled although warm-up is over, {words.ago(age_s)}.")


def _recompiling(facts: Facts) -> Health | None:
    if facts.storms or not facts.recent:
        return None
    labels = sorted(facts.recent, key=lambda label: -facts.recent[label])
    number = sum(facts.recent.values())
    often = {1: "once", 2: "twice"}.get(number, f"{number:,} times")
    together = f"{words.count(number, 'time')} in all" if len(labels) > 1 else often
    newest = _newest(facts, is_named=len(labels) > 1)
    who = words.listed(_names(labels), most=2)
    return Health("warn", words.sentences(f"{who} recompiled {together} in the last minute", newest))


def _losing(facts: Facts) -> Health | None:
    ratio = facts.lost_s / facts.uptime_s if facts.uptime_s > 0 else 0.0
    if ratio < _LOST_RATIO:
        return None
    function, lost_s, reason = facts.dearest
    how_much = "most of it" if lost_s >= facts.lost_s / 2 else f"{words.percent(lost_s / facts.lost_s)} of that"
    most = f", {how_much} {_short(function)}: {_reason({'reason': reason})}" if function else ""
    share = f"{words.percent(ratio)} of the run ({words.seconds(facts.lost_s)})"
    return Health("warn", words.sentences(f"Recompiles have cost {share}{most}"))


def _compiling(facts: Facts) -> Health | None:
    oldest = _oldest(facts)
    if oldest is None or not _LONG_S <= oldest["for_s"] < _TOO_LONG_S:
        return None
    again = " again" if oldest.get("is_again") else ""
    return Health(
        "busy", f"Compiling {_short(oldest['function'])}{again}, for {words.seconds(oldest['for_s'])} so far."
    )


def _costly(facts: Facts) -> Health | None:
    """Most of the time goes into compiling, the first compiles included."""
    busy_s = facts.busy_s
    if busy_s < _COSTLY_S or busy_s <= _COSTLY_RATIO * facts.uptime_s:
        return None
    label, seconds, compiles = facts.slowest
    most = ""
    if label == JAX_LABEL:
        most = f": {words.seconds(seconds)} for {words.count(compiles, 'operation')} outside of jit"
    elif label:
        which = "the first compile" if compiles == 1 else words.count(compiles, "compile")
        most = f": {words.seconds(seconds)} for {which} of {_short(label)}"
    return Health("busy", f"Compiling took {words.seconds(busy_s)} of {words.seconds(facts.uptime_s)} so far{most}.")


def _broken(facts: Facts) -> Health | None:
    if not facts.broken:
        return None
    names = words.listed(list(facts.broken), most=5)
    verb = "is" if len(facts.broken) == 1 else "are"
    return Health("warn", f"jitwatch cannot see everything: {names} {verb} down. `jitwatch doctor` says why.")


def _calm(facts: Facts) -> Health:
    if not facts.totals.get("compiles"):
        return Health("good", "Healthy: nothing of yours was compiled yet.")
    record, age_s = facts.last.get("jit.recompiled", ({}, float("inf")))
    if record:
        last = f"the last recompile was {words.ago(age_s)}, of {_short(record.get('function'))}: {_reason(record)}"
        return Health("good", words.sentences(f"Healthy: {last}"))
    if facts.totals.get("pitfalls"):
        number = words.count(facts.totals["pitfalls"], "mistake")
        return Health("good", f"Healthy: nothing was compiled twice, but there is advice on {number}.")
    return Health("good", "Healthy: nothing was compiled twice.")


#: In the order of what to tell first among equals.
_RULES: tuple[Callable[[Facts], Health | None], ...] = (
    _out_of_memory,
    _storm,
    _stuck,
    _memory,
    _violation,
    _unsteady,
    _recompiling,
    _losing,
    _compiling,
    _costly,
    _broken,
)


def _newest(facts: Facts, *, is_named: bool) -> str | None:
    of = f" of {_short(facts.newest.get('function'))}" if is_named else ""
    return f"The newest{of}: {_reason(facts.newest)}" if facts.newest else None


def _reason(record: Mapping[str, Any]) -> str:
    """Why it was compiled again: the first change in words, and whether there were more."""
    first, _, more = (record.get("reason") or "for a reason that is not known").partition("; ")
    return f"{first} and more" if more else first


def _oldest(facts: Facts) -> Mapping[str, Any] | None:
    return max(facts.running, key=lambda one: one["for_s"], default=None)


def _names(labels: Sequence[str]) -> list[str]:
    """What a person calls the functions by; those of one name by their whole labels."""
    short = [_short(label) for label in labels]
    return [label if short.count(name) > 1 else name for name, label in zip(short, labels, strict=True)]


def _short(label: object) -> str:
    """The part of a function's label that a person calls it by: `train_step`, `<lambda>@train.py:88`."""
    if label == JAX_LABEL:
        return "an operation outside of jit"
    text = str(label or "a function")
    head, at, where = text.partition("@")
    return f"{head.rpartition('.')[2]}{at}{where}"
