"""XLA's texts of out-of-memory errors with any lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jitwatch.jaxhooks.memory.oom_texts import read_text
from tests.unit.test_oom_texts import GPU, TPU


@given(st.text(max_size=500), st.lists(st.sampled_from(GPU.split("\n") + TPU.split("\n")), max_size=40))
def test_any_text_is_read(start, listed):
    """Lines in any order, with anything before."""
    found = read_text(start + "\n".join(listed))
    assert len(found.peak_buffers) <= 10
