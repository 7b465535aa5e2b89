"""The slope of what grows, told from series as jobs make them."""

from __future__ import annotations

import random

import pytest

from jitwatch.diagnosis.leaks import MIN_POINTS, Growth, correlation, trend_of

MIB = 1 << 20
SAMPLE_S = 5.0
HOUR = 3600


def sampled(value, *, seconds: float = 2 * HOUR, buckets: int = 30) -> Growth:
    """The growth of a function of time, sampled as the agent does it."""
    growth = Growth(bucket_s=60.0, buckets=buckets)
    for number in range(int(seconds / SAMPLE_S)):
        growth.add(number * SAMPLE_S, value(number * SAMPLE_S))
    return growth


def saw_tooth(at: float, *, period: float = 7.0, height: float = 800 * MIB) -> float:
    """What a training step takes and gives back."""
    return height * (at % period) / period


def noise(seed: int, size: float):
    """Repeatable noise by time."""
    source = random.Random(seed)
    values = [source.uniform(-size, size) for _ in range(int(3 * HOUR / SAMPLE_S))]
    return lambda at: values[int(at / SAMPLE_S)]


def test_saw_tooth_without_growth_has_no_slope():
    """What each step gives back is no growth, however much it is."""
    trend = sampled(lambda at: 4096 * MIB + saw_tooth(at)).trend

    assert trend is not None
    # The lowest sample of a minute meets the low point of a step but for a sample's distance.
    assert abs(trend.rise) < 0.01 * 800 * MIB


def test_saw_tooth_with_slow_growth_has_its_slope():
    """A hundredth of the tooth a minute is seen through it."""
    slope = 8 * MIB / 60
    trend = sampled(lambda at: 4096 * MIB + saw_tooth(at) + slope * at).trend

    assert trend is not None
    assert slope == pytest.approx(trend.slope, rel=0.05)
    assert slope == pytest.approx(trend.early, rel=0.2)
    assert slope == pytest.approx(trend.late, rel=0.2)
    assert trend.steadiness > 0.9


def test_peaks_that_grow_are_no_growth():
    """What stays between the steps counts, not what a step takes meanwhile."""
    trend = sampled(lambda at: 4096 * MIB + at % 10.0 * at * MIB / 100).trend

    assert trend is not None
    assert 0.0 == trend.slope


@pytest.mark.parametrize("period", [3.0, 11.0, 59.0])
def test_slope_does_not_depend_on_the_length_of_a_step(period):
    """Steps may be shorter or much longer than the distance of the samples."""
    slope = 20 * MIB / 60
    trend = sampled(lambda at: saw_tooth(at, period=period) + slope * at).trend

    assert trend is not None
    assert slope == pytest.approx(trend.slope, rel=0.05)


def test_noise_has_no_steady_slope():
    """Noise of ten percent shows no rise worth a word, and about as many pairs fall as rise."""
    jitter = noise(1, 400 * MIB)
    trend = sampled(lambda at: 4096 * MIB + jitter(at)).trend

    assert trend is not None
    assert abs(trend.rise) < 100 * MIB
    assert abs(trend.steadiness) < 0.5


def test_start_up_is_forgotten_after_the_window():
    """A model that was loaded at the start has no slope half an hour later."""
    series = sampled(lambda at: min(at, 120.0) * 50 * MIB, seconds=HOUR)

    assert series.trend is not None
    assert 0.0 == series.trend.slope


def test_single_allocation_shows_in_one_half_only():
    """One jump has no slope in one of the halves, wherever it happens."""
    for jump_at in range(300, 1800, 150):
        trend = sampled(lambda at, jump_at=jump_at: 2048.0 * MIB * (at > jump_at), seconds=1900).trend
        assert trend is not None
        assert 0.0 == min(trend.early, trend.late)


def test_spikes_leave_the_slope_alone():
    """An evaluation now and then, for minutes, that gives everything back."""
    slope = 10 * MIB / 60
    trend = sampled(lambda at: slope * at + (900 * MIB if at % 900 < 200 else 0), seconds=HOUR).trend

    assert trend is not None
    assert slope == pytest.approx(trend.slope, rel=0.1)


def test_shrinking_has_a_negative_slope():
    """Memory that is given back bit by bit falls."""
    trend = sampled(lambda at: 4096 * MIB - at * MIB).trend

    assert trend is not None
    assert pytest.approx(-MIB) == trend.slope
    assert -1.0 == trend.steadiness


def test_trend_needs_some_points():
    """Four minutes are too short for a slope."""
    assert sampled(float, seconds=MIN_POINTS * 60).trend is None
    assert sampled(float, seconds=MIN_POINTS * 60 + 10).trend is not None
    assert trend_of([]) is None


def test_window_slides():
    """Only the last low points count, so that growth that has ended is forgotten."""
    series = sampled(lambda at: min(at, HOUR) * MIB, seconds=2 * HOUR, buckets=10)

    assert 10 == len(series.points)
    assert series.trend is not None
    assert 0.0 == series.trend.slope


def test_rare_samples_are_a_bucket_each():
    """With an hour between samples the window is as much longer."""
    growth = Growth(bucket_s=60.0, buckets=30)
    closed = [growth.add(number * HOUR, number * MIB) for number in range(8)]

    assert [False] + [True] * 7 == closed
    assert growth.trend is not None
    assert pytest.approx(MIB / HOUR) == growth.trend.slope


def test_samples_at_one_moment_do_no_harm():
    """A clock that stands still gives no slope and no error."""
    trend = trend_of([(5.0, float(number)) for number in range(6)])

    assert trend is not None
    assert 0.0 == trend.slope


def test_correlation_tells_series_that_go_together():
    """1 for the same form, -1 for its mirror, 0 for a constant or too few points."""
    rising = [(float(i), float(i * i)) for i in range(9)]
    falling = [(at, -value) for at, value in rising]

    assert pytest.approx(1.0) == correlation(rising, [(at, 3 * value + 7) for at, value in rising])
    assert pytest.approx(-1.0) == correlation(rising, falling)
    assert 0.0 == correlation(rising, [(at, 1.0) for at, _ in rising])
    assert 0.0 == correlation(rising[:2], rising[:2])
    assert pytest.approx(1.0) == correlation(rising, rising[3:])
