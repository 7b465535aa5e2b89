"""What is to be said of a job: its own words, or why it says nothing any more. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from jitwatch.render import words
from jitwatch.top.addresses import shown
from jitwatch.top.tracking import Process

#: From the worst to the best; `gone` is a job that does not answer, which may be as it should.
Level = Literal["bad", "warn", "gone", "busy", "good"]
LEVELS: Final[tuple[Level, ...]] = ("bad", "warn", "gone", "busy", "good")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Something to say of a job."""

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
        return [Verdict("gone", f"Ended {ago}: nothing listens at {shown(process.url)} any more.")]
    if figures is None:
        return [Verdict("gone", words.sentences(process.problem or "No answer yet"))]
    if process.status == "silent":
        since = words.ago(process.quiet_s).removesuffix(" ago")
        return [Verdict("warn", words.sentences(f"Not answering since {since}: {process.problem}"))]
    known: dict[str, Level] = {level: level for level in LEVELS}
    found = [Verdict(known.get(level, "warn"), sentence) for level, sentence in figures.health]
    return found or [Verdict("warn", "It answers, but says nothing of how it is.")]
