"""Steps of a run, and the calls of functions that donate."""

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
            "Training steps per second of the ten slowest processes. Within a run all lines should be equal. A process "
            "at 0 while others continue hangs.",
            (f"bottomk(10, sum by (instance) (rate({select('steps_total')}{RATE})))", "{{instance}}"),
            unit=PER_SECOND,
            no_value="the job does not call jitwatch.step()",
        ),
        series(
            "Time of a step",
            "Median and 99th percentile of the time between two calls of `jitwatch.step()`. If p99 is far above the "
            "median, some steps wait for a compile (compare with 'Recompiles by cause'), for data or for a "
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
            "use_after_donate: a donated array was used, which raised an error. double_donation: a buffer was passed "
            "twice to a call that donates it. unusable: XLA could not reuse the buffer. The event "
            "`donation.violation` has the leaf, the call site and the donor.",
            (rise("donation_violations_by_kind_total", "kind"), "{{kind}}"),
            as_bars=True,
        ),
        table(
            "Donation violations, by function",
            "Violations since the start; the 50 largest. The event `donation.violation` has the leaf, the call site "
            "and the donor.",
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
            "Bytes donated per second, of the ten functions that donate most. A train step that does not donate needs "
            "the memory of its state twice.",
            (f"topk(10, sum by (function) (rate({select('donated_bytes_total')}{RATE})) > 0)", "{{function}}"),
            unit=BYTES_PER_SECOND,
            width=8,
            no_value="no function donates",
        ),
        worst(
            "Unusable donations",
            "Bytes of unusable donations since the start: no output has the shape, dtype and sharding of the donated "
            "array, so XLA could not reuse its buffer.",
            f"topk(10, {by_function('donation_wasted_bytes_total')} > 0)",
            "{{function}}",
            unit=BYTES,
            steps=NONE_IS_FINE,
            no_value="none",
        ),
        worst(
            "Donation opportunities",
            "Bytes that a call of the function would save by donating an argument that the caller drops after the "
            "call. Add `donate_argnums`.",
            f"topk(10, max by (function) ({select('donation_opportunity_bytes')}) > 0)",
            "{{function}}",
            unit=BYTES,
            steps=NONE_IS_FINE,
            no_value="none",
        ),
        series(
            "Calls of functions that donate",
            "Calls per second, of the ten functions with most calls. Only calls of functions that donate are counted.",
            (f"topk(10, sum by (function) (rate({select('calls_total')}{RATE})))", "{{function}}"),
            unit=PER_SECOND,
            no_value="no function donates",
        ),
        series(
            "Time since the last call",
            "Seconds since the last call of a function that donates, in the process where it is longest. A train step "
            f"without a call for more than {LAST_CALL_S} s hangs, compiles, or has ended.",
            (
                f"topk(10, time() - min by (function) ({select('last_call_timestamp_seconds')}))",
                "{{function}}",
            ),
            unit=SECONDS,
            no_value="no function donates",
        ),
    ),
)
