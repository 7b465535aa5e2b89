"""The exposition, read back with the parsers of prometheus_client."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from jitwatch.exporters.prometheus import Exposition, StoreCollector, _Family, _Turns
from jitwatch.model.cleaning import clean
from jitwatch.model.events import Compiled, FunctionWrapped
from jitwatch.model.function import Function
from jitwatch.state.metrics import BY_NAME, METRICS
from jitwatch.state.store import Store
from jitwatch.state.tables import MetricTables

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
#: What Prometheus 3 sends.
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
ODD_LABELS = [
    "train.step",
    'quote " quote',
    "back \\ slash",
    "\\n is no newline",
    "new\nline",
    "train.<lambda>@train.py:88",
    "тренировка.größe.😀",
    "comma,brace}equals=",
    " spaces ",
    "ends with \\",
]


def store_with(*functions: Function, **options) -> Store:
    store = Store(clock=lambda: 1_700_000_000.0, monotonic=lambda: 0.0, **options)
    for function in functions:
        store.apply(FunctionWrapped(function=function))
        store.apply(Compiled(function=function, trace_s=0.002, lower_s=0.03, compile_s=7.0))
    return store


def render(store: Store, accept: str = "text/plain") -> str:
    body, _ = Exposition(store.tables).render(accept)
    return body.decode("utf-8")


def samples(families) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(("accept", "parse"), [("text/plain", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_render_parses_back_with_every_label_value(accept, parse):
    """Backslashes and other scripts arrive as they were, in both formats; no label of a function has a double quote."""
    store = store_with(*(Function(label, "f") for label in ODD_LABELS))
    found = samples(parse(render(store, accept)))

    for label in (clean(label).replace('"', "'") for label in ODD_LABELS):
        assert 1.0 == found["jitwatch_compiles_total", (("function", label),)]
        assert 7.032 == pytest.approx(found["jitwatch_compile_seconds_total", (("function", label),)])
    assert 10.0 == found["jitwatch_tracked_functions", ()]


def test_render_both_formats_say_the_same():
    """OpenMetrics and text have the same samples of ours, with the same values."""
    store = store_with(Function("train.step", "step"))
    store.set_process_place(1, 4)
    text, openmetrics = samples(parse_text(render(store))), samples(parse_openmetrics(render(store, OPENMETRICS)))

    ours = {key: value for key, value in text.items() if key[0].startswith("jitwatch_")}
    assert ours == {key: value for key, value in openmetrics.items() if key[0].startswith("jitwatch_")}
    assert 1.0 == ours["jitwatch_process_info", (("process_count", "4"), ("process_index", "1"))]


def test_render_has_help_and_type_of_each_family():
    """Every family says what it is, once, and before its samples."""
    store = store_with(Function("train.step", "step"))
    lines = render(store).splitlines()

    assert "# TYPE jitwatch_compiles_total counter" in lines
    assert f"# HELP jitwatch_compiles_total {BY_NAME['compiles'].help}" in lines
    assert "# TYPE jitwatch_compile_duration_seconds histogram" in lines
    assert "# TYPE jitwatch_tracked_functions gauge" in lines
    kinds = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert sorted(set(kinds)) == sorted(kinds)


def test_render_every_metric_with_a_value():
    """Each declared metric can be rendered under the name that it declares."""
    store = Store()
    for metric in METRICS:
        labels = tuple(f"{label}-value" for label in metric.labels)
        if metric.kind == "info":
            store.set_info(metric.name, labels)
        elif metric.kind != "histogram":
            store.set(metric.name, 2.0, labels)
    found = samples(parse_openmetrics(render(store, OPENMETRICS)))

    for metric in METRICS:
        labels = tuple(sorted((label, f"{label}-value") for label in metric.labels))
        if metric.kind != "histogram":
            assert (1.0 if metric.kind == "info" else 2.0) == found[metric.exposed_name, labels]


@pytest.mark.parametrize("accept", [OPENMETRICS, "application/openmetrics-text", PROMETHEUS_3])
def test_render_openmetrics_when_asked(accept):
    """OpenMetrics ends with its mark and says so in the content type."""
    body, content_type = Exposition(store_with().tables).render(accept)

    assert body.endswith(b"\n# EOF\n")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain",
        "text/plain; version=0.0.4",
        "text/html,application/xhtml+xml",
        "application/openmetrics-text; version=0.0.1",
        'application/openmetrics-text; version="1.0.0"',
        "application/openmetrics-text; version=one",
        "application/openmetrics-text; version=",
        "text/plain; version=x.y",
        "text/plain; version=1.x",
        ";;;,,,===",
        "version=",
        "\u00e9;version=\u00e9",
    ],
)
def test_render_other_or_malformed_accept_still_answers(accept):
    """Whatever the header says, a scraper gets something that it can read."""
    body, content_type = Exposition(store_with(Function("train.step", "step")).tables).render(accept)

    if content_type.startswith("text/plain"):
        found = samples(parse_text(body.decode()))
    else:
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        found = samples(parse_openmetrics(body.decode()))
    assert 1.0 == found["jitwatch_compiles_total", (("function", "train.step"),)]


def test_render_malformed_version_falls_back_to_text():
    """A version that is none is answered with the text format, not with an error."""
    for accept in ('application/openmetrics-text;version="1.0.0"', "application/openmetrics-text;version=a.b"):
        assert "text/plain; version=0.0.4; charset=utf-8" == Exposition(store_with().tables).render(accept)[1]


def test_render_histogram_is_cumulative_with_float_bounds():
    """Buckets never fall, end in +Inf with the count, and `le` is always written as a float."""
    store = Store()
    function = Function("train.step", "step")
    for seconds in (0.0005, 0.001, 0.7, 2.0, 4000.0):
        store.apply(Compiled(function=function, trace_s=None, lower_s=None, compile_s=seconds))
    found = samples(parse_text(render(store)))
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "jitwatch_compile_duration_seconds_bucket" and ("phase", "compile") in labels
    }

    assert [str(float(bound)) for bound in BY_NAME["compile_duration_seconds"].buckets] + ["+Inf"] == list(buckets)
    assert sorted(buckets.values()) == list(buckets.values())
    assert (2.0, 2.0, 3.0, 4.0, 4.0, 5.0) == tuple(
        buckets[le] for le in ("0.001", "0.5", "1.0", "2.5", "3600.0", "+Inf")
    )
    assert 5.0 == found["jitwatch_compile_duration_seconds_count", (("phase", "compile"),)]
    assert 4002.7015 == pytest.approx(found["jitwatch_compile_duration_seconds_sum", (("phase", "compile"),)])
    assert 0.0 == found["jitwatch_compile_duration_seconds_count", (("phase", "trace"),)]


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_render_has_no_created_series(accept):
    """`_created` would double the number of counters."""
    store = store_with(Function("train.step", "step"))
    store.add("agent_errors", labels=("compile",))

    assert "_created" not in render(store, accept)


def test_render_leaves_the_users_registry_alone():
    """Nothing of ours is in the global registry, and its settings are as they were."""
    before = {family.name for family in prometheus_client.REGISTRY.collect()}
    created = prometheus_client.metrics._use_created
    render(store_with(Function("train.step", "step")))
    after = {family.name for family in prometheus_client.REGISTRY.collect()}

    assert before == after
    assert not any("jitwatch" in name for name in after)
    assert created == prometheus_client.metrics._use_created


def test_render_knows_nothing_of_the_users_metrics():
    """The job's own metrics are served where the job serves them."""
    registry = prometheus_client.REGISTRY
    theirs = prometheus_client.Counter("their_test_metric", "Theirs.")
    try:
        assert "their_test_metric" not in render(store_with())
    finally:
        registry.unregister(theirs)


def test_render_two_expositions_do_not_meet():
    """Two agents one after the other, or in two tests, share no registry."""
    one, two = (
        Exposition(store_with(Function("one.f", "f")).tables),
        Exposition(store_with(Function("two.f", "f")).tables),
    )

    assert "two.f" not in one.render()[0].decode()
    assert "one.f" not in two.render()[0].decode()


def test_render_has_process_and_platform():
    """Memory, CPU time and Python's version come along."""
    found = {name for name, _ in samples(parse_text(render(store_with())))}

    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"} <= found


def test_render_is_fresh_each_time():
    """Each scrape sees the values of its moment."""
    store = store_with()
    exposition = Exposition(store.tables)
    assert "jitwatch_steps_total" not in exposition.render()[0].decode()
    store.add("steps", 3)

    assert "jitwatch_steps_total 3.0" in exposition.render()[0].decode()


def test_render_summary_has_no_series_by_function_and_few_in_all():
    """With thousands of functions a process in summary detail exports at most 150 series."""
    store = store_with(*(Function(f"train.f{number}", "f") for number in range(500)), is_summary=True)
    store.add("steps")
    store.set_by_function("jit_cache_entries", {f"train.f{number}": 1 for number in range(500)})
    for metric in METRICS:
        if metric.kind == "gauge" and not metric.labels:
            store.set(metric.name, 1.0)
    for probe in ("compile", "cache", "process"):
        store.set("probe_up", 1.0, (probe,))
        store.set("collect_duration_seconds", 0.1, (probe,))
    found = samples(parse_text(render(store)))
    functions = {value for _, labels in found for name, value in labels if name == "function"}

    assert {"__all__"} == functions
    assert 500.0 == found["jitwatch_compiles_total", (("function", "__all__"),)]
    assert len(found) <= 150


def test_collector_copies_the_tables_once_a_scrape():
    """The store's lock is taken once, however many metrics there are."""
    calls = []
    store = store_with(Function("train.step", "step"))

    def tables():
        calls.append(1)
        return store.tables()

    list(StoreCollector(tables).collect())

    assert [1] == calls


def test_render_falls_back_to_the_encoder_for_lines_of_another_form():
    """If lines do not end with the value, as in another major version, the encoder renders the family."""
    tables = MetricTables()
    tables.set("host_cpu_ratio", 0.5)

    def encoder(registry):
        return generate_latest(registry).replace(b" 0.5\n", b" 5e-1 # half\n")

    family = _Family(BY_NAME["host_cpu_ratio"], encoder)
    rows = [((), 0.5)]
    assert family.render(rows, _Turns()).endswith(b"jitwatch_host_cpu_ratio 5e-1 # half\n")


def test_render_encodes_a_series_once(monkeypatch):
    """A value that changes is rendered without the encoder, and a family that does not change not at all."""
    encoded = []

    def encoder(registry):
        encoded.append(registry)
        return generate_latest(registry)

    family = _Family(BY_NAME["compiles"], encoder)
    turns = _Turns()
    first = family.render([(("f",), 1.0)], turns)
    count = len(encoded)
    assert first.replace(b"1.0", b"2.0") == family.render([(("f",), 2.0)], turns)
    assert family.render([(("f",), 2.0)], turns) is family.render([(("f",), 2.0)], turns)
    assert count == len(encoded)
    family.render([(("g",), 1.0)], turns)
    assert count + 1 == len(encoded)
