"""When a device or the machine is nearly full, and when that is over.

It is over when it has stayed below the lower line for a while: within a step memory crosses both.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitwatch.model.events import MemoryPressure
from jitwatch.model.events.memory import State

#: Place of the machine's own memory.
HOST = "host"
#: Shares of the limit that are too much, and little enough again.
_HIGH, _LOW = 0.90, 0.85
#: The same for the machine, where the kernel ends processes when nothing is left.
_HOST_HIGH, _HOST_LOW = 0.95, 0.90
_QUIET_S = 300.0


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes in use at a place, and its limit."""

    place: str
    in_use: int
    limit: int


class Pressure:
    """The places that are nearly full; not for several threads at once."""

    def __init__(self) -> None:
        #: When each of them was last above the lower line.
        self._last_high: dict[str, float] = {}

    @property
    def active(self) -> list[str]:
        """The places that are nearly full."""
        return list(self._last_high)

    def sample(self, now: float, uses: list[Use]) -> list[MemoryPressure]:
        """Look at all places; one that is not among them any more is forgotten.

        Args:
            now: Monotonic seconds.
            uses: What is in use where.
        """
        known = {use.place for use in uses}
        self._last_high = {place: at for place, at in self._last_high.items() if place in known}
        return [event for use in uses if (event := self._look(now, use)) is not None]

    def _look(self, now: float, use: Use) -> MemoryPressure | None:
        if use.limit <= 0:
            return None
        high, low = (_HOST_HIGH, _HOST_LOW) if use.place == HOST else (_HIGH, _LOW)
        ratio = use.in_use / use.limit
        since = self._last_high.get(use.place)
        if ratio >= (high if since is None else low):
            self._last_high[use.place] = now
            return self._event(use, "started", ratio) if since is None else None
        if since is not None and now - since >= _QUIET_S:
            del self._last_high[use.place]
            return self._event(use, "ended", ratio)
        return None

    @staticmethod
    def _event(use: Use, state: State, ratio: float) -> MemoryPressure:
        return MemoryPressure(
            place=use.place,
            state=state,
            in_use_bytes=use.in_use,
            limit_bytes=use.limit,
            ratio=round(ratio, 4),
        )
