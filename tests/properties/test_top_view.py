"""No content breaks the layout of the terminal view."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jitwatch.render.layout import width
from jitwatch.top.view import (
    as_text,
)
from tests.unit.top_states import function, pitfall, process, site

NAMES = st.text(st.characters(), min_size=1, max_size=80) | st.sampled_from(["train.<lambda>@train.py:88", "模型" * 30])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.integers(0, 10**9), st.floats(0, 10**7)), max_size=40),
    st.integers(1, 6),
    st.integers(1, 200),
)
def test_no_line_exceeds_the_terminal(named, others, columns):
    """Names and numbers of any size stay within its width, and no character steers it."""
    functions = [
        function(name, compiles=number, recompiles=number, seconds=seconds, lost_seconds=seconds, causes={name: 1})
        for name, number, seconds in named
    ]
    sites = [site(name, reason=name, advice=name) for name, _, _ in named]
    mistakes = [pitfall(name, message=name, advice=name) for name, _, _ in named]
    processes = [
        process(*functions, url=f"http://127.0.0.1:{port}", run=named[0][0] if named else "r", process_index=port,
                call_sites=sites, pitfalls=mistakes)
        for port in range(others)
    ]  # fmt: skip
    found = as_text(processes, columns).split("\n")

    assert all(width(one) <= columns for one in found)
    assert all(character.isprintable() or character.isspace() for one in found for character in one)
