"""Whether a job is healthy, in one sentence for a person who is tired. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from jitwatch.diagnosis import words
from jitwatch.top.addresses import shown
from jitwatch.top.cells import short_name, size_of
from jitwatch.top.figures import Figures, FunctionFigures
from jitwatch.top.tracking import WINDOW_S, Process, Recent

#: From the worst to the best; `gone` is a job that does not answer, which may be as it should.
Level = Literal["bad", "warn", "gone", "ok"]
LEVELS: Final[tuple[Level, ...]] = ("bad", "warn", "gone", "ok")
#: A compile that takes longer is worth a word, seconds.
_LONG_COMPILE_S: Final = 300.0
#: Share of the run lost to recompiles that is worth a word although it is over.
_COSTLY: Final = 0.02
_RECOMPILED: Final = re.compile(r" recompiled(?: \(\d+(?:st|nd|rd|th) time\))?")
_REASON: Final = re.compile(
    rf"{_RECOMPILED.pattern}(?: at .*?)??: (?P<reason>.+?)"
    r"\. (?:\d[\d.]* (?:ms|s|min|h) (?:lost|spent)|\d[\d.]* (?:ms|s|min|h), expected: .*[^.])"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How healthy a job is, and why, without a full stop."""

    level: Level
    sentence: str


def verdict_of(process: Process) -> Verdict:
    """The worst that is to be said of the job."""
    return verdicts_of(process)[0]


def verdicts_of(process: Process) -> list[Verdict]:
    """All that is to be said of the job, the worst first; never empty."""
    figures = process.figures
    if process.status == "ended":
        ago = words.ago(process.quiet_s)
        return [Verdict("gone", f"ended {ago}: nothing listens at {shown(process.url)} any more")]
    if figures is None:
        return [Verdict("gone", process.problem or "no answer yet")]
    if process.status == "silent":
        since = words.ago(process.quiet_s).removesuffix(" ago")
        return [Verdict("warn", f"not answering since {since}: {process.problem}")]
    found = [verdict for rule in _RULES for verdict in rule(figures, process.recent)]
    return sorted(found, key=lambda one: LEVELS.index(one.level)) or [_calm(figures, process.recent)]


def without_advice(explanation: str) -> str:
    """The explanation of a recompile without its advice."""
    found = _REASON.search(explanation)
    return f"{explanation[: found.end()]}." if found else explanation


def reason_of(explanation: str) -> str:
    """`length 11 → 12` out of the explanation of a recompile, as `words.of_recompile` makes it."""
    found = _REASON.search(explanation)
    return found["reason"] if found else ""


def in_short(explanation: str) -> str:
    """The explanation of a recompile where it is known that it is one: `train_step at train.py:88: …`."""
    return _RECOMPILED.sub("", explanation, count=1)


def _memory(figures: Figures, recent: Recent) -> Iterator[Verdict]:
    if recent.out_of_memory:
        yield Verdict("bad", f"memory ran out {_times(recent.out_of_memory)} {_lately(recent)}")
    elif figures.out_of_memory:
        yield Verdict("warn", f"memory ran out {_times(figures.out_of_memory)} so far")
    if figures.pressure:
        yield Verdict("bad", f"nearly out of memory: {', '.join(figures.pressure)}{_use(figures)}")
    if figures.leaks:
        yield Verdict("warn", f"memory keeps growing: {', '.join(one.replace('_', ' ') for one in figures.leaks)}")


def _use(figures: Figures) -> str:
    memory = figures.memory
    if memory is None or memory.limit_bytes is None or memory.device not in figures.pressure:
        return ""
    return f" ({size_of(memory.in_use_bytes, memory.limit_bytes)})"


def _storms(figures: Figures, recent: Recent) -> Iterator[Verdict]:
    storms = sorted((one for one in figures.functions if one.is_in_storm), key=lambda one: _hurry(one, recent))
    if not storms:
        return
    worst = storms[0]
    name, count = short_name(worst.function), recent.recompiles.get(worst.function, 0)
    # Beside one that goes on, those that have calmed down are no news.
    number = sum(1 for one in storms[1:] if recent.recompiles.get(one.function) or not count)
    others = f"; and {words.count(number, 'other function')} too" if number else ""
    if count:
        yield Verdict("bad", f"{name} recompiles: {_times(count)} {_lately(recent)}{_because(worst, recent)}{others}")
    elif recent.window_s < WINDOW_S:
        so_far = f"{_times(worst.recompiles)} so far"
        yield Verdict("bad", f"{name} recompiles in a storm: {so_far}{_because(worst, recent)}{others}")
    else:
        yield Verdict("warn", f"{name} recompiled {_times(worst.recompiles)}, but not {_lately(recent)}{others}")


def _hurry(one: FunctionFigures, recent: Recent) -> tuple[int, float, int]:
    return -recent.recompiles.get(one.function, 0), -one.lost_seconds, -one.recompiles


def _donations(figures: Figures, recent: Recent) -> Iterator[Verdict]:
    if recent.donation_violations:
        number = words.count(recent.donation_violations, "time")
        yield Verdict("bad", f"donated arrays are misused: {number} {_lately(recent)}")
    elif figures.donation_violations:
        yield Verdict("warn", f"donated arrays were misused {_times(figures.donation_violations)} so far")


def _recompiles(figures: Figures, recent: Recent) -> Iterator[Verdict]:
    lately = [one for one in figures.functions if recent.recompiles.get(one.function) and not one.is_in_storm]
    if lately:
        worst = min(lately, key=lambda one: _hurry(one, recent))
        count = recent.recompiles[worst.function]
        text = f"{short_name(worst.function)} recompiled {_times(count)} {_lately(recent)}{_because(worst, recent)}"
        yield Verdict("bad" if recent.steady_violations else "warn", text)
    elif recent.steady_violations:
        number = words.count(recent.steady_violations, "compile")
        yield Verdict("bad", f"{number} {_lately(recent)}, although the job said that it is steady")
    elif figures.lost_ratio >= _COSTLY and not figures.storms_active:
        worst = max(figures.functions, key=lambda one: one.lost_seconds)
        share = f"{words.percent(figures.lost_ratio)} of the run ({words.seconds(figures.lost_seconds)})"
        yield Verdict("warn", f"recompiles have cost {share} so far, most of it {short_name(worst.function)}")


def _running(figures: Figures, _recent: Recent) -> Iterator[Verdict]:
    for one in figures.in_progress[:1]:
        name = short_name(one.function)
        if one.for_seconds >= _LONG_COMPILE_S:
            yield Verdict("warn", f"{name} has been compiling for {words.seconds(one.for_seconds)}")
        elif one.is_again:
            yield Verdict("warn", f"{name} is being compiled again")


def _calm(figures: Figures, recent: Recent) -> Verdict:
    """Where no rule has anything to say."""
    if figures.pitfalls:
        number = words.count(len(figures.pitfalls), "known pitfall")
        return Verdict("warn", f"nothing is wrong right now, but there is advice on {number} below")
    if figures.in_progress:
        return Verdict("ok", "healthy: something compiles for the first time")
    if not figures.compiles:
        return Verdict("ok", "healthy: nothing was compiled yet")
    if not figures.recompiles:
        return Verdict("ok", "healthy: every function was compiled once, none again")
    if recent.window_s <= 0:
        return Verdict("ok", f"healthy: {words.count(figures.recompiles, 'recompile')} so far, which cost little")
    return Verdict("ok", f"healthy: nothing recompiled {_lately(recent)}")


#: In the order of what to tell first among equals.
_RULES: Final[tuple[Callable[[Figures, Recent], Iterator[Verdict]], ...]] = (
    _memory,
    _storms,
    _donations,
    _recompiles,
    _running,
)


def _because(one: FunctionFigures, recent: Recent) -> str:
    reason = reason_of(recent.newest.get(one.function, ""))
    return f", newest because {reason}" if reason else ""


def _lately(recent: Recent) -> str:
    if recent.window_s >= WINDOW_S:
        return "in the last minute"
    return f"in the last {max(1, round(recent.window_s))} s"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")
