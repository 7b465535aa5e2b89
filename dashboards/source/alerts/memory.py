"""Alerts about donation and memory."""

from __future__ import annotations

from typing import Final

from dashboards.source.queries import every, host_memory_ratio
from dashboards.source.rules import HERE, Alert, Group, rising, warm
from dashboards.source.settings import (
    FUNCTION,
    JOB,
    LEAK_AHEAD_S,
    LEAK_RANGE,
    LEAK_SHORT_RANGE,
    PROCESS,
)
from jitwatch.model.thresholds import THRESHOLDS

_RATIO: Final = "jitwatch:device_memory:ratio"
_RESIDENT: Final = "jitwatch:resident_memory:bytes"


def _leaks(series: str, ceiling: str) -> str:
    """Both ranges predict too much. A single step up leaves the short range soon, which ends the alert."""
    return "\nand\n".join(
        f"predict_linear({series}[{length}], {LEAK_AHEAD_S}) > {ceiling}" for length in (LEAK_RANGE, LEAK_SHORT_RANGE)
    )


DONATION: Final = Group(
    name="jitwatch.donation",
    rules=tuple(
        Alert(
            name="JitwatchDonationViolation",
            expr=f'jitwatch:donation_violations:increase10m{{kind{match}"unusable"}} > 0',
            hold="0m",
            severity="warning" if match == "!=" else "info",
            summary="{{ $labels.kind }} in {{ $labels.function }}",
            description=text,
            board=FUNCTION,
            panel="Donation violations, by kind",
        )
        for match, text in (
            (
                "!=",
                f"Donation violation ({{{{ $labels.kind }}}}) in {{{{ $labels.function }}}} {HERE}. "
                "donation.violation in the event log has the leaf, the call site and the donor.",
            ),
            (
                "=",
                f"XLA could not reuse a buffer that was donated to {{{{ $labels.function }}}} {HERE}. The output "
                f"needs its own memory. donation.violation in the event log has the shapes and bytes.",
            ),
        )
    ),
)

MEMORY: Final = Group(
    name="jitwatch.memory",
    rules=(
        Alert(
            name="JitwatchDeviceMemoryHigh",
            expr=f"{_RATIO} > {THRESHOLDS.device_memory_bad_ratio}",
            hold="10m",
            severity="warning",
            summary="Memory of device {{ $labels.device }} of {{ $labels.instance }} is almost full",
            description=f"{{{{ $value | humanizePercentage }}}} of the memory of device {{{{ $labels.device }}}} is "
            f"in use {HERE}. A larger batch or program may run out of memory.",
            board=JOB,
            panel="Device memory in use",
        ),
        Alert(
            name="JitwatchDeviceMemoryLeak",
            expr=f"""\
{_leaks(_RATIO, "1")}
and {_RATIO} > {THRESHOLDS.memory_leak_floor_ratio}
{warm(7200)}""",
            hold="30m",
            severity="warning",
            summary="Memory of device {{ $labels.device }} of {{ $labels.instance }} keeps growing",
            description=f"At the current rate the memory of device {{{{ $labels.device }}}} {HERE} will be full within "
            f"{LEAK_AHEAD_S // 3600} hours.",
            board=JOB,
            panel="Device memory in use",
        ),
        Alert(
            name="JitwatchHostMemoryLeak",
            # A machine is shared: what counts is whether the process will ask for more than is left.
            expr=f"""\
{_leaks(_RESIDENT, f"({_RESIDENT} + on ({PROCESS}) max by ({PROCESS}) ({every('host_memory_available_bytes')}))")}
and on ({PROCESS}) ({host_memory_ratio(scope="")} > {THRESHOLDS.memory_leak_floor_ratio})
{warm(7200)}""",
            hold="30m",
            severity="warning",
            summary="Host memory of {{ $labels.instance }} keeps growing",
            description=f"The resident memory of the process and its children grows {HERE}. At the current rate it "
            f"will exceed the available memory of the machine within {LEAK_AHEAD_S // 3600} hours, and the kernel will "
            "kill a process.",
            board=JOB,
            panel="Memory of the processes",
        ),
        Alert(
            name="JitwatchOutOfMemory",
            expr=rising(every("oom_total"), PROCESS),
            hold="0m",
            severity="warning",
            summary="{{ $labels.instance }} ran out of memory",
            description=f"A call or a compile failed because memory ran out {HERE}. memory.oom in the event log lists "
            "the largest live arrays and programs at that time.",
            board=JOB,
            panel="Out of memory, by process",
        ),
    ),
)
