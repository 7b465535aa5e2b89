"""Donation: violations, bytes, opportunities, calls of functions that donate."""

from __future__ import annotations

from dashboards.source.board import Row
from dashboards.source.common import to_function
from dashboards.source.panels import Column, bars, lines, table, worst
from dashboards.source.queries import by_function, rise, select
from dashboards.source.settings import (
    BYTES,
    LAST_CALL_S,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    SECONDS,
)

DONATION = Row(
    title="Donation",
    panels=(
        bars(
            "Donation violations, by kind",
            "use_after_donate: a donated array was used, which raised an error. double_donation: a buffer was passed "
            "twice to a call that donates it. unusable: XLA could not reuse the buffer. The event "
            "`donation.violation` has the leaf, the call site and the donor.",
            (f"{rise('donation_violations_by_kind_total', 'kind')} > 0", "{{kind}}"),
            of=select("donation_violations_by_kind_total"),
            none="no violation in this time range",
        ),
        table(
            "Donation violations, by function",
            "Violations since the start; the 50 largest. The event `donation.violation` has the leaf, the call site "
            "and the donor.",
            Column("Function", label="function", links=[to_function()], width=300),
            Column("Kind", label="kind", width=140),
            Column(
                "Violations",
                f"topk(50, sum by (function, kind) ({select('donation_violations_total')}) > 0)",
                steps=NONE_IS_GOOD,
            ),
            sort_by="Violations",
            none="no violation",
            width=12,
            height=7,
        ),
        worst(
            "Unusable donations",
            "Bytes of unusable donations since the start: no output has the shape, dtype and sharding of the donated "
            "array, so XLA could not reuse its buffer.",
            f"topk(10, {by_function('donation_wasted_bytes_total')} > 0)",
            "function",
            unit=BYTES,
            steps=NONE_IS_FINE,
            none="no unusable donation",
        ),
        worst(
            "Donation opportunities",
            "Bytes that a call of the function would save by donating an argument that the caller drops after the "
            "call. Add `donate_argnums`.",
            f"topk(10, max by (function) ({select('donation_opportunity_bytes')}) > 0)",
            "function",
            unit=BYTES,
            steps=NONE_IS_FINE,
            none="no opportunity found",
        ),
        lines(
            "Time since the last call",
            "Seconds since the last call of a function that donates, in the process where it is longest. A train step "
            f"without a call for more than {LAST_CALL_S} s hangs, compiles, or has ended.",
            (f"topk(10, time() - min by (function) ({select('last_call_timestamp_seconds')}))", "{{function}}"),
            of=select("last_call_timestamp_seconds"),
            none="no function donates",
            unit=SECONDS,
            width=8,
            height=8,
        ),
    ),
)
