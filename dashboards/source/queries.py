"""Pieces of PromQL that boards and rules share."""

from __future__ import annotations

from typing import Final

from dashboards.source.settings import (
    PROCESS,
    RESERVED_FUNCTIONS,
    RUN,
    SELECTOR,
    STARTED_TOGETHER_S,
    TARGET_MEMORY,
)


def select(metric: str, *matchers: str, scope: str = SELECTOR) -> str:
    """A selector of the agent's metric `metric` (without prefix) within `scope`.

    Rules have an empty scope: they look at all that is there.
    """
    return select_any(f"jitwatch_{metric}", *matchers, scope=scope)


def select_any(metric: str, *matchers: str, scope: str = SELECTOR) -> str:
    """The same for a metric of any name."""
    inside = ", ".join(part for part in (scope, *matchers) if part)
    return f"{metric}{{{inside}}}" if inside else metric


def every(metric: str, *matchers: str) -> str:
    """A selector of the agent's metric wherever it is, as rules need it."""
    return select(metric, *matchers, scope="")


#: The range that Grafana finds right for a rate: four scrapes, or a pixel if that is more.
RATE: Final = "[$__rate_interval]"


def by_function(metric: str, *matchers: str) -> str:
    """The metric's total for each function, over all processes: the raw counter, whatever was before."""
    return f"sum by (function) ({select(metric, *matchers)})"


def rise(metric: str, by: str, *matchers: str) -> str:
    """How much a counter rose in each interval: the differences between samples one step apart, which add up.

    `increase()` extrapolates, and with a range above the step it counts a rise in several steps. A series that is new,
    or of a process that was restarted, counts from 0. What a process did in the interval before its restart, or while
    it was not scraped, is not counted.
    """
    counter, start = select(metric, *matchers), select("start_time_seconds")
    return (
        f"sum by ({by}) ({counter} - {counter} offset $__interval"
        f" and on ({PROCESS}) ({start} == {start} offset $__interval)"
        f" or {counter} and on ({PROCESS}) ({start} offset $__interval or {start} > time() - $__interval_ms / 1000))"
    )


def is_present(selector: str) -> str:
    """Has a value if the metric has one in the time range."""
    return f"count(last_over_time({selector}[$__range] @ end()))"


def counter_rises(selector: str) -> str:
    """Has a value if the counter changes in the time range."""
    return (
        f"sum(last_over_time({selector}[$__range] @ end()))"
        f" - (sum(last_over_time({selector}[5m] @ start())) or vector(0)) != 0"
    )


def or_zero(expr: str) -> str:
    """The expression, or 0 while a process reports: of a counter or gauge that has no series before its first event."""
    return f"{expr} or 0 * max({select('build_info')})"


def quantile(share: float, metric: str, by: str = "") -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({select(f'{metric}_bucket')}{RATE})))"


def storms(by: str, *matchers: str) -> str:
    """1 in a storm and 0 in between, for those that were in one since they started; the calm ones are not listed."""
    active = f"max by ({by}) ({select('recompile_storm_active', *matchers)})"
    return f"topk(20, {active} and on ({by}) max by ({by}) ({select('recompile_storms_total', *matchers)}) > 0)"


def among_slowest(expr: str, limit: int = 50) -> str:
    """Only the functions that took longest to compile, so that a table has an end."""
    return f"{expr} and on (function) topk({limit}, {by_function('compile_seconds_total')})"


def device_memory_ratio(scope: str = SELECTOR, by: str = f"{PROCESS}, device") -> str:
    """Memory in use as a share of what the job may use, where the device tells its limit."""
    in_use = select("device_memory_in_use_bytes", scope=scope)
    limit = select("device_memory_limit_bytes", scope=scope)
    return f"max by ({by}) ({in_use} / ({limit} > 0))"


def host_memory_ratio(scope: str = SELECTOR, by: str = PROCESS) -> str:
    """Memory of the machine that is in use, as a share."""
    available = select("host_memory_available_bytes", scope=scope)
    total = select("host_memory_total_bytes", scope=scope)
    return f"max by ({by}) (1 - {available} / ({total} > 0))"


def resident_memory(scope: str = SELECTOR) -> str:
    """Memory of each process and of its children. Other exporters have process metrics too, hence the join."""
    own = select_any("process_resident_memory_bytes", scope=scope)
    build = select("build_info", scope=scope)
    children = select("child_processes_resident_memory_bytes", scope=scope)
    own = f"sum by ({PROCESS}) ({own} and on ({PROCESS}) {build})"
    return f"{own} + on ({PROCESS}) sum by ({PROCESS}) ({children}) or {own}"


def targets_down(scope: str = SELECTOR) -> str:
    """1 for each jitwatch target that does not answer; those of other exporters are nobody's business here."""
    up, start = select_any("up", scope=scope), select("start_time_seconds", scope=scope)
    return f"({up} == bool 0) and on ({PROCESS}) max_over_time({start}[{TARGET_MEMORY}])"


def compiles_spread(scope: str = SELECTOR) -> str:
    """Most minus fewest compiles of a function over the processes of a run that is one distributed job.

    Only of functions that every process compiled (an evaluation on process 0 alone is none), in runs whose
    processes started together (one that was restarted has compiled less, and rightly). In summary detail
    there is one total a process, and process 0 is left out, since it alone often evaluates and saves.
    """
    named = select("compiles_total", 'run!=""', f'function!~"{RESERVED_FUNCTIONS}"', scope=scope)
    totals = select("compiles_total", 'run!=""', 'function="__all__"', scope=scope)
    distributed = select("process_info", 'run!=""', 'process_count!="1"', scope=scope)
    first = select("process_info", 'process_index="0"', scope=scope)
    start = select("start_time_seconds", 'run!=""', scope=scope)
    totals = f"({totals} unless on ({PROCESS}) {first})"
    return f"""\
(
  (
    (
      max by ({RUN}, function) ({named})
      - min by ({RUN}, function) ({named} > 0)
      and on ({RUN}, function) (
        count by ({RUN}, function) ({named} > 0)
        == on ({RUN}) group_left () count by ({RUN}) ({distributed})
      )
    )
    or
    (
      max by ({RUN}, function) {totals}
      - min by ({RUN}, function) {totals}
      and on ({RUN}) count by ({RUN}) ({distributed})
    )
  )
  and on ({RUN}) (max by ({RUN}) ({start}) - min by ({RUN}) ({start}) < {STARTED_TOGETHER_S})
)"""


#: Share of wall clock in which a process compiles; the counter grows while a compile runs.
BUSY_SHARE: Final = f"rate({select('compile_busy_seconds_total')}{RATE})"


def other_programs(scope: str = SELECTOR) -> str:
    """Number of compiles of a function, if processes of one job have equally many, and different programs.

    Only functions that every process compiled for the devices of all processes.
    """
    fingerprint = select("program_fingerprint", 'run!=""', scope=scope)
    compiles = select("compiles_total", 'run!=""', scope=scope)
    distributed = select("process_info", 'run!=""', 'process_count!="1"', scope=scope)
    by = f"by ({RUN}, function)"
    on = f"on ({RUN}, function)"
    return f"""\
(
  max {by} ({compiles} and on ({PROCESS}, function) {fingerprint})
  == min {by} ({compiles} and on ({PROCESS}, function) {fingerprint})
  and {on} (max {by} ({fingerprint}) != min {by} ({fingerprint}))
  and {on} (
    count {by} ({fingerprint}) == on ({RUN}) group_left () count by ({RUN}) ({distributed})
  )
)"""
