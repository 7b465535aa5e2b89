"""Sentences about the time of a compile: the lines of a long trace, and XLA's phases and passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jitwatch.model.rows import JAX_PARTS
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats, names
from jitwatch.state.schema import FunctionRow

#: Lines and passes in a sentence.
_TOP = 3
_LEAST = 0.01
_UNROLLED = "unrolled_loop"


def sentences(rows: Sequence[FunctionRow], most: int = 5) -> list[str]:
    """A sentence for each sampled trace and each profiled compile, those that took longest first."""
    found = []
    for row in rows:
        if row["function"] == JAX_LABEL:
            continue
        for text, took in ((of_trace(row), row["traced_seconds"]), (of_passes(row), row["profiled_seconds"])):
            if text is not None:
                found.append((took or 0.0, f"{_name(row)}: {text}"))
    found.sort(key=lambda one: -one[0])
    return [text for _, text in found[:most]]


def of_trace(row: FunctionRow) -> str | None:
    """`tracing and lowering took 41.0 s: 83 % at model.py:88 (in a Python loop).`; None without samples."""
    lines = [one for one in row["trace_hot_lines"] if one.get("call_site") and one.get("share", 0.0) >= _LEAST]
    if not lines:
        return None
    took = formats.seconds(row["traced_seconds"] or 0.0)
    where = ", ".join(f"{formats.percent(one['share'])} {place_of(one)}" for one in lines[:_TOP])
    advice = None
    if _UNROLLED in row["pitfalls"] and lines[0].get("is_in_loop"):
        advice = "Its program is an unrolled loop: with jax.lax.scan the body is traced once"
    return formats.sentences(f"tracing and lowering took {took}: {where}", advice)


def of_passes(row: FunctionRow) -> str | None:
    """`XLA took 3.51 s: 49 % in fusion (HLO passes), …; autotuning took 0.42 s of it.`; None without a profile."""
    passes = [one for one in row["xla_passes"] if one.get("name") and one.get("share", 0.0) >= _LEAST]
    if not passes:
        return None
    profiled_s, autotuning_s = row["profiled_seconds"] or 0.0, row["autotuning_seconds"] or 0.0
    shown = [one for one in passes if one["name"] != "other"]
    parts = [f"{formats.percent(one['share'])} in {one['name']}{_phase(one)}" for one in shown[:_TOP]]
    tuning = f"; autotuning took {formats.seconds(autotuning_s)} of it" if autotuning_s > 0 else ""
    return formats.sentences(f"XLA took {formats.seconds(profiled_s)}: {', '.join(parts)}{tuning}")


def place_of(line: Mapping[str, Any]) -> str:
    """The location of a row: `at model.py:88 (in a Python loop)`, or `in JAX's lowering rules`."""
    site = line["call_site"]
    if site in JAX_PARTS:
        return f"in JAX's {site.partition(': ')[2]}"
    return f"at {formats.file_line(site)}{' (in a Python loop)' if line.get('is_in_loop') else ''}"


def phases(row: FunctionRow) -> dict[str, float]:
    """Seconds by phase of XLA, the longest first."""
    found: dict[str, float] = {}
    for one in row["xla_passes"]:
        phase = one.get("phase") or "other"
        found[phase] = found.get(phase, 0.0) + one.get("seconds", 0.0)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _phase(one: Mapping[str, Any]) -> str:
    phase = one.get("phase")
    return f" ({phase})" if phase and phase != "other" else ""


def _name(row: FunctionRow) -> str:
    return formats.short_name(names.last_of(row["function"]), row["function"])
