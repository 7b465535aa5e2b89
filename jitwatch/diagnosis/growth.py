"""How fast something grows, told from samples that go up and down with every step.

Memory rises and falls within each training step, so single samples say little. The lowest sample of each
bucket of time (a minute, say) is what stays behind between steps. Through these low points the slope is
the median of the slopes of all pairs (Theil and Sen): up to 29 % of the points may be anything at all.

One jump (a second model is loaded) is no growth, and neither is a start-up that levels off. Both have a
slope, so the two halves of the window are looked at for themselves: what grows does so in each.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

#: Low points that a slope needs at least.
MIN_POINTS = 5
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """The way of the low points of a window; slopes in units a second.

    Attributes:
        slope: Over the window.
        early, late: The same over its halves.
        steadiness: Share of pairs that rise less the share of those that fall, from -1 to 1.
        span_s: From the first low point to the last.
        points: How many there are.
        low: The last of them.
    """

    slope: float
    early: float
    late: float
    steadiness: float
    span_s: float
    points: int
    low: float

    @property
    def rise(self) -> float:
        """By how much it grew over the window."""
        return self.slope * self.span_s


class Growth:
    """Low points of a series over a sliding window.

    Args:
        bucket_s: Seconds of which the lowest sample counts; a step should fit into it.
        buckets: Low points that are kept.
    """

    def __init__(self, *, bucket_s: float, buckets: int) -> None:
        self._bucket_s = bucket_s
        self._points: deque[Point] = deque(maxlen=buckets)
        self._started: float | None = None
        self._lowest: Point = (0.0, 0.0)
        self.trend: Trend | None = None

    def add(self, now: float, value: float) -> bool:
        """Take one sample; returns whether it closed a bucket, so that the trend is a new one."""
        is_closed = self._started is not None and now - self._started >= self._bucket_s
        if is_closed:
            self._points.append(self._lowest)
            self.trend = trend_of(list(self._points))
        if self._started is None or is_closed:
            self._started, self._lowest = now, (now, value)
        elif value < self._lowest[1]:
            self._lowest = (now, value)
        return is_closed

    @property
    def points(self) -> list[Point]:
        """The low points, oldest first."""
        return list(self._points)


def trend_of(points: list[Point]) -> Trend | None:
    """The trend of at least `MIN_POINTS` points in the order of time; None of fewer."""
    if len(points) < MIN_POINTS:
        return None
    slopes = _slopes(points)
    half = (len(points) + 1) // 2
    return Trend(
        slope=_median(slopes),
        early=_median(_slopes(points[:half])),
        late=_median(_slopes(points[-half:])),
        steadiness=(sum(one > 0 for one in slopes) - sum(one < 0 for one in slopes)) / len(slopes),
        span_s=points[-1][0] - points[0][0],
        points=len(points),
        low=points[-1][1],
    )


def correlation(one: list[Point], other: list[Point]) -> float:
    """Pearson's coefficient of the values of two series of low points, the latest beside the latest; 0 without any."""
    length = min(len(one), len(other))
    if length < MIN_POINTS:
        return 0.0
    xs, ys = [value for _, value in one[-length:]], [value for _, value in other[-length:]]
    x_mean, y_mean = sum(xs) / length, sum(ys) / length
    both = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    squares = sum((x - x_mean) ** 2 for x in xs) * sum((y - y_mean) ** 2 for y in ys)
    return float(both / squares**0.5) if squares > 0 else 0.0


def _median(values: list[float]) -> float:
    # Importing `statistics` takes 10 ms and a megabyte.
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _slopes(points: list[Point]) -> list[float]:
    slopes = [
        (after - before) / (end - start)
        for i, (start, before) in enumerate(points)
        for end, after in points[i + 1 :]
        if end > start
    ]
    return slopes or [0.0]
