"""Any answer of a job can be shown: no traceback, strict JSON, no character that steers the terminal.

`FUZZ_EXAMPLES=20000 pytest tests/unit/test_top_fuzz.py` looks for longer.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitwatch.top.app import content
from jitwatch.top.model import SORTS, JobState, Process, functions_of, state_of
from jitwatch.top.view import as_json, as_text, functions_table, processes_table
from tests.unit.hostile import HOSTILE, ascii_start, harm_in
from tests.unit.top_states import function, health, pitfall, site, state

LONGER = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    deadline=timedelta(seconds=60),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-(10**400), 10**400)
    | st.sampled_from([1e308, -1e308, 5e-324, 1e-300, 10**400, float("nan"), float("inf")])
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(HOSTILE).map(lambda text: text[:3_000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def whole() -> dict[str, Any]:
    """A state with something in every part."""
    found = state(
        function(recompiles=3, compiles=4, lost_seconds=2.0, causes={"shape": 2, "dtype": 1}, is_in_storm=True),
        function("__jax__", compiles=9),
        call_sites=[site(last_time=1500.0), site("train.f", advice="")],
        pitfalls=[pitfall(), pitfall("train.f")],
        in_progress=[{"function": "train.f", "phase": "compile", "for_s": 12.5, "thread": "x", "is_again": True}],
        health=health(("bad", "F!"), ("warn", "G.")),
        metrics={"jitwatch_oom_total": [{"labels": {}, "value": 2.0}]},
        steady_seconds=1.0,
    )
    found["memory"] |= {"pressure": ["gpu:0"], "leaks": ["host"]}
    copied: dict[str, Any] = json.loads(json.dumps(found))
    return copied


def paths_in(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where all values of a state are, inner ones as well."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, one in items for path in [(*before, key), *paths_in(one, (*before, key))]]


def changed(paths: dict[tuple[Any, ...], Any]) -> dict[str, Any]:
    """A state with other values at these places."""
    found = whole()
    for path, value in paths.items():
        inner: Any = found
        for step in path[:-1]:
            inner = inner[step] if isinstance(inner, (dict, list)) and step in paths_of(inner) else {}
        if isinstance(inner, (dict, list)) and path[-1] in paths_of(inner):
            inner[path[-1]] = value
    return found


def paths_of(inner: Any) -> Any:
    """Keys of a dictionary or places of a list."""
    return inner if isinstance(inner, dict) else range(len(inner))


def look(*states: JobState | None) -> None:
    """Show these jobs, one alone and all together, in each form and order, and look at every output."""
    processes = [
        Process(f"http://127.0.0.1:{number}", "live" if number % 2 == 0 else "silent", 3.0, "x", one)
        for number, one in enumerate(states)
    ]
    for shown in (processes[:1], processes)[: len(processes)]:
        found = as_json(shown)
        json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert [] == harm_in(found + as_text(shown, 100) + as_text(shown, 7))
        known = [one.state for one in shown if one.state is not None]
        lines = processes_table(shown, None, 90, 9)
        for sort in SORTS:
            lines += functions_table(functions_of(known, sort), 90, 30)
        assert [] == harm_in(content(lines).plain)


@LONGER
@given(st.data())
def test_top_shows_any_answer(data):
    """Any values anywhere, of one job and of several in a run."""
    places = st.sampled_from(PLACES)
    found = [
        state_of(changed(data.draw(st.dictionaries(places, VALUES, max_size=8)))),
        state_of(changed(data.draw(st.dictionaries(places, VALUES, max_size=3)))),
        None,
    ]
    look(*found)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii_start)
def test_top_shows_hostile_texts_harmlessly(text):
    """In the place of every text of the state."""
    state = state_of(changed({path: text for path in PLACES if isinstance(at(whole(), path), str)}))

    look(state, state)


@pytest.mark.parametrize(
    "number",
    [1e308, 5e-324, 1e-300, -1e308, 10**400, -(10**400), float("nan"), float("inf")],
    ids=["largest", "least", "little", "negative", "long", "long negative", "nan", "inf"],
)
def test_top_shows_numbers_of_any_size(number):
    """In the place of every number, of all and of one alone."""
    numbers = [path for path in PLACES if isinstance(at(whole(), path), (int, float))]
    for places in (numbers, *([path] for path in numbers)):
        look(state_of(changed(dict.fromkeys(places, number))))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """The value at a place."""
    for step in path:
        value = value[step]
    return value


#: Where all values of a state are.
PLACES = paths_in(whole())
