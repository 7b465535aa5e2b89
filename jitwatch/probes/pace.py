"""How often something may be done whose cost is only known afterwards."""

from __future__ import annotations


class Pace:
    """Keeps the mean cost below a share of the time.

    Args:
        share: Of the process's time, 0.001 for a thousandth.
        longest_s: A single go may hold up others for so long; after a longer one the share is a tenth.
    """

    def __init__(self, *, share: float, longest_s: float) -> None:
        self._share = share
        self._longest_s = longest_s
        self._next = float("-inf")

    def is_due(self, now: float) -> bool:
        """Whether it may be done, at `now` in monotonic seconds."""
        return now >= self._next

    def done(self, now: float, *, cost_s: float, stall_s: float = 0.0) -> None:
        """It was done, for `cost_s` of CPU time, and held up others for `stall_s` of it."""
        share = self._share / 10 if stall_s > self._longest_s else self._share
        self._next = now + cost_s / share
