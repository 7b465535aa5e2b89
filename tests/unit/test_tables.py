"""Tables of values: buckets, the cap on names, what summary detail leaves out."""

from __future__ import annotations

import pytest

from jitwatch.model.taxonomy import ALL_LABEL, JAX_LABEL, OTHER_LABEL
from jitwatch.state.metrics import BY_NAME, METRICS
from jitwatch.state.tables import MAX_FUNCTIONS, FunctionLabels, Histogram, MetricTables


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, [1, 0, 0]),
        (1.0, [1, 0, 0]),
        (1.0000001, [0, 1, 0]),
        (10.0, [0, 1, 0]),
        (10.1, [0, 0, 1]),
        (float("inf"), [0, 0, 1]),
    ],
)
def test_histogram_bound_belongs_to_its_bucket(value, expected):
    """`le` means less or equal, and what is above every bound is in the last bucket."""
    histogram = Histogram((1.0, 10.0))
    histogram.observe(value)

    assert expected == histogram.counts


def test_histogram_counts_and_sums():
    """Count and sum are of all values."""
    histogram = Histogram((1.0, 10.0))
    for value in (0.5, 5.0, 50.0):
        histogram.observe(value)

    assert (3, 55.5) == (histogram.count, histogram.total)


def test_histogram_copy_is_independent():
    """A copy being rendered does not see later values, and new histograms share nothing."""
    histogram = Histogram((1.0,))
    twin = histogram.copy()
    histogram.observe(0.5)

    assert (0, 0.0) == (twin.count, twin.total)
    assert 0 == Histogram((1.0,)).count


def test_function_labels_first_come_and_never_reassigned():
    """The first ones keep their names whatever comes later; the rest is `__other__`."""
    labels = FunctionLabels(limit=2)

    assert [("a", True), ("b", True), (OTHER_LABEL, False), ("a", False), (OTHER_LABEL, False), ("b", False)] == [
        labels.admit(label) for label in ("a", "b", "c", "a", "c", "b")
    ]
    assert 2 == len(labels)


def test_function_labels_reserved_take_no_place():
    """JAX's own and the totals do not count among the user's functions."""
    labels = FunctionLabels(limit=1)

    for label in (JAX_LABEL, OTHER_LABEL, ALL_LABEL):
        assert (label, False) == labels.admit(label)
    assert ("mine", True) == labels.admit("mine")


def test_function_labels_default_cap_is_the_documented_one():
    """A hundred names a process."""
    labels = FunctionLabels()
    shown = [labels.admit(f"f{number}")[0] for number in range(150)]

    assert 100 == MAX_FUNCTIONS == len(labels)
    assert [f"f{number}" for number in range(100)] + [OTHER_LABEL] * 50 == shown


def test_tables_start_at_zero_where_labels_are_known():
    """`increase()` sees the first event only if the series was there before it."""
    values = MetricTables().values

    assert {(): 0.0} == values["compile_busy_seconds"]
    assert {(): 0.0} == values["persistent_cache_hits"]
    assert {(): 0.0} == values["compiles_in_progress"]
    assert {} == values["compiles"]
    assert {} == values["steps"]
    assert {} == values["last_compile_timestamp_seconds"]


def test_tables_start_function_gives_each_of_its_counters_a_zero():
    """Counters by function alone start with the function, and the storm gauge; other gauges do not, nor calls."""
    tables = MetricTables()
    tables.start_function("f")

    for metric in METRICS:
        starts = metric.labels == ("function",) and (
            (metric.kind == "counter" and metric.name != "calls") or metric.name == "recompile_storm_active"
        )
        assert starts == (("f",) in tables.values[metric.name]), metric.name


def test_tables_start_function_again_keeps_its_values():
    """Seeing a function twice does not reset it."""
    tables = MetricTables()
    tables.start_function("f")
    tables.add("compiles", labels=("f",))
    tables.start_function("f")
    tables.start_series("compiles", ("f",))

    assert 1.0 == tables.get("compiles", ("f",))


@pytest.mark.parametrize("is_summary", [False, True])
def test_tables_undeclared_metric_is_a_key_error(is_summary):
    """A misspelt name must not vanish in silence."""
    tables = MetricTables(is_summary=is_summary)
    for write in (
        lambda: tables.add("nope"),
        lambda: tables.set("nope", 1.0),
        lambda: tables.get("nope"),
        lambda: tables.observe("nope", 1.0),
        lambda: tables.start_series("nope", ()),
        lambda: tables.replace("nope", {}),
    ):
        with pytest.raises(KeyError):
            write()


def test_tables_replace_ends_missing_series():
    """A function that is gone has no cache entries any more, and the given dictionary is not kept."""
    tables = MetricTables()
    series = {("a",): 1.0, ("b",): 2.0}
    tables.replace("jit_cache_entries", series)
    series[("c",)] = 3.0
    assert {("a",): 1.0, ("b",): 2.0} == tables.values["jit_cache_entries"]

    tables.replace("jit_cache_entries", {("b",): 5.0})
    assert {("b",): 5.0} == tables.values["jit_cache_entries"]


def test_tables_summary_keeps_totals_only():
    """In summary detail compiles and recompiles are added up, all else by function is left out."""
    tables = MetricTables(is_summary=True)
    for label in ("a", "b", JAX_LABEL):
        tables.start_function(label)
        for metric in METRICS:
            if metric.labels == ("function",) and metric.kind == "counter":
                tables.add(metric.name, 2.0, (label,))
    tables.set("jit_cache_entries", 4.0, ("a",))
    tables.replace("jit_cache_entries", {("a",): 4.0})

    by_function = {metric.name: tables.values[metric.name] for metric in METRICS if metric.is_by_function}
    assert {"compiles": {(ALL_LABEL,): 6.0}, "recompiles": {(ALL_LABEL,): 6.0}} == {
        name: series for name, series in by_function.items() if series
    }


def test_tables_summary_totals_start_at_zero():
    """They are known from the start."""
    tables = MetricTables(is_summary=True)

    assert {(ALL_LABEL,): 0.0} == tables.values["compiles"] == tables.values["recompiles"]


def test_tables_copy_is_independent():
    """A scrape renders its copy while the job goes on."""
    tables = MetricTables()
    tables.observe("compile_duration_seconds", 1.0, ("trace",))
    tables.infos["process"] = ("0", "1")
    twin = tables.copy()
    tables.add("steps")
    tables.set("jit_cache_entries", 1.0, ("a",))
    tables.observe("compile_duration_seconds", 1.0, ("trace",))
    tables.infos["process"] = ("1", "2")

    assert 0.0 == twin.get("steps")
    assert {} == twin.values["jit_cache_entries"]
    assert 1 == twin.histograms["compile_duration_seconds"][("trace",)].count
    assert ("0", "1") == twin.infos["process"]


def test_tables_copy_keeps_the_detail():
    """A copy of a summary is a summary."""
    twin = MetricTables(is_summary=True).copy()
    twin.add("compiles", labels=("a",))

    assert {(ALL_LABEL,): 1.0} == twin.values["compiles"]


def test_tables_series_in_declared_order():
    """Every family's series come together, in the order of the list, each with all its labels."""
    tables = MetricTables()
    tables.start_function("a")
    tables.start_function("b")
    tables.observe("compile_duration_seconds", 1.0, ("trace",))
    tables.infos["process"] = ("0", "1")
    found = list(tables.series())

    order = [METRICS.index(metric) for metric, _, _ in found]
    assert sorted(order) == order
    assert all(len(metric.labels) == len(labels) for metric, labels, _ in found)
    assert (BY_NAME["process"], ("0", "1"), 1.0) in found
    assert "build" not in {metric.name for metric, _, _ in found}
