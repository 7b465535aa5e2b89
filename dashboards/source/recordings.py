"""The recording rules: what alerts need, and what is worth keeping or federating from a large fleet.

Of a metric with a series for each function, a large fleet has tens of thousands, and each rule that names it reads all of
them. So each such metric is read here once or as few times as can be, and alerts are made of the results. A result has
only what matters (functions that recompile, that differ), and is filtered before it is grouped, which costs as much as
reading.
"""

from __future__ import annotations

from dashboards.source.queries import compiles_spread, device_memory_ratio, every, resident_memory, select
from dashboards.source.rules import Group, Recording, rising
from dashboards.source.settings import PROCESS, RESERVED_FUNCTIONS, RUN

_VIOLATIONS = select("donation_violations_by_kind_total", scope="")
_BY_FUNCTION = select("donation_violations_total", scope="")
_COMPILES = every("compiles_total", 'run!=""', f'function!~"{RESERVED_FUNCTIONS}"')
_FINGERPRINT = every("program_fingerprint", 'run!=""')
_RUNS_FUNCTION = f"{RUN}, function"

RECORDINGS = Group(
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
            expr=f"sum by ({PROCESS}) (rate({select('compile_busy_seconds_total', scope='')}[15m]))",
        ),
        Recording(record="jitwatch:device_memory:ratio", expr=device_memory_ratio(scope="")),
        Recording(record="jitwatch:resident_memory:bytes", expr=resident_memory(scope="")),
        # Over the processes of a run: most and fewest compiles of a function, and how many have compiled it.
        Recording(record="jitwatch:compiles:max", expr=f"max by ({_RUNS_FUNCTION}) ({_COMPILES})"),
        Recording(record="jitwatch:compiles:min", expr=f"min by ({_RUNS_FUNCTION}) ({_COMPILES} > 0)"),
        Recording(record="jitwatch:compiles:processes", expr=f"count by ({_RUNS_FUNCTION}) ({_COMPILES} > 0)"),
        Recording(
            record="jitwatch:compiles:spread",
            expr=compiles_spread(
                scope="",
                most="jitwatch:compiles:max",
                fewest="jitwatch:compiles:min",
                processes="jitwatch:compiles:processes",
            ),
        ),
        Recording(
            record="jitwatch:program_fingerprint:differs",
            # Exactly 0 if all are equal, and read once where max and min read twice.
            expr=f"stdvar by ({_RUNS_FUNCTION}) ({_FINGERPRINT}) > 0",
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
