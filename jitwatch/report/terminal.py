"""Renders the report as text for a terminal: the verdict first, advice last."""

from __future__ import annotations

from collections.abc import Callable

from jitwatch.render import formats, persistent_cache, summary
from jitwatch.report import compare, sentences
from jitwatch.report.document import Document
from jitwatch.state.schema import StateLike

#: Maximum number of paragraphs of a section; the JSON has all.
_TOP = 8
_TOP_DIFFERENCES = 12
_SECTIONS: tuple[tuple[str, Callable[[Document], list[str]]], ...] = (
    ("Different programs", sentences.divergence),
    ("Storms", sentences.storms),
    ("Compile time", sentences.compile_time),
    ("Memory", sentences.memory),
    ("Failed compiles", sentences.failures),
    ("Donation violations", sentences.donations),
    ("Steady-state violations", sentences.steady),
    ("Processes", sentences.processes),
    ("The log", sentences.log),
)


def render(document: Document, comparison: compare.RunComparison | None = None, *, width: int = formats.WIDTH) -> str:
    """The report of a run, and of its comparison with another run, as text with so many columns."""
    lines = []
    if comparison is not None:
        lines += [*_paragraphs(compare.head_of(comparison), width), "", *_sides(comparison)]
        lines += [*_differences(comparison, width), "", "The run:"]
    state = as_state(document)
    lines += _paragraphs([sentences.verdict(document), sentences.whose(document)], width)
    lines += _paragraphs([summary.one_line(state), *sentences.parts(document)], width)
    table = summary.table(state)
    if table:
        column = table[0].index("function")
        lines += ["", table[0], *(summary.fitted(row, column, width) for row in table[1:])]
    caches = summary.caches(state)
    if caches:
        lines += ["", formats.paragraph(caches, width)]
    kept = persistent_cache.sentences(document["persistent_cache"])
    if kept:
        lines += ["", *_paragraphs(kept, width)]
    for title, section in _SECTIONS:
        texts = section(document)
        more = [f"And {len(texts) - _TOP:,} more; --format json lists all."] if len(texts) > _TOP else []
        if texts:
            lines += ["", f"{title}:", *_paragraphs([*texts[:_TOP], *more], width)]
    advice = summary.advice(state, more="--format json lists all", width=width)
    if advice:
        lines += ["", "Advice:", *advice]
    return "\n".join(lines) + "\n"


def as_state(document: Document) -> StateLike:
    """The document as a state of a running job, with the fields that `render.summary` needs."""
    entries = [{"value": row["cache_entries"] or 0} for row in document["functions"]]
    return {
        **document,
        "uptime_seconds": document["process_seconds"],
        "metrics": {"jitwatch_jit_cache_entries": entries},
    }


def _paragraphs(texts: list[str], width: int) -> list[str]:
    return [formats.paragraph(text, width) for text in texts]


def _sides(comparison: compare.RunComparison) -> list[str]:
    """The totals of both runs, side by side."""
    cells = [("", "before", "now", "change")]
    for row in comparison["totals"]:
        before, now = (compare.shown(row, row[side]) for side in ("before", "now"))
        cells.append((row["label"], before, now, compare.change_of(row)))
    return [f"{label:<24} {before:>12} {now:>12} {change:>12}" for label, before, now, change in cells]


def _differences(comparison: compare.RunComparison, width: int) -> list[str]:
    """What became worse and what became better, a paragraph each."""
    lines = []
    for title, texts in (("Worse", comparison["worse"]), ("Better", comparison["better"])):
        if texts:
            lines += ["", f"{title}:", *_paragraphs(texts[:_TOP_DIFFERENCES], width)]
        if len(texts) > _TOP_DIFFERENCES:
            lines.append(f"And {len(texts) - _TOP_DIFFERENCES:,} more; --format json lists all.")
    programs = compare.program_sentences(comparison)
    if programs:
        lines += ["", "Programs:", *_paragraphs(programs[:_TOP_DIFFERENCES], width)]
    if len(programs) > _TOP_DIFFERENCES:
        lines.append(f"And {len(programs) - _TOP_DIFFERENCES:,} more; --format json lists all.")
    return lines
