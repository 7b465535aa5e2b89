"""Donation in a run, and its steps: the calls of functions that donate are watched."""

from __future__ import annotations

from dashboards.source.common import to_function
from dashboards.source.model import Row
from dashboards.source.panels import Column, series, table, worst
from dashboards.source.queries import RATE, by_function, quantile, rise, select
from dashboards.source.settings import (
    BYTES,
    BYTES_PER_SECOND,
    LAST_CALL_S,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    PER_SECOND,
    SECONDS,
)

STEPS = Row(
    title="Steps",
    panels=(
        series(
            "Steps per second, by process",
            "Training steps per second of the slowest ten processes. In one run the lines must lie on each other; a "
            "line at 0 while others go on is a process that hangs.",
            (f"bottomk(10, sum by (instance) (rate({select('steps_total')}{RATE})))", "{{instance}}"),
            unit=PER_SECOND,
            no_value="the job does not call jitwatch.step()",
        ),
        series(
            "Time of a step",
            "Median and 99th percentile of the time between two calls of `jitwatch.step()`. A p99 far above the "
            "median is a step that waits: for a compile (compare with 'Recompiles by cause'), for data, for a "
            "checkpoint.",
            (quantile(0.5, "step_duration_seconds"), "p50"),
            (quantile(0.99, "step_duration_seconds"), "p99"),
            unit=SECONDS,
            no_value="the job does not call jitwatch.step()",
        ),
    ),
)

DONATION = Row(
    title="Donation",
    panels=(
        series(
            "Donation violations, by kind",
            "use_after_donate: a deleted array was used, and the call raised. double_donation: one array was donated "
            "twice. unusable: XLA could not reuse the memory, which is then needed twice. The event log names leaf, "
            "line and donor.",
            (rise("donation_violations_by_kind_total", "kind"), "{{kind}}"),
            as_bars=True,
        ),
        table(
            "Donation violations, by function",
            "Violations since the start, fifty functions. Open the function, then look for `donation.violation` in the "
            "event log: it says which line donated what.",
            Column("Function", label="function", link=to_function()),
            Column("Kind", label="kind"),
            Column(
                "Violations",
                f"topk(50, sum by (function, kind) ({select('donation_violations_total')}))",
                steps=NONE_IS_GOOD,
            ),
            sort_by="Violations",
            width=12,
            height=8,
            no_value="",
        ),
        series(
            "Donated bytes",
            "Bytes that calls donate per second, of the ten functions that donate most. A train step that stops "
            "donating needs the memory of its state twice.",
            (f"topk(10, sum by (function) (rate({select('donated_bytes_total')}{RATE})) > 0)", "{{function}}"),
            unit=BYTES_PER_SECOND,
            width=8,
            no_value="nothing donates",
        ),
        worst(
            "Wasted donations",
            "Bytes that were offered and that a program could not use, since the start: no output has that shape, "
            "dtype and sharding. The memory is needed twice.",
            f"topk(10, {by_function('donation_wasted_bytes_total')} > 0)",
            "{{function}}",
            unit=BYTES,
            steps=NONE_IS_FINE,
            no_value="none wasted",
        ),
        worst(
            "Missed donations",
            "Bytes that a call of the function would save by donating what its caller drops anyway: add "
            "`donate_argnums`.",
            f"topk(10, max by (function) ({select('donation_opportunity_bytes')}) > 0)",
            "{{function}}",
            unit=BYTES,
            steps=NONE_IS_FINE,
            no_value="none seen",
        ),
        series(
            "Calls of functions that donate",
            "Calls per second, of the ten functions that are called most. Calls of other functions are not counted: "
            "that keeps them free of cost.",
            (f"topk(10, sum by (function) (rate({select('calls_total')}{RATE})))", "{{function}}"),
            unit=PER_SECOND,
            no_value="no function donates",
        ),
        series(
            "Time since the last call",
            "Seconds since a donating function was last called, in the process where that is longest. A train step "
            f"that is silent for {LAST_CALL_S} s and more hangs, compiles, or has ended.",
            (
                f"topk(10, time() - min by (function) ({select('last_call_timestamp_seconds')}))",
                "{{function}}",
            ),
            unit=SECONDS,
            no_value="no function donates",
        ),
    ),
)
