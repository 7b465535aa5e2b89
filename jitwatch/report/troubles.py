"""What went wrong, in words: memory, failures, donations, steady states, storms. From the document, not escaped."""

from __future__ import annotations

from typing import Any

from jitwatch.render import names, words
from jitwatch.report.document import Document

Row = dict[str, Any]

_TOP = 3


def donations(document: Document) -> list[str]:
    """Which call donated, where it was used, how often."""
    return [_donation(one) for one in document["donation_violations"]]


def _donation(one: Row) -> str:
    who = words.called(one["name"], one["function"])
    array = f"{one['leaf'] or 'an array'} ({one['dtype'] or '?'}[{','.join(map(str, one['shape']))}])"
    where = f" at {words.place(one['call_site'])}" if one["call_site"] else ""
    if one["kind"] == "use_after_donate":
        taker = one["donated_by"]
        at = f" at {words.place(one['donated_at'])}" if one["donated_at"] else ""
        is_known = taker and taker != "unknown"
        by = f"{words.called(names.last_of(taker), taker)}{at}" if is_known else "a call that nobody saw"
        text = f"{array} was used{where} after it was donated to {by}"
    elif one["kind"] == "double_donation":
        text = f"{array} was donated twice in one call of {who}{where}"
    elif one["kind"] == "unusable":
        size = f", {size_of(one['bytes'])} stay in use" if one["bytes"] else ""
        text = f"{array} was donated to {who}{where}, which has no result that could take its place{size}"
    else:
        text = f"{one['kind']} of {array} in {who}{where}"
    return f"{text}; {often(one)}."


def steady(document: Document) -> list[str]:
    """What compiled after warm-up."""
    return [
        f"{words.called(one['name'], one['function'])} compiled{_at(one)} although the job was steady"
        f"{_because(one['reason'])}; {often(one)}, {words.seconds(one['spent_seconds'])} spent."
        for one in document["steady_violations"]
    ]


def failures(document: Document) -> list[str]:
    """What did not compile."""
    return [
        f"{words.called(one['name'], one['function'])} did not compile{_at(one)}: {one['error'] or 'an error'}"
        f"{f' in {phase}' if (phase := one['phase']) else ''}{_because(one['message'])}; {often(one)}, "
        f"{words.seconds(one['spent_seconds'])} spent."
        for one in document["failures"]
    ]


def memory(document: Document) -> list[str]:
    """Shortages, leaks, pressure."""
    told = document["memory"]
    found = [_shortage(one) for one in told["out_of_memory"]]
    found += [
        words.sentences(f"Leak of {one['growing']} memory: {one['message'] or 'it grows'}", _capital(often(one)))
        for one in told["leaks"]
    ]
    found += [
        f"{one['place']} was nearly full, {words.percent(one['ratio'])}"
        f"{f' of {size_of(limit)}' if (limit := one['limit_bytes']) else ''}; {often(one)}."
        for one in told["pressure"]
    ]
    return found


def _shortage(one: Row) -> str:
    what = one["function"] or one["program"] or "a call"
    programs = [f"{row.get('function')} {size_of(row.get('total_bytes'))}" for row in one["executables"][:_TOP]]
    return words.sentences(
        f"Out of memory in {what}{_at(one)}: {one['message'] or 'no message'}",
        _capital(words.of_temporaries(one) or "") or None,
        f"Largest arrays: {'; '.join(map(_arrays, one['arrays'][:_TOP]))}" if one["arrays"] else None,
        f"Largest programs: {', '.join(programs)}" if programs else None,
        _capital(often(one)),
    )


def _arrays(row: Row) -> str:
    """`3 × float32[1024,1024], 3.0 GiB together`."""
    shape = ",".join(map(str, row.get("shape", ())))
    return f"{row.get('count', 1)} × {row.get('dtype', '?')}[{shape}], {size_of(row.get('bytes'))} together"


def storms(document: Document) -> list[str]:
    """What recompiled again and again in a short time."""
    return [
        f"{row['function']} recompiled again and again: {words.count(row['storms'], 'storm')}"
        f"{', the last one without an end' * bool(row['is_in_storm'])}."
        for row in document["functions"]
        if row["storms"]
    ]


def often(one: Row) -> str:
    """`3 times in 2 processes`."""
    times = "once" if one["times"] == 1 else f"{one['times']:,} times"
    return f"{times} in {one['processes']:,} processes" if one["processes"] > 1 else times


def size_of(size: float | None) -> str:
    """`1.5 GiB`."""
    return words.size(int(size)) if isinstance(size, (int, float)) else "an unknown size"


def _at(one: Row) -> str:
    return f" at {words.place(one['call_site'])}" if one["call_site"] else ""


def _because(reason: str | None) -> str:
    return f" ({reason.removesuffix('.')})" if reason else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
