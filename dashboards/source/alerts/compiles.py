"""Alerts about compiles and caches."""

from __future__ import annotations

from typing import Final

from dashboards.source.queries import every
from dashboards.source.recordings import CACHE_LARGE
from dashboards.source.rules import HERE, Alert, Group, warm
from dashboards.source.settings import (
    FUNCTION,
    JOB,
    PROCESS,
)
from jitwatch.model.thresholds import THRESHOLDS

_BY_FUNCTION: Final = f"{PROCESS}, function"
_LARGE: Final = "jitwatch:jit_cache_entries:large"
_LOST_S: Final = THRESHOLDS.recompile_seconds_bad_per_10m
_STORM: Final = "jitwatch:recompile_storm:active"

COMPILES: Final = Group(
    name="jitwatch.compiles",
    rules=(
        Alert(
            name="JitwatchRecompileStorm",
            expr=_STORM,
            hold="0m",
            severity="warning",
            labels={"evidence": "storm"},
            summary="{{ $labels.function }} is in a recompile storm",
            description=f"{{{{ $labels.function }}}} recompiles repeatedly {HERE}. Training waits for each recompile. "
            "The dashboard shows the causes; jit.recompiled in the event log has the call sites.",
            board=FUNCTION,
            panel="Recompiles by cause, over time",
        ),
        # Hits of the persistent cache cost little, so the seconds count as well. In summary detail there is one
        # total for all functions, and the seconds are those of the process.
        Alert(
            name="JitwatchRecompileStorm",
            expr=f"""\
(
  jitwatch:recompiles:increase10m > {THRESHOLDS.recompiles_bad_per_10m}
  and on ({_BY_FUNCTION}) (
    sum by ({_BY_FUNCTION}) (increase({every("compile_seconds_total")}[10m]) > {_LOST_S})
  )
  or
  jitwatch:recompiles:increase10m{{function="__all__"}} > {THRESHOLDS.recompiles_bad_per_10m}
  and on ({PROCESS}) (
    sum by ({PROCESS}) (increase({every("compile_duration_seconds_sum")}[10m])) > {_LOST_S}
  )
)
unless on ({_BY_FUNCTION}) {_STORM}
{warm(1800)}""",
            hold="5m",
            severity="warning",
            labels={"evidence": "rate"},
            summary="{{ $labels.function }} recompiled {{ $value | humanize }} times in 10 minutes",
            description=f"{{{{ $labels.function }}}} recompiled {{{{ $value | humanize }}}} times in 10 minutes "
            f"{HERE}. The compiles took more than {_LOST_S} seconds. The process started more than 30 minutes ago.",
            board=FUNCTION,
            panel="Recompiles by cause, over time",
        ),
        Alert(
            name="JitwatchCompileTimeDominates",
            expr=f"jitwatch:compile_busy:ratio_rate15m > {THRESHOLDS.busy_bad_ratio}\n{warm(3600)}",
            hold="15m",
            severity="critical",
            summary="{{ $labels.instance }} spends most of its time compiling",
            description=f"{{{{ $value | humanizePercentage }}}} of the last 15 minutes were spent compiling {HERE}. "
            "The process started more than one hour ago.",
            board=JOB,
            panel="Compiling, by process",
        ),
        Alert(
            name="JitwatchCompileStuck",
            expr=f"max by ({PROCESS}) ({every('compile_oldest_in_progress_seconds')}) > {THRESHOLDS.compile_bad_s:.0f}",
            hold="5m",
            severity="warning",
            summary="A compile on {{ $labels.instance }} has been running for {{ $value | humanizeDuration }}",
            description=f"A compile has been running for {{{{ $value | humanizeDuration }}}} {HERE}. The live page of "
            "the process shows the function, the phase and the thread.",
            board=JOB,
            panel="Oldest compile in progress",
        ),
        Alert(
            name="JitwatchSteadyStateRecompile",
            expr="jitwatch:steady_violations:increase10m > 0",
            hold="0m",
            severity="warning",
            summary="{{ $labels.function }} compiled in the steady state",
            description=f"{{{{ $labels.function }}}} compiled {HERE} after jitwatch.steady(). "
            "jit.steady_violation in the event log has the cause and the call site.",
            board=FUNCTION,
            panel="Recompiles by cause, over time",
        ),
        Alert(
            name="JitwatchCacheGrowth",
            # With an offset, not delta(): what a process gains at its start is over before an hour has passed. A cache
            # that was not yet large an hour ago counts as just below that.
            expr=f"""\
({_LARGE} > {THRESHOLDS.cache_entries_warn})
- on ({_BY_FUNCTION}) ({_LARGE} offset 1h or 0 * {_LARGE} + {CACHE_LARGE})
> {THRESHOLDS.cache_growth_warn_per_h}
and on ({PROCESS}) ({every("start_time_seconds")} == {every("start_time_seconds")} offset 1h)""",
            hold="30m",
            severity="warning",
            summary="The jit cache of {{ $labels.function }} keeps growing",
            description=f"The jit caches of {{{{ $labels.function }}}} gained {{{{ $value | humanize }}}} entries "
            f"within an hour {HERE}. Each entry keeps a program in memory.",
            board=FUNCTION,
            panel="Cache entries, by process",
        ),
    ),
)
