"""Whole texts: what a person reads of one rich run, in the report, in `explain()` and in the summary."""

from __future__ import annotations

import pytest

from jitwatch.model.events import PitfallFound, Stepped, StormStarted
from jitwatch.render import explain, formats, summary
from jitwatch.report import compare, terminal
from jitwatch.state.store import Store
from tests.golden import assert_golden
from tests.unit import logs

#: One of each event, as the agent writes them.
EVERYTHING = (
    logs.installed(),
    logs.compiled(persistent_cache="miss", persistent_cache_reason="unknown"),
    logs.compiled(logs.ADD),
    logs.compiled(logs.LOSS),
    logs.recompiled(),
    logs.recompiled(function=logs.LOSS, line=7),
    logs.failed(),
    logs.pitfall(),
    logs.storm_started(),
    logs.storm_ended(),
    logs.unsteady(),
    logs.used_after(),
    logs.exhausted(),
    logs.leaking(),
    logs.pressed(),
    logs.sampled(),
    logs.unusable_probe(),
    logs.moved(),
    logs.ended(100.0),
    logs.uninstalled(),
)


class Clock:
    """Seconds that pass when the test says so."""

    now = logs.NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    """A run of two functions: recompiles of two kinds, one of them planned, a pitfall and a storm."""
    clock = Clock()
    made = Store(clock=clock, monotonic=clock)
    recompiled = [logs.recompiled(size) for size in (5, 6, 7)]
    for event in (
        logs.compiled(),
        logs.compiled(logs.LOSS),
        logs.compiled(logs.ADD),
        Stepped(steps=1, duration_s=None),
        Stepped(steps=1_200, duration_s=60.0),
        *recompiled,
        logs.pitfall(),
        logs.recompiled(function=logs.LOSS, line=7, expected="longer context"),
        StormStarted(function=logs.STEP, recompiles=5, within_s=600.0),
        PitfallFound(
            function=logs.ADD, call_site="/home/ada/train.py:9", pitfall="eager_churn",
            message="40 operations ran outside of jit", advice="Put them into one jitted function", lost_s=0.0,
        ),
    ):  # fmt: skip
        made.apply(event)
        clock.now += 10.0
    made.set_total("compile_busy_seconds", 6.0)
    return made


def test_report(tmp_path):
    """Every section that a log can give rise to."""
    assert_golden("report.txt", terminal.render(logs.document_of(tmp_path, *EVERYTHING)))


def test_report_of_a_comparison(tmp_path):
    """With a run in which there was less of everything."""
    now = logs.document_of(tmp_path, *EVERYTHING)
    old = logs.document_of(tmp_path, logs.installed(), logs.compiled(), logs.ended(), run="r0", name="old.jsonl")
    assert_golden("comparison.txt", terminal.render(now, compare.compare(now, old)))


def test_explain(store):
    """A paragraph for each kind of recompile, pitfall and storm."""
    paragraphs = explain.explain(store.snapshot(), store.records()[0]).paragraphs
    assert_golden("explain.txt", "\n\n".join(formats.paragraph(one, formats.WIDTH) for one in paragraphs))


def test_summary(store):
    """The table, what recompiles cost, and what to change."""
    assert_golden("summary.txt", summary.text(store.snapshot()))
