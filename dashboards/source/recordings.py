"""The recording rules: what alerts need, and what is worth keeping or federating from a large fleet.

A large fleet has tens of thousands of series of a metric by function, and a rule that names it reads all of them. So
each such metric is read here once, or as few times as can be, and alerts use the results. The results have only what
matters (functions that recompile, that differ), and are filtered before they are grouped, which costs as much as
reading. They are joined with the runs afterwards: a matcher such as `run!=""` would merge the postings of all series of
all runs.
"""

from __future__ import annotations

from typing import Final

from dashboards.source.queries import device_memory_ratio, every, resident_memory, select
from dashboards.source.rules import Group, Recording, rising
from dashboards.source.settings import PROCESS, RESERVED_FUNCTIONS, RUN, STARTED_TOGETHER_S
from jitwatch.model.thresholds import THRESHOLDS

_VIOLATIONS: Final = select("donation_violations_by_kind_total", scope="")
_BY_FUNCTION: Final = select("donation_violations_total", scope="")
_COMPILES: Final = every("compiles_total", f'function!~"{RESERVED_FUNCTIONS}"')
_ALL: Final = every("compiles_total", 'function="__all__"')
_FIRST: Final = every("process_info", 'process_index="0"')
_TOTALS: Final = f"({_ALL} unless on ({PROCESS}) {_FIRST})"
_DISTRIBUTED: Final = every("process_info", 'run!=""', 'process_count!="1"')
_START: Final = every("start_time_seconds")

RECORDINGS: Final = Group(
    name="jitwatch.recording",
    rules=(
        Recording(
            record="jitwatch:recompiles:increase10m",
            expr=f"sum by ({PROCESS}, function) (increase({every('recompiles_total')}[10m]) > 0)",
        ),
        Recording(
            record="jitwatch:recompile_storm:active",
            expr=f"max by ({PROCESS}, function) ({every('recompile_storm_active')} == 1)",
        ),
        Recording(
            record="jitwatch:compile_busy:ratio_rate15m",
            expr=f"sum by ({PROCESS}) (rate({every('compile_busy_seconds_total')}[15m]))",
        ),
        Recording(
            record="jitwatch:steady_violations:total",
            expr=f"sum by ({PROCESS}, function) ({every('steady_violations_total')} > 0)",
        ),
        Recording(
            record="jitwatch:steady_violations:increase10m",
            expr=rising("jitwatch:steady_violations:total", f"{PROCESS}, function"),
        ),
        # In summary detail there are no functions, only the kinds.
        Recording(
            record="jitwatch:donation_violations:increase10m",
            expr=f"""\
{rising(_BY_FUNCTION, f"{PROCESS}, function, kind")}
or
sum by ({PROCESS}, kind) (increase({_VIOLATIONS}[10m])) > 0 unless on ({PROCESS}, kind) {_BY_FUNCTION}""",
        ),
    ),
)

#: Entries from which a cache can exceed both thresholds of the alert within an hour.
CACHE_LARGE: Final = THRESHOLDS.cache_entries_warn - THRESHOLDS.cache_growth_warn_per_h
#: Number of processes of each run that is one distributed job.
PROCESSES_OF_RUN: Final = "jitwatch:run:processes"

#: What is compared over the processes of a run or over hours, in alerts that hold for a minute or more.
COMPARISONS: Final = Group(
    name="jitwatch.comparison",
    interval="1m",
    rules=(
        Recording(
            record=PROCESSES_OF_RUN,
            expr=f"count by ({RUN}) ({_DISTRIBUTED})",
        ),
        # Alerts read two hours of these: at each scrape there would be four times as many samples.
        Recording(record="jitwatch:device_memory:ratio", expr=device_memory_ratio(scope="")),
        Recording(record="jitwatch:resident_memory:bytes", expr=resident_memory(scope="")),
        # Of each function in a run: most and fewest compiles of a process, and how many processes compiled it.
        Recording(record="jitwatch:compiles:max", expr=f"max by ({RUN}, function) ({_COMPILES})"),
        Recording(record="jitwatch:compiles:min", expr=f"min by ({RUN}, function) ({_COMPILES} > 0)"),
        Recording(record="jitwatch:compiles:processes", expr=f"count by ({RUN}, function) ({_COMPILES} > 0)"),
        # As `queries.compiles_spread`, which boards ask for what they show.
        Recording(
            record="jitwatch:compiles:spread",
            expr=f"""\
(
  (
    jitwatch:compiles:max - jitwatch:compiles:min
    and on ({RUN}, function) (jitwatch:compiles:processes == on ({RUN}) group_left () {PROCESSES_OF_RUN})
  )
  or
  (
    max by ({RUN}, function) {_TOTALS} - min by ({RUN}, function) {_TOTALS}
    and on ({RUN}) {PROCESSES_OF_RUN}
  )
)
and on ({RUN}) (max by ({RUN}) ({_START}) - min by ({RUN}) ({_START}) < {STARTED_TOGETHER_S})""",
        ),
        # The variance is exactly 0 if all are equal, and reads them once where max and min read them twice.
        Recording(
            record="jitwatch:program_fingerprint:differs",
            expr=f"stdvar by ({RUN}, function) ({every('program_fingerprint')}) > 0",
        ),
        # Only those that may have grown too much within the hour.
        Recording(
            record="jitwatch:jit_cache_entries:large",
            expr=f"sum by ({PROCESS}, function) ({every('jit_cache_entries')} > {CACHE_LARGE})",
        ),
    ),
)
