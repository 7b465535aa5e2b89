"""The recording rules: what alerts need, and what is worth keeping or federating from a large fleet."""

from __future__ import annotations

from dashboards.source.queries import compiles_spread, device_memory_ratio, resident_memory, select
from dashboards.source.rules import Group, Recording, rising
from dashboards.source.settings import PROCESS

_VIOLATIONS = select("donation_violations_by_kind_total", scope="")
_BY_FUNCTION = select("donation_violations_total", scope="")

RECORDINGS = Group(
    name="jitwatch.recording",
    rules=(
        Recording(
            record="jitwatch:recompiles:increase10m",
            expr=f"sum by ({PROCESS}, function) (increase({select('recompiles_total', scope='')}[10m]))",
        ),
        Recording(
            record="jitwatch:compile_busy:ratio_rate15m",
            expr=f"sum by ({PROCESS}) (rate({select('compile_busy_seconds_total', scope='')}[15m]))",
        ),
        Recording(record="jitwatch:device_memory:ratio", expr=device_memory_ratio(scope="")),
        Recording(record="jitwatch:resident_memory:bytes", expr=resident_memory(scope="")),
        Recording(record="jitwatch:compiles:spread", expr=compiles_spread(scope="")),
        Recording(
            record="jitwatch:steady_violations:increase10m",
            expr=rising("steady_violations_total", f"{PROCESS}, function"),
        ),
        # In summary detail there are no functions, only the kinds.
        Recording(
            record="jitwatch:donation_violations:increase10m",
            expr=f"""\
{rising("donation_violations_total", f"{PROCESS}, function, kind")}
or
sum by ({PROCESS}, kind) (increase({_VIOLATIONS}[10m])) > 0 unless on ({PROCESS}, kind) {_BY_FUNCTION}""",
        ),
    ),
)
