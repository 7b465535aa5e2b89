"""Estimates the growth of a series whose samples rise and fall with every step.

Memory rises and falls within each training step. The lowest sample of each bucket of time, such as a minute, is what
remains between steps. The slope through these low points is the median of the slopes of all pairs (the Theil–Sen
estimator): up to 29 % of the points may be outliers.

A single jump (a second model is loaded) is not growth, and neither is a start-up that levels off. Both have a slope;
they are recognised by the slopes of the two halves of the window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

#: Minimum number of low points for a slope.
MIN_POINTS = 5
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """The trend of the low points of a window; slopes in units a second.

    Attributes:
        slope: Slope over the window.
        early, late: Slopes over its first and second half.
        steadiness: Share of rising pairs minus share of falling pairs, from -1 to 1.
        span_s: Seconds from the first low point to the last.
        points: Number of low points.
        low: The last low point.
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
        """Growth over the window."""
        return self.slope * self.span_s


class Growth:
    """Keeps the low points of a series over a sliding window.

    Args:
        bucket_s: Length of a bucket, seconds; longer than a step.
        buckets: Maximum number of low points.
    """

    def __init__(self, *, bucket_s: float, buckets: int) -> None:
        self._bucket_s = bucket_s
        self._points: deque[Point] = deque(maxlen=buckets)
        self._started: float | None = None
        self._lowest: Point = (0.0, 0.0)
        self.trend: Trend | None = None

    def add(self, now: float, value: float) -> bool:
        """Add a sample; returns whether it closed a bucket, so that the trend has changed."""
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
    """The trend of at least `MIN_POINTS` points in the order of time; None for fewer."""
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
    """Pearson's correlation of two series of low points, aligned at their last points; 0 for too few points."""
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
