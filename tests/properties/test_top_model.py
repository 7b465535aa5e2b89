"""Any answer of a job becomes a state."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitwatch.top.model import (
    state_of,
)  # fmt: skip
from tests.unit.top_states import function, pitfall, site, state

ODD = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_state_of_never_fails(data):
    """Any part may be missing or odd; what comes out can always be written as JSON."""
    whole = state(function(), call_sites=[site()], pitfalls=[pitfall()])
    for name in data.draw(st.sets(st.sampled_from(sorted(set(whole) - {"totals"})), max_size=5)):
        whole[name] = data.draw(ODD)
    whole["totals"] = data.draw(st.dictionaries(st.sampled_from(sorted(whole["totals"])), ODD))
    whole["functions"] = data.draw(st.lists(st.dictionaries(st.sampled_from(sorted(function())), ODD)) | ODD)

    assert json.dumps(state_of(whole), allow_nan=False)
