"""Limits how often an operation runs whose cost is known only afterwards."""

from __future__ import annotations


class CostLimiter:
    """Keeps the mean cost of an operation below a share of the time.

    Args:
        share: Share of the wall clock, 0.001 for a thousandth.
        longest_s: Longest acceptable stall of other threads; after a longer one the share is a tenth.
    """

    def __init__(self, *, share: float, longest_s: float) -> None:
        self._share = share
        self._longest_s = longest_s
        self._next = float("-inf")

    def is_due(self, now: float) -> bool:
        """Whether the operation may run at `now`, in monotonic seconds."""
        return now >= self._next

    def spent(self, now: float, *, cost_s: float, stall_s: float = 0.0) -> None:
        """Record that the operation ran for `cost_s` of CPU time, and stalled other threads for `stall_s`."""
        share = self._share / 10 if stall_s > self._longest_s else self._share
        self._next = now + cost_s / share
