"""Words the health of a job: a sentence for each finding, and the notes of the page's memory section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from jitwatch.diagnosis.findings import Facts, Finding, Kind
from jitwatch.diagnosis.pressure import FullMemory
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats, wording

_GROWING: Final[Mapping[str, str]] = {
    "device": "device memory",
    "live_arrays": "the memory of live arrays",
    "host": "host memory",
    "jit_cache": "the number of programs in the jit caches",
}
#: Arrays and programs that the note of an out-of-memory error lists.
_MAX_LISTED = 3


def summary(found: Sequence[Finding], facts: Facts) -> dict[str, Any]:
    """The `health` of the state: level and sentence of the worst finding, and the other findings."""
    first, *others = [{"level": one.level, "sentence": sentence(one, facts)} for one in found]
    return first | {"others": others}


def sentence(finding: Finding, facts: Facts) -> str:
    """The sentence of a finding."""
    return _SENTENCES[finding.kind](facts)


def out_of_memory(record: Mapping[str, Any], age_s: float) -> str:
    """The sentence of a record `memory.oom`: the function, how long ago, and what its program needs memory for."""
    function = record.get("function")
    where = f" in {_short(function)}" if function else ""
    needs, buffers = wording.of_temporaries(record), wording.of_largest_buffers(record)
    return formats.sentences(
        f"Memory ran out{where} {formats.ago(age_s)}{f': {needs}' if needs else ''}", _capitalized(buffers or "")
    )


def memory_notes(
    facts: Facts, leaks: Sequence[Mapping[str, Any]], pressure: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The page's notes about memory, each with title, sentence and details.

    Args:
        facts: The facts that the health is judged from.
        leaks: Records `memory.leak`, the newest of each kind.
        pressure: Records `memory.pressure`, of which those of programs that will not fit have notes.
    """
    notes = []
    if "memory.oom" in facts.last:
        record, _ = facts.last["memory.oom"]
        where = f" in {_short(record['function'])}" if record.get("function") else ""
        notes.append(
            {
                "level": "bad" if facts.is_recent("memory.oom") else "good",
                "title": f"Out of memory{where}",
                "timestamp": record.get("timestamp"),
                "call_site": record.get("call_site"),
                "sentence": formats.sentences(record.get("message") or "The error has no message"),
                "detail": _at_that_moment(record),
            }
        )
    notes += [
        {"level": one.level, "title": "Nearly full", "sentence": formats.sentences(_use(one))} for one in facts.full
    ]
    misfits = {record.get("function"): record for record in pressure if record.get("state") == "will_not_fit"}
    notes += [
        {
            "level": "warn",
            "title": "Will not fit",
            "timestamp": record.get("timestamp"),
            "sentence": formats.sentences(record.get("message") or str(record.get("function"))),
        }
        for record in list(misfits.values())[-_MAX_LISTED:]
    ]
    messages = {record["growing"]: record.get("message") for record in leaks}
    for kind in facts.leaks:
        text = messages.get(kind) or f"{_GROWING.get(kind, kind)} is growing"
        notes.append({"level": "warn", "title": "Growing", "sentence": formats.sentences(_capitalized(text))})
    return notes


def _at_that_moment(record: Mapping[str, Any]) -> str:
    """The largest buffers of the program, live arrays and programs of a record `memory.oom`."""
    found = [wording.of_largest_buffers(record) or ""]
    found[0] = _capitalized(found[0])
    if record.get("live_array_bytes") is not None:
        arrays = [
            f"{one['count']:,} × {one['dtype']}[{','.join(map(str, one['shape']))}] ({formats.size(one['bytes'])})"
            for one in record.get("arrays", ())
        ]
        largest = f", the largest {formats.listed(arrays, most=_MAX_LISTED)}" if arrays else ""
        found.append(f"Live arrays: {formats.size(record['live_array_bytes'])}{largest}")
    programs = [
        f"{_short(one['function'])} ({formats.size(one['total_bytes'])})" for one in record.get("executables", ())
    ]
    if programs:
        found.append(f"Largest programs: {formats.listed(programs, most=_MAX_LISTED)}")
    return formats.sentences(*found)


def _programs_diverged(facts: Facts) -> str:
    record, _ = facts.last["programs.diverged"]
    return formats.sentences(str(record.get("message") or "The processes compiled different programs"))


def _out_of_memory(facts: Facts) -> str:
    return out_of_memory(*facts.last["memory.oom"])


def _storm(facts: Facts) -> str:
    storms = sorted(facts.storms, key=lambda label: -facts.recent.get(label, 0))
    number = sum(facts.recent.get(label, 0) for label in storms)
    how_often = f"{formats.count(number, 'recompile')} in the last minute" if number else "none in the last minute"
    verb = "is" if len(storms) == 1 else "are"
    return formats.sentences(
        f"{formats.listed(_names(storms), most=3)} {verb} in a recompile storm: {how_often}",
        _newest(facts, is_named=len(storms) > 1),
    )


def _stuck(facts: Facts) -> str:
    oldest = facts.oldest or {}
    return f"{_short(oldest.get('function'))} has been compiling for {formats.seconds(oldest.get('for_s', 0.0))}."


def _full(facts: Facts) -> str:
    return f"Memory is nearly full: {formats.listed([_use(one) for one in facts.full], most=3)}."


def _leak(facts: Facts) -> str:
    names = formats.listed([_GROWING.get(kind, kind) for kind in facts.leaks], most=3)
    return f"{_capitalized(names)} {'keeps' if len(facts.leaks) == 1 else 'keep'} growing."


def _donation_violation(facts: Facts) -> str:
    record, age_s = facts.last["donation.violation"]
    if record.get("kind") == "double_donation":
        name = _short(record.get("function"))
        leaf, ago = record.get("leaf"), formats.ago(age_s)
        return f"The buffer of {leaf} was passed twice to a call of {name} that donates it, {ago}."
    leaf, donor = record.get("donated_leaf") or record.get("leaf") or "An array", _short(record.get("donated_by"))
    return f"{leaf} was used after it was donated to {donor}, {formats.ago(age_s)}."


def _steady_violation(facts: Facts) -> str:
    record, age_s = facts.last["jit.steady_violation"]
    return f"{_short(record.get('function'))} compiled in the steady state, {formats.ago(age_s)}."


def _recompiles(facts: Facts) -> str:
    labels = sorted(facts.recent, key=lambda label: -facts.recent[label])
    number = sum(facts.recent.values())
    often = {1: "once", 2: "twice"}.get(number, f"{number:,} times")
    together = f"{formats.count(number, 'time')} in all" if len(labels) > 1 else often
    return formats.sentences(
        f"{formats.listed(_names(labels), most=2)} recompiled {together} in the last minute",
        _newest(facts, is_named=len(labels) > 1),
    )


def _lost(facts: Facts) -> str:
    function, lost_s, reason = facts.most_lost
    how_much = "most of it" if lost_s >= facts.lost_s / 2 else f"{formats.percent(lost_s / facts.lost_s)} of that"
    most = f", {how_much} in {_short(function)}: {_reason({'reason': reason})}" if function else ""
    share = f"{formats.percent(facts.share_of_run(facts.lost_s))} of the run ({formats.seconds(facts.lost_s)})"
    return formats.sentences(f"Recompiles have cost {share}{most}")


def _compiling(facts: Facts) -> str:
    oldest = facts.oldest or {}
    again = " again" if oldest.get("is_again") else ""
    return f"Compiling {_short(oldest.get('function'))}{again}, for {formats.seconds(oldest.get('for_s', 0.0))} so far."


def _compile_bound(facts: Facts) -> str:
    label, seconds, compiles = facts.slowest
    most = ""
    if label == JAX_LABEL:
        most = f": {formats.seconds(seconds)} for {formats.count(compiles, 'operation')} outside of jit"
    elif label:
        which = "the first compile" if compiles == 1 else formats.count(compiles, "compile")
        most = f": {formats.seconds(seconds)} for {which} of {_short(label)}"
    return f"Compiling took {formats.seconds(facts.busy_s)} of {formats.seconds(facts.uptime_s)} so far{most}."


def _probe_down(facts: Facts) -> str:
    noun, verb = ("probe", "is") if len(facts.down) == 1 else ("probes", "are")
    names = formats.listed(list(facts.down), most=5)
    return f"Some data is missing: {noun} {names} {verb} down. `jitwatch doctor` shows the reason."


def _calm(facts: Facts) -> str:
    if not facts.totals.get("compiles"):
        return "Healthy: no function has compiled yet."
    record, age_s = facts.last.get("jit.recompiled", ({}, float("inf")))
    if record:
        last = f"the last recompile was {formats.ago(age_s)}, of {_short(record.get('function'))}: {_reason(record)}"
        return formats.sentences(f"Healthy: {last}")
    if facts.totals.get("pitfalls"):
        number = formats.count(facts.totals["pitfalls"], "pitfall")
        return f"Healthy: no function has recompiled, but there is advice on {number}."
    return "Healthy: no function has recompiled."


_SENTENCES: Final[Mapping[Kind, Callable[[Facts], str]]] = {
    "programs_diverged": _programs_diverged,
    "out_of_memory": _out_of_memory,
    "storm": _storm,
    "compile_stuck": _stuck,
    "memory_full": _full,
    "memory_leak": _leak,
    "donation_violation": _donation_violation,
    "steady_violation": _steady_violation,
    "recompiles": _recompiles,
    "lost": _lost,
    "compiling": _compiling,
    "compile_bound": _compile_bound,
    "probe_down": _probe_down,
    "calm": _calm,
}


def _use(full: FullMemory) -> str:
    """A device or the host with its use: `gpu:0 (78.0 GiB of 80.0 GiB)`; the name alone if the bytes are unknown."""
    if full.in_use_bytes is None or full.limit_bytes is None:
        return full.place
    return f"{full.place} ({formats.size(full.in_use_bytes)} of {formats.size(full.limit_bytes)})"


def _newest(facts: Facts, *, is_named: bool) -> str | None:
    of = f" of {_short(facts.newest.get('function'))}" if is_named else ""
    return f"Newest recompile{of}: {_reason(facts.newest)}" if facts.newest else None


def _reason(record: Mapping[str, Any]) -> str:
    """The first change, and whether there were more."""
    first, _, more = (record.get("reason") or "unknown cause").partition("; ")
    return f"{first} and more" if more else first


def _names(labels: Sequence[str]) -> list[str]:
    """Short names of functions; whole labels where short names are ambiguous."""
    short = [_short(label) for label in labels]
    return [label if short.count(name) > 1 else name for name, label in zip(short, labels, strict=True)]


def _short(label: object) -> str:
    """The bare name in a function's label: `train_step`, `<lambda>@train.py:88`."""
    if label == JAX_LABEL:
        return "an operation outside of jit"
    text = str(label or "a function")
    head, at, where = text.partition("@")
    return f"{head.rpartition('.')[2]}{at}{where}"


def _capitalized(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
