"""The figures of a benchmark as data, which its own table and the speed table (`python -m benchmarks`) print."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], scale: float = 1.0) -> Spread:
        """The spread of at least two values."""
        low, middle, high = (value * scale for value in statistics.quantiles(values, n=4))
        return cls(low, middle, high)

    def text(self, unit: str) -> str:
        """The median with its quartiles, `1.23 µs (1.20 to 1.31)`; one number if there is only one."""
        low, middle, high = (f"{value:.3f}" for value in (self.low, self.median, self.high))
        shown = f"× {middle}" if unit == "×" else f"{middle} {unit}"
        return shown if low == high else f"{shown} ({low} to {high})"


@dataclass(frozen=True)
class Figure:
    """A row of the speed table.

    Attributes:
        name: What was measured.
        goal: The goal, as text; empty without one.
        unit: The unit; × is a ratio to bare.
        agent: With the agent.
        control: Bare against bare, measured in the same way; None if there is no such thing.
        how: How it was measured.
    """

    name: str
    goal: str
    unit: str
    agent: Spread
    control: Spread | None
    how: str


def dump(figures: Sequence[Figure]) -> str:
    """The figures as one line of JSON."""
    return json.dumps([asdict(one) for one in figures])


def load(text: str) -> list[Figure]:
    """The figures of the last line of a benchmark's output."""
    found = []
    for row in json.loads(text.strip().rpartition("\n")[2]):
        spreads = {name: Spread(**row[name]) if row[name] else None for name in ("agent", "control")}
        found.append(Figure(**{**row, **spreads}))
    return found
