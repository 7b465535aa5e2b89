"""The rendered metrics are those of prometheus_client, whatever changed."""

from __future__ import annotations

import math

import hypothesis
import pytest
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from jitwatch.exporters.prometheus import Exposition, StoreCollector
from jitwatch.state.tables import MetricTables

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
_LABELS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


_VALUES = st.floats().filter(lambda value: value != 0 or math.copysign(1, value) > 0)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.just("compiles"), _LABELS, st.floats(0, 1e300)),
        st.tuples(st.just("add"), st.just("recompiles"), _LABELS, st.floats(0, 1e300)),
        st.tuples(st.just("set"), st.just("jit_cache_entries"), _LABELS, _VALUES),
        st.tuples(st.just("observe"), st.just("compile_duration_seconds"), _LABELS, st.floats(0, 1e6)),
        st.tuples(st.just("replace"), st.just("live_arrays"), _LABELS, _VALUES),
        st.tuples(st.just("info"), st.just("process"), _LABELS, st.just(1.0)),
        st.tuples(st.just("render"), st.just(""), st.just(""), st.just(0.0)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS, PROMETHEUS_3])
@hypothesis.given(steps=_STEPS)
@hypothesis.settings(deadline=None, max_examples=60)
def test_render_is_what_the_encoder_makes(accept, steps):
    """Whatever changed since the last scrape, the bytes are those of prometheus_client's encoder."""
    tables = MetricTables()
    exposition, registry = Exposition(tables.copy), CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(tables.copy))
    encoder = choose_encoder(accept)[0]
    for step, name, label, value in [*steps, ("render", "", "", 0.0)]:
        if step == "render":
            body, _ = exposition.render(accept)
            expected = encoder(registry).removesuffix(b"# EOF\n")
            assert body.startswith(expected)
            assert b"jitwatch_" not in body[len(expected) :]
        elif step == "replace":
            tables.replace(name, {(label,): value, ("cpu:0",): 1.0})
        elif step == "info":
            tables.infos[name] = (label, "1")
        elif step == "add":
            tables.add(name, value, (label,))
        elif step == "set":
            tables.set(name, value, (label,))
        else:
            tables.observe(name, value, (label,))
