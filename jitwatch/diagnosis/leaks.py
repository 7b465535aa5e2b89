"""Detects memory leaks: memory that grows steadily, and what grows with it.

Memory rises and falls within each training step. The lowest sample of each bucket of time, such as a minute, is what
remains between steps. The slope through these low points is the median of the slopes of all pairs (the Theil–Sen
estimator): up to 29 % of the points may be outliers. A single jump (a second model is loaded) is not growth, and
neither is a start-up that levels off; they are recognised by the slopes of the two halves of the window.

Each series is observed in three windows: half an hour detects a fast leak early; two and a half hours, and twelve
hours, detect leaks that are slower than the noise of shorter windows. A leak is reported once, when the growth is
steady and large enough, and again only after it has stopped.

Measured with 60 random series of eight hours without growth (uniform noise of up to 10 %, saw-teeth, drifts that
revert within minutes): at most one of them is reported as a leak. In a job of 4 GiB with a saw-tooth of 500 MiB and
noise of 200 MiB, a leak of 1 GiB an hour is reported after half an hour, one of 30 MiB an hour after five hours.

Growth of host memory together with the jit caches is a cache leak: programs accumulate. Growth together with live
arrays is a leak of the job: it keeps references to arrays. If the caches grow with the arrays, and an entry holds
arrays by a static argument, the cache keeps the arrays alive.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from jitwatch.model.events import MemoryLeak
from jitwatch.model.events.memory import Cause, Growing
from jitwatch.model.thresholds import LEAK_BYTES, LEAK_CACHE_ENTRIES, LEAK_RATIO

Point = tuple[float, float]
KINDS: tuple[Growing, ...] = ("device", "live_arrays", "host")
#: The series of cache entries, for the cause of a growth in bytes.
CACHES = "cache_entries"
_MIB = 1 << 20
#: Minimum number of low points for a slope.
MIN_POINTS = 5
#: The same for a leak: a quarter of an hour in the short window, five hours in the long one.
_MIN_POINTS = 15
#: Minimum slopes of the second and of the first half, as shares of the whole slope, and minimum steadiness.
_LATE, _EARLY, _STEADINESS = 0.7, 0.5, 0.8
#: Seconds after the start in which memory grows for good reasons: models are loaded, programs compiled, pools filled.
_STARTUP_S = 300.0
#: A leak has ended when the slope of the second half is below this share of the reported slope.
_OVER = 0.25
#: Minimum correlation of the number of cache entries with memory.
_ALIKE = 0.7
#: Live arrays explain a growth if they grow at least by this share of it.
_EXPLAINS = 0.5
_TOP = 3
#: Functions whose caches are compared, those with the largest.
_MAX_FUNCTIONS = 50


@dataclass(frozen=True, slots=True)
class Trend:
    """The trend of the low points of a window; slopes in units a second.

    Attributes:
        early, late: Slopes over the first and the second half of the window.
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
    """Keeps the low points of a series over a sliding window of buckets, each longer than a step."""

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
        steadiness=(len(slopes) - bisect.bisect_right(slopes, 0.0) - bisect.bisect_left(slopes, 0.0)) / len(slopes),
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


def _median(ordered: list[float]) -> float:
    # Importing `statistics` takes 10 ms and a megabyte.
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _slopes(points: list[Point]) -> list[float]:
    """The slopes of all pairs of points in ascending order, or one of 0 for points that are all the same."""
    if len({value for _, value in points}) == 1:
        return [0.0]
    slopes = [
        (after - before) / (end - start)
        for i, (start, before) in enumerate(points)
        for end, after in points[i + 1 :]
        if end > start
    ]
    return sorted(slopes) or [0.0]


@dataclass(frozen=True, slots=True)
class Window:
    """A window in which a series is observed: see `Growth`, and the minimum growth over it in bytes."""

    bucket_s: float
    buckets: int
    floor: float


#: Of half an hour, two and a half hours, and twelve hours.
WINDOWS = tuple(map(Window, (60.0, 300.0, 1200.0), (30, 30, 36), LEAK_BYTES))


class Leaks:
    """Detects the leaks of one process. Not thread-safe."""

    def __init__(self, windows: tuple[Window, ...] = WINDOWS) -> None:
        self._windows = windows
        self._series: dict[tuple[str, int], Growth] = {}
        #: Whether a leak of the jit caches is reported and has not ended.
        self._is_cache_leak = False
        #: Reported slope of each leak that has not ended, and the window it was detected in.
        self._active: dict[Growing, tuple[float, int]] = {}
        self._since: float | None = None
        self._holders: Mapping[str, tuple[str, str]] = {}
        self._caches: deque[dict[str, int]] = deque(maxlen=windows[0].buckets)

    @property
    def growth(self) -> dict[str, float]:
        """Growth of each kind of memory over the short window, bytes a second."""
        return {kind: trend.slope for kind in KINDS if (trend := self._trend(kind, 0)) is not None}

    @property
    def entries_per_hour(self) -> float | None:
        """Growth of the jit caches over the short window; None until it is known."""
        trend = self._trend(CACHES, 0)
        return trend.slope * 3600 if trend is not None else None

    @property
    def active(self) -> list[Growing]:
        """The leaks that have not ended."""
        return [*self._active, *(("jit_cache",) if self._is_cache_leak else ())]

    def sample(
        self,
        now: float,
        values: Mapping[str, float],
        entries: Mapping[str, int],
        holders: Mapping[str, tuple[str, str]] | None = None,
    ) -> list[MemoryLeak]:
        """Add a sample of each series; returns the leaks that are detected with it.

        Args:
            now: Monotonic seconds.
            values: Bytes by kind, of the kinds that are known.
            entries: Cache entries by function.
            holders: Name and class of the static argument with which a cache keeps arrays alive, by function.
        """
        self._holders = holders or {}
        self._since = now if self._since is None else self._since
        if now - self._since < _STARTUP_S:
            return []
        closed = self._add(now, {**values, CACHES: float(sum(entries.values()))})
        if (CACHES, 0) in closed:
            self._caches.append(dict(sorted(entries.items(), key=lambda one: -one[1])[:_MAX_FUNCTIONS]))
        found: list[MemoryLeak] = []
        for kind in KINDS:
            for number, window in enumerate(self._windows):
                trend = self._trend(kind, number)
                if trend is None or (kind, number) not in closed:
                    continue
                if kind not in self._active and is_leak(trend, window.floor):
                    self._active[kind] = (trend.slope, number)
                    found.append(self._leak(kind, number, trend))
                elif self._active.get(kind, (0.0, -1))[1] == number and trend.late < _OVER * self._active[kind][0]:
                    del self._active[kind]
        caches = self._trend(CACHES, 0)
        if caches is not None and (CACHES, 0) in closed:
            found += self._check_caches(caches, is_reported=any(leak.cause == "jit_cache" for leak in found))
        return found

    def _check_caches(self, trend: Trend, *, is_reported: bool) -> list[MemoryLeak]:
        """Detect growth of the jit caches, also where the memory of the programs is still small."""
        if self._is_cache_leak and trend.late * trend.span_s < _OVER * LEAK_CACHE_ENTRIES:
            self._is_cache_leak = False
        if self._is_cache_leak or not _is_steady(trend) or trend.rise < LEAK_CACHE_ENTRIES:
            return []
        self._is_cache_leak = True
        functions, entries = self._fastest(), trend.slope * 3600
        leak = MemoryLeak(
            growing="jit_cache",
            window_s=trend.span_s,
            cache_entries_per_hour=entries,
            functions=functions,
            message=f"the jit caches have been growing by {entries:,.0f} entries/h for {trend.span_s / 60:.0f} min "
            f"and have {trend.low:,.0f} entries now{_accumulating(functions)}",
        )
        # Not reported twice: a leak of memory with this cause was reported with the same sample.
        return [] if is_reported else [leak]

    def _add(self, now: float, values: Mapping[str, float]) -> set[tuple[str, int]]:
        """Add values to their series; return those whose trend has changed."""
        closed = set()
        for kind, value in values.items():
            for number, window in enumerate(self._windows):
                series = self._series.get((kind, number))
                if series is None:
                    series = self._series[kind, number] = Growth(bucket_s=window.bucket_s, buckets=window.buckets)
                if series.add(now, value):
                    closed.add((kind, number))
        return closed

    def _trend(self, kind: str, window: int) -> Trend | None:
        series = self._series.get((kind, window))
        return series.trend if series is not None else None

    def _points(self, kind: str, window: int) -> list[Point]:
        series = self._series.get((kind, window))
        return series.points if series is not None else []

    def _leak(self, kind: Growing, window: int, trend: Trend) -> MemoryLeak:
        cause = self._cause(kind, window, trend)
        caches = self._trend(CACHES, window)
        entries = caches.slope * 3600 if cause == "jit_cache" and caches is not None else None
        functions = self._fastest() if cause == "jit_cache" else ()
        of_caches = f"The jit caches grow with it, by {entries or 0:,.0f} entries/h{_accumulating(functions)}"
        return MemoryLeak(
            growing=kind,
            bytes_per_second=trend.slope,
            bytes=int(trend.low),
            window_s=trend.span_s,
            cause=cause,
            cache_entries_per_hour=entries,
            functions=functions,
            message=_sentence(kind, trend, cause, self._held_by(functions) or of_caches),
        )

    def _cause(self, kind: Growing, window: int, trend: Trend) -> Cause | None:
        if kind == "live_arrays":
            # The job keeps the arrays alive, unless a cache does.
            is_held = any(label in self._holders for label in self._fastest())
            return "jit_cache" if is_held and self._is_of_caches(kind, window) else None
        arrays = self._trend("live_arrays", window)
        if arrays is not None and arrays.slope >= _EXPLAINS * trend.slope and is_leak(arrays, 0.0):
            return self._cause("live_arrays", window, arrays) or "live_arrays"
        return "jit_cache" if self._is_of_caches(kind, window) else None

    def _is_of_caches(self, kind: Growing, window: int) -> bool:
        """Whether the jit caches grow, and memory grows with them."""
        caches = self._trend(CACHES, window)
        if caches is None or caches.rise < LEAK_CACHE_ENTRIES or caches.late < _LATE * caches.slope:
            return False
        return correlation(self._points(kind, window), self._points(CACHES, window)) >= _ALIKE

    def _held_by(self, functions: tuple[str, ...]) -> str | None:
        """A sentence about the static argument with which a cache keeps arrays alive; None without one."""
        label = next((one for one in functions if one in self._holders), None)
        if label is None:
            return None
        argument, kind = self._holders[label]
        return (
            f"The jit cache of {label} grows with it, and keeps each value of its static argument {argument} alive, "
            f"with its arrays. Make {kind} a pytree and pass {argument} as an ordinary argument"
        )

    def _fastest(self) -> tuple[str, ...]:
        """The functions whose caches grew most over the short window."""
        if len(self._caches) < 2:
            return ()
        first, last = self._caches[0], self._caches[-1]
        grown = {label: count - first.get(label, 0) for label, count in last.items()}
        fastest = sorted((label for label, more in grown.items() if more > 0), key=lambda label: -grown[label])
        return tuple(fastest[:_TOP])


def is_leak(trend: Trend, floor: float) -> bool:
    """Whether a series grows steadily, and by at least `floor` bytes over the window."""
    return _is_steady(trend) and trend.rise >= max(floor, LEAK_RATIO * trend.low)


def _is_steady(trend: Trend) -> bool:
    """Whether a series grows over the whole window and has not stopped."""
    return (
        trend.points >= _MIN_POINTS
        and trend.slope > 0
        and trend.late >= _LATE * trend.slope
        and trend.early >= _EARLY * trend.slope
        and trend.steadiness >= _STEADINESS
    )


_NAMES = {"device": "device memory", "live_arrays": "the memory of live arrays", "host": "host memory"}


def _accumulating(functions: tuple[str, ...]) -> str:
    most = f", mostly of {', '.join(functions)}" if functions else ""
    return f"{most}: programs accumulate. jitwatch.explain() shows why functions recompile"


def _sentence(kind: Growing, trend: Trend, cause: Cause | None, of_caches: str) -> str:
    rate = trend.slope * 3600 / _MIB
    text = (
        f"{_NAMES[kind]} has been growing by {rate:,.0f} MiB/h for {trend.span_s / 60:.0f} min and is "
        f"{_size(trend.low)} now"
    )
    if cause == "jit_cache":
        return f"{text}. {of_caches}"
    if cause == "live_arrays":
        return f"{text}. Live arrays grow with it: the job keeps references to arrays, in a list or a closure"
    if kind == "live_arrays":
        return f"{text}. The job keeps references to arrays: look for lists of losses or metrics, and old states"
    return text


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / _MIB:,.0f} MiB"
