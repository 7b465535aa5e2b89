"""The declared list of metrics against the public contract and Prometheus's rules for names."""

from __future__ import annotations

import re

import pytest

from jitwatch.state.metrics import BY_NAME, COMPILE_BUCKETS, METRICS, STEP_BUCKETS, Metric

#: What the contract promises: exposed name, type, labels.
CONTRACT: dict[str, tuple[str, tuple[str, ...]]] = {
    "compiles_total": ("counter", ("function",)),
    "recompiles_total": ("counter", ("function",)),
    "recompile_causes_total": ("counter", ("function", "cause")),
    "recompiles_by_cause_total": ("counter", ("cause",)),
    "compile_duration_seconds": ("histogram", ("phase",)),
    "compile_seconds_total": ("counter", ("function",)),
    "compile_busy_seconds_total": ("counter", ()),
    "compiles_in_progress": ("gauge", ()),
    "compile_oldest_in_progress_seconds": ("gauge", ()),
    "last_compile_timestamp_seconds": ("gauge", ()),
    "compile_failures_total": ("counter", ("function",)),
    "recompile_storms_total": ("counter", ("function",)),
    "recompile_storm_active": ("gauge", ("function",)),
    "steady_violations_total": ("counter", ("function",)),
    "steady_since_timestamp_seconds": ("gauge", ()),
    "pitfalls_total": ("counter", ("function", "pitfall")),
    "pitfalls_by_kind_total": ("counter", ("pitfall",)),
    "calls_total": ("counter", ("function",)),
    "last_call_timestamp_seconds": ("gauge", ("function",)),
    "steps_total": ("counter", ()),
    "step_duration_seconds": ("histogram", ()),
    "jit_cache_entries": ("gauge", ("function",)),
    "jit_wrappers_total": ("counter", ("function",)),
    "tracked_functions": ("gauge", ()),
    "jit_global_cache_entries": ("gauge", ()),
    "persistent_cache_hits_total": ("counter", ()),
    "persistent_cache_misses_total": ("counter", ()),
    "persistent_cache_saved_seconds_total": ("counter", ()),
    "donation_violations_total": ("counter", ("function", "kind")),
    "donation_violations_by_kind_total": ("counter", ("kind",)),
    "donated_bytes_total": ("counter", ("function",)),
    "donation_wasted_bytes_total": ("counter", ("function",)),
    "donation_opportunity_bytes": ("gauge", ("function",)),
    "device_memory_in_use_bytes": ("gauge", ("device",)),
    "device_memory_peak_bytes": ("gauge", ("device",)),
    "device_memory_limit_bytes": ("gauge", ("device",)),
    "device_memory_reserved_bytes": ("gauge", ("device",)),
    "device_memory_largest_free_block_bytes": ("gauge", ("device",)),
    "device_memory_stats_supported": ("gauge", ("device",)),
    "device_info": ("info", ("device", "device_kind", "platform")),
    "live_arrays": ("gauge", ("device",)),
    "live_array_bytes": ("gauge", ("device",)),
    "executable_memory_bytes": ("gauge", ("function", "kind")),
    "executable_flops": ("gauge", ("function",)),
    "captured_constant_bytes": ("gauge", ("function",)),
    "memory_growth_bytes_per_second": ("gauge", ("kind",)),
    "oom_total": ("counter", ()),
    "build_info": ("info", ("version", "schema", "jax", "jaxlib", "python", "platform")),
    "process_info": ("info", ("process_index", "process_count")),
    "start_time_seconds": ("gauge", ()),
    "probe_up": ("gauge", ("probe",)),
    "collect_duration_seconds": ("gauge", ("probe",)),
    "agent_errors_total": ("counter", ("component",)),
    "agent_overhead_seconds_total": ("counter", ("component",)),
    "agent_events_dropped_total": ("counter", ("reason",)),
    "agent_label_overflow_total": ("counter", ("metric",)),
    "host_memory_available_bytes": ("gauge", ()),
    "host_memory_total_bytes": ("gauge", ()),
    "host_cpu_ratio": ("gauge", ()),
    "child_processes_resident_memory_bytes": ("gauge", ()),
}
#: The part of it that exists since the first version and may not go.
GROUPS = ("compile", "jit_", "persistent_", "agent_", "host_", "step_", "steps_", "build", "process")
MEMORY = ("device_", "live_", "executable_", "captured_", "memory_", "oom")
DONATION = ("donat", "calls_", "last_call_")
OTHERS = {"recompiles_total", "tracked_functions", "start_time_seconds", "probe_up", "collect_duration_seconds"}
CORE = {name for name in CONTRACT if name.startswith((*GROUPS, *MEMORY, *DONATION))} | OTHERS
RESERVED_SUFFIXES = ("_total", "_count", "_sum", "_bucket", "_created", "_info")
OTHER_UNITS = re.compile(
    r"_(ms|us|ns|milliseconds?|microseconds?|nanoseconds?|minutes?|hours?|kb|mb|gb|kib|mib|gib|kilobytes?|megabytes?"
    r"|percent|pct|percentage|mhz)(_|$)"
)


def samples_of(metric: Metric) -> list[str]:
    """Names of the samples that the metric's text has."""
    name = metric.exposed_name
    return [f"{name}_bucket", f"{name}_count", f"{name}_sum"] if metric.kind == "histogram" else [name]


def test_declared_metrics_are_those_of_the_contract():
    """Each metric that the contract names has the type and labels that it promises."""
    declared = {metric.exposed_name.removeprefix("jitwatch_"): (metric.kind, metric.labels) for metric in METRICS}

    assert {name: CONTRACT[name] for name in declared if name in CONTRACT} == {
        name: found for name, found in declared.items() if name in CONTRACT
    }
    assert set() == CORE - set(declared)


def test_names_are_unique():
    """No family hides another's samples (`x_count` of a histogram and a gauge `x_count`)."""
    samples = [sample for metric in METRICS for sample in samples_of(metric)]

    assert sorted(set(samples)) == sorted(samples)
    assert len(METRICS) == len(BY_NAME)
    assert list(METRICS) == list(BY_NAME.values())


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("compiles", "jitwatch_compiles_total"),
        ("compile_seconds", "jitwatch_compile_seconds_total"),
        ("jit_cache_entries", "jitwatch_jit_cache_entries"),
        ("compile_duration_seconds", "jitwatch_compile_duration_seconds"),
        ("build", "jitwatch_build_info"),
    ],
)
def test_exposed_name_has_prefix_and_suffix(metric, expected):
    """Counters end in `_total`, infos in `_info`, gauges and histograms in their unit."""
    assert expected == BY_NAME[metric].exposed_name


def test_names_follow_the_rules():
    """Lower case, no prefix of ours twice, base units at the end, no suffix that Prometheus gives itself."""
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", metric.name), metric.name
        assert "jitwatch" not in metric.name
        assert not metric.name.endswith(RESERVED_SUFFIXES), metric.name
        assert not OTHER_UNITS.search(metric.name), metric.name
        for unit in ("seconds", "bytes", "ratio", "flops"):
            if unit in metric.name.split("_"):
                assert metric.name.endswith((unit, "_bytes_per_second")), metric.name
        if "timestamp" in metric.name:
            assert metric.kind == "gauge"
            assert metric.name.endswith("_timestamp_seconds"), metric.name


def test_every_metric_has_help():
    """A sentence for the person who reads /metrics, on one line."""
    for metric in METRICS:
        assert re.fullmatch(r"(?!.*\s\s)\S.*\.", metric.help), metric.name
        assert metric.help.strip() == metric.help
    assert len(METRICS) == len({metric.help for metric in METRICS})


def test_labels_are_valid_and_not_reserved():
    """Nothing that Prometheus or the scrape configuration sets, and nothing that is unbounded."""
    forbidden = {"le", "quantile", "job", "instance", "pid", "host", "run", "shape", "dtype", "id", "path", "unit"}
    for metric in METRICS:
        assert len(set(metric.labels)) == len(metric.labels)
        for label in metric.labels:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", label), metric.name
            assert label not in forbidden, metric.name
        assert not metric.is_by_function or metric.labels[0] == "function", metric.name


def test_is_by_function_is_told_by_the_label():
    """Summary detail leaves out exactly these."""
    assert BY_NAME["compiles"].is_by_function
    assert not BY_NAME["compile_duration_seconds"].is_by_function
    assert not BY_NAME["tracked_functions"].is_by_function


def test_only_histograms_have_buckets():
    """Buckets rise, are positive and finite; +Inf is added by the exporter."""
    for metric in METRICS:
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        assert sorted(set(metric.buckets)) == list(metric.buckets)
        assert all(0 < bound < float("inf") for bound in metric.buckets)


def test_compile_buckets_are_the_documented_ones():
    """Boards and alerts ask for these bounds."""
    expected = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

    assert expected == COMPILE_BUCKETS == BY_NAME["compile_duration_seconds"].buckets
    assert STEP_BUCKETS == BY_NAME["step_duration_seconds"].buckets


def test_counters_by_function_start_at_zero():
    """The contract: counters per function start at 0 when the function is first known."""
    late = [m.name for m in METRICS if m.kind == "counter" and m.labels == ("function",) and not m.starts_at_zero]
    # Calls are only known of the functions that donate, and start at 0 for those.
    assert ["calls"] == late
    assert [] == [m.name for m in METRICS if m.kind == "info" and m.starts_at_zero]
