"""The one reducer: the live store and the report of its event log have the same state."""

from __future__ import annotations

import itertools
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from jitwatch.exporters.eventlog.json_lines import make_renderer
from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    DonationViolation,
    PitfallFound,
    SteadyViolated,
    StormEnded,
    StormStarted,
)
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import CAUSES, DONATION_KINDS, JAX_LABEL, PHASES, PITFALLS
from jitwatch.report import sources
from jitwatch.report.document import document
from jitwatch.report.read import read_logs
from jitwatch.state.cost import Pace
from jitwatch.state.store import Store
from jitwatch.state.views import function_row

FUNCTIONS = st.sampled_from(
    [
        Function("train.step", "step", "/home/ada/train.py:10"),
        Function("train.<lambda>@train.py:20", "<lambda>", "/home/ada/train.py:20"),
        Function("eval.loss", "loss"),
        Function(JAX_LABEL, "add"),
        Function(JAX_LABEL, "convert_element_type"),
    ]
)
CALL_SITES = st.sampled_from([None, "/home/ada/train.py:88", "/home/ada/eval.py:3"])
#: Sums of these are exact, in whatever order they are added.
SECONDS = st.integers(0, 4_000).map(lambda number: number / 64)
SUBJECTS = st.sampled_from(["", "batch['tokens']", "config"])
PATHS = st.sampled_from(["batch['tokens']", "batch['labels']", "config.hidden", "state[0].w"])


@st.composite
def compiles(draw: st.DrawFn) -> Compiled:
    """A compile as the diagnosis hands it on: a first one has no causes."""
    function = draw(FUNCTIONS)
    is_first = draw(st.booleans())
    causes = () if is_first else tuple(draw(st.lists(st.sampled_from(CAUSES), min_size=1, max_size=3, unique=True)))
    changes = [Change(path, "shape", "int32[8]", "int32[6]") for path in draw(st.lists(PATHS, max_size=3))]
    pitfall = None if is_first else draw(st.none() | st.sampled_from(PITFALLS))
    return Compiled(
        function=function,
        call_site=draw(CALL_SITES),
        trace_s=draw(st.none() | SECONDS),
        lower_s=draw(st.none() | SECONDS),
        compile_s=draw(SECONDS),
        persistent_cache=draw(st.sampled_from(["hit", "miss", "off"])),
        persistent_cache_reason=draw(st.sampled_from(["", "short_compile", "host_callback"])),
        expected=draw(st.none() | st.just("a new phase")),
        cache_entries=draw(st.none() | st.integers(1, 99)),
        nth=None if function.is_internal else 1 if is_first else draw(st.integers(2, 9)),
        causes=causes,
        changes=tuple(() if is_first else changes),
        pitfall=pitfall,
        pitfall_subject=draw(SUBJECTS) if pitfall else "",
        reason=None if is_first else "batch int32[8] → int32[6]",
        advice=None if is_first else draw(st.none() | st.just("Pad it")),
        explanation=None if is_first else draw(st.sampled_from(["step recompiled.", "loss recompiled."])),
        constant_bytes=draw(st.sampled_from([0, 1 << 21])),
        is_ignored=draw(st.booleans()),
    )


EVENTS = st.one_of(
    compiles(),
    compiles(),
    st.builds(
        CompileFailed,
        function=FUNCTIONS,
        call_site=CALL_SITES,
        phase=st.sampled_from(PHASES),
        error=st.just("ValueError"),
        message=st.just("no"),
        spent_s=SECONDS,
    ),
    st.builds(
        PitfallFound,
        function=FUNCTIONS,
        call_site=CALL_SITES,
        pitfall=st.sampled_from(PITFALLS),
        subject=SUBJECTS,
        message=st.just("it changes"),
        advice=st.just("Keep it"),
        lost_s=SECONDS,
    ),
    st.builds(StormStarted, function=FUNCTIONS, recompiles=st.integers(5, 9), within_s=SECONDS),
    st.builds(StormEnded, function=FUNCTIONS, recompiles=st.integers(5, 9), lasted_s=SECONDS, lost_s=SECONDS),
    st.builds(
        SteadyViolated,
        function=FUNCTIONS,
        call_site=CALL_SITES,
        spent_s=SECONDS,
        action=st.just("warn"),
        since=st.none() | st.sampled_from([1_740_830_400.0, 1_740_830_500.0]),
    ),
    st.builds(
        DonationViolation,
        violation=st.sampled_from(DONATION_KINDS),
        function=FUNCTIONS,
        call_site=CALL_SITES,
        leaf=st.just("state['w']"),
        shape=st.just((4, 4)),
        dtype=st.just("float32"),
        bytes=st.just(64),
    ),
)
PACE = Pace(wall_s=1_000.0, busy_s=100.0, steady_s=500.0, step_s=0.5)


def logged(store: Store, events) -> bytes:
    """The event log of a store that gets these events."""
    render = make_renderer()
    return b"".join(render(store.apply(event)) for event in events)


def reduced(content: bytes):
    """What the report reads from a log, and its document."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.jsonl")
        path.write_bytes(content)
        run, tally = read_logs(sources.find([str(path)]))
    return run, document(run, tally)


@settings(max_examples=60, deadline=timedelta(seconds=60))
@given(events=st.lists(EVENTS, min_size=1, max_size=25))
def test_live_state_and_report_are_the_same(events):
    """Functions, totals, call sites, costs of pitfalls, storms, JAX's own programs and signals, for any events."""
    clock = itertools.count(1_740_830_400)
    store = Store(run="r1", process="p1", clock=lambda: float(next(clock)), monotonic=lambda: 0.0)
    run, found = reduced(logged(store, events))
    live, read = store._aggregates, run.state

    assert list(live.functions) == list(read.functions)
    for label, stats in live.functions.items():
        assert function_row(stats, PACE, stats.cache_entries) == {
            **function_row(read.functions[label], PACE, read.functions[label].cache_entries),
            "shown_as": stats.shown_as,
        }
    assert live.totals == read.totals
    assert live.storms == read.storms
    assert live.steady_since == read.steady_since
    assert live.jax_programs == read.jax_programs
    assert [row(site) for site in live.pitfalls.call_sites] == [row(site) for site in read.pitfalls.call_sites]
    assert live.pitfalls.call_sites.costs() == read.pitfalls.call_sites.costs()
    assert live.pitfalls.costliest() == read.pitfalls.costliest()
    for name, signal in live.signals.items():
        assert signal.row() == read.signals[name].row() == found[name]


def row(site):
    """A call site without its time, which the log has in whole milliseconds."""
    return {name: value for name, value in site.row(PACE).items() if name != "last_time"}
